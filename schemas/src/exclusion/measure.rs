//! How much a list of exclusions opens, and what it costs a host: the one measure for whoever writes exclusions and whoever obeys them.
//!
//! What counts is the side that serves: an address and a port that can be reached. The port on the other side is the caller's own choice, and limits
//! nobody. Each protocol with ports has its own space, in each direction and family.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Direction, Exclusion, PortRange, Protocol, Remote};

/// More of all addresses and ports, in parts of a million: a host with such exclusions is isolated from next to nothing.
pub const MOST_OPEN: u32 = 250_000;
/// More parts an order does not bring into force: each is a place in a set, and costs a host time and memory.
pub const MOST_PARTS: usize = 32_768;
/// Addresses that one name may have at once.
const OF_A_NAME: usize = 16;
/// Ports from 0 to 65535.
const PORTS: u128 = 65_536;
const PORTED: [u8; 5] = [6, 17, 33, 132, 136];

/// What exclusions open of all addresses and ports, in parts of a million, rounded up. Of several protocols and of both families the one that is widest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Opens {
    /// Of where the host may connect to.
    #[serde(rename = "out")]
    pub outwards: u32,
    /// Of who may connect to what on the host.
    #[serde(rename = "in")]
    pub inwards: u32,
}

/// Exclusions ask too much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// So much passes that it is no isolation.
    #[error(
        "{opens} of all addresses and ports pass, which isolates from nothing; the bound is {}: name the remotes, or the ports of the side that serves",
        Share(MOST_OPEN)
    )]
    Open {
        /// The share.
        opens: Opens,
    },
    /// The exclusions break into too many parts.
    #[error(
        "the exclusions break into more than {MOST_PARTS} parts (each network with each range of ports, and again where they overlap); name larger networks or fewer ports"
    )]
    Parts,
}

struct Share(u32);

/// What `exclusions` open together.
pub fn opens<'a>(exclusions: impl IntoIterator<Item = &'a Exclusion>) -> Opens {
    let mut spaces: BTreeMap<(bool, u8, bool), Vec<Rectangle>> = BTreeMap::new();
    for exclusion in exclusions {
        let (inwards, ports) = match exclusion.direction {
            Direction::Out => (false, &exclusion.remote_ports),
            Direction::In => (true, &exclusion.local_ports),
        };
        for protocol in protocols(exclusion.protocol) {
            for (is_v4, (first, last)) in remotes(&exclusion.remote) {
                let space = spaces.entry((inwards, protocol, is_v4)).or_default();
                space.extend(spans(ports).map(|(low, high)| Rectangle { first, last, low, high }));
            }
        }
    }
    let mut opens = Opens::default();
    for ((inwards, _, is_v4), rectangles) in spaces {
        let all = PORTS * if is_v4 { u128::from(UNICAST_V4.1) + 1 } else { u128::from(GLOBAL_V6.1 - GLOBAL_V6.0) + 1 };
        let share = u32::try_from((area(&rectangles) * 1_000_000).div_ceil(all)).unwrap_or(u32::MAX);
        let of = if inwards { &mut opens.inwards } else { &mut opens.outwards };
        *of = share.max(*of);
    }
    opens
}

/// Refuses what opens nearly everything, and what breaks into more parts than a host takes.
pub fn check<'a>(exclusions: impl IntoIterator<Item = &'a Exclusion> + Clone) -> Result<Opens, TooMuch> {
    if !fits(exclusions.clone()) {
        return Err(TooMuch::Parts);
    }
    let opens = opens(exclusions);
    if opens.is_wide() { Err(TooMuch::Open { opens }) } else { Ok(opens) }
}

/// Whether `exclusions` break into no more parts than a host takes: ranges of addresses cut one another where they overlap, and each part has the ports
/// of all that lie over it. In time by how many there are, however they lie.
pub fn fits<'a>(exclusions: impl IntoIterator<Item = &'a Exclusion>) -> bool {
    let mut spaces: BTreeMap<(bool, bool), Vec<Slab>> = BTreeMap::new();
    let mut parts: usize = 0;
    for exclusion in exclusions {
        let count = |ports: &[PortRange]| ports.len().max(1);
        let weight = count(&exclusion.remote_ports) * count(&exclusion.local_ports) * exclusion.icmp_types.len().max(1);
        parts += match &exclusion.remote {
            Remote::Names(names) => names.len() * OF_A_NAME * weight,
            Remote::Known(_) => OF_A_NAME * weight,
            // Counted below, and something also where there is none.
            Remote::Cidrs(_) | Remote::Any => 1,
        };
        if parts > MOST_PARTS {
            return false;
        }
        let protocol = match exclusion.protocol {
            Protocol::Any => (0, u8::MAX),
            Protocol::Icmp => (1, 1),
            Protocol::Tcp => (6, 6),
            Protocol::Udp => (17, 17),
            Protocol::Number(number) => (number, number),
        };
        for (is_v4, (first, last)) in whole(&exclusion.remote) {
            spaces.entry((exclusion.direction == Direction::In, is_v4)).or_default().push(Slab { protocol, first, last, weight });
        }
    }
    let mut budget = MOST_PARTS;
    spaces.values().all(|slabs| pieces(slabs, &mut budget))
}

impl Opens {
    /// Whether it is so much that the host is isolated from next to nothing.
    pub fn is_wide(self) -> bool {
        self.outwards.max(self.inwards) > MOST_OPEN
    }
}

impl fmt::Display for Opens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outwards, {} inwards", Share(self.outwards), Share(self.inwards))
    }
}

/// As a percentage with as many digits as say something.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        let text = format!("{whole}.{rest:04}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        write!(f, "{}%", if whole >= 1 { text.get(..text.len().min(5)).unwrap_or(text) } else { text })
    }
}

/// Addresses whose ports can be reached: whole IPv4 addresses, and of IPv6 the first 64 bits.
type Span = (u64, u64);

/// Multicast and above is no host (RFC 5771, RFC 1112).
const UNICAST_V4: Span = (0, 0xdfff_ffff);
/// 2000::/3: what else there is of IPv6 is of a site, as 10.0.0.0/8 is of IPv4, and small there.
const GLOBAL_V6: Span = (0x2000_0000_0000_0000, 0x3fff_ffff_ffff_ffff);

struct Rectangle {
    first: u64,
    last: u64,
    low: u16,
    high: u16,
}

struct Slab {
    protocol: (u8, u8),
    first: u128,
    last: u128,
    weight: usize,
}

fn protocols(protocol: Protocol) -> Vec<u8> {
    match protocol {
        Protocol::Tcp => vec![6],
        Protocol::Udp => vec![17],
        Protocol::Any => PORTED.into(),
        Protocol::Number(number) if PORTED.contains(&number) => vec![number],
        // One address is one address, whatever it is asked for: ping to everybody opens nothing.
        Protocol::Icmp | Protocol::Number(_) => Vec::new(),
    }
}

/// What is of the spaces that are measured, with whether it is of IPv4. A network that is smaller than all measures counts nothing.
fn remotes(remote: &Remote) -> Vec<(bool, Span)> {
    let within =
        |(first, last): Span, (low, high): Span| (first.max(low) <= last.min(high)).then(|| (first.max(low), last.min(high)));
    let of = |(is_v4, (first, last)): (bool, (u128, u128))| {
        let span = if is_v4 {
            within((first as u64, last as u64), UNICAST_V4)
        } else {
            (last - first >= u128::from(u64::MAX))
                .then(|| within(((first >> 64) as u64, (last >> 64) as u64), GLOBAL_V6))
                .flatten()
        };
        span.map(|span| (is_v4, span))
    };
    whole(remote).into_iter().filter_map(of).collect()
}

fn whole(remote: &Remote) -> Vec<(bool, (u128, u128))> {
    let of = |net: &IpNet| match net {
        IpNet::V4(net) => (true, (u128::from(u32::from(net.network())), u128::from(u32::from(net.broadcast())))),
        IpNet::V6(net) => (false, (u128::from(net.network()), u128::from(net.broadcast()))),
    };
    match remote {
        Remote::Cidrs(nets) => nets.iter().map(of).collect(),
        Remote::Any => vec![(true, (0, u128::from(u32::MAX))), (false, (0, u128::MAX))],
        Remote::Names(_) | Remote::Known(_) => Vec::new(),
    }
}

fn spans(ports: &[PortRange]) -> impl Iterator<Item = (u16, u16)> {
    let all = ports.is_empty().then_some((0, u16::MAX));
    // Port 0 is no port that anything listens on: 1-65535 is all of them.
    ports.iter().map(|range| (if range.first() == 1 { 0 } else { range.first() }, range.last())).chain(all)
}

/// The area of the union: a sweep over the addresses, with the ports that are covered at each place.
fn area(rectangles: &[Rectangle]) -> u128 {
    let mut events: Vec<(u64, bool, u16, u16)> = Vec::with_capacity(2 * rectangles.len());
    for Rectangle { first, last, low, high } in rectangles {
        events.push((*first, true, *low, *high));
        // No span ends at the last number.
        events.push((last + 1, false, *low, *high));
    }
    events.sort_unstable_by_key(|(at, ..)| *at);
    let mut covered = Covered::default();
    let (mut area, mut before) = (0u128, 0);
    for (at, begins, low, high) in events {
        area += u128::from(at - before) * u128::from(covered.length());
        before = at;
        covered.change(begins, low, high);
    }
    area
}

/// How many ports some range covers: a segment tree over all ports.
struct Covered {
    /// For each node: how many ranges cover it whole, and how many of its ports are covered.
    nodes: Vec<(u32, u32)>,
}

const LEAVES: usize = 65_536;

impl Default for Covered {
    fn default() -> Self {
        Self { nodes: vec![(0, 0); 2 * LEAVES] }
    }
}

impl Covered {
    fn length(&self) -> u32 {
        self.nodes[1].1
    }

    fn change(&mut self, begins: bool, low: u16, high: u16) {
        self.descend(1, (0, LEAVES - 1), (low.into(), high.into()), begins);
    }

    fn descend(&mut self, node: usize, (first, last): (usize, usize), (low, high): (usize, usize), begins: bool) {
        if high < first || last < low {
            return;
        }
        if low <= first && last <= high {
            let count = &mut self.nodes[node].0;
            *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        } else {
            let middle = (first + last) / 2;
            self.descend(2 * node, (first, middle), (low, high), begins);
            self.descend(2 * node + 1, (middle + 1, last), (low, high), begins);
        }
        self.nodes[node].1 = match self.nodes[node].0 {
            0 if first == last => 0,
            0 => self.nodes[2 * node].1 + self.nodes[2 * node + 1].1,
            _ => (last - first + 1) as u32,
        };
    }
}

/// Takes the parts that these break into off the budget; false where that does not do.
fn pieces(slabs: &[Slab], budget: &mut usize) -> bool {
    let mut cuts: Vec<u16> = slabs.iter().flat_map(|slab| [slab.protocol.0.into(), u16::from(slab.protocol.1) + 1]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    for protocol in cuts {
        let of = slabs.iter().filter(|slab| (slab.protocol.0.into()..=slab.protocol.1.into()).contains(&protocol));
        // Where each begins, and behind where it ends; the last address of all has nothing behind it.
        let mut events: Vec<(u128, bool, usize)> = Vec::new();
        for slab in of {
            events.push((slab.first, true, slab.weight));
            events.extend(slab.last.checked_add(1).map(|next| (next, false, slab.weight)));
        }
        events.sort_unstable_by_key(|(at, ..)| *at);
        let mut here = 0;
        let mut events = events.into_iter().peekable();
        while let Some((at, begins, weight)) = events.next() {
            here = if begins { here + weight } else { here - weight };
            if events.peek().is_some_and(|(next, ..)| *next == at) {
                continue;
            }
            match budget.checked_sub(here) {
                Some(left) => *budget = left,
                None => return false,
            }
        }
    }
    true
}

#[cfg(test)]
mod tests;
