//! What could not be understood: kept whole, with its reason in headers.

/// Names of the headers of a message in the REJECTED stream. The body is the raw body of the message that was rejected.
pub mod header {
    /// [`Malformed::code`](super::Malformed::code).
    pub const REASON: &str = "Portcullis-Reason";
    /// The text of the error, for people.
    pub const DETAIL: &str = "Portcullis-Detail";
    /// Name of the stream that it came from; absent where a door refused it before it was stored.
    pub const STREAM: &str = "Portcullis-Stream";
    /// Its sequence in that stream, in decimal.
    pub const SEQUENCE: &str = "Portcullis-Sequence";
    /// The subject that it came on.
    pub const SUBJECT: &str = "Portcullis-Subject";
    /// The header of the rejected message that has the name behind this prefix.
    pub const ORIGINAL: &str = "Portcullis-Original-";
    /// The rejected message's header block as it came, in base64 (RFC 4648); only where it is malformed and there is room for it.
    pub const HEADER_BLOCK: &str = "Portcullis-Header-Block";
}

/// Why a message was rejected. `code` is stable, the text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The block of NATS headers breaks ADR-4; the body was not read.
    #[error("malformed NATS headers: {0}")]
    Headers(String),
    /// No JSON, or JSON in which a member appears twice; where, and what.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// JSON, but no CloudEvent in structured mode, or headers that make none.
    #[error("this is not a CloudEvent: {0}")]
    NotCloudEvent(String),
    /// One context attribute breaks the specification or a limit of ours.
    #[error("attribute {name}: {problem}")]
    Attribute { name: String, problem: String },
    /// A CloudEvent of another type than this subject carries.
    #[error("the event has type {found:?}; this subject takes {wanted}")]
    UnknownType { found: String, wanted: &'static str },
    /// The data is not what its type says. `path` is the member as `.host.ips[1]`; empty for the data itself.
    #[error("data{path}: {problem}")]
    Data { path: String, problem: String },
    /// The subject has no host id where one belongs.
    #[error("subject {0:?} names no host")]
    Subject(String),
    /// Published under the prefix where no stream takes anything; nothing of it was stored but samples.
    #[error("no stream takes subject {0:?}, so nothing there is read; detections go to PREFIX.detection.SOURCE")]
    NoStream(String),
    /// What follows from it cannot be stored.
    #[error("its answer cannot be stored: {0}")]
    Unanswerable(String),
    /// Begun this often and never finished.
    #[error("work on it was begun {0} times and never finished; it is kept unread")]
    Poison(u64),
}

impl Malformed {
    /// A stable word for programs, as `bad_data`.
    pub fn code(&self) -> &'static str {
        match self {
            Malformed::Headers(_) => "bad_headers",
            Malformed::NotJson(_) => "not_json",
            Malformed::NotCloudEvent(_) => "not_cloudevent",
            Malformed::Attribute { .. } => "bad_attribute",
            Malformed::UnknownType { .. } => "unknown_type",
            Malformed::Data { .. } => "bad_data",
            Malformed::Subject(_) => "bad_subject",
            Malformed::NoStream(_) => "no_stream",
            Malformed::Unanswerable(_) => "unanswerable",
            Malformed::Poison(_) => "poison",
        }
    }
}
