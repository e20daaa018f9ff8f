//! The event types, one file each. Members are snake_case; unknown ones are ignored unless a type says otherwise.

mod decision;
mod detection;
mod effect;
mod free;
mod hello;
mod notice;
mod order;
mod page;
mod policy_activated;
mod release_due;
mod request;
mod rollcall;
mod state;
mod term;

pub use decision::{Counts, Decision, Facts, Reason, Seen, Verdict, WaitEnd, Waits};
pub use detection::{Detection, Doubtful, HostClaim, Indicator, Raw, Reading, RuleRef, Severity, Sighting};
pub use effect::{Ask, Breaker, Effect, IfUnanswered, Question, Resets};
pub use hello::{Claim, Hello, Inventory, OperatorWord};
pub use notice::{Notice, NoticeKind};
pub use order::{
    Cause, Hold, LastIsolation, LastRelease, LocalRelease, MAX_CAUSES, MAX_GENERATION, MAX_HOLDS, MAX_SETTLED, Order, Origin,
    Posture, ReleasedBy, Settled, WhenUnreachable,
};
pub use page::{Page, Plain};
pub use policy_activated::PolicyActivated;
pub use release_due::ReleaseDue;
pub use request::{Action, ExclusionChange, For, Request};
pub use rollcall::Rollcall;
pub use state::{Culprit, Evidence, LastOrder, Level, LocalActor, Probe, State, StateCause, Tamper};
pub use term::{Term, TermConfig};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::rejected::Malformed;

/// The data of one event type.
pub trait Payload: Serialize + DeserializeOwned + JsonSchema {
    /// The CloudEvents type.
    const TYPE: &'static str;
    /// Its short name: of the JSON Schema file, and of the kind in reports.
    const NAME: &'static str;

    /// Whether an attribute of the envelope that identifies nothing may be unreadable.
    const LENIENT: bool = false;

    /// Members that are free text for people: what of them is no text is U+FFFD and no error.
    const FREE_TEXT: &'static [&'static str] = &[];

    /// Reads the data, which must be what the type says in every member.
    fn read(data: &[u8]) -> Result<Self, Malformed> {
        let broken = |path: String, problem: String| Malformed::Data { path, problem };
        let value = match Self::FREE_TEXT {
            [] => crate::json::parse(data).map_err(|error| broken(String::new(), error.to_string()))?,
            free => free::value::<Self>(data, free)?,
        };
        let read: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = match error.path().to_string() {
                root if root == "." => String::new(),
                path => format!(".{path}"),
            };
            broken(path, error.into_inner().to_string())
        })?;
        read.check().map_err(|problem| broken(String::new(), problem))?;
        Ok(read)
    }

    /// What the types alone cannot say. The text names the member.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A generation is at least `least` and stays below 2^53.
fn check_generation(generation: u64, least: u64) -> Result<(), String> {
    if (least..=MAX_GENERATION).contains(&generation) {
        Ok(())
    } else {
        Err(format!("generation is {generation}; it goes from {least} to {MAX_GENERATION}"))
    }
}

/// Which input something answers: the key is (`token`, `source`, `id`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct InputRef {
    /// What kind of input it is.
    #[serde(rename = "type")]
    pub kind: InputKind,
    /// Sender by the subject, which the broker's permissions fix.
    pub token: String,
    /// CloudEvents source: the sender's own words.
    pub source: String,
    /// CloudEvents id.
    pub id: String,
}

/// Kinds of inputs that can change an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// `io.portcullis.detection.v1`
    Detection,
    /// `io.portcullis.request.v1`
    Request,
    /// `io.portcullis.release-due.v1`
    ReleaseDue,
    /// `io.portcullis.state.v1`, where a host says something that an order must answer.
    State,
    /// `io.portcullis.hello.v1`, where a host says something that an order must answer.
    Hello,
    /// Not an event but a gap where events should have been.
    Stream,
    /// Not an event: the time of something that a decision began is over.
    Time,
}

impl InputRef {
    /// The key as 64 bits of SHA-256, in 16 hex digits. Parts are length-prefixed, so that no two keys run together.
    pub fn hash(&self) -> String {
        let kind = serde_json::to_string(&self.kind).unwrap_or_default();
        crate::ids::digest([kind.as_str(), &self.token, &self.source, &self.id])[..16].to_owned()
    }
}
