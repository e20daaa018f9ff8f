//! What the doctor looks at beside the hosts: the broker, its streams, who leads, and who sends what.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use portcullis_bus::survey::{Following, Held, Server, Storage};
use portcullis_schemas::Stream;
use portcullis_schemas::events::Term;

use crate::failure::Failure;

/// Each part by itself: one that cannot be read says as much as the others.
#[derive(Debug)]
pub struct Site {
    pub server: Server,
    /// By how much the broker's clock is ahead of this machine's, to half a round trip.
    pub clock_ahead: Result<TimeDelta, Failure>,
    pub storage: Result<Storage, Failure>,
    pub streams: Vec<(Stream, Result<Held, Failure>)>,
    /// Who holds the leader's key, and how long ago it was renewed.
    pub leader: Result<Option<(String, TimeDelta)>, Failure>,
    pub term: Result<Option<Term>, Failure>,
    pub orchestrators: Result<Vec<Following>, Failure>,
    pub chain: Result<Chain, Failure>,
    /// Messages in DETECTIONS and in REJECTED, by source.
    pub detections: Result<BTreeMap<String, u64>, Failure>,
    pub rejected: Result<BTreeMap<String, u64>, Failure>,
}

/// The last messages of ORDERS, each of which names the hash of the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    pub checked: u64,
    /// Sequences of messages that do not follow from the one before them.
    pub breaks: Vec<u64>,
    /// Sequences of messages that are no orders.
    pub foreign: Vec<u64>,
}

/// A message of ORDERS, as far as the chain goes over it.
#[derive(Clone, Debug)]
pub struct Link {
    pub sequence: u64,
    pub sha256: String,
    /// What it names; None: it is no order and no term.
    pub prev: Option<String>,
}

impl Chain {
    /// Takes the next message; `before` is the one before it that stands.
    pub fn take(&mut self, before: Option<&Link>, link: &Link) {
        self.checked += 1;
        let Some(prev) = &link.prev else { return self.foreign.push(link.sequence) };
        // Where messages were removed between them nothing can be compared: the limit for each host does that.
        if before.is_some_and(|before| before.sequence + 1 == link.sequence && before.sha256 != *prev) {
            self.breaks.push(link.sequence);
        }
    }
}
