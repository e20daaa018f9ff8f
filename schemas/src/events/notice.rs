//! Notice: an event for people.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Payload, Severity};
use crate::host_id::HostId;

/// `io.portcullis.notice.v1`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// What it is about; for routing.
    pub kind: NoticeKind,
    /// How urgent it is for people.
    pub severity: Severity,
    /// The host; absent where it is about the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// The incident that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// One sentence in plain words; not for programs.
    pub text: String,
    /// The outputs that are to carry it, by the policy's `notify`; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// An open host is ordered isolated.
    Isolated,
    /// An isolated host is ordered open.
    Released,
    /// A person has to decide.
    Ask,
    /// The host opened itself.
    LocalRelease,
    /// The host could not enforce, or reported something else than was ordered.
    Drift,
    /// Somebody changed what isolates a host.
    Tamper,
    /// Both copies of a host's posture file were unreadable.
    PostureLost,
    /// Two hosts claim one name or address, or two processes one host id.
    Contested,
    /// A host claims a generation too far above the log.
    ImplausibleGeneration,
    /// An isolating order lost its meaning before the host took it.
    Expired,
    /// A host has not been heard of.
    Silent,
    /// Inputs were removed from a stream before they could be read.
    InputsLost,
    /// A message in the log of orders does not follow from the one before it.
    ChainBroken,
    /// What a person was asked is answered, or was not in time.
    Answered,
    /// A limit was reached, or its breaker is reset.
    Breaker,
    /// Automatic isolation is paused.
    Paused,
    /// Automatic isolation goes on.
    Resumed,
    /// The deadline of an isolation comes soon.
    ReleaseSoon,
    /// Another policy decides, or one was refused.
    Policy,
    /// A host claims a role that protects it, and claimed it only lately.
    RoleClaimed,
}

impl Payload for Notice {
    const TYPE: &'static str = "io.portcullis.notice.v1";
    const NAME: &'static str = "notice";
}
