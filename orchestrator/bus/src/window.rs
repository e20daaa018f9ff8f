//! How much of a consumer is in this process at once, so that the consumers of a stream together hold no more than is decided in a moment.
//!
//! Those that have messages waiting share the room; one that has none asks for a few only, and many may begin at the same moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages that are asked for at once by a consumer that alone has some waiting: as many as are decided together.
const MOST: usize = 512;
/// The same for one of many, and for one that has none waiting.
const LEAST: usize = 4;
/// So many times that is in this process: in hand, waiting, and on its way.
const AHEAD: usize = 3;

/// The room of all consumers of a stream.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// Consumers that have messages waiting.
    busy: AtomicUsize,
}

/// The room of one consumer.
#[derive(Debug)]
pub(crate) struct Window {
    share: Arc<Share>,
    room: Arc<Semaphore>,
    busy: bool,
}

/// The place of one message or of several, given back when it is dropped.
pub(crate) type Place = OwnedSemaphorePermit;

impl Share {
    fn at_once(&self) -> usize {
        (MOST / self.busy.load(Ordering::Relaxed).max(1)).max(LEAST)
    }
}

impl Window {
    pub(crate) fn new(share: Arc<Share>) -> Self {
        Self { share, room: Arc::new(Semaphore::new(MOST * AHEAD)), busy: false }
    }

    /// Notes whether more messages wait at the broker.
    pub(crate) fn set_busy(&mut self, busy: bool) {
        match (std::mem::replace(&mut self.busy, busy), busy) {
            (false, true) => drop(self.share.busy.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.share.busy.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// Places for what is asked for next, as soon as there are so many.
    pub(crate) async fn places(&self) -> anyhow::Result<Place> {
        let at_once = if self.busy { self.share.at_once() } else { LEAST };
        // What is beyond this consumer's share stays free.
        let beyond = (MOST - at_once) * AHEAD;
        let mut all = Arc::clone(&self.room).acquire_many_owned(u32::try_from(beyond + at_once)?).await?;
        all.split(at_once).ok_or_else(|| anyhow::anyhow!("fewer places than were asked for"))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.set_busy(false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::{AHEAD, LEAST, MOST, Place, Share, Window};

    /// Places for as long as there are some without waiting.
    fn filled(window: &Window) -> Vec<usize> {
        let places = std::iter::from_fn(|| window.places().now_or_never());
        let places: Vec<Place> = places.map(|places| places.expect("the window is open")).collect();
        places.iter().map(Place::num_permits).collect()
    }

    fn windows<const N: usize>() -> [Window; N] {
        let share = Arc::new(Share::default());
        [(); N].map(|()| Window::new(Arc::clone(&share)))
    }

    #[test]
    fn one_that_alone_has_messages_has_all_the_room() {
        let [mut one, other] = windows();
        one.set_busy(true);
        assert_eq!(filled(&one), [MOST; AHEAD]);
        assert_eq!(filled(&other), [LEAST; AHEAD]);
    }

    #[test]
    fn those_that_have_messages_share_the_room() {
        let [mut one, mut two, mut three] = windows();
        one.set_busy(true);
        two.set_busy(true);
        assert_eq!((filled(&one), filled(&two)), (vec![MOST / 2; AHEAD], vec![MOST / 2; AHEAD]));
        // And it comes back where one has none any more, or ends.
        two.set_busy(false);
        assert_eq!(filled(&one), [MOST; AHEAD]);
        three.set_busy(true);
        assert_eq!(filled(&one), [MOST / 2; AHEAD]);
        drop(three);
        assert_eq!(filled(&one), [MOST; AHEAD]);
    }

    #[test]
    fn a_window_that_is_full_opens_as_messages_are_dealt_with() {
        let [mut one] = windows();
        one.set_busy(true);
        let mut held: Vec<Place> = (0..AHEAD).filter_map(|_| one.places().now_or_never()).flatten().collect();
        assert!(one.places().now_or_never().is_none());
        held.pop();
        assert!(one.places().now_or_never().is_some());
    }

    #[test]
    fn hundreds_with_messages_hold_no_more_than_a_few_batches() {
        let windows: Vec<Window> = windows::<256>().into_iter().collect();
        let mut windows = windows;
        windows.iter_mut().for_each(|window| window.set_busy(true));
        let all: usize = windows.iter().flat_map(filled).sum();
        assert_eq!(all, 256 * LEAST * AHEAD);
    }
}
