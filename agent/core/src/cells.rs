//! Passes as cells that do not overlap: the kernel refuses a set whose intervals do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_schemas::exclusion::{Direction, PortRange, Protocol};

use crate::gate::{Gate, Pass};

/// Both ends included.
pub(crate) type Span<T> = (T, T);

/// An element of an exclusion set; its conditions hold together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub protocol: Span<u8>,
    pub remote: Span<u128>,
    pub remote_port: Span<u16>,
    pub local_port: Span<u16>,
    /// The passes that it is a part of, by their places in the list.
    pub owners: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A part of an ICMP set: types are written as the first two bytes of a packet, type and code, where TCP has its source port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IcmpCell {
    pub remote: Span<u128>,
    pub type_and_code: Span<u16>,
    pub owners: Vec<usize>,
}

/// The union of passes of one direction and family, as the smallest cells that each belong to the same passes. The same passes give the same
/// cells, in whatever order they stand, so that equal postures have equal digests.
pub(crate) fn cells<'a>(passes: impl Iterator<Item = (usize, &'a Pass)>, direction: Direction, family: Family) -> Vec<Cell> {
    let mut slabs: Vec<(Span<u8>, Slab)> = Vec::new();
    for (owner, pass) in passes.filter(|(_, pass)| pass.direction == direction && pass.icmp_types.is_empty()) {
        let Some(protocol) = protocol(pass.protocol, family) else { continue };
        let remotes = pass.remotes.iter().filter(|net| family_of(net) == family).map(span);
        let (remote_ports, local_ports) = (spans(&pass.remote_ports), spans(&pass.local_ports));
        slabs.extend(remotes.flat_map(|remote| {
            let pairs = remote_ports.iter().flat_map(|far| local_ports.iter().map(move |near| (*far, *near)));
            pairs.map(|(remote_port, local_port)| (protocol, (remote, (remote_port, (local_port, owner))))).collect::<Vec<_>>()
        }));
    }
    let mut cells = Vec::new();
    let by_protocol = layers(slabs, |slabs| layers(slabs, |slabs| layers(slabs, |slabs| layers(slabs, owners))));
    for (protocol, remotes) in by_protocol {
        for (remote, remote_ports) in remotes {
            for (remote_port, local_ports) in remote_ports {
                for (local_port, owners) in local_ports {
                    cells.push(Cell { protocol, remote, remote_port, local_port, owners });
                }
            }
        }
    }
    cells
}

type Slab = (Span<u128>, (Span<u16>, (Span<u16>, usize)));
type IcmpSlab = (Span<u128>, (Span<u16>, usize));

/// The union of the passes that name types of ICMP. An answer has its own type; conntrack says of each packet which of the two it is.
pub(crate) fn icmp_cells<'a>(
    passes: impl Iterator<Item = (usize, &'a Pass)>,
    direction: Direction,
    family: Family,
) -> Vec<IcmpCell> {
    let mut slabs: Vec<IcmpSlab> = Vec::new();
    for (owner, pass) in passes.filter(|(_, pass)| pass.direction == direction) {
        let numbers =
            pass.icmp_types.iter().filter_map(|kind| if family == Family::V4 { kind.v4() } else { kind.v6() }).flatten();
        let types: Vec<Span<u16>> = numbers.map(|number| (u16::from(number) << 8, u16::from(number) << 8 | 0xff)).collect();
        for remote in pass.remotes.iter().filter(|net| family_of(net) == family).map(span) {
            slabs.extend(types.iter().map(|kind| (remote, (*kind, owner))));
        }
    }
    let layers = layers(slabs, |slabs| self::layers(slabs, owners));
    let cell = |remote, (type_and_code, owners)| IcmpCell { remote, type_and_code, owners };
    layers.into_iter().flat_map(|(remote, types)| types.into_iter().map(move |kind| cell(remote, kind))).collect()
}

/// Protocols and remote addresses of all that passes, in both directions, standing connections included.
pub(crate) fn protocols_and_remotes(gate: &Gate, family: Family) -> Vec<(Span<u8>, Span<u128>)> {
    let passes = gate.passes.iter().filter_map(|pass| Some((protocol(pass.protocol, family)?, pass)));
    let passes = passes.flat_map(|(protocol, pass)| {
        pass.remotes.iter().filter(|net| family_of(net) == family).map(move |net| (protocol, (span(net), ())))
    });
    let standing = gate.standing.iter().filter_map(|connection| {
        let remote = connection.remote.ip().to_canonical();
        let number = protocol(connection.protocol.into(), family)?;
        (remote.is_ipv4() == (family == Family::V4)).then(|| (number, ((bits(remote), bits(remote)), ())))
    });
    let layers = layers(passes.chain(standing).collect(), |remotes| self::layers(remotes, |_| ()));
    layers.into_iter().flat_map(|(protocol, spans)| spans.into_iter().map(move |(span, ())| (protocol, span))).collect()
}

/// The numbers that a protocol has on a family; None if it does not exist there.
pub(crate) fn protocol(protocol: Protocol, family: Family) -> Option<Span<u8>> {
    let number = match (protocol, family) {
        (Protocol::Tcp, _) => 6,
        (Protocol::Udp, _) => 17,
        (Protocol::Icmp, Family::V4) => 1,
        (Protocol::Icmp, Family::V6) => 58,
        (Protocol::Number(58), Family::V4) | (Protocol::Number(1), Family::V6) => return None,
        (Protocol::Number(number), _) => number,
        (Protocol::Any, _) => return Some((0, u8::MAX)),
    };
    Some((number, number))
}

fn spans(ports: &[PortRange]) -> Vec<Span<u16>> {
    match ports {
        [] => vec![(0, u16::MAX)],
        ports => ports.iter().map(|range| (range.first(), range.last())).collect(),
    }
}

fn owners(mut owners: Vec<usize>) -> Vec<usize> {
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// Cuts one dimension wherever a slab begins or ends, lets `content` say what each layer holds, and joins neighbours that hold the same. One
/// sweep, so that it takes time by how many slabs there are and how many lie over one another.
fn layers<T: Number, C: Clone, R: PartialEq>(slabs: Vec<(Span<T>, C)>, content: impl Fn(Vec<C>) -> R) -> Vec<(Span<T>, R)> {
    // What begins at a place, and how many slabs of which number end before it; the end of the last number has no place behind it.
    let mut cuts: BTreeMap<T, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (index, ((first, last), _)) in slabs.iter().enumerate() {
        cuts.entry(*first).or_default().0.push(index);
        if let Some(next) = last.next() {
            cuts.entry(next).or_default().1.push(index);
        }
    }
    let mut layers: Vec<(Span<T>, R)> = Vec::new();
    let mut here = BTreeSet::new();
    let mut cuts = cuts.into_iter().peekable();
    while let Some((first, (begin, end))) = cuts.next() {
        for index in end {
            here.remove(&index);
        }
        here.extend(begin);
        if here.is_empty() {
            continue;
        }
        let last = cuts.peek().map_or(T::LAST, |(next, _)| next.before());
        let held = content(here.iter().map(|index| slabs[*index].1.clone()).collect());
        match layers.last_mut() {
            Some((span, before)) if span.1.next() == Some(first) && *before == held => span.1 = last,
            _ => layers.push(((first, last), held)),
        }
    }
    layers
}

trait Number: Copy + Ord {
    const LAST: Self;
    fn next(self) -> Option<Self>;
    fn before(self) -> Self;
}

macro_rules! number {
    ($($kind:ty),*) => {
        $(impl Number for $kind {
            const LAST: Self = Self::MAX;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn before(self) -> Self {
                self.saturating_sub(1)
            }
        })*
    };
}

number!(u8, u16, u128);

fn family_of(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

fn span(net: &IpNet) -> Span<u128> {
    (bits(net.network()), bits(net.broadcast()))
}

pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests;
