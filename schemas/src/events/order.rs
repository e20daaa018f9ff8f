//! Order: the desired state of one host, complete in itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{InputRef, Payload, check_generation};
use crate::exclusion::Exclusion;
use crate::host_id::HostId;
use crate::time::{self, Timestamp};

/// Generations stay below 2^53, the largest integer that every JSON reader keeps exact.
pub const MAX_GENERATION: u64 = (1 << 53) - 1;
/// Most holds of one order.
pub const MAX_HOLDS: usize = 32;
/// Causes that a hold names; further ones are counted.
pub const MAX_CAUSES: usize = 16;
/// Most settled inputs that one order remembers.
pub const MAX_SETTLED: usize = 512;

/// `io.portcullis.order.v1`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend(
    "if" = { "properties": { "posture": { "const": "isolated" } } },
    "then" = { "properties": { "holds": { "minItems": 1 } } },
    "else" = { "properties": { "holds": { "maxItems": 0 } } },
))]
pub struct Order {
    /// Whom it is for; the same as in the subject.
    pub host: HostId,
    /// 1 for a host's first order, then rising; from 1 to [`MAX_GENERATION`]. An agent refuses a lower one than it has.
    #[schemars(range(min = 1, max = MAX_GENERATION))]
    pub generation: u64,
    /// What the host is to enforce.
    pub posture: Posture,
    /// The causes of the isolation; none while open.
    #[schemars(length(max = MAX_HOLDS))]
    pub holds: Vec<Hold>,
    /// The latest `until` of the holds; absent where one has no end, and while open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_at: Option<Timestamp>,
    /// What passes while isolated: profiles already resolved to rules; none while open.
    pub exclusions: Vec<Exclusion>,
    /// What the agent does at the deadline when no order has come.
    pub when_unreachable: WhenUnreachable,
    /// Who may open the host on the host itself.
    pub local_release: LocalRelease,
    /// The incident that it belongs to: the sender's id, else the id of the first cause.
    pub incident: String,
    /// The operator's ticket, carried along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// The broker's time of the input that made this order.
    pub issued_at: Timestamp,
    /// The input that made this order.
    pub issued_by: InputRef,
    /// For people.
    pub reason: String,
    /// Bounds the first taking of an isolating order, never what is enforced already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// An older agent does not take this order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_agent: Option<String>,
    /// Inputs that have had their effect on this host, so that a late copy has none.
    #[schemars(length(max = MAX_SETTLED))]
    pub settled: Vec<Settled>,
    /// Detections observed before this are stale: what settled them is no longer listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_floor: Option<Timestamp>,
    /// The last release by a person or by the host itself, as the broker's time of the input: what was stored before it and comes
    /// late does not undo it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<Timestamp>,
    /// How the host was opened last; absent while it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_release: Option<LastRelease>,
    /// How the host was isolated last; absent while it never was. It is kept while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_isolation: Option<LastIsolation>,
    /// The deadline came and a person was asked: at the next one the host opens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked_at_deadline: bool,
    /// SHA-256 of the body of the previous message in the log of orders, in hex; 64 zeros for the first.
    pub prev: String,
}

/// The beginning of an isolation. Limits count by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastIsolation {
    /// The broker's time of the input that isolated the open host.
    pub at: Timestamp,
    /// The source of the detection by which the policy isolated it; absent where a person did, or the host itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// The end of an isolation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastRelease {
    /// The broker's time of the input that opened the host.
    pub at: Timestamp,
    pub by: ReleasedBy,
    /// The operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// The rules whose holds ended with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

/// What ended an isolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleasedBy {
    Operator,
    /// The host opened itself, locally.
    Host,
    Deadline,
    /// Its last cause was retracted.
    Retraction,
}

/// What an order wants and a kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Posture {
    /// Nothing of ours is in the kernel.
    Open,
    /// Nothing passes but what is listed.
    Isolated,
}

impl Posture {
    /// The text that stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Posture::Open => "open",
            Posture::Isolated => "isolated",
        }
    }
}

/// One cause of an isolation, with its own deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hold {
    /// The policy's rule; absent for manual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Whose isolation it is.
    pub origin: Origin,
    /// The inputs behind it, oldest first; at most [`MAX_CAUSES`].
    pub causes: Vec<Cause>,
    /// Causes beyond those listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<u64>,
    /// The generation that made it: what a host opened by itself at N ends the holds up to N and no later one.
    #[schemars(range(max = MAX_GENERATION))]
    pub generation: u64,
    /// Broker's time of its first cause.
    pub since: Timestamp,
    /// Absent: only a person ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why, in the operator's words; of a manual hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The operator's ticket; of a manual hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// The incident of its first cause, where it is another one than the order's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
}

/// The input behind a hold.
pub type Cause = InputRef;

/// Whose isolation it is; each origin has its own exclusions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// By the policy.
    Automatic,
    /// By an operator, also from an alert by hand.
    Manual,
}

/// What an agent does at the deadline when no order has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnreachable {
    /// Open the host and say so.
    #[default]
    Release,
    /// Stay isolated until an order comes.
    Stay,
}

/// Who may open the host on the host itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LocalRelease {
    /// Any process with uid 0.
    #[default]
    Root,
    /// Who shows a release token.
    Token,
    /// Nobody.
    Off,
}

/// An input that has had its effect on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Settled {
    /// The input's key, 16 hex digits ([`InputRef::hash`]).
    #[serde(rename = "h")]
    pub hash: String,
    /// The broker's time of the input, in milliseconds since 1970.
    #[serde(rename = "t")]
    pub at_ms: i64,
    /// The generation that it made; absent where it was settled without having held.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

impl Payload for Order {
    const TYPE: &'static str = "io.portcullis.order.v1";
    const NAME: &'static str = "order";

    fn check(&self) -> Result<(), String> {
        check_generation(self.generation, 1)?;
        let times = [("issued_at", Some(self.issued_at)), ("release_at", self.release_at), ("expires_at", self.expires_at)];
        for (member, time) in
            times.into_iter().chain(self.exclusions.iter().map(|exclusion| ("exclusions.until", exclusion.until)))
        {
            time.map_or(Ok(()), |time| time::check(member, time))?;
        }
        for hold in &self.holds {
            check_generation(hold.generation, 0)?;
            time::check("holds.since", hold.since)?;
            hold.until.map_or(Ok(()), |until| time::check("holds.until", until))?;
        }
        for (what, count, most) in [("holds", self.holds.len(), MAX_HOLDS), ("settled", self.settled.len(), MAX_SETTLED)] {
            if count > most {
                return Err(format!("{what} has {count} entries; at most {most} are taken"));
            }
        }
        let fits = match self.posture {
            Posture::Open => self.holds.is_empty(),
            Posture::Isolated => !self.holds.is_empty(),
        };
        if !fits {
            return Err(format!("posture is {} with {} holds", self.posture.as_str(), self.holds.len()));
        }
        Ok(())
    }
}
