//! What can go wrong before a verb has an answer, with a hint for each, and the exit codes.

use std::io;
use std::process::ExitCode;

use serde::Serialize;

/// The exit codes of every verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, and confirmed by the agent where there is something to confirm.
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    /// Refused, or waiting for approval.
    Refused = 4,
    /// The broker or the server cannot be reached.
    Unreachable = 5,
    /// Stored or ordered, but not confirmed in time or before Ctrl-C; it stays in force.
    Unconfirmed = 6,
}

impl Exit {
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// A host that may have been meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    pub host: String,
    pub hostname: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{problem}")]
    Usage { problem: String, hint: String },
    #[error("no host has the id, name or address {wanted:?}")]
    NoHost { wanted: String, known: usize, similar: Vec<Candidate> },
    #[error("{} hosts have the name or address {wanted:?}", candidates.len())]
    SeveralHosts { wanted: String, candidates: Vec<Candidate> },
    #[error("no detection has the sequence {sequence}")]
    NoDetection { sequence: u64 },
    #[error("there is no file {0}")]
    NoFile(String),
    #[error("{0}")]
    NoPolicy(String),
    #[error("cannot reach the broker at {servers}: {problem}")]
    Unreachable { servers: String, problem: String, hint: &'static str },
    #[error("the broker at {servers} does not answer: {problem}")]
    Silent { servers: String, problem: String },
    #[error("the broker at {servers} has no stream {stream}")]
    NoStream { servers: String, stream: String },
    #[error("the request may not be stored: {0}")]
    Unstored(String),
    #[error("the broker refused: {0}")]
    Broker(String),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl Failure {
    /// Stable name, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Failure::Usage { .. } => "usage",
            Failure::NoHost { .. } | Failure::NoDetection { .. } | Failure::NoFile(_) | Failure::NoPolicy(_) => "not_found",
            Failure::SeveralHosts { .. } => "ambiguous",
            Failure::Unreachable { .. } => "unreachable",
            Failure::Silent { .. } => "no_answer",
            Failure::NoStream { .. } => "no_stream",
            Failure::Unstored(_) => "unstored",
            Failure::Broker(_) => "broker",
            Failure::Io { .. } => "io",
        }
    }

    pub fn exit(&self) -> Exit {
        match self {
            Failure::Usage { .. } => Exit::Usage,
            Failure::NoHost { .. }
            | Failure::SeveralHosts { .. }
            | Failure::NoDetection { .. }
            | Failure::NoFile(_)
            | Failure::NoPolicy(_) => Exit::NotFound,
            Failure::Unreachable { .. } | Failure::Silent { .. } | Failure::NoStream { .. } | Failure::Unstored(_) => {
                Exit::Unreachable
            }
            Failure::Broker(_) | Failure::Io { .. } => Exit::Failed,
        }
    }

    /// What to try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Failure::Usage { hint, .. } => Some(hint.clone()),
            Failure::NoHost { known: 0, .. } => {
                Some("no agent has sent a heartbeat yet: is `portcullis-agent run` up on the host?".into())
            }
            Failure::NoHost { known, similar, .. } if similar.is_empty() => {
                Some(format!("{known} hosts are known; `portcullis hosts` lists them"))
            }
            Failure::NoHost { similar, .. } => Some(format!("did you mean {}?", names(similar))),
            Failure::SeveralHosts { candidates, .. } => Some(format!("say which one by its host id: {}", names(candidates))),
            Failure::NoDetection { .. } => Some("it may have been removed: the stream keeps detections for a time only".into()),
            Failure::NoPolicy(_) => Some("`portcullis policy history` lists those that were active".into()),
            Failure::NoFile(_) | Failure::Io { .. } | Failure::Broker(_) => None,
            Failure::Unreachable { hint, .. } => Some((*hint).to_owned()),
            Failure::Silent { .. } => Some("is JetStream on, and do these credentials allow it? See the server's log".into()),
            Failure::NoStream { .. } => {
                Some("the orchestrator makes the streams: is it running (`portcullis serve`), with the same --prefix?".into())
            }
            Failure::Unstored(_) => {
                Some("it may be stored all the same: look with `portcullis decisions` before you ask again".into())
            }
        }
    }

    pub fn candidates(&self) -> &[Candidate] {
        match self {
            Failure::NoHost { similar, .. } => similar,
            Failure::SeveralHosts { candidates, .. } => candidates,
            _ => &[],
        }
    }

    /// Nobody reads what is printed any more, as in `portcullis tail | head`.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Failure::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn names(candidates: &[Candidate]) -> String {
    const SHOWN: usize = 10;
    let mut names: Vec<String> = candidates
        .iter()
        .take(SHOWN)
        .map(|candidate| match &candidate.hostname {
            Some(hostname) if *hostname != candidate.host => format!("{} ({hostname})", candidate.host),
            _ => candidate.host.clone(),
        })
        .collect();
    if candidates.len() > SHOWN {
        names.push(format!("{} more", candidates.len() - SHOWN));
    }
    names.join(", ")
}
