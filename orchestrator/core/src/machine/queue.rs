//! What waits to be decided, the most urgent first: a release never waits behind detections, and no source behind another's flood.

use std::collections::VecDeque;
use std::sync::Arc;

use portcullis_schemas::events::InputKind;
use portcullis_schemas::{Stream, Timestamp};

use super::event::{Delivered, Message};
use super::turns::Turns;
use crate::control::Pending;
use crate::deadlines::Monotonic;
use crate::decide::{Over, PolicyText};

/// Most inputs that are decided together: an atomic batch of JetStream holds 1,000 messages, and larger ones are no faster.
pub(super) const BATCH: usize = 512;
/// As many inputs of one class are taken from the broker before they are decided.
pub(super) const ROOM: usize = 2 * BATCH;
/// Detections that wait, of all sources: the intake hands in a few of each, so that none waits to come in behind another's.
const DETECTIONS: usize = 8 * BATCH;
/// With so much work put off, no further detections are taken.
const MOST_PARKED: usize = 32;

/// Something to be decided.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Delivered(Delivered),
    Lost {
        stream: Stream,
        first: u64,
        last: u64,
        /// When the loss was met.
        at: Timestamp,
    },
    State(Message),
    Inventory(Message),
    /// A detection that waited, whose host is known by now.
    Known(Message),
    /// A detection waits no longer.
    Over(Box<Over>),
    /// A pending approval ends.
    Asked(Arc<Pending>),
    /// The time of the pause is over.
    PauseOver(Timestamp),
    /// A breaker is to be reset, as was found at this time.
    BreakerOver(String, Timestamp),
    /// A request whose policy was read.
    Activate(Box<Activate>),
}

/// A request with the policy that it names, or why that cannot be taken.
#[derive(Clone, Debug)]
pub(super) struct Activate {
    pub delivered: Delivered,
    pub text: PolicyText,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Releases,
    Requests,
    States,
    Inventories,
    Detections,
}

/// All but detections.
const URGENT: usize = Class::Detections as usize;

impl Item {
    pub(super) fn stream(&self) -> Stream {
        match self {
            Item::Delivered(Delivered { stream, .. }) | Item::Lost { stream, .. } => *stream,
            Item::Activate(activate) => activate.delivered.stream,
            Item::State(_) => Stream::States,
            Item::Inventory(_) => Stream::Inventory,
            Item::Known(_) | Item::Over(_) => Stream::Detections,
            Item::Asked(pending) => match pending.input.kind {
                InputKind::ReleaseDue => Stream::Releases,
                InputKind::Request => Stream::Requests,
                _ => Stream::Detections,
            },
            Item::PauseOver(_) | Item::BreakerOver(..) => Stream::Requests,
        }
    }

    /// Whose it is, as far as the subject tells; what nobody sent is a source of its own.
    pub(super) fn source(&self) -> &str {
        match self {
            Item::Delivered(Delivered { message, .. })
            | Item::State(message)
            | Item::Inventory(message)
            | Item::Known(message) => &message.subject,
            Item::Activate(activate) => &activate.delivered.message.subject,
            Item::Lost { .. } | Item::Over(_) | Item::Asked(_) | Item::PauseOver(_) | Item::BreakerOver(..) => "",
        }
    }

    /// Its sequence in its stream.
    pub(super) fn sequence(&self) -> u64 {
        match self {
            Item::Delivered(Delivered { message, .. })
            | Item::State(message)
            | Item::Inventory(message)
            | Item::Known(message) => message.sequence,
            Item::Activate(activate) => activate.delivered.message.sequence,
            Item::Lost { first, .. } => *first,
            Item::Over(over) => over.sequence,
            Item::Asked(pending) => pending.sequence,
            Item::PauseOver(_) | Item::BreakerOver(..) => 0,
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
    urgent: [VecDeque<Item>; URGENT],
    detections: Turns<Item>,
    parked: Vec<(Monotonic, W)>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { urgent: Default::default(), detections: Turns::default(), parked: Vec::new() }
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

/// Whether inputs of a stream are decided before those of another.
pub(crate) fn is_more_urgent(stream: Stream, than: Stream) -> bool {
    class(stream) < class(than)
}

/// The order in which items are decided together.
pub(super) fn sort(items: &mut [Item]) {
    items.sort_by_key(|item| (class(item.stream()), item.sequence()));
}

impl<W> Queue<W> {
    pub(super) fn push(&mut self, item: Item) {
        match class(item.stream()) {
            Class::Detections => {
                let source = item.source().to_owned();
                self.detections.push(&source, item);
            }
            urgent => self.urgent[urgent as usize].push_back(item),
        }
    }

    /// What is decided together next: the most urgent class first, and each stream in its own order; of detections one of each source in turn. They
    /// stay where they are not wanted yet.
    pub(super) fn take(&mut self, with_detections: bool) -> Vec<Item> {
        let (mut taken, mut most) = (Vec::new(), BATCH);
        let mut take = |item: Item| {
            if taken.len() >= most.min(item.company()) {
                return Some(item);
            }
            most = most.min(item.company());
            taken.push(item);
            None
        };
        for waiting in &mut self.urgent {
            while let Some(refused) = waiting.pop_front().map(&mut take) {
                if let Some(item) = refused {
                    waiting.push_front(item);
                    break;
                }
            }
        }
        if with_detections {
            self.detections.take(take);
        }
        sort(&mut taken);
        taken
    }

    /// Whether [`take`](Self::take) would find something.
    pub(super) fn is_waiting(&self, with_detections: bool) -> bool {
        self.urgent.iter().any(|waiting| !waiting.is_empty()) || with_detections && self.detections.len() > 0
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
        let urgent = self.urgent.iter_mut().flat_map(std::mem::take);
        let waiting = urgent.chain(self.detections.drain()).collect();
        (waiting, self.parked.drain(..).map(|(_, work)| work).collect())
    }

    /// Whether more of a stream may be handed in. Only detections wait for work that is parked.
    pub(super) fn has_room(&self, stream: Stream) -> bool {
        match class(stream) {
            Class::Detections => self.detections.len() < DETECTIONS && self.parked.len() < MOST_PARKED,
            urgent => self.urgent[urgent as usize].len() < ROOM,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.iter().all(VecDeque::is_empty) && self.detections.len() == 0 && self.parked.is_empty()
    }
}
