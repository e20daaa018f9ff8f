//! The tail of DECISIONS: inputs that were answered lately, so that one that comes again is only acknowledged.

use std::collections::{HashSet, VecDeque};

use portcullis_schemas::envelope;
use portcullis_schemas::events::{Decision, InputRef};

/// Inputs on their way at once are a few hundred; this is far beyond.
pub const TAIL: usize = 8_192;

#[derive(Debug, Default)]
pub struct Recent {
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl Recent {
    pub fn contains(&self, input: &InputRef) -> bool {
        self.known.contains(&input.hash())
    }

    pub fn add(&mut self, input: &InputRef) {
        let hash = input.hash();
        if self.known.insert(hash.clone()) {
            self.order.push_back(hash);
            if self.order.len() > TAIL
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    /// Takes a stored decision.
    pub fn take(&mut self, body: &[u8]) {
        if let Ok(event) = envelope::decode::<Decision>(std::iter::empty(), body) {
            self.add(&event.data.input);
        }
    }
}
