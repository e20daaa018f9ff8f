//! What waits to be decided, the most urgent first: a release never waits behind detections.

use std::collections::VecDeque;

use portcullis_schemas::Stream;

use super::event::{Delivered, Message};
use crate::deadlines::Monotonic;

/// As many inputs of one class are taken from the broker before they are decided.
const ROOM: usize = 32;

/// Something to be decided.
#[derive(Debug)]
pub(super) enum Item {
    Delivered(Delivered),
    Lost { stream: Stream, first: u64, last: u64 },
    State(Message),
    Hello(Message),
}

#[derive(Clone, Copy)]
enum Class {
    Releases,
    Requests,
    States,
    Hellos,
    Detections,
}

const CLASSES: usize = 5;

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

fn class(item: &Item) -> Class {
    match item {
        Item::Delivered(Delivered { stream, .. }) | Item::Lost { stream, .. } => of(*stream),
        Item::State(_) => Class::States,
        Item::Hello(_) => Class::Hellos,
    }
}

fn of(stream: Stream) -> Class {
    match stream {
        Stream::Releases => Class::Releases,
        Stream::Requests => Class::Requests,
        Stream::States => Class::States,
        _ => Class::Detections,
    }
}

impl<W> Queue<W> {
    pub(super) fn push(&mut self, item: Item) {
        self.waiting[class(&item) as usize].push_back(item);
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        self.waiting.iter_mut().find_map(VecDeque::pop_front)
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

    /// Whether more of a stream may be handed in. Only detections wait for work that is parked.
    pub(super) fn has_room(&self, stream: Stream) -> bool {
        let class = of(stream);
        self.waiting[class as usize].len() < ROOM && (!matches!(class, Class::Detections) || self.parked.len() < ROOM)
    }

    pub(super) fn has_room_for_hellos(&self) -> bool {
        self.waiting[Class::Hellos as usize].len() < ROOM
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty) && self.parked.is_empty()
    }
}
