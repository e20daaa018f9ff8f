//! Random exclusions, random packets: what the kernel lets through is what a plain function over packets says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use ipnet::IpNet;
use portcullis_agent_core::gate::{Gate, Local, Pass};
use portcullis_schemas::exclusion::{Direction, IcmpType, PortRange, Protocol};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, eth, sockopt};

use crate::net::{FRIEND, HOST, Namespace, Net, SOON, STRANGER, at, gate};

const GATES: u64 = 24;
const PACKETS: usize = 200;

#[test]
fn what_passes_is_what_the_exclusions_say() {
    compare(GATES, |_| (), lets);
}

#[test]
fn what_passes_without_conntrack_is_what_addresses_and_ports_say() {
    let all = "meta l4proto != 0";
    compare(GATES / 3, |net| crate::untracked::notrack(net, &[all]), lets_untracked);
}

fn compare(gates: u64, before: impl Fn(&Net), lets: fn(&[Pass], &Packet) -> bool) {
    let seeds = std::env::var("PORTCULLIS_SEED").ok().map_or(0..gates, |seed| {
        let seed = seed.parse().unwrap();
        seed..seed + 1
    });
    let mut through = 0;
    let mut sent = 0;
    for seed in seeds {
        let mut chance = Chance(seed + 1);
        let mut passes: Vec<Pass> = (0..chance.below(6) + 1).map(|n| random_pass(n, &mut chance)).collect();
        if seed % 2 == 1 {
            // Many exclusions are kept in other sets than few.
            passes.extend((0..60).map(|n| for_somebody_else(n, &mut chance)));
        }
        let net = Net::new();
        before(&net);
        net.isolate(&Gate { passes: passes.clone(), ..gate() });
        let packets = random_packets(&mut chance);
        let expected: BTreeSet<usize> = (0..packets.len()).filter(|index| lets(&passes, &packets[*index])).collect();
        let found = send(&net, &packets, &expected);
        let wrong: Vec<_> =
            expected.symmetric_difference(&found).map(|index| (&packets[*index], found.contains(index))).collect();
        assert!(wrong.is_empty(), "PORTCULLIS_SEED={seed}: came through or not, unlike the oracle: {wrong:?}\n{passes:#?}");
        through += found.len();
        sent += packets.len();
    }
    println!("{through} of {sent} packets came through");
    assert!(through > 0 && through < sent, "neither everything nor nothing");
}

/// One packet of its own connection, as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    direction: Direction,
    remote: IpAddr,
    protocol: u8,
    /// Or the type of ICMP.
    remote_port: u16,
    local_port: u16,
    /// TCP without its beginning: conntrack takes it for a connection as well.
    midway: bool,
}

/// The oracle: what the documents promise of an exclusion, read as plainly as they say it.
fn lets(passes: &[Pass], packet: &Packet) -> bool {
    passes.iter().any(|pass| {
        let icmp = if packet.remote.is_ipv4() { 1 } else { 58 };
        let protocol = match pass.protocol {
            Protocol::Tcp => packet.protocol == 6,
            Protocol::Udp => packet.protocol == 17,
            Protocol::Icmp => packet.protocol == icmp,
            Protocol::Number(number) => packet.protocol == number,
            Protocol::Any => true,
        };
        let remote = pass.remotes.iter().any(|net| net.contains(&packet.remote));
        let within =
            |ranges: &[PortRange], port: u16| ranges.is_empty() || ranges.iter().any(|r| r.first() <= port && port <= r.last());
        let ports = !has_ports(packet.protocol)
            || within(&pass.remote_ports, packet.remote_port) && within(&pass.local_ports, packet.local_port);
        let types = packet.protocol != icmp || {
            // Requests that have an answer; the rest of ICMP belongs to nobody.
            let named = match (packet.remote.is_ipv4(), packet.remote_port) {
                (true, 8) | (false, 128) => Some(Some(IcmpType::EchoRequest)),
                (true, 13) => Some(Some(IcmpType::TimestampRequest)),
                (true, 17) => Some(Some(IcmpType::AddressMaskRequest)),
                (true, 15) => Some(None),
                (false, 139) => Some(Some(IcmpType::NodeInformationQuery)),
                _ => None,
            };
            named.is_some_and(|name| pass.icmp_types.is_empty() || name.is_some_and(|name| pass.icmp_types.contains(&name)))
        };
        pass.direction == packet.direction && protocol && remote && ports && types
    })
}

/// What they promise where nobody knows who opened a connection: what opens passes in its direction only, the rest in both.
fn lets_untracked(passes: &[Pass], packet: &Packet) -> bool {
    let against =
        Packet { direction: if packet.direction == Direction::Out { Direction::In } else { Direction::Out }, ..packet.clone() };
    // The type of ICMP that the peer would have asked with.
    let question = |kind| match kind {
        0 if packet.remote.is_ipv4() => Some(8),
        14 if packet.remote.is_ipv4() => Some(13),
        18 if packet.remote.is_ipv4() => Some(17),
        129 if packet.remote.is_ipv6() => Some(128),
        _ => None,
    };
    match packet.protocol {
        6 if packet.midway => lets(passes, packet) || lets(passes, &against),
        6 => lets(passes, packet),
        1 | 58 if matches!(packet.remote_port, 8 | 13 | 17 | 128) => lets(passes, packet),
        1 | 58 => question(packet.remote_port).is_some_and(|kind| lets(passes, &Packet { remote_port: kind, ..against })),
        _ => lets(passes, packet) || lets(passes, &against),
    }
}

fn has_ports(protocol: u8) -> bool {
    [6, 17].contains(&protocol)
}

const PORTS: [u16; 7] = [1, 53, 54, 1023, 1024, 40_000, 65_535];
const TYPES: [u16; 11] = [0, 3, 8, 13, 14, 15, 17, 128, 129, 139, 140];
const PROTOCOLS: [Protocol; 8] = [
    Protocol::Tcp,
    Protocol::Tcp,
    Protocol::Udp,
    Protocol::Udp,
    Protocol::Icmp,
    Protocol::Number(50),
    Protocol::Number(253),
    Protocol::Any,
];
const NETS: [&str; 9] = [
    "10.99.0.1/32",
    "10.99.0.3/32",
    "10.99.0.0/30",
    "10.99.0.0/31",
    "0.0.0.0/1",
    "fd99::1/128",
    "fd99::2/127",
    "fd99::/64",
    "8000::/1",
];

fn random_pass(number: usize, chance: &mut Chance) -> Pass {
    let protocol = *chance.of(&PROTOCOLS);
    let remotes: Vec<IpNet> = (0..chance.below(3) + 1).map(|_| chance.of(&NETS).parse().unwrap()).collect();
    let mut ports = || -> Vec<PortRange> {
        if !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            return Vec::new();
        }
        (0..chance.below(3))
            .map(|_| {
                let (a, b) = (*chance.of(&PORTS), *chance.of(&PORTS));
                PortRange::new(a.min(b), if chance.below(2) == 0 { a.max(b) } else { a.min(b) }).unwrap()
            })
            .collect()
    };
    let (remote_ports, local_ports) = (ports(), ports());
    let all = [IcmpType::EchoRequest, IcmpType::TimestampRequest, IcmpType::AddressMaskRequest, IcmpType::NodeInformationQuery];
    let types = if protocol == Protocol::Icmp { chance.below(3) } else { 0 };
    Pass {
        name: format!("pass {number}"),
        direction: if chance.below(2) == 0 { Direction::Out } else { Direction::In },
        protocol,
        remotes,
        remote_ports,
        local_ports,
        icmp_types: (0..types).map(|_| *chance.of(&all)).collect(),
        local: Local::default(),
    }
}

fn for_somebody_else(number: usize, chance: &mut Chance) -> Pass {
    let remotes = vec![format!("10.98.0.{number}/32").parse().unwrap(), format!("fd98::{number}/128").parse().unwrap()];
    Pass { remotes, ..random_pass(number, chance) }
}

/// Each of a connection that no other one is a part of: what conntrack remembers of one decides nothing for the next.
fn random_packets(chance: &mut Chance) -> Vec<Packet> {
    let mut packets = BTreeMap::new();
    for _ in 0..PACKETS {
        let family = chance.below(2);
        let remote: IpAddr = [FRIEND[family], STRANGER[family]][chance.below(2)].parse().unwrap();
        let icmp = [1, 58][family];
        let protocol = *chance.of(&[6, 6, 6, 17, 17, 17, icmp, icmp, 50, 253]);
        let is_icmp = protocol == icmp;
        let packet = Packet {
            direction: if chance.below(2) == 0 { Direction::Out } else { Direction::In },
            remote,
            protocol,
            remote_port: if is_icmp { *chance.of(&TYPES) } else { *chance.of(&PORTS) },
            local_port: *chance.of(&PORTS),
            midway: protocol == 6 && chance.below(3) == 0,
        };
        // Errors and answers of ICMP belong to other packets, which there are none of.
        let connection = match protocol {
            6 | 17 => (remote, protocol, packet.remote_port, packet.local_port, 0),
            50 | 253 => (remote, protocol, 0, 0, 0),
            _ => (remote, protocol, packet.remote_port, 0, packets.len()),
        };
        packets.entry(connection).or_insert(packet);
    }
    packets.into_values().collect()
}

/// Sends all of them from their ends. The numbers of those that came to the other one.
fn send(net: &Net, packets: &[Packet], expected: &BTreeSet<usize>) -> BTreeSet<usize> {
    let outside = net
        .outside
        .run(|| rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::NONBLOCK, Some(eth::ALL)).unwrap());
    // What a raw socket gets has passed the host's rules for what arrives.
    let protocols = [(AddressFamily::INET, 1), (AddressFamily::INET6, 58)];
    let others = [AddressFamily::INET, AddressFamily::INET6]
        .into_iter()
        .flat_map(|family| [6, 17, 50, 253].map(|number| (family, number)));
    let inside: Vec<OwnedFd> =
        protocols.into_iter().chain(others).map(|(family, number)| raw(&net.host, family, number)).collect();
    for socket in inside.iter().chain([&outside]) {
        sockopt::set_socket_recv_buffer_size_force(socket, 16 << 20).unwrap();
    }
    for (index, packet) in packets.iter().enumerate() {
        let (namespace, family) = match packet.direction {
            Direction::Out => (&net.host, packet.remote),
            Direction::In => (&net.outside, packet.remote),
        };
        let family = if family.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // With its own header (IPPROTO_RAW). A refusal is an answer as well.
        let socket = raw(namespace, family, 255);
        let (bytes, to) = encode(packet, index);
        let _ = rustix::net::sendto(&socket, &bytes, SendFlags::empty(), &SocketAddr::new(to, 0));
    }
    let mut found = BTreeSet::new();
    let start = Instant::now();
    let mut settled = false;
    loop {
        let before = found.len();
        for (socket, direction) in inside.iter().map(|socket| (socket, Direction::In)).chain([(&outside, Direction::Out)]) {
            let mut buffer = vec![0; 65_536];
            while let Ok((_, length)) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
                found.extend(number(&buffer[..length]).filter(|index| packets[*index].direction == direction));
            }
        }
        // Those that must come have come, and what was sent before them, too.
        if expected.is_subset(&found) && settled || start.elapsed() > SOON {
            return found;
        }
        if expected.is_subset(&found) && found.len() == before {
            // A last one each way that always passes comes behind all others.
            settled = barrier(net);
        }
    }
}

fn raw(namespace: &Namespace, family: AddressFamily, protocol: u32) -> OwnedFd {
    let protocol = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(protocol).unwrap());
    namespace.run(|| rustix::net::socket_with(family, SocketType::RAW, SocketFlags::NONBLOCK, Some(protocol)).unwrap())
}

/// Traffic on loopback of both ends: what was queued before it has been worked off.
fn barrier(net: &Net) -> bool {
    [&net.host, &net.outside].into_iter().all(|namespace| {
        let socket = namespace.udp(at("127.0.0.1", 0));
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        socket.recv(&mut [0; 1]).unwrap() == 1
    })
}

const MARK: &[u8] = b"portcullis packet ";

fn number(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(MARK.len()).position(|window| window == MARK)?;
    std::str::from_utf8(bytes.get(at + MARK.len()..at + MARK.len() + 6)?).ok()?.parse().ok()
}

/// The whole packet, and where it goes.
fn encode(packet: &Packet, index: usize) -> (Vec<u8>, IpAddr) {
    let mark = [MARK, format!("{index:06}").as_bytes()].concat();
    let here: IpAddr = HOST[usize::from(packet.remote.is_ipv6())].parse().unwrap();
    let ((from, from_port), (to, to_port)) = match packet.direction {
        Direction::Out => ((here, packet.local_port), (packet.remote, packet.remote_port)),
        Direction::In => ((packet.remote, packet.remote_port), (here, packet.local_port)),
    };
    let ports = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
    let flags = if packet.midway { 0x10 } else { 0x02 };
    let mut body = match packet.protocol {
        6 => [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]].concat(),
        17 => [&ports[..], &((8 + mark.len()) as u16).to_be_bytes(), &[0, 0]].concat(),
        1 | 58 => vec![packet.remote_port as u8, 0, 0, 0, (index >> 8) as u8, index as u8, 0, 1],
        _ => vec![0; 8],
    };
    body.extend(mark);
    let at = match packet.protocol {
        6 => Some(16),
        17 => Some(6),
        1 | 58 => Some(2),
        _ => None,
    };
    if let Some(at) = at {
        let sum = checksum(&[pseudo(from, to, packet.protocol, body.len()), body.clone()].concat());
        body[at..at + 2].copy_from_slice(&sum);
    }
    let bytes = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = (20 + body.len()) as u16;
            // The kernel fills in the checksum of the header.
            let head =
                [&[0x45, 0][..], &length.to_be_bytes(), &[0, 1, 0, 0, 64, packet.protocol, 0, 0], &from.octets(), &to.octets()];
            [head.concat(), body].concat()
        }
        (from, to) => {
            let octets = |ip: IpAddr| if let IpAddr::V6(ip) = ip { ip.octets().to_vec() } else { Vec::new() };
            let head =
                [&[0x60, 0, 0, 0][..], &(body.len() as u16).to_be_bytes(), &[packet.protocol, 64], &octets(from), &octets(to)];
            [head.concat(), body].concat()
        }
    };
    (bytes, to)
}

/// RFC 9293, 3.1 and RFC 8200, 8.1; ICMP on IPv4 has none.
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (from, to) {
        _ if protocol == 1 => Vec::new(),
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            [&from.octets()[..], &to.octets(), &[0, protocol], &(length as u16).to_be_bytes()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            [&from.octets()[..], &to.octets(), &(length as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
        }
        _ => Vec::new(),
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        // 0 says of UDP that there is none.
        0 => [0xff, 0xff],
        sum => sum.to_be_bytes(),
    }
}

/// The same numbers for the same seed, everywhere (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}
