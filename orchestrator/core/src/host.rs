//! One host as the logs tell of it.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Inventory, OperatorWord, Order, Posture, State};

use crate::status::{Status, View, status};

/// A host's claim to a generation further above the log than this is not followed.
pub const PLAUSIBLE_LEAD: u64 = 1_000;

/// In boxes: most hosts have no order and no state, and a fleet is kept whole.
#[derive(Debug, Default)]
pub struct Host {
    pub order: Option<Box<Order>>,
    pub state: Option<Box<State>>,
    /// The broker's time of `state`.
    pub state_at: Option<Timestamp>,
    /// With what operators say of it by now, stored in it or not yet.
    pub inventory: Option<Box<Inventory>>,
    /// What operators say of it as its inventory is stored.
    pub(crate) stored_word: Option<Box<OperatorWord>>,
    /// The process that spoke under this id before the one that spoke last.
    pub instance_before: Option<String>,
    /// When it was last heard of.
    pub heard_at: Option<Timestamp>,
}

impl Host {
    pub fn status(&self, now: Timestamp) -> Status {
        status(View { order: self.order.as_deref(), state: self.state.as_deref(), inventory: self.inventory.as_deref() }, now)
    }

    /// The incident that holds the host now. A release closes it.
    pub fn incident(&self) -> Option<String> {
        self.order.as_deref().filter(|order| order.posture == Posture::Isolated).map(|order| order.incident.clone())
    }

    pub fn ordered(&self) -> u64 {
        self.order.as_deref().map_or(0, |order| order.generation)
    }

    /// The next generation: 1 + the highest of the log's and of the host's last words, as far as each is plausible.
    pub fn next_generation(&self) -> u64 {
        let ordered = self.ordered();
        let by_state = self.state.as_deref().map(|state| state.generation);
        let by_inventory = self.inventory.as_deref().map(|inventory| inventory.hello.generation);
        let words = by_state.into_iter().chain(by_inventory);
        1 + words.filter(|word| *word <= ordered.saturating_add(PLAUSIBLE_LEAD)).fold(ordered, u64::max)
    }
}
