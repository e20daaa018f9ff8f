//! What the verbs need of the world: one trait, so that they are written once, for the broker now and for the HTTP API later.

use std::future::Future;

use chrono::TimeDelta;
use futures_util::stream::BoxStream;
use portcullis_core::status::{self, Status};
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{
    Decision, Detection, InputKind, InputRef, Inventory, Notice, Order, Plain, PolicyActivated, Posture, Request, Seen, State,
    Term,
};
use portcullis_schemas::heartbeat::Heartbeat;
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::subjects::PAGES;
use portcullis_schemas::{HostId, Stream, Timestamp};
use serde::Serialize;

use crate::failure::Failure;
use crate::site::Site;

/// Records as they are stored; ends after the first failure.
pub type Records = BoxStream<'static, Result<Record, Failure>>;

/// Everything comes from what is stored: a plain subscriber would also hear decisions and orders that then lose their
/// compare-and-set, and do not exist.
pub trait Client: Sync {
    /// The last events of every host, sorted by host id.
    fn fleet(&self) -> impl Future<Output = Result<Fleet, Failure>> + Send;

    /// The last events of one host; all absent where it is unknown.
    fn host(&self, host: &HostId) -> impl Future<Output = Result<HostView, Failure>> + Send;

    /// The newest records of one stream, oldest of them first; of decisions without the terms and policies between them.
    fn history(&self, query: &Query) -> impl Future<Output = Result<History, Failure>> + Send;

    /// A stored detection; None where there is none.
    fn detection(&self, named: &DetectionName, since: Timestamp) -> impl Future<Output = Result<Option<Record>, Failure>> + Send;

    /// What was decided about a stored detection, oldest first, up to the first answer that is final.
    fn answers(&self, detection: &Record) -> impl Future<Output = Result<Vec<Record>, Failure>> + Send;

    /// The keys of inputs by their sequences in a stream; None for one that was removed, or cannot be read.
    fn keys(&self, stream: &str, sequences: &[u64]) -> impl Future<Output = Result<Vec<Option<InputRef>>, Failure>> + Send;

    /// Records as they come. Whatever is stored after this call returned is among them.
    fn follow(&self, follow: &Follow) -> impl Future<Output = Result<Records, Failure>> + Send;

    /// What the doctor looks at beside the hosts.
    fn site(&self) -> impl Future<Output = Site> + Send;

    /// What the deciding orchestrator said of itself last; None where it cannot be read, or was never said.
    fn heartbeat(&self) -> impl Future<Output = Option<Beat>> + Send;

    /// Records of policies that were activated, oldest first.
    fn activations(&self) -> impl Future<Output = Result<Vec<Record>, Failure>> + Send;

    /// The text of a policy by its hash; None where it is not kept.
    fn policy_text(&self, hash: &str) -> impl Future<Output = Result<Option<String>, Failure>> + Send;

    /// Keeps the text of a policy under its hash.
    fn keep_policy(&self, hash: &str, text: &str) -> impl Future<Output = Result<(), Failure>> + Send;

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

/// The newest records, oldest of them first.
#[derive(Clone, Debug)]
pub struct History {
    pub records: Vec<Record>,
    /// Where reading took too long: older records than this were not looked at.
    pub from: Option<Timestamp>,
}

/// How a detection is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectionName {
    /// Its sequence in DETECTIONS.
    Sequence(u64),
    /// Its event id.
    Id(String),
}

#[derive(Clone, Debug)]
pub struct Follow {
    pub streams: Vec<Stream>,
    /// Only what is about this host, and decisions that found no host. Detections are kept by sender: all of them come.
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

impl Record {
    /// Is the record kept under this host? Of a page its entry says so, of all else only the subject: what is inside is the sender's word.
    pub fn is_about(&self, host: &HostId) -> bool {
        match (self.subject.rsplit('.').next(), &self.what) {
            (Some(PAGES), What::Decision(event)) => event.data.host.as_ref() == Some(host),
            (Some(PAGES), What::Plain(event)) => event.data.plain.host == *host,
            (token, _) => token == Some(host.as_str()),
        }
    }

    /// Does it answer the detection with this sequence in `stream`? `key` is the detection's, for a decision without a sequence.
    pub fn answers(&self, stream: &str, sequence: u64, key: Option<&InputRef>) -> bool {
        match &self.what {
            What::Decision(event) => {
                let Decision { input, sequence: answered, .. } = &event.data;
                let is_it = answered.map_or_else(|| key == Some(input), |answered| answered == sequence);
                input.kind == InputKind::Detection && is_it
            }
            What::Plain(event) => event.data.stream == stream && event.data.plain.contains(sequence),
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
pub enum What {
    Detection(Box<Event<Detection>>),
    /// Alone or from a page, whose sequence and event id it then has.
    Decision(Box<Event<Decision>>),
    /// A run of a page's inputs with the same answer.
    Plain(Box<Event<Group>>),
    Term(Box<Event<Term>>),
    PolicyActivated(Box<Event<PolicyActivated>>),
    Order(Box<Event<Order>>),
    State(Box<Event<State>>),
    Notice(Box<Event<Notice>>),
    /// What the orchestrator could not understand and kept.
    Rejected(Rejected),
    Unreadable(Malformed),
}

impl What {
    /// A term that begins, or a policy: among decisions, and none itself.
    pub fn is_mark(&self) -> bool {
        matches!(self, What::Term(_) | What::PolicyActivated(_))
    }
}

/// Inputs of one page about one host that one rule of the policy let pass.
#[derive(Clone, Debug)]
pub struct Group {
    /// The stream of the inputs, by its full name.
    pub stream: String,
    /// SHA-256 of the policy's text.
    pub policy: Option<String>,
    pub seen: Seen,
    pub plain: Plain,
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
