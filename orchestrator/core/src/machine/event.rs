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

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Acknowledged behind the sequence that was expected.
    Stored,
    /// It would fail in the same way for ever: the message is larger than the broker takes.
    TooLarge,
    /// Anything else, also a time-out: it may be stored or not. The log must be read on.
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

/// Everything that the machine can hear. The last five answer commands.
#[derive(Clone, Debug)]
pub enum Event {
    Delivered(Delivered),
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
    /// A policy was read; from now on it decides.
    Policy(Arc<Policy>),
    /// Time has passed: see [`next_wake`](super::Machine::next_wake).
    Tick,

    Appended(Log, Appended),
    /// All that stands behind the last known message of a log, from the stream's leader.
    Read(Log, Result<Vec<Message>, String>),
    /// How often work on the input was begun before and never finished.
    Marked(Result<u64, String>),
    Kept(Kept),
    InventoryRefused(HostId),
    ReleaseRefused(HostId, u64),
}

/// What the shell is to do. It decides nothing: what it finds comes back as an event.
#[derive(Clone, Debug)]
pub enum Command {
    /// Append to a log behind `expected`. Answer: [`Event::Appended`].
    Append {
        log: Log,
        subject: String,
        body: Bytes,
        expected: u64,
    },
    /// Read a log on, from the stream's leader, behind `after`. Answer: [`Event::Read`].
    Read {
        log: Log,
        after: u64,
    },
    /// Count an attempt at an input that was delivered again, before work on it begins. Answer: [`Event::Marked`].
    Mark(Ticket),
    /// The input is answered: it must not come again.
    Ack(Ticket),
    /// The input is to come again after this long.
    Defer(Ticket, Duration),
    /// Keep in REJECTED, whole, with its reason. Answer: [`Event::Kept`].
    Reject {
        /// The token behind the prefix of its subject.
        kind: &'static str,
        /// Where it is stored, if it is.
        stored: Option<Ticket>,
        message: Box<Message>,
        why: Malformed,
    },
    /// What is stored comes back by its stream. Only a failure is answered: [`Event::InventoryRefused`].
    StoreInventory {
        host: HostId,
        subject: String,
        body: Bytes,
    },
    /// Publish that a deadline has come. Only a failure is answered: [`Event::ReleaseRefused`].
    ReleaseDue {
        host: HostId,
        generation: u64,
        subject: String,
        body: Bytes,
    },
    Notify {
        subject: String,
        body: Bytes,
    },
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
    /// Another writer was faster: what was decided is dropped and decided again.
    Overtaken(Log),
    /// The log of orders holds what is no order.
    NotAnOrder(Malformed),
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
    Unreachable {
        host: HostId,
        since: Option<Timestamp>,
    },
}
