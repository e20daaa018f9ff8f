//! Status: what operators see of one host, from its order and its states together.

use std::fmt;

use chrono::TimeDelta;
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Inventory, Order, Posture, State};
use serde::Serialize;

/// A host may differ from its order for this long before it is `drift`.
pub const DRIFT_AFTER: TimeDelta = TimeDelta::seconds(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Open,
    Isolating,
    Isolated,
    Releasing,
    /// Differs from its order for over 30 s.
    Drift,
    /// The agent said that it cannot enforce.
    Failed,
    /// Not heard of since the time that the inventory names.
    Unreachable,
}

/// What is known of one host: the last event of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct View<'a> {
    pub order: Option<&'a Order>,
    pub state: Option<&'a State>,
    pub inventory: Option<&'a Inventory>,
}

/// The status at `now`. `isolated` is never said on the order's word alone: the host's own state must confirm it.
pub fn status(view: View<'_>, now: Timestamp) -> Status {
    let silent = view.inventory.is_some_and(|inventory| inventory.silent_since.is_some());
    let Some(order) = view.order else {
        let isolated = view.state.is_some_and(|state| state.posture == Posture::Isolated);
        return match (silent, isolated) {
            (true, _) => Status::Unreachable,
            (false, true) => Status::Drift,
            (false, false) => Status::Open,
        };
    };
    let confirmed = view.state.is_some_and(|state| {
        state.generation == order.generation
            && state.posture == order.posture
            && state.error.is_none()
            && (state.evidence.readback_ok || state.posture == Posture::Open)
    });
    if silent {
        return Status::Unreachable;
    }
    if confirmed {
        return match order.posture {
            Posture::Open => Status::Open,
            Posture::Isolated => Status::Isolated,
        };
    }
    if view.state.is_some_and(|state| state.generation == order.generation && state.error.is_some()) {
        return Status::Failed;
    }
    if now - order.issued_at > DRIFT_AFTER {
        return Status::Drift;
    }
    match order.posture {
        Posture::Open => Status::Releasing,
        Posture::Isolated => Status::Isolating,
    }
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Open => "open",
            Status::Isolating => "isolating",
            Status::Isolated => "isolated",
            Status::Releasing => "releasing",
            Status::Drift => "drift",
            Status::Failed => "failed",
            Status::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests;
