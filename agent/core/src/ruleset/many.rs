//! Many exclusions: what an interval set asks grows with its elements, so where there are more than a few, single addresses go to hash sets.

use std::collections::BTreeSet;

use nftables::expr::MetaKey;
use portcullis_schemas::exclusion::Direction;

use super::keys::of;
use super::terms::{Rules, accept, concat, count, field, member, meta};
use crate::cells::{Cell, Span};

/// A protocol, an address and the port that an exclusion is about: the remote one on the way out, the own one on the way in.
pub(super) const PEERS_OUT: [&str; 2] = ["peers-out4", "peers-out6"];
pub(super) const PEERS_IN: [&str; 2] = ["peers-in4", "peers-in6"];
/// A protocol and an address, whatever the ports.
pub(super) const HOSTS_OUT: [&str; 2] = ["hosts-out4", "hosts-out6"];
pub(super) const HOSTS_IN: [&str; 2] = ["hosts-in4", "hosts-in6"];
/// Who sends and gets later fragments, of those.
pub(super) const SENDERS: [&str; 2] = ["senders4", "senders6"];

/// So many cells cost nothing that can be measured.
pub(super) const FEW: usize = 32;
/// Longer ranges of addresses stay ranges.
const SHORT: u128 = 8;
const ANY: Span<u16> = (0, u16::MAX);

/// The cells of one direction, by the sets that they go to.
#[derive(Default)]
pub(super) struct Split {
    /// Protocol, address and port, with the passes that they are a part of.
    pub peers: Vec<(u8, u128, u16, Vec<usize>)>,
    pub hosts: Vec<(u8, u128, Vec<usize>)>,
    pub rest: Vec<Cell>,
}

pub(super) fn split(cells: Vec<Cell>, direction: Direction) -> Split {
    if cells.len() <= FEW {
        return Split { rest: cells, ..Split::default() };
    }
    let mut split = Split::default();
    for cell in cells {
        let (port, other) = match direction {
            Direction::Out => (cell.remote_port, cell.local_port),
            Direction::In => (cell.local_port, cell.remote_port),
        };
        let one = single(cell.protocol, cell.remote).filter(|_| other == ANY && (port == ANY || port.0 == port.1));
        match one {
            Some((protocol, addresses)) if port == ANY => {
                split.hosts.extend(addresses.map(|address| (protocol, address, cell.owners.clone())));
            }
            Some((protocol, addresses)) => {
                split.peers.extend(addresses.map(|address| (protocol, address, port.0, cell.owners.clone())));
            }
            None => split.rest.push(cell),
        }
    }
    split
}

/// One protocol, and a few addresses.
pub(super) fn single(protocol: Span<u8>, remote: Span<u128>) -> Option<(u8, std::ops::RangeInclusive<u128>)> {
    (protocol.0 == protocol.1 && remote.1 - remote.0 < SHORT).then_some((protocol.0, remote.0..=remote.1))
}

/// The rules for those of these sets that there are, of one direction.
pub(super) fn rules(present: &BTreeSet<&str>, direction: Direction, leaves: bool) -> Rules {
    let (peers, hosts) = if direction == Direction::Out { (PEERS_OUT, HOSTS_OUT) } else { (PEERS_IN, HOSTS_IN) };
    let peer = if leaves { "daddr" } else { "saddr" };
    let port = if leaves == (direction == Direction::Out) { "dport" } else { "sport" };
    let passes = |key, set| vec![member(key, set), count(), accept()];
    let of_peer = |(ip, set)| passes(concat([meta(MetaKey::L4proto), field(ip, peer), field("th", port)]), set);
    let of_host = |(ip, set)| passes(concat([meta(MetaKey::L4proto), field(ip, peer)]), set);
    of(present, peers).map(of_peer).chain(of(present, hosts).map(of_host)).collect()
}

/// On a device, where nobody knows who opened a connection.
pub(super) fn on_device(present: &BTreeSet<&str>, leaves: bool) -> Rules {
    [Direction::Out, Direction::In].into_iter().flat_map(|direction| rules(present, direction, leaves)).collect()
}
