//! What can go wrong in a lab, and what to do about it.

use std::io;
use std::time::Duration;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("lab name {0:?} is not usable: take 1 to 20 of a-z, 0-9 and '-', not starting with '-'")]
    Name(String),
    #[error("a lab of {hosts} hosts is not possible: take 1 to {most}")]
    Hosts { hosts: usize, most: usize },
    #[error("a lab makes network namespaces, which needs root: run it with sudo")]
    NotRoot,
    #[error("the program `ip` was not found: install iproute2 (apt-get install iproute2)")]
    IpMissing,
    #[error("lab {name:?} is in use by process {pid}: stop that one, or take another --name")]
    Owned { name: String, pid: String },
    #[error("`ip {arguments}` failed: {stderr}")]
    Ip { arguments: String, stderr: String },
    #[error("the lab's network does not carry: {from} cannot reach {to}")]
    NoPath { from: String, to: String, source: io::Error },
    #[error("this lab was started without agents: give LabConfig::agent")]
    NoAgents,
    #[error("the agent of {0} is running already: stop it first")]
    AgentRuns(String),
    #[error("the agent of {0} is not running and never was: start it first")]
    AgentNeverRan(String),
    #[error("the agent of {host} did not end within {waited:?}; its log is {log}")]
    AgentLives { host: String, waited: Duration, log: String },
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
}

/// Says what was tried when an IO error happened.
pub(crate) trait Tried<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}
