//! What was removed from a stream before anybody read it: limits of a stream remove the oldest first, of one subject and of all.
//!
//! A sequence that one consumer passes over may be another's. So what each has delivered is kept, and only what nobody has is missing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_core::answered::Ranges;

use crate::connection::Broker;
use crate::error::ApiError;
use crate::stored;

/// Messages that are looked at for one report.
const LOOKS: usize = 64;

/// What the consumers of a stream have delivered to this process.
#[derive(Debug, Default)]
pub(crate) struct Gaps(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    taken: Ranges,
    highest: u64,
}

impl Gaps {
    /// Up to `highest` messages were delivered before this process began to read.
    pub(crate) fn new(highest: u64) -> Self {
        Self(Mutex::new(Known { taken: Ranges::default(), highest }))
    }

    pub(crate) fn take(&self, sequence: u64) {
        let mut known = self.known();
        known.taken.insert(sequence, sequence);
        known.highest = known.highest.max(sequence);
    }

    /// What lies behind all that was ever delivered. None where nothing was: whoever is new has not missed what was removed before its time.
    pub(crate) fn next(&self) -> Option<u64> {
        Some(self.known().highest + 1).filter(|next| *next > 1)
    }

    /// Those that nobody has had and nobody has reported, which they are from now on.
    fn missing(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut known = self.known();
        let missing = known.taken.missing(first, last);
        missing.iter().for_each(|(first, last)| known.taken.insert(*first, *last));
        missing
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is gone of these spans, each from its first sequence to the one before its last.
    pub(crate) async fn lost(&self, broker: &Broker, stream: &str, spans: &[(u64, u64)]) -> Result<Vec<(u64, u64)>, ApiError> {
        let state = stored::state(broker, stream).await?;
        let (mut lost, mut looks) = (Vec::new(), LOOKS);
        for (from, to) in spans {
            let mut at = (*from).max(state.first_seq.min(*to));
            if at > *from {
                lost.extend(self.missing(*from, at - 1));
            }
            while at < *to && state.num_deleted > 0 && looks > 0 {
                looks -= 1;
                let standing = stored::next(broker, stream, at).await?.map_or(*to, |message| message.sequence.min(*to));
                if standing > at {
                    lost.extend(self.missing(at, standing - 1));
                }
                at = standing + 1;
            }
        }
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::Gaps;

    #[test]
    fn what_another_consumer_delivered_is_not_missing_and_nothing_is_twice() {
        let gaps = Gaps::new(0);
        assert_eq!(gaps.next(), None);
        [3, 4, 7].into_iter().for_each(|sequence| gaps.take(sequence));
        assert_eq!(gaps.next(), Some(8));
        assert_eq!(gaps.missing(2, 8), [(2, 2), (5, 6), (8, 8)]);
        assert_eq!(gaps.missing(1, 8), [(1, 1)]);
    }

    #[test]
    fn what_came_before_this_process_is_behind_it() {
        assert_eq!(Gaps::new(41).next(), Some(42));
    }
}
