//! State: what a host enforces, with evidence.

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Hold, LocalRelease, MAX_CAUSES, MAX_HOLDS, Order, Payload, Posture, WhenUnreachable, check_generation};
use crate::exclusion::Exclusion;
use crate::exclusion::measure::Opens;
use crate::host_id::HostId;
use crate::time::{self, Timestamp};

/// `io.portcullis.state.v1`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// Who says it; the same as in the subject.
    pub host: HostId,
    /// The order that is enforced; 0 where the host never had one.
    #[schemars(range(max = super::MAX_GENERATION))]
    pub generation: u64,
    /// What is in force.
    pub posture: Posture,
    /// How much the host can hold.
    pub level: Level,
    /// What the rules do not hold: what a higher level could, and what is attached to devices or open beside the rules of an isolation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaks: Vec<String>,
    /// When the posture came into force, by the host's clock.
    pub enforced_at: Timestamp,
    /// By how many seconds the host's clock is ahead of the broker's (behind, where negative), if by more than five and known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_seconds: Option<i64>,
    /// The isolation that is in force, for a log of orders that has lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_order: Option<Box<LastOrder>>,
    /// What was measured.
    pub evidence: Evidence,
    /// What made the agent speak.
    pub cause: StateCause,
    /// Who opened the host on the host itself; with cause `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<LocalActor>,
    /// What somebody changed, and what became of it; with cause `tamper`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tamper: Option<Tamper>,
    /// Why the order could not be enforced; what was in force still is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Random per boot (/proc/sys/kernel/random/boot_id).
    pub boot_id: String,
    /// Version of the agent, as `0.1.0`.
    pub agent_version: String,
    /// The order's incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
}

impl State {
    /// `enforced_at` by the broker's clock, as far as the host knows what its own is off by.
    pub fn enforced_at_by_broker(&self) -> Timestamp {
        let ahead = self.clock_ahead_seconds.and_then(TimeDelta::try_seconds).unwrap_or_default();
        self.enforced_at.checked_sub_signed(ahead).unwrap_or(self.enforced_at)
    }
}

/// An isolation as the host was ordered to hold it: what has to be known to order it again. A claim, as all that a host says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastOrder {
    /// The causes of the isolation; from 1 to [`MAX_HOLDS`].
    #[schemars(length(min = 1, max = MAX_HOLDS))]
    pub holds: Vec<Hold>,
    /// What passes; absent where it would make the event too large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusions: Option<Vec<Exclusion>>,
    pub when_unreachable: WhenUnreachable,
    pub local_release: LocalRelease,
    pub incident: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    pub reason: String,
}

impl LastOrder {
    /// Most bytes of exclusions that go with it.
    const MOST_EXCLUSIONS: usize = 32 * 1024;

    /// None where the order opens the host.
    pub fn of(order: &Order) -> Option<Self> {
        let fits =
            |exclusions: &Vec<Exclusion>| serde_json::to_vec(exclusions).is_ok_and(|text| text.len() <= Self::MOST_EXCLUSIONS);
        (order.posture == Posture::Isolated).then(|| Self {
            holds: order.holds.clone(),
            exclusions: Some(order.exclusions.clone()).filter(fits),
            when_unreachable: order.when_unreachable,
            local_release: order.local_release,
            incident: order.incident.clone(),
            ticket: order.ticket.clone(),
            reason: order.reason.clone(),
        })
    }

    fn check(&self) -> Result<(), String> {
        if self.holds.is_empty() || self.holds.len() > MAX_HOLDS {
            return Err(format!("last_order.holds has {} entries; 1 to {MAX_HOLDS} are taken", self.holds.len()));
        }
        for hold in &self.holds {
            check_generation(hold.generation, 0)?;
            time::check("last_order.holds.since", hold.since)?;
            hold.until.map_or(Ok(()), |until| time::check("last_order.holds.until", until))?;
            if hold.causes.len() > MAX_CAUSES {
                return Err(format!("last_order.holds.causes has {} entries; at most {MAX_CAUSES} are taken", hold.causes.len()));
            }
        }
        let mut untils = self.exclusions.iter().flatten().filter_map(|exclusion| exclusion.until);
        untils.try_for_each(|until| time::check("last_order.exclusions.until", until))
    }
}

/// Tampering with what is enforced. What happens again and again is told as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tamper {
    /// What was found, at most eight of it.
    pub what: Vec<String>,
    /// Who sent the transactions, as the kernel names them (nftables' NEWGEN event); empty where it does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Culprit>,
    /// How often it was found since the last event that said so.
    pub times: u64,
    /// Whether all of it was put right again.
    pub restored: bool,
    /// From the kernel's word until the rules were in force again, in milliseconds; the longest of the times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_in_ms: Option<u64>,
}

/// A process, as it was when it did something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Culprit {
    /// Its number in the first pid namespace.
    pub pid: u32,
    /// Its name (comm), which it may have chosen itself.
    pub program: String,
}

/// The process that spoke to the agent on the host, as the kernel names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalActor {
    /// Effective uid of the process (SO_PEERCRED).
    pub uid: u32,
    /// Who logged in, before any `su` (/proc/PID/loginuid).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// Its controlling terminal, as `pts/0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<String>,
    /// Program of the parent process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// What the person wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How much the host can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing: isolation cannot be enforced.
    None,
    /// The inet family only: frames of raw sockets, macvlan and bridged traffic pass.
    Inet,
    /// No netdev egress: the rows that leak are named.
    Partial,
    /// The inet family, and netdev both ways.
    Full,
}

impl Level {
    /// The text that stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Inet => "inet",
            Level::Partial => "partial",
            Level::Full => "full",
        }
    }
}

/// What the agent measured after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// SHA-256 of the ruleset as the kernel gave it back; absent while open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ruleset_sha256: Option<String>,
    /// The ruleset was read back and is the one that was wanted.
    pub readback_ok: bool,
    /// The kernel refuses changes by other processes.
    pub table_locked: bool,
    /// Sockets destroyed at this change.
    pub sockets_killed: u64,
    /// Conntrack entries deleted at this change.
    pub flows_flushed: u64,
    /// What the exclusions open of all addresses and ports; absent while open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens: Option<Opens>,
    /// Active checks made after it.
    #[serde(default)]
    pub probes: Vec<Probe>,
}

/// One active check of the isolation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// What was tried, as `tcp 10.0.5.10:22`.
    pub target: String,
    /// What should have come of it.
    pub expected: String,
    /// What came of it.
    pub found: String,
}

/// What a state event answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateCause {
    /// An order was taken.
    Order,
    /// The posture was restored at boot.
    Boot,
    /// Somebody changed the rules; they were restored.
    Tamper,
    /// The deadline came and no order did.
    Deadline,
    /// The host was opened on the host itself.
    Local,
    /// A regular look found something worth saying.
    Check,
    /// Both copies of the posture file were unreadable; the host isolated itself.
    PostureLost,
}

impl Payload for State {
    const TYPE: &'static str = "io.portcullis.state.v1";
    const NAME: &'static str = "state";

    fn check(&self) -> Result<(), String> {
        check_generation(self.generation, 0)?;
        self.last_order.as_ref().map_or(Ok(()), |order| order.check())?;
        time::check("enforced_at", self.enforced_at)
    }
}
