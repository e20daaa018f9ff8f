//! What the deciding orchestrator says of itself every few seconds, under one key of the KV bucket: for operators, and deciding nothing.
//!
//! When it was said is the broker's time of the message.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host_id::HostId;
use crate::time::Timestamp;

/// Its key in the bucket.
pub const KEY: &str = "orchestrator";

/// Hosts in `late` are at most this many, those that were heard least lately.
pub const MOST_LATE: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    #[serde(default)]
    pub policy: PolicyState,
    /// Hosts whose hello is late, with the time of the last one. Every other host was heard within some 40 s, or is unreachable.
    #[serde(default)]
    pub late: BTreeMap<HostId, Timestamp>,
}

/// Which policy decides, and what became of the file that was read last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyState {
    /// SHA-256 of the text of the policy in force; absent where there is none and detections wait for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Present where the file as it was last read was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub at: Timestamp,
    pub file: String,
    /// The first of its errors, with line and column.
    pub problem: String,
}
