//! What the verbs need of the world: one trait, so that they are written once, for the broker now and for the HTTP API later.

use std::future::Future;

use chrono::TimeDelta;
use futures_util::stream::BoxStream;
use portcullis_core::status::{self, Status};
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{Decision, Detection, Inventory, Notice, Order, Posture, Request, State};
use portcullis_schemas::heartbeat::Heartbeat;
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{HostId, Stream, Timestamp};
use serde::Serialize;

use crate::failure::Failure;

/// Records as they are stored; ends after the first failure.
pub type Records = BoxStream<'static, Result<Record, Failure>>;

/// Everything comes from what is stored: a plain subscriber would also hear decisions and orders that then lose their
/// compare-and-set, and do not exist.
pub trait Client: Sync {
    /// The last events of every host, sorted by host id.
    fn fleet(&self) -> impl Future<Output = Result<Fleet, Failure>> + Send;

    /// The last events of one host; all absent where it is unknown.
    fn host(&self, host: &HostId) -> impl Future<Output = Result<HostView, Failure>> + Send;

    /// The newest records of one stream, oldest of them first.
    fn history(&self, query: &Query) -> impl Future<Output = Result<Vec<Record>, Failure>> + Send;

    /// Records as they come. Whatever is stored after this call returned is among them.
    fn follow(&self, follow: &Follow) -> impl Future<Output = Result<Records, Failure>> + Send;

    /// What the deciding orchestrator said of itself last; None where it cannot be read, or was never said.
    fn heartbeat(&self) -> impl Future<Output = Option<Beat>> + Send;

    /// Stores a request; returns its sequence once it is stored.
    fn request(&self, principal: &str, event: &Event<Request>) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// The orchestrator's heartbeat with its age, both by the broker's clock.
#[derive(Clone, Debug)]
pub struct Beat {
    pub at: Timestamp,
    pub age: TimeDelta,
    pub said: Heartbeat,
}

impl Beat {
    /// It comes every 5 s.
    const LATE: TimeDelta = TimeDelta::seconds(20);

    pub fn is_current(&self) -> bool {
        self.age <= Self::LATE
    }
}

#[derive(Clone, Debug, Default)]
pub struct Fleet {
    pub hosts: Vec<HostView>,
    /// Subjects whose last message could not be understood.
    pub unreadable: Vec<String>,
}

/// What is known of one host: the last event of each kind.
#[derive(Clone, Debug)]
pub struct HostView {
    pub host: HostId,
    pub order: Option<Order>,
    pub state: Option<State>,
    pub inventory: Option<Inventory>,
}

impl HostView {
    pub fn new(host: HostId) -> Self {
        Self { host, order: None, state: None, inventory: None }
    }

    pub fn is_known(&self) -> bool {
        self.order.is_some() || self.state.is_some() || self.inventory.is_some()
    }

    pub fn status(&self, now: Timestamp) -> Status {
        let view = status::View { order: self.order.as_ref(), state: self.state.as_ref(), inventory: self.inventory.as_ref() };
        status::status(view, now)
    }

    /// What the host itself said last.
    pub fn posture(&self) -> Option<Posture> {
        self.state.as_ref().map(|state| state.posture).or(self.inventory.as_ref().map(|inventory| inventory.hello.posture))
    }

    pub fn hostname(&self) -> Option<&str> {
        self.inventory.as_ref().map(|inventory| inventory.hello.hostname.as_str()).filter(|name| !name.is_empty())
    }
}

#[derive(Clone, Debug)]
pub struct Query {
    pub stream: Stream,
    pub host: Option<HostId>,
    pub since: Timestamp,
    pub limit: usize,
}

#[derive(Clone, Debug)]
pub struct Follow {
    pub streams: Vec<Stream>,
    /// Only what is kept under this host, and decisions that found no host. Detections are kept by sender: all of them come.
    pub host: Option<HostId>,
    /// From then on, in the order of storing; without it, from now on.
    pub since: Option<Timestamp>,
}

/// One stored message.
#[derive(Clone, Debug)]
pub struct Record {
    pub sequence: u64,
    pub stored_at: Timestamp,
    pub subject: String,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Detection(Box<Event<Detection>>),
    Decision(Box<Event<Decision>>),
    Order(Box<Event<Order>>),
    State(Box<Event<State>>),
    Notice(Box<Event<Notice>>),
    /// What the orchestrator could not understand and kept.
    Rejected(Rejected),
    Unreadable(Malformed),
}

/// A rejected message, as its headers in REJECTED tell it.
#[derive(Clone, Debug, Serialize)]
pub struct Rejected {
    /// A stable word, as `not_json`.
    pub reason: String,
    /// The error, for people.
    pub detail: String,
    /// The subject that it came on.
    pub on: String,
    /// The stream that it came from and its sequence there; absent where it was never stored.
    pub stream: Option<String>,
    pub sequence: Option<String>,
    /// Length of its body.
    pub bytes: usize,
}
