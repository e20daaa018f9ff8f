//! What the machine hears, and what it wants done.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portcullis_schemas::events::{InputKind, Posture, Verdict};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{HostId, Stream, Timestamp};

use crate::deadlines::Monotonic;
use portcullis_policy::Policy;

/// The time of an event, on both clocks. The broker's is carried on by the boot clock, so that no step of a wall clock moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub boot: Monotonic,
    pub broker: Timestamp,
}

/// A message as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    pub headers: Vec<(String, String)>,
    /// The header block as it came where it breaks ADR-4, and what is wrong with it.
    pub malformed: Option<(Vec<u8>, String)>,
    pub body: Bytes,
    /// The broker's time stamp; for what no stream keeps, the broker's time when it arrived.
    pub at: Timestamp,
    /// Its sequence in the stream; 0 for what no stream keeps.
    pub sequence: u64,
}

impl Message {
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// A message of an input stream, which the broker delivers again until it is acknowledged.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub stream: Stream,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// It lay in the stream when this process started: part of its order's time is over.
    pub waited: bool,
    pub message: Message,
}

impl Delivered {
    /// Whether it may have ended each process that had it: it is decided alone, and its attempt counted first.
    pub fn is_suspect(&self) -> bool {
        self.deliveries > 3
    }
}

/// One delivered message, as commands name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    pub stream: Stream,
    pub sequence: u64,
}

/// The two logs that the leader alone writes, each message behind the sequence that it expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Orders,
    Decisions,
}

impl Log {
    pub fn stream(self) -> Stream {
        match self {
            Log::Orders => Stream::Orders,
            Log::Decisions => Stream::Decisions,
        }
    }
}

/// A message to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub subject: String,
    pub body: Bytes,
}

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// All of it is acknowledged behind the sequence that was expected.
    Stored,
    /// It would fail in the same way for ever: a message is larger than the broker takes. Nothing of it is stored.
    TooLarge,
    /// Anything else, also a time-out: all of it may be stored or nothing. The log must be read on.
    Unclear(String),
}

/// What became of a message for REJECTED.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    Stored,
    /// Even without its headers it is larger than the broker takes: it stays where it is stored.
    TooLarge,
    Failed(String),
}

/// Everything that the machine can hear. The last eight answer commands.
#[derive(Clone, Debug)]
pub enum Event {
    /// Inputs that were delivered together. Those that wait are decided together.
    Delivered(Vec<Delivered>),
    /// These sequences of an input stream were removed before they were read.
    Lost {
        stream: Stream,
        first: u64,
        last: u64,
    },
    /// A stored message of ORDERS, DECISIONS, STATES or INVENTORY, in the order of its stream.
    Logged(Stream, Message),
    Hello(Message),
    /// The connection to the broker was lost, or is back.
    Connection {
        up: bool,
    },
    /// The policy of this process's file was read, and its text lies in the KV bucket. Where it is to decide, it does from its record in DECISIONS on.
    Policy(Arc<Policy>),
    /// All commands are under way, and nothing else is to be handed in: time to decide what waits while a batch is stored, where
    /// [`can_decide_ahead`](super::Machine::can_decide_ahead).
    Idle,
    /// Nobody else seems to lead: try to.
    Lead,
    /// Time has passed: see [`next_wake`](super::Machine::next_wake).
    Tick,

    /// What became of the append with this number.
    Appended(u64, Appended),
    /// All that stands behind the last known message of a log, from the stream's leader, for the read with this number.
    Read(u64, Result<Vec<Message>, String>),
    /// How often work on the input was begun before and never finished.
    Marked(Ticket, Result<u64, String>),
    /// What became of the rejection with this number.
    Kept(u64, Kept),
    /// Of all of them or of none.
    InventoriesStored(Result<(), String>),
    ReleaseRefused(HostId, u64),
    /// The message of an input stream; None where it was removed.
    Fetched(Ticket, Result<Option<Message>, String>),
    /// The text of the policy with this hash; None where none is kept.
    PolicyFetched(String, Result<Option<String>, String>),
}

/// What the shell is to do. It decides nothing: what it finds comes back as an event.
#[derive(Clone, Debug)]
pub enum Command {
    /// Append all of these to a log behind `expected`, or none of them. Answer: [`Event::Appended`].
    Append {
        number: u64,
        log: Log,
        messages: Vec<Outgoing>,
        expected: u64,
    },
    /// Read a log on, from the stream's leader, behind `after`. Answer: [`Event::Read`].
    Read {
        number: u64,
        log: Log,
        after: u64,
    },
    /// Count an attempt at an input that was delivered again, before work on it begins. Answer: [`Event::Marked`].
    Mark(Ticket),
    /// These inputs are answered: they must not come again.
    Ack(Vec<Ticket>),
    /// The input is to come again after this long.
    Defer(Ticket, Duration),
    /// Keep in REJECTED, whole, with its reason. Answer: [`Event::Kept`].
    Reject {
        number: u64,
        /// The token behind the prefix of its subject.
        kind: &'static str,
        /// Where it is stored, if it is.
        stored: Option<Ticket>,
        message: Box<Message>,
        why: Malformed,
    },
    /// Store all of these or none. Answer: [`Event::InventoriesStored`]; what is stored comes back by its stream.
    StoreInventories(Vec<Outgoing>),
    /// Publish that a deadline has come. Only a failure is answered: [`Event::ReleaseRefused`].
    ReleaseDue {
        host: HostId,
        generation: u64,
        subject: String,
        body: Bytes,
    },
    /// Read a message of an input stream. Answer: [`Event::Fetched`].
    Fetch(Ticket),
    /// Read the text of a policy by its hash. A follower gives this command as well. Answer: [`Event::PolicyFetched`].
    FetchPolicy(String),
    Notify(Vec<Outgoing>),
    /// This process leads: take inputs, and call the roll.
    Begin,
    /// Another process leads: take no inputs any more, and forget those in hand.
    StepDown,
    /// For logs and metrics.
    Report(Report),
}

/// What happened, for logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Input(InputKind),
    /// Members of a detection that cannot be read, and decide nothing.
    Faults {
        token: String,
        id: String,
        faults: usize,
        first: String,
    },
    Verdict(Verdict),
    Ordered {
        host: HostId,
        generation: u64,
        posture: Posture,
        reason: String,
        /// From the time at which the input was stored.
        latency: Duration,
    },
    /// This process leads from now on.
    Leading {
        term: u64,
    },
    /// Another process leads.
    Following {
        term: u64,
        leader: String,
    },
    /// The record of a term could not be appended; the next attempt has another.
    NotLeading(String),
    PolicyActivated {
        hash: Option<String>,
    },
    /// The policy of the file does not decide: another one was activated since, `by` an operator or from another file.
    FileNotActive {
        file: String,
        active: String,
        by: String,
    },
    /// The text of the active policy is not kept, or cannot be taken: detections wait for a person.
    PolicyMissing {
        hash: String,
        problem: String,
    },
    /// Another writer was faster: what was decided is dropped and decided again.
    Overtaken(Log),
    /// The log of orders holds what is no order.
    NotAnOrder {
        subject: String,
        sequence: u64,
        why: Malformed,
    },
    /// The record of a term that is so far ahead that no orchestrator wrote it: it counts for nothing.
    ForeignTerm(u64),
    /// The message at this sequence in the log of orders does not follow from the one before it.
    ChainBroken {
        sequence: u64,
    },
    Rejected(Malformed),
    /// Larger than the broker takes, even alone: it is left where it is stored.
    TooLargeToKeep {
        subject: String,
        bytes: usize,
        why: Malformed,
    },
    /// A step failed in passing and is retried after `pause`; other inputs go on.
    Retry {
        step: &'static str,
        error: String,
        pause: Duration,
    },
    /// An answer to what a host said of itself cannot be stored.
    Unanswerable {
        token: String,
        why: Malformed,
    },
    /// Inventories that could not be stored: the next hello of each host does.
    InventoriesRefused {
        hosts: usize,
        error: String,
    },
    Unreachable {
        host: HostId,
        since: Option<Timestamp>,
    },
}
