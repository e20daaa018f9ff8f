//! Passes as cells that do not overlap: the kernel refuses a set whose intervals do.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_schemas::exclusion::{Direction, PortRange, Protocol};

use crate::gate::{Gate, Pass};

/// Both ends included.
pub(crate) type Span<T> = (T, T);

/// An element of an exclusion set; its conditions hold together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub protocol: u8,
    pub remote: Span<u128>,
    pub remote_port: Span<u16>,
    pub local_port: Span<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The union of all passes of one direction and family. The same union gives the same cells, however it was put together, so
/// that equal postures have equal digests.
pub(crate) fn cells(passes: &[Pass], direction: Direction, family: Family) -> Vec<Cell> {
    let mut cells = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
        let slabs: Vec<(Span<u128>, Ports)> = passes
            .iter()
            .filter(|pass| pass.direction == direction && pass.protocol == protocol)
            .flat_map(|pass| pass.remotes.iter().filter(|net| family_of(net) == family).map(|net| (span(net), Ports::of(pass))))
            .collect();
        let number = number(protocol, family);
        for (remote, ports) in layers(&slabs, u128::MAX, |ports| port_cells(&ports)) {
            cells.extend(ports.into_iter().map(|(remote_port, local_port)| Cell {
                protocol: number,
                remote,
                remote_port,
                local_port,
            }));
        }
    }
    cells
}

/// Protocols and remote addresses of all that passes, in both directions, standing connections included.
pub(crate) fn protocols_and_remotes(gate: &Gate, family: Family) -> Vec<(u8, Span<u128>)> {
    let passes = gate.passes.iter().flat_map(|pass| {
        let nets = pass.remotes.iter().filter(|net| family_of(net) == family);
        nets.map(|net| (number(pass.protocol, family), span(net)))
    });
    let standing = gate.standing.iter().filter_map(|connection| {
        let remote = connection.remote.ip().to_canonical();
        (remote.is_ipv4() == (family == Family::V4))
            .then(|| (number(connection.protocol.into(), family), (bits(remote), bits(remote))))
    });
    let mut spans: Vec<(u8, Span<u128>)> = passes.chain(standing).collect();
    spans.sort_unstable();
    let mut merged: Vec<(u8, Span<u128>)> = Vec::new();
    for (protocol, (first, last)) in spans {
        match merged.last_mut() {
            Some((before, span)) if *before == protocol && first <= span.1.saturating_add(1) => span.1 = span.1.max(last),
            _ => merged.push((protocol, (first, last))),
        }
    }
    merged
}

pub(crate) fn number(protocol: Protocol, family: Family) -> u8 {
    match (protocol, family) {
        (Protocol::Tcp, _) => 6,
        (Protocol::Udp, _) => 17,
        (Protocol::Icmp, Family::V4) => 1,
        (Protocol::Icmp, Family::V6) => 58,
    }
}

#[derive(Clone)]
struct Ports {
    remote: Vec<Span<u16>>,
    local: Vec<Span<u16>>,
}

impl Ports {
    fn of(pass: &Pass) -> Self {
        let spans = |ports: &[PortRange]| match ports {
            [] => vec![(0, u16::MAX)],
            _ if pass.protocol == Protocol::Icmp => vec![(0, u16::MAX)],
            ports => ports.iter().map(|range| (range.first(), range.last())).collect(),
        };
        Self { remote: spans(&pass.remote_ports), local: spans(&pass.local_ports) }
    }
}

fn port_cells(ports: &[Ports]) -> Vec<(Span<u16>, Span<u16>)> {
    let slabs: Vec<_> = ports.iter().flat_map(|p| p.remote.iter().map(|span| (*span, p.local.clone()))).collect();
    let layers = layers(&slabs, u16::MAX, |locals| {
        let spans: Vec<_> = locals.into_iter().flatten().map(|span| (span, ())).collect();
        self::layers(&spans, u16::MAX, |_| vec![()]).into_iter().map(|(span, _)| span).collect()
    });
    layers.into_iter().flat_map(|(remote, locals)| locals.into_iter().map(move |local| (remote, local))).collect()
}

/// Cuts one dimension at every boundary, lets `content` say what each layer holds, and joins neighbours that hold the same.
fn layers<T, C, R>(slabs: &[(Span<T>, C)], max: T, content: impl Fn(Vec<C>) -> Vec<R>) -> Vec<(Span<T>, Vec<R>)>
where
    T: Number,
    C: Clone,
    R: PartialEq,
{
    let cuts: BTreeSet<T> = slabs.iter().flat_map(|((first, last), _)| [Some(*first), last.next()]).flatten().collect();
    let mut layers: Vec<(Span<T>, Vec<R>)> = Vec::new();
    let mut ends = cuts.iter().skip(1).map(|next| next.before()).chain([max]);
    for first in &cuts {
        let last = ends.next().unwrap_or(max);
        let here: Vec<C> = slabs.iter().filter(|((a, b), _)| a <= first && last <= *b).map(|(_, c)| c.clone()).collect();
        if here.is_empty() {
            continue;
        }
        let held = content(here);
        match layers.last_mut() {
            Some((span, before)) if span.1.next() == Some(*first) && *before == held => span.1 = last,
            _ => layers.push(((*first, last), held)),
        }
    }
    layers
}

trait Number: Copy + Ord {
    fn next(self) -> Option<Self>;
    fn before(self) -> Self;
}

impl Number for u16 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn before(self) -> Self {
        self.saturating_sub(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn before(self) -> Self {
        self.saturating_sub(1)
    }
}

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
mod tests {
    use super::*;

    #[test]
    fn overlapping_passes_become_disjoint_cells_and_both_port_conditions_stay_together() {
        let passes = [pass(&["10.0.0.0/8"], &[(443, 443)], &[]), pass(&["10.1.0.0/16"], &[(400, 500)], &[(68, 68)])];
        let cells = cells(&passes, Direction::Out, Family::V4);
        assert_disjoint(&cells);
        for (remote, remote_port, local_port, through) in [
            ("10.1.0.1", 443, 68, true),
            ("10.1.0.1", 443, 5000, true),
            ("10.1.0.1", 444, 68, true),
            ("10.1.0.1", 444, 5000, false),
            ("10.2.0.1", 443, 5000, true),
            ("10.2.0.1", 444, 68, false),
            ("11.0.0.1", 443, 68, false),
        ] {
            assert_eq!(holds(&cells, remote, remote_port, local_port), through, "{remote} {remote_port} {local_port}");
        }
    }

    #[test]
    fn the_same_union_gives_the_same_cells() {
        let whole = [pass(&["10.0.0.0/8"], &[(1, 100)], &[])];
        let parts = [
            pass(&["10.128.0.0/9"], &[(51, 100)], &[]),
            pass(&["10.0.0.0/9"], &[(1, 70)], &[]),
            pass(&["10.0.0.0/8"], &[(1, 50)], &[]),
            pass(&["10.0.0.0/9"], &[(60, 100)], &[]),
        ];
        let one = cells(&whole, Direction::Out, Family::V4);
        assert_eq!(one.len(), 1);
        assert_eq!(cells(&parts, Direction::Out, Family::V4), one);
    }

    #[test]
    fn the_ends_of_the_number_ranges_hold() {
        let passes = [pass(&["ff00::/8", "::/128"], &[(65535, 65535), (1, 1)], &[])];
        let cells = cells(&passes, Direction::Out, Family::V6);
        assert_disjoint(&cells);
        assert!(holds(&cells, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, 0));
        assert!(holds(&cells, "::", 1, 65535));
        assert!(!holds(&cells, "::1", 1, 1));
    }

    fn pass(remotes: &[&str], remote_ports: &[(u16, u16)], local_ports: &[(u16, u16)]) -> Pass {
        let ports = |list: &[(u16, u16)]| list.iter().map(|(a, b)| PortRange::new(*a, *b).unwrap()).collect();
        Pass {
            name: "x".into(),
            direction: Direction::Out,
            protocol: Protocol::Tcp,
            remotes: remotes.iter().map(|net| net.parse().unwrap()).collect(),
            remote_ports: ports(remote_ports),
            local_ports: ports(local_ports),
        }
    }

    fn holds(cells: &[Cell], remote: &str, remote_port: u16, local_port: u16) -> bool {
        let remote = bits(remote.parse().unwrap());
        cells.iter().any(|cell| {
            (cell.remote.0..=cell.remote.1).contains(&remote)
                && (cell.remote_port.0..=cell.remote_port.1).contains(&remote_port)
                && (cell.local_port.0..=cell.local_port.1).contains(&local_port)
        })
    }

    fn assert_disjoint(cells: &[Cell]) {
        let apart = |a: Span<u128>, b: Span<u128>| a.1 < b.0 || b.1 < a.0;
        let wide = |a: Span<u16>| (u128::from(a.0), u128::from(a.1));
        for (i, a) in cells.iter().enumerate() {
            for b in &cells[i + 1..] {
                let ports = apart(wide(a.remote_port), wide(b.remote_port)) || apart(wide(a.local_port), wide(b.local_port));
                assert!(a.protocol != b.protocol || apart(a.remote, b.remote) || ports, "{a:?} {b:?}");
            }
        }
    }
}
