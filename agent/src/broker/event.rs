//! What the broker's side tells the agent's loop.

use std::net::SocketAddr;

use bytes::Bytes;
use portcullis_agent_core::deadline::Anchor;
use portcullis_agent_core::record::Broker;
use portcullis_agent_core::relay::Server;

#[derive(Debug)]
pub enum Event {
    Connected,
    Disconnected,
    /// The log of orders ends at this generation of this host's, 0 where it has none. Sent once for each connection.
    LogEnds(u64),
    /// Where a new connection ends; None where that is on another machine.
    Reached(Option<Reached>),
    /// The brokers' names were resolved again.
    Brokers(Vec<Broker>),
    /// The state event of this id is stored.
    Published(String),
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
