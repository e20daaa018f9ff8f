//! Decision: the answer to one input, with its reason and the facts that it saw.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ask, Effect, HostClaim, InputRef, Level, Payload};
use crate::host_id::HostId;
use crate::time::{Span, Timestamp};

/// `io.portcullis.decision.v1`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// What is answered.
    pub input: InputRef,
    /// Its sequence in its stream; absent for what no stream keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The host that it is about; absent where none was found, and for the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// What is done about the input.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// What held it back beside that, where it is several things at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Reason>,
    /// What was seen.
    pub facts: Facts,
    /// The policy's rule that spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The order that carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The incident of the order that it made or joined, else the sender's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// The input waited for its host. This decision follows the one that said so, and is the last one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waited: bool,
    /// Hash of the key of the detection that the input retracts, as in an order's `settled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retracts: Option<String>,
    /// What is pending from this decision on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<Box<Ask>>,
    /// The input was pending: this decision ends that, and is the last one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
    /// What holds from this decision on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Effect>,
}

impl Decision {
    /// The answer to an input, with nothing else said.
    pub fn new(input: InputRef, verdict: Verdict, reason: Reason, facts: Facts) -> Self {
        Self {
            input,
            sequence: None,
            host: None,
            verdict,
            reason,
            further: Vec::new(),
            facts,
            rule: None,
            generation: None,
            incident: None,
            waited: false,
            retracts: None,
            ask: None,
            asked: false,
            effects: Vec::new(),
        }
    }
}

/// What is done about an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Isolate, or stay isolated for this cause too.
    Isolate,
    /// Open the host.
    Release,
    /// Wait for a person.
    Ask,
    /// Record and notify.
    Observe,
    /// Record.
    Ignore,
    /// Do nothing and say so: what was asked for cannot or must not be done.
    Refuse,
    /// Carry out a request that orders nothing by itself.
    Apply,
}

impl Verdict {
    /// The text that stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Isolate => "isolate",
            Verdict::Release => "release",
            Verdict::Ask => "ask",
            Verdict::Observe => "observe",
            Verdict::Ignore => "ignore",
            Verdict::Refuse => "refuse",
            Verdict::Apply => "apply",
        }
    }
}

/// Why, with the figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// A rule of the policy matched and its verdict stands.
    Rule,
    /// An operator asked.
    Operator,
    /// The deadline of the named generation came.
    Deadline { generation: u64 },
    /// The host opened itself; the log follows.
    OpenedByHost { generation: u64 },
    /// The host lost its posture file; the wanted posture is ordered anew.
    PostureLost { generation: u64 },
    /// The host knows a higher generation than the log; the wanted posture is ordered above it.
    AgentAhead { reported: u64, ordered: u64 },
    /// The host claims a generation too far above the log to be followed.
    ImplausibleGeneration { reported: u64, ordered: u64 },
    /// The cause joined a hold that lives; the order need not change.
    Joined {
        generation: u64,
        /// It would hold the host by itself until then; absent where that is no longer than the hold lasts by the order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// The input had its effect before.
    Settled,
    /// The cause was retracted and nothing else holds the host.
    Retracted,
    /// What is retracted does not hold the host; should it come, it is ignored.
    NothingToRetract,
    /// The retraction is another sender's, or a person isolated the host.
    RetractionNotAlone,
    /// Stored before the release that it would undo.
    SupersededByRelease { released_at: Timestamp },
    /// The deadline of an order that no longer stands.
    StaleGeneration { due: u64, ordered: u64 },
    /// Observed too long before it arrived, or before what the host still remembers.
    Stale { observed_at: Timestamp, limit: Timestamp },
    /// Observed later than it arrived, by more than clocks differ.
    FromTheFuture { observed_at: Timestamp },
    /// No host, or several, by this id, name or address.
    Unresolved {
        wanted: String,
        candidates: Vec<HostId>,
        /// For how long its host is waited for; absent where that is over, or nothing is waited for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waits: Option<Box<Waits>>,
        /// Why the wait is over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<WaitEnd>,
    },
    /// The policy runs in audit mode, or the rule does; this is what would have been done.
    Audit { would: Verdict },
    /// The host is protected: by the orchestrator's configuration, the policy, or a role.
    Protected { as_what: String },
    /// The host's agent cannot enforce.
    CannotEnforce { level: Level },
    /// The condition of a rule could not be evaluated.
    RuleError { message: String },
    /// No valid policy is loaded.
    NoPolicy,
    /// A member that decides cannot be read; its path, as `.rule.id`, and what is wrong with it.
    Unreadable { member: String, problem: String },
    /// The severity is unknown.
    UnknownSeverity,
    /// The operator named is not the principal that sent it.
    OperatorMismatch { operator: String, principal: String },
    /// The host named is not the one in the subject.
    HostMismatch { named: String },
    /// The host was open already. A release is recorded all the same: what was stored before it does not isolate the host any more.
    AlreadyOpen,
    /// An operator holds the host already, and what is asked for would be lost in that hold: its end is not later, or it belongs to another
    /// incident or ticket. Nothing is ordered.
    AlreadyIsolated {
        /// When the host opens; absent where a person must open it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// The operator who asked first.
        by: String,
        incident: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket: Option<String>,
        generation: u64,
    },
    /// A longer isolation than the policy allows.
    TooLong { limit: String },
    /// The action is not built yet.
    NotSupported { action: String },
    /// An order can hold no more causes.
    TooManyHolds { limit: u64 },
    /// The order would be too large to be sent.
    OrderTooLarge { bytes: u64, limit: u64 },
    /// Inputs were removed from the stream before they could be read.
    InputsLost { first: u64, last: u64 },
    /// So many hosts are isolated already as the limit allows: `isolated` of `base` hosts, at most `most`.
    BlastRadius {
        limit: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
        isolated: u64,
        base: u64,
        most: u64,
        breaker: String,
    },
    /// So many hosts were isolated within `per` already as the limit allows.
    IsolationRate {
        limit: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
        isolated: u64,
        most: u64,
        per: Span,
        breaker: String,
    },
    /// A limit was reached before, and its breaker is not reset yet.
    Breaker {
        limit: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
        since: Timestamp,
        breaker: String,
    },
    /// The limit is no longer reached, and its breaker is reset.
    BelowLimit {
        limit: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
        breaker: String,
    },
    /// An operator paused automatic isolation.
    Paused { until: Timestamp, by: String },
    /// Stored so long before this leader began that it is no longer current: nobody decided meanwhile.
    StaleByDowntime { arrived_at: Timestamp, leader_since: Timestamp },
    /// The same rule held the host, which was released so recently.
    CoolDown {
        released_at: Timestamp,
        until: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// The policy lets no detection of this source isolate.
    SourceMayNotIsolate { source: String },
    /// The source has isolated so many hosts within `per` already.
    SourceRate { source: String, isolated: u64, most: u64, per: Span },
    /// The same rule asks about this host already; the answer is for both.
    AskJoined { ask: String },
    /// The rule wants so many detections on one host within `per`.
    BelowThreshold { seen: u64, wanted: u64, per: Span },
    /// Enough people said yes.
    Approved { by: Vec<String> },
    /// Somebody said no.
    Denied {
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Nobody answered in time.
    Unanswered { until: Timestamp },
    /// Others must approve as well: so many of `wanted` did.
    ApprovalsMissing { approved: u64, wanted: u64 },
    /// Nothing of this id is pending: it never was, or was answered.
    NotPending { ask: String },
    /// Who asked for it, or approved it already, cannot approve it.
    SamePerson { principal: String },
    /// The host is not isolated.
    NotIsolated,
    /// Nothing is paused.
    NotPaused,
    /// The time of the pause is over.
    PauseOver { until: Timestamp },
    /// No breaker of this id is tripped.
    NotTripped { breaker: String },
    /// The request lacks what its action needs; the member, and what to write.
    Incomplete { member: String, problem: String },
    /// The policy of this hash cannot be taken.
    BadPolicy { hash: String, problem: String },
    /// Another policy became active meanwhile.
    PolicyMoved { active: Option<String>, expected: Option<String> },
}

/// A detection that waits for its host: it is decided again when an inventory brings a host by which it is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waits {
    /// By the broker's clock.
    pub until: Timestamp,
    /// What is waited for, as it is compared; at most 32 addresses of those in the detection.
    pub host: HostClaim,
}

/// Why a detection waits no longer, and no host was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitEnd {
    /// Its time was over.
    TimedOut,
    /// Too many others waited that end later.
    PushedOut,
    /// It was retracted, or retracted one that waited.
    Retracted,
    /// It was removed from its stream while it waited.
    Removed,
}

/// What the decision saw, so that a replay needs no other source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Facts {
    /// Labels of the host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Roles of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Status of the host before this decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// How much the host could hold, by its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The fleet before this decision.
    pub counts: Counts,
    /// SHA-256 of the policy's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What could not be read in the input and decides nothing, each by its member; the first few dozen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub input_faults: Vec<String>,
    /// The broker's time of the input: the `now` of this decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
    /// What of the streams it was decided on; in a page it stands once for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// Positions: the last sequence of each stream that was known when something was decided. What was decided together has the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Seen {
    /// The term of the leader that decided.
    pub term: u64,
    pub orders: u64,
    pub decisions: u64,
    pub inventory: u64,
    pub states: u64,
    /// The sequence in DECISIONS of the first record of a detection that waits for its host; absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
}

/// Figures of the fleet, both numbers of hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Hosts known.
    pub hosts: u64,
    /// Hosts ordered isolated.
    pub isolated: u64,
}

impl Payload for Decision {
    const TYPE: &'static str = "io.portcullis.decision.v1";
    const NAME: &'static str = "decision";
}
