//! Everything that the agent's one loop can hear, but for orders, which wait elsewhere (`waiting.rs`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use portcullis_agent_core::deadline::Anchor;
use portcullis_agent_core::record::Broker;
use portcullis_agent_core::relay::Server;
use portcullis_schemas::events::{LocalActor, Probe};
use tokio::sync::oneshot;

use crate::disk::writer;
use crate::firewall::worker;
use crate::local::door::{Answer, Request};
use crate::sockets::{Crowded, SeverError};

#[derive(Debug)]
pub enum Input {
    Connected,
    Disconnected,
    /// The log of orders ends at this generation of this host's, 0 where it has none. Said once for each connection.
    LogEnds(u64),
    /// Where a new connection ends; None where that is on another machine.
    Reached(Option<Reached>),
    /// The brokers' names were resolved anew.
    Brokers(Vec<Broker>),
    /// Names of exclusions, as far as somebody has answered for them.
    Names(BTreeMap<String, Vec<IpAddr>>),
    /// A round of probes, made after so many changes of the rules.
    Probed {
        changes: u64,
        found: Vec<Probe>,
    },
    /// Whether the conntrack table was full, and what was taken out of it.
    Room(Result<Option<Crowded>, SeverError>),
    /// The kernel, or nft, has done something.
    Kernel(Box<worker::Done>),
    /// The disk has.
    Disk(writer::Done),
    /// A state event is stored.
    Published(String),
    Door {
        request: Request,
        actor: LocalActor,
        answer: oneshot::Sender<Answer>,
    },
    /// SIGTERM or SIGINT.
    Stop(&'static str),
}

/// A broker at an end of this host's own.
#[derive(Clone, Debug)]
pub struct Reached {
    /// What was connected to.
    pub broker: SocketAddr,
    /// None where it could not be asked.
    pub server: Option<Server>,
}

/// A message as the broker delivered it.
#[derive(Debug)]
pub struct Received {
    pub subject: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// The broker's time as it came, where that is known.
    pub anchor: Option<Anchor>,
}
