//! What the machine hears, and what it wants done.

use std::collections::BTreeMap;
use std::net::IpAddr;

use portcullis_schemas::HostId;
use portcullis_schemas::envelope;
use portcullis_schemas::events::{LastOrder, LocalActor, Order, Posture, StateCause, Tamper};
use portcullis_schemas::exclusion::Exclusion;
use portcullis_schemas::exclusion::measure::Opens;

use crate::exclusions::Problem;
use crate::gate::{Connection, ControlGroup, Gate, Proof};
use crate::record::{Broker, FrozenFacts, Opened, Record, Trace};

/// What can change what a host enforces, and what became of effects.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The process has started. `enforced` is what the kernel holds; `recorded` says whether a copy of the posture file says isolated, be it the
    /// older one.
    Start { enforced: Posture, recorded: bool },
    /// An order, stored by the broker; `subject` is the host of the subject that it came by.
    Order { subject: &'a HostId, event: &'a envelope::Event<Order>, acknowledged: bool },
    /// The log of orders ends below what this host has taken (0: it has no order for this host): it was lost, or restored from a copy.
    LogEnds { generation: u64 },
    /// Time has passed.
    Tick,
    /// Root on the host wants it open.
    LocalRelease(LocalActor),
    /// Where the brokers are now.
    Brokers(Vec<Broker>),
    /// Where the names of exclusions are now, all of them.
    Names(BTreeMap<String, Vec<IpAddr>>),
    /// The control groups of the units of exclusions as they are now.
    Groups(BTreeMap<String, ControlGroup>),
    /// Why an isolation would cut this host off from every broker; None where it would not.
    CutOff(Option<String>),
    /// Whether the isolation itself has cut the way to the broker.
    Lost(Option<Lost>),
    /// The broker has stored every state event.
    Acknowledged,
    /// The rules in force are to be compared with the desired ones; with `activate` they are activated again in any case.
    Compare { activate: bool },
    /// Answers [`Effect::FreezeFacts`].
    FrozenFacts(Box<FrozenFacts>),
    /// Answers [`Effect::WriteState`].
    Written { copy: CopyName, serial: u64, written: Written },
    /// Answers [`Effect::Prepare`], whether it is staged or not.
    Prepared,
    /// Answers [`Effect::Activate`].
    Activated(Activation),
    /// Answers [`Effect::Compare`]: None where nothing differs.
    Compared(Option<Activation>),
    /// Answers [`Effect::Release`].
    Released { enforced: Posture, error: Option<String> },
}

/// In the order in which they are to begin. Each that has an answer may take as long as it likes, and others go on beside it: the machine keeps
/// back what has to wait for an answer. At most one [`WriteState`](Self::WriteState) is unanswered, and at most one of those for the kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// What the host knows of itself is gathered, once for each isolation, and the places of these exclusions are looked up. Rules and record wait for
    /// the answer, so it has to come within some 250 ms; an order that follows does not wait for one of its own.
    FreezeFacts {
        known: Option<Box<FrozenFacts>>,
        exclusions: Vec<Exclusion>,
    },
    /// A copy of the record goes to the disk.
    WriteState {
        copy: CopyName,
        record: Box<Record>,
    },
    /// Rules are staged on an open host: no packet is asked yet. Beside [`WriteState`](Self::WriteState).
    Prepare(Box<Isolation>),
    /// Rules are put in force, what may not pass is ended, and the rules are read back. Behind the record on the disk, if the disk answers in time.
    Activate(Box<Isolation>),
    /// The rules in force are read back, and activated again where they differ, or in any case.
    Compare {
        isolation: Box<Isolation>,
        activate: bool,
    },
    /// The rules are removed. Beside the record of an order; behind the record of an opening by this host itself, which no order repeats.
    Release,
    Report(Report),
    /// State events that wait for their acknowledgement are sent again at once.
    Resend,
    Refuse(Refusal),
}

/// One of the two copies of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyName {
    A,
    B,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    Replaced,
    /// The disk is full: it is in the second copy, over what was there.
    InPlace(String),
    Failed(String),
}

/// All that rules are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Isolation {
    pub gate: Gate,
    /// Exclusions that could not be resolved, or open too much.
    pub problems: Vec<Problem>,
    /// What the exclusions open.
    pub opens: Opens,
}

/// What the kernel gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// What it enforces now.
    pub enforced: Posture,
    /// The rules were read back, and nothing differs.
    pub whole: bool,
    pub proof: Option<Proof>,
    /// Connections that were let stand.
    pub standing: Vec<Connection>,
    pub error: Option<String>,
}

/// A broker that is not reached since the rules were activated, by their own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// CLOCK_BOOTTIME as they were activated.
    pub since_ms: u64,
}

/// A state event, as far as it is decided here; the rest is what the kernel gave back.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The generation that is answered.
    pub generation: u64,
    pub cause: StateCause,
    pub opened: Option<Opened>,
    pub tamper: Option<Box<Tamper>>,
    pub last_order: Option<Box<LastOrder>>,
    pub error: Option<String>,
    pub trace: Trace,
    pub incident: Option<String>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("order for host {0} refused: it came to this host")]
    NotMine(HostId),
    #[error("order {generation} refused: this host has already accepted order {taken}")]
    Older { generation: u64, taken: u64 },
    #[error("order {generation} refused: it expired at {at}, and the broker's time is {now}; issue it again")]
    Expired { generation: u64, at: String, now: String },
    #[error("order {generation} refused: it needs agent {needs} and this is {have}; upgrade the agent")]
    NewerAgent { generation: u64, needs: String, have: String },
    #[error("order {generation} refused: {why}")]
    CutOff { generation: u64, why: String },
    #[error("this host is already open")]
    AlreadyOpen,
    #[error("the order in force does not allow a local release; ask an operator of the orchestrator")]
    LocalOff,
    #[error(
        "the order in force requires a release token, which this agent cannot check yet; ask an operator of the orchestrator"
    )]
    LocalToken,
}
