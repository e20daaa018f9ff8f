//! What a decision changes beside orders: pending approvals, breakers, the pause, what operators say of hosts. The leader remembers it from the
//! decision on, and finds it there again after a restart.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{For, Request};
use crate::exclusion::Exclusion;
use crate::time::{Span, Timestamp};

/// A question that a person has to answer. It is pending from its decision on, until it is approved, denied, unanswered for too long, or retracted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ask {
    /// By which it is approved or denied: the hash of its input's key, 16 hex digits.
    pub id: String,
    /// What is asked.
    pub question: Question,
    /// So many different principals must approve; at least 1.
    #[schemars(range(min = 1))]
    pub approvals: u8,
    /// When it ends by itself; absent: only a person ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What is done then.
    #[serde(default)]
    pub if_unanswered: IfUnanswered,
    /// How long the isolation lasts that is asked for, from its approval.
    pub release_after: For,
    /// The breakers that held it, by their ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakers: Vec<String>,
    /// The request that waits; absent for a detection. Who made it cannot approve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<Request>>,
}

/// What a pending approval is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Isolate the host?
    #[default]
    Isolate,
    /// The deadline of an isolation came: release the host?
    Release,
}

/// What becomes of a pending approval that nobody answered in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfUnanswered {
    /// Nothing but a record.
    #[default]
    Observe,
    /// It is as if it had been approved.
    Isolate,
}

/// What holds from a decision on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Effect {
    /// No host is isolated automatically until then.
    Paused {
        until: Timestamp,
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The pause is over.
    Resumed { by: String },
    /// One principal said yes to these pending approvals.
    Approved {
        asks: Vec<String>,
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// One principal said no to these pending approvals, which ends them.
    Denied {
        asks: Vec<String>,
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A limit was reached: what it takes is asked about until the breaker is reset.
    BreakerTripped(Breaker),
    /// It is closed again.
    BreakerReset {
        breaker: String,
        /// The operator; absent where it ended as configured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// Labels of the host, set by an operator; null takes one away.
    Labelled {
        #[schemars(extend("maxProperties" = 64))]
        labels: BTreeMap<String, Option<String>>,
    },
    /// The exclusions of the host's own list from now on, for manual isolation; null: the policy's `manual_default` again.
    OwnExclusions { exclusions: Option<Vec<Exclusion>> },
    /// A detection counts towards the threshold of its rule on its host.
    Counted {
        /// Hash of the value that has to be distinct, 16 hex digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        /// It counts until then.
        until: Timestamp,
        /// So many the rule wants: more of them need not be remembered.
        wanted: u64,
    },
}

/// A limit that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Breaker {
    /// By which it is reset, and all that it holds is approved; 16 hex digits.
    pub id: String,
    /// The limit of the policy.
    pub limit: String,
    /// Of which hosts, where the limit counts by a label, group or role; absent: of all that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    pub since: Timestamp,
    pub resets: Resets,
}

/// How a breaker is reset, beside by an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resets {
    /// As soon as the limit is no longer reached.
    #[default]
    Below,
    /// After this long, where the limit is no longer reached then.
    After(Span),
    /// By an operator alone.
    Manual,
}
