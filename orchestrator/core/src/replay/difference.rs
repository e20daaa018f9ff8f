//! What a replay finds otherwise than it is stored, in words.

use std::fmt;

use portcullis_schemas::Stream;
use portcullis_schemas::events::{InputRef, Seen};

/// So much of a message is shown on each side of the place where two differ.
const AROUND: usize = 160;

/// One message of a log, or the batch that it begins, which the replay does not make as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub stream: Stream,
    pub sequence: u64,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Subject and body, as they are stored and as they are made.
    Unequal { stored: Option<(String, String)>, made: Option<(String, String)> },
    /// More messages are made than are stored.
    More { stored: usize, made: usize },
    /// The logs do not hold what was seen.
    Positions { seen: Seen, reached: Seen },
    /// Another policy decided than the active one.
    Inactive { policy: Option<String>, active: Option<String> },
    /// The text of the policy is not kept.
    NoText(String),
    /// The input is not in its stream any more.
    NoInput { stream: Stream, sequence: u64 },
    /// By the logs this detection does not wait, and the end of its wait is stored.
    NoWait { sequence: u64 },
    /// By the logs nothing of this id was pending, and its end is stored.
    NotPending(String),
    /// The input that an order names is not in its stream.
    NoCause(InputRef),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.stream.token(), self.sequence, self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unequal { stored: Some(stored), made: Some(made) } if stored.0 == made.0 => {
                let at = stored.1.bytes().zip(made.1.bytes()).take_while(|(one, other)| one == other).count();
                write!(
                    f,
                    "{} differs at byte {at}; stored: …{}…, made: …{}…",
                    stored.0,
                    around(&stored.1, at),
                    around(&made.1, at)
                )
            }
            Problem::Unequal { stored, made } => {
                let subject =
                    |message: &Option<(String, String)>| message.as_ref().map_or("nothing".to_owned(), |one| one.0.clone());
                write!(f, "stored is {}, made is {}", subject(stored), subject(made))
            }
            Problem::More { stored, made } => write!(f, "{made} messages are made of what {stored} are stored of"),
            Problem::Positions { seen, reached } => write!(f, "it saw {seen:?}, and the logs reach {reached:?}"),
            Problem::Inactive { policy, active } => write!(f, "policy {policy:?} decided while {active:?} is active"),
            Problem::NoText(hash) => write!(f, "the text of policy {hash} is not in the KV bucket"),
            Problem::NoInput { stream, sequence } => {
                write!(f, "its input, {} {sequence}, is not stored any more", stream.token())
            }
            Problem::NoWait { sequence } => write!(f, "detection {sequence} did not wait, and the end of its wait is stored"),
            Problem::NotPending(id) => write!(f, "approval {id} was not pending, and its end is stored"),
            Problem::NoCause(input) => write!(f, "its input is not stored: {input:?}"),
        }
    }
}

/// The text around a place in it.
fn around(text: &str, at: usize) -> String {
    let bytes = text.as_bytes();
    String::from_utf8_lossy(&bytes[at.saturating_sub(AROUND)..(at + AROUND).min(bytes.len())]).into_owned()
}
