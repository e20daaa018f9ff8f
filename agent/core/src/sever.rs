//! Which sockets and conntrack entries end when the gate drops, and which connections stand.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use portcullis_schemas::exclusion::{Direction, Protocol};

use crate::gate::{Connection, Gate, Transport};

/// A socket as the kernel lists it; addresses as packets carry them (see [`crate::gate::plain`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub protocol: Transport,
    pub state: State,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub uid: u32,
    /// The control group in which it was made.
    pub group: Option<u64>,
    pub inode: u32,
    pub interface: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A listening TCP socket, or a UDP socket without a peer.
    Listening,
    /// Has a peer, established or on the way to or from it.
    Connected,
    /// Nobody's any more (TIME_WAIT), or not yet bound: nothing to sever.
    Idle,
}

/// What is to happen to a list of sockets; indices into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    pub destroy: Vec<usize>,
    pub standing: Vec<Connection>,
}

/// Splits sockets into those that go, those that stand by an exclusion, and those that are not concerned.
///
/// A connection is taken as incoming if its local port listens, or if it already stood in `gate`: its listener may be gone since.
/// `local` are the host's own addresses: what it says to itself goes over loopback, whatever the address.
pub fn cut(sockets: &[Socket], gate: &Gate, local: &HashSet<IpAddr>) -> Cut {
    let listening: HashSet<(Transport, u16, IpAddr)> = sockets
        .iter()
        .filter(|socket| socket.state == State::Listening)
        .map(|socket| (socket.protocol, socket.local.port(), socket.local.ip()))
        .collect();
    let listens = |socket: &Socket| {
        let on = |address: IpAddr| listening.contains(&(socket.protocol, socket.local.port(), address));
        on(socket.local.ip()) || on(IpAddr::from([0; 4])) || on(IpAddr::from([0; 16]))
    };
    let stood: BTreeSet<Connection> = gate.standing.iter().map(|c| Connection::new(c.protocol, c.local, c.remote)).collect();

    let mut result = Cut::default();
    for (index, socket) in sockets.iter().enumerate().filter(|(_, socket)| socket.state == State::Connected) {
        let connection = Connection::new(socket.protocol, socket.local, socket.remote);
        let covered = |direction| {
            let passes = gate.covering(direction, socket.protocol.into(), connection.remote, connection.local.port());
            passes.into_iter().any(|pass| pass.local.covers(socket.uid, socket.group))
        };
        let control = socket.protocol == Transport::Tcp && gate.controls(connection.remote, socket.uid);
        if control || is_here(&connection.remote.ip(), local) {
            continue;
        }
        let by_direction = if listens(socket) { covered(Direction::In) } else { covered(Direction::Out) };
        if by_direction || stood.contains(&connection) && (covered(Direction::In) || covered(Direction::Out)) {
            result.standing.push(connection);
        } else {
            result.destroy.push(index);
        }
    }
    result.standing.sort_unstable();
    result.standing.dedup();
    result
}

/// A conntrack entry by its original direction; ports are 0 where the protocol has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub protocol: u8,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// The entries to delete, as indices: all but loopback, the control channel, and what an exclusion covers or lets stand.
///
/// `local` are the host's own addresses: a flow that is forwarded is no flow of an exclusion, even if its ports look like one.
pub fn flush(flows: &[Flow], gate: &Gate, local: &HashSet<IpAddr>) -> Vec<usize> {
    let stood: BTreeSet<Connection> = gate.standing.iter().map(|c| Connection::new(c.protocol, c.local, c.remote)).collect();
    let kept = |flow: &Flow| {
        if is_with_itself(flow, local) {
            return true;
        }
        let (from_here, to_here) = (is_here(&flow.from.ip(), local), is_here(&flow.to.ip(), local));
        let protocol = Protocol::of(flow.protocol);
        let transport = match protocol {
            Protocol::Tcp => Some(Transport::Tcp),
            Protocol::Udp => Some(Transport::Udp),
            _ => None,
        };
        // Which end is ours may be the wrong way round for what stood before conntrack was there.
        let stands = |here, there| transport.is_some_and(|t| stood.contains(&Connection::new(t, here, there)));
        let control = |there| protocol == Protocol::Tcp && gate.is_control(there);
        let covered = |direction, here: SocketAddr, there| gate.covers(direction, protocol, there, here.port());
        let outgoing =
            from_here && (control(flow.to) || covered(Direction::Out, flow.from, flow.to) || stands(flow.from, flow.to));
        let incoming =
            to_here && (control(flow.from) || covered(Direction::In, flow.to, flow.from) || stands(flow.to, flow.from));
        outgoing || incoming
    };
    (0..flows.len()).filter(|index| !kept(&flows[*index])).collect()
}

/// What the host says to itself. It passes whether conntrack knows it or not.
pub fn is_with_itself(flow: &Flow, local: &HashSet<IpAddr>) -> bool {
    is_here(&flow.from.ip(), local) && is_here(&flow.to.ip(), local)
}

pub(crate) fn is_here(address: &IpAddr, local: &HashSet<IpAddr>) -> bool {
    address.is_loopback() || local.contains(address)
}
