//! What waits to be decided, the most urgent first: a release never waits behind detections.

use std::collections::VecDeque;

use portcullis_schemas::Stream;

use super::event::{Delivered, Message};
use crate::deadlines::Monotonic;

/// Most inputs that are decided together: an atomic batch of JetStream holds 1,000 messages, and larger ones are no faster.
pub(super) const BATCH: usize = 512;
/// As many inputs of one class are taken from the broker before they are decided.
pub(super) const ROOM: usize = 2 * BATCH;
/// With so much work put off, no further detections are taken.
const MOST_PARKED: usize = 32;

/// Something to be decided.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Delivered(Delivered),
    Lost { stream: Stream, first: u64, last: u64 },
    State(Message),
    Inventory(Message),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Releases,
    Requests,
    States,
    Inventories,
    Detections,
}

const CLASSES: usize = 5;

impl Item {
    pub(super) fn stream(&self) -> Stream {
        match self {
            Item::Delivered(Delivered { stream, .. }) | Item::Lost { stream, .. } => *stream,
            Item::State(_) => Stream::States,
            Item::Inventory(_) => Stream::Inventory,
        }
    }

    /// Its sequence in its stream.
    pub(super) fn sequence(&self) -> u64 {
        match self {
            Item::Delivered(Delivered { message, .. }) | Item::State(message) | Item::Inventory(message) => message.sequence,
            Item::Lost { first, .. } => *first,
        }
    }

    /// How many others it may be decided together with. What was delivered again may have ended the process that had it: it is searched for by halves,
    /// and at its fourth delivery it is alone.
    fn company(&self) -> usize {
        match self {
            Item::Delivered(delivered) if delivered.is_suspect() => 1,
            Item::Delivered(Delivered { deliveries: 3, .. }) => BATCH / 64,
            Item::Delivered(Delivered { deliveries: 2, .. }) => BATCH / 8,
            _ => BATCH,
        }
    }

    /// Whether it is decided alone, and its attempt counted first.
    pub(super) fn is_suspect(&self) -> bool {
        self.company() == 1
    }
}

/// Items by class, and work that failed in passing until it is retried.
#[derive(Debug)]
pub(super) struct Queue<W> {
    waiting: [VecDeque<Item>; CLASSES],
    parked: Vec<(Monotonic, W)>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { waiting: Default::default(), parked: Vec::new() }
    }
}

fn class(stream: Stream) -> Class {
    match stream {
        Stream::Releases => Class::Releases,
        Stream::Requests => Class::Requests,
        Stream::States => Class::States,
        Stream::Inventory => Class::Inventories,
        _ => Class::Detections,
    }
}

impl<W> Queue<W> {
    pub(super) fn push(&mut self, item: Item) {
        self.waiting[class(item.stream()) as usize].push_back(item);
    }

    /// What is decided together next: the most urgent class first, and each stream in its own order. Detections stay where they are not wanted yet.
    pub(super) fn take(&mut self, with_detections: bool) -> Vec<Item> {
        let (mut taken, mut most) = (Vec::new(), BATCH);
        let classes = if with_detections { CLASSES } else { Class::Detections as usize };
        for waiting in &mut self.waiting[..classes] {
            while let Some(item) = waiting.front() {
                if taken.len() >= most.min(item.company()) {
                    break;
                }
                most = most.min(item.company());
                taken.extend(waiting.pop_front());
            }
        }
        taken.sort_by_key(|item| (class(item.stream()), item.sequence()));
        taken
    }

    pub(super) fn park(&mut self, until: Monotonic, work: W) {
        self.parked.push((until, work));
    }

    /// Work whose pause is over, the longest waiting first.
    pub(super) fn unpark(&mut self, now: Monotonic) -> Option<W> {
        let next = (0..self.parked.len()).min_by_key(|index| self.parked[*index].0)?;
        (self.parked[next].0 <= now).then(|| self.parked.remove(next).1)
    }

    pub(super) fn next_unpark(&self) -> Option<Monotonic> {
        self.parked.iter().map(|(until, _)| *until).min()
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> (Vec<Item>, Vec<W>) {
        let waiting = self.waiting.iter_mut().flat_map(std::mem::take).collect();
        (waiting, self.parked.drain(..).map(|(_, work)| work).collect())
    }

    /// Whether more of a stream may be handed in. Only detections wait for work that is parked.
    pub(super) fn has_room(&self, stream: Stream) -> bool {
        let class = class(stream);
        self.waiting[class as usize].len() < ROOM && (!matches!(class, Class::Detections) || self.parked.len() < MOST_PARKED)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty) && self.parked.is_empty()
    }
}
