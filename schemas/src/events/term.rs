//! Term: the record with which an orchestrator begins to lead, in both logs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Payload;
use crate::host_id::HostId;
use crate::time::{self, Timestamp};

/// `io.portcullis.term.v1`
///
/// It is appended to DECISIONS first and to ORDERS then. From the first record the leader of an earlier term stores no decision, from the
/// second no order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Term {
    /// 1 for the first, then rising.
    #[schemars(range(min = 1))]
    pub term: u64,
    /// The process that leads: random, and new at each start.
    pub who: String,
    /// When it began, by the broker's time.
    pub since: Timestamp,
    /// What decides beside policy and logs.
    pub config: TermConfig,
    /// SHA-256 of the body of the previous message in ORDERS, in hex; in the record in ORDERS only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<String>,
}

/// The orchestrator's configuration, as far as it decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TermConfig {
    /// First token of every subject.
    pub prefix: String,
    /// Hosts that are never isolated automatically, with what they are: `broker`, `orchestrator`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub protected: BTreeMap<HostId, String>,
    /// The orchestrator's version.
    pub version: String,
}

impl Payload for Term {
    const TYPE: &'static str = "io.portcullis.term.v1";
    const NAME: &'static str = "term";

    fn check(&self) -> Result<(), String> {
        if self.term == 0 {
            return Err("term is 0; the first one is 1".to_owned());
        }
        time::check("since", self.since)
    }
}
