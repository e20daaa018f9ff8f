//! Causes that joined a hold without an order: what a rule's hold on a host has beside the causes that its order names.
//!
//! Their decisions say so, and nothing else does. They count where a retraction or a late release asks what is left of a hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Decision, Hold, InputKind, InputRef, Origin, Reason};

/// Most of one rule on one host; of more, the oldest are forgotten, and that there were more is not.
pub const MOST: usize = 512;

/// Those of one host, by rule.
pub type OfHost = BTreeMap<String, Arc<Joins>>;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub cause: InputRef,
    /// Of its key.
    pub hash: String,
    /// The broker's time of the cause.
    pub at: Timestamp,
    /// The order that stood.
    pub generation: u64,
    /// For how long it would hold by itself; None where that is no longer than the hold.
    pub until: Option<Timestamp>,
    /// Where it is recorded in DECISIONS.
    recorded: u64,
}

/// Those of one rule on one host, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joins {
    joins: Vec<Arc<Join>>,
    /// The highest order of those that were forgotten.
    forgotten: Option<u64>,
    /// Where the first record of all these stands in DECISIONS, also of the forgotten ones.
    from: Option<u64>,
}

impl Join {
    /// The join that a decision tells of; None where it tells of none.
    pub fn of(decision: &Decision, recorded: u64) -> Option<Self> {
        let Reason::Joined { generation, until } = &decision.reason else { return None };
        (decision.input.kind == InputKind::Detection).then(|| Self {
            cause: decision.input.clone(),
            hash: decision.input.hash(),
            at: decision.facts.now.unwrap_or_default(),
            generation: *generation,
            until: *until,
            recorded,
        })
    }
}

impl Joins {
    pub fn add(&mut self, join: Join) {
        if self.joins.iter().any(|known| known.cause == join.cause) {
            return;
        }
        self.from = self.from.or(Some(join.recorded));
        self.joins.push(Arc::new(join));
        let excess = self.joins.len().saturating_sub(MOST);
        let highest = self.joins.drain(..excess).map(|join| join.generation).max();
        self.forgotten = self.forgotten.max(highest);
    }

    /// The cause of this hash was retracted.
    pub fn remove(&mut self, hash: &str) {
        self.joins.retain(|join| join.hash != hash);
        self.from = self.from.filter(|_| !self.is_empty());
    }

    /// The host was opened, by what came at `at`.
    pub fn end(&mut self, at: Timestamp) {
        self.joins.retain(|join| join.at > at);
        self.forgotten = None;
        self.from = self.joins.first().map(|join| join.recorded);
    }

    /// Those that joined this hold, or an earlier one that it goes on with.
    pub fn of_hold<'j>(&'j self, hold: &Hold) -> impl Iterator<Item = &'j Join> + use<'j> {
        let (from, is_automatic) = (hold.generation, hold.origin == Origin::Automatic);
        self.joins.iter().map(Arc::as_ref).filter(move |join| is_automatic && join.generation >= from)
    }

    /// Whether this hold has causes that are forgotten.
    pub fn forgot(&self, hold: &Hold) -> bool {
        hold.origin == Origin::Automatic && self.forgotten.is_some_and(|forgotten| forgotten >= hold.generation)
    }

    pub fn is_empty(&self) -> bool {
        self.joins.is_empty() && self.forgotten.is_none()
    }

    /// From where on DECISIONS tells all of them.
    pub fn recorded_from(&self) -> Option<u64> {
        self.from
    }
}

/// Those of one hold, and whether it has others that are forgotten.
pub fn of_hold<'j>(joins: Option<&'j OfHost>, hold: &Hold) -> (Vec<&'j Join>, bool) {
    let of_rule = hold.rule.as_ref().and_then(|rule| joins?.get(rule));
    of_rule.map_or_else(Default::default, |joins| (joins.of_hold(hold).collect(), joins.forgot(hold)))
}

#[cfg(test)]
mod tests;
