//! A broker that is reached at an address of this host: whether it is the broker itself, or goes on from here by a way that an isolation cuts.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use portcullis_schemas::exclusion::Direction;

use crate::gate::{Gate, Transport};
use crate::sever::{Socket, State, is_here};

/// Where a connection of the agent's own ends on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// What the agent connected to.
    pub broker: SocketAddr,
    /// Connections that leave this host, of the process at the other end and of those on this host that it connected to in turn.
    pub onward: Vec<Onward>,
}

/// A connection that leaves this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Onward {
    pub protocol: Transport,
    pub remote: SocketAddr,
    pub local_port: u16,
    pub uid: u32,
    pub group: Option<u64>,
}

/// The server that the agent speaks to, and the one that leads the log of orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub leader: Option<String>,
    /// Other servers that hold the log as well.
    pub replicas: Vec<String>,
}

/// Why orders would not reach an isolated host by such a broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// An exclusion can help.
    #[error("the broker at {broker} is a relay on this host, which goes on to {}; an isolation cuts that", list(onward))]
    Relay { broker: SocketAddr, onward: Vec<Onward> },
    #[error("the broker at {broker} is on this host and not the whole broker: the log of orders is led by {leader}, elsewhere")]
    Elsewhere { broker: SocketAddr, leader: String },
    /// Not connected, in a container, or it cannot be asked.
    #[error("the broker at {broker} is on this host, and whether it is the broker itself or a relay cannot be seen")]
    Unknown { broker: SocketAddr },
}

impl fmt::Display for Onward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.protocol == Transport::Tcp { "tcp" } else { "udp" };
        write!(f, "{protocol} {} as uid {}", self.remote, self.uid)
    }
}

fn list(onward: &[Onward]) -> String {
    const SHOWN: usize = 4;
    let shown = onward.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if onward.len() > SHOWN { format!("{shown} and {} more", onward.len() - SHOWN) } else { shown }
}

/// Follows the agent's own connections (by `own`, the inodes of its sockets) to their other end, where that is a socket of this host, and on
/// from there. Also what NAT or a transparent proxy turns to a process on this host is found so.
///
/// `kin`: the inodes of all sockets that belong to the processes of one, where that can be seen; otherwise all of the same user in the same
/// control group are taken for one process. `local`: this host's addresses.
pub fn end(
    sockets: &[Socket],
    own: &HashSet<u32>,
    local: &HashSet<IpAddr>,
    kin: impl Fn(u32) -> Option<HashSet<u32>>,
) -> Option<End> {
    let connected = || sockets.iter().filter(|socket| socket.state == State::Connected);
    let other_end = |one: &Socket| {
        connected().find(|other| {
            let back = other.local == one.remote || is_here(&other.local.ip(), local);
            other.protocol == one.protocol && other.inode != one.inode && other.remote == one.local && back
        })
    };
    let listens = |socket: &Socket| {
        let same = |other: &Socket| other.protocol == socket.protocol && other.local.port() == socket.local.port();
        sockets.iter().any(|other| other.state == State::Listening && same(other))
    };
    let mine = |socket: &&Socket| socket.protocol == Transport::Tcp && own.contains(&socket.inode);
    let (first, broker) = connected().filter(mine).find_map(|socket| Some((other_end(socket)?, socket.remote)))?;
    let (mut onward, mut known, mut next) = (Vec::new(), HashSet::from([first.inode]), vec![first]);
    while let Some(at) = next.pop() {
        let seen = kin(at.inode);
        let same = |socket: &&Socket| match &seen {
            Some(inodes) => inodes.contains(&socket.inode),
            None => (socket.uid, socket.group) == (at.uid, at.group) && !own.contains(&socket.inode),
        };
        for socket in connected().filter(same).filter(|socket| !listens(socket)) {
            if is_here(&socket.remote.ip(), local) {
                next.extend(other_end(socket).filter(|other| !own.contains(&other.inode) && known.insert(other.inode)));
            } else {
                let Socket { protocol, remote, local, uid, group, .. } = *socket;
                onward.push(Onward { protocol, remote, local_port: local.port(), uid, group });
            }
        }
    }
    onward.sort_unstable();
    onward.dedup();
    Some(End { broker, onward })
}

/// Whether orders reach this host behind `gate`: the exclusions carry all that goes on from here, or nothing does and the server at this
/// end is the one that keeps the log of orders, alone.
pub fn judge(end: &End, server: Option<&Server>, gate: &Gate) -> Result<(), Objection> {
    let broker = end.broker;
    let passes = |onward: &Onward| {
        gate.covering(Direction::Out, onward.protocol.into(), onward.remote, onward.local_port)
            .any(|pass| pass.local.covers(onward.uid, onward.group))
    };
    let cut: Vec<Onward> = end.onward.iter().filter(|onward| !passes(onward)).copied().collect();
    if !cut.is_empty() {
        return Err(Objection::Relay { broker, onward: cut });
    }
    if !end.onward.is_empty() {
        return Ok(());
    }
    let server = server.ok_or(Objection::Unknown { broker })?;
    match &server.leader {
        Some(leader) if *leader == server.name && server.replicas.is_empty() => Ok(()),
        Some(leader) if *leader == server.name => {
            Err(Objection::Elsewhere { broker, leader: format!("{leader} and its replicas") })
        }
        Some(leader) => Err(Objection::Elsewhere { broker, leader: leader.clone() }),
        None => Err(Objection::Unknown { broker }),
    }
}

#[cfg(test)]
mod tests;
