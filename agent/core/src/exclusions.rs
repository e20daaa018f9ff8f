//! Exclusions of an order become passes: what the host alone knows is filled in, and nothing is ever widened.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portcullis_schemas::exclusion::{Direction, Exclusion, Known, Protocol, Remote};
use portcullis_schemas::time::Timestamp;

use crate::gate::Pass;

/// What the host knows about itself when the gate drops; frozen from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    pub resolvers: Vec<IpAddr>,
    pub dhcp_servers: Vec<IpAddr>,
    pub listening: Listening,
}

/// Ports on which something listens outside loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    pub tcp: BTreeSet<u16>,
    pub udp: BTreeSet<u16>,
}

/// An exclusion that was left out because it could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exclusion {exclusion:?} is left out: {reason}")]
pub struct Problem {
    pub exclusion: String,
    pub reason: Unresolved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("no resolver outside loopback is known")]
    NoResolver,
    #[error("no DHCP server is known")]
    NoDhcpServer,
    #[error("it names no network")]
    NoNetwork,
    #[error("ICMP has no ports")]
    PortsOfIcmp,
}

const MULTICAST_AND_ABOVE_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3);
const MULTICAST_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
const ALL_DHCP_AGENTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Passes for those that are in force, and a problem for each that cannot be resolved. Expired and inert ones are neither.
pub fn resolve(exclusions: &[Exclusion], facts: &HostFacts, now: Timestamp) -> (Vec<Pass>, Vec<Problem>) {
    let mut passes = Vec::new();
    let mut problems = Vec::new();
    for exclusion in exclusions {
        let expired = exclusion.until.is_some_and(|until| until <= now);
        if expired || (exclusion.if_listening && !listens(exclusion, &facts.listening)) {
            continue;
        }
        match remotes(exclusion, facts) {
            Ok(remotes) => passes.push(Pass {
                name: exclusion.name.clone(),
                direction: exclusion.direction,
                protocol: exclusion.protocol,
                remotes,
                remote_ports: exclusion.remote_ports.clone(),
                local_ports: exclusion.local_ports.clone(),
            }),
            Err(reason) => problems.push(Problem { exclusion: exclusion.name.clone(), reason }),
        }
    }
    (passes, problems)
}

fn listens(exclusion: &Exclusion, listening: &Listening) -> bool {
    let ports = match exclusion.protocol {
        Protocol::Tcp => &listening.tcp,
        Protocol::Udp => &listening.udp,
        Protocol::Icmp => return false,
    };
    let wanted = &exclusion.local_ports;
    ports.iter().any(|port| wanted.is_empty() || wanted.iter().any(|range| range.contains(*port)))
}

fn remotes(exclusion: &Exclusion, facts: &HostFacts) -> Result<Vec<IpNet>, Unresolved> {
    if exclusion.protocol == Protocol::Icmp && !(exclusion.remote_ports.is_empty() && exclusion.local_ports.is_empty()) {
        return Err(Unresolved::PortsOfIcmp);
    }
    let nets: Vec<IpNet> = match &exclusion.remote {
        Remote::Cidrs(nets) => nets.iter().flat_map(|net| unicast_part(net.trunc())).collect(),
        Remote::Known(Known::Resolvers) => hosts(&facts.resolvers),
        Remote::Known(Known::DhcpServers) => dhcp(&facts.dhcp_servers, exclusion.direction),
        Remote::Any => {
            [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())].into_iter().flat_map(unicast_part).collect()
        }
    };
    if nets.is_empty() {
        return Err(match exclusion.remote {
            Remote::Known(Known::Resolvers) => Unresolved::NoResolver,
            Remote::Known(Known::DhcpServers) => Unresolved::NoDhcpServer,
            Remote::Cidrs(_) | Remote::Any => Unresolved::NoNetwork,
        });
    }
    Ok(IpNet::aggregate(&nets))
}

fn hosts(addresses: &[IpAddr]) -> Vec<IpNet> {
    let outside = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    addresses.iter().map(IpAddr::to_canonical).filter(outside).map(IpNet::from).collect()
}

/// A client speaks to the broadcast address, but no server speaks from it.
fn dhcp(servers: &[IpAddr], direction: Direction) -> Vec<IpNet> {
    let mut nets = hosts(servers);
    if direction == Direction::Out {
        let (v4, v6) = (nets.iter().any(|net| net.addr().is_ipv4()), nets.iter().any(|net| net.addr().is_ipv6()));
        nets.extend(v4.then_some(IpNet::from(IpAddr::V4(Ipv4Addr::BROADCAST))));
        nets.extend(v6.then_some(IpNet::from(IpAddr::V6(ALL_DHCP_AGENTS))));
    }
    nets
}

/// Multicast and broadcast pass only as named: a network that merely includes them loses them.
fn unicast_part(net: IpNet) -> Vec<IpNet> {
    let upper: IpNet = match net {
        IpNet::V4(_) => MULTICAST_AND_ABOVE_V4.into(),
        IpNet::V6(_) => MULTICAST_V6.into(),
    };
    if net == upper || !net.contains(&upper) {
        return vec![net];
    }
    match net.subnets(net.prefix_len() + 1) {
        Ok(halves) => halves.flat_map(|half| if half == upper { Vec::new() } else { unicast_part(half) }).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_schemas::exclusion::PortRange;

    use super::*;

    #[test]
    fn resolvers_are_the_frozen_ones_without_loopback() {
        let facts =
            HostFacts { resolvers: ips(&["127.0.0.53", "::1", "10.0.0.53", "fd00::53", "0.0.0.0"]), ..Default::default() };
        let (passes, problems) = resolve(&[known(Known::Resolvers)], &facts, at(0));
        assert_eq!(nets(&passes[0]), ["10.0.0.53/32", "fd00::53/128"]);
        assert_eq!(problems, []);
    }

    #[test]
    fn what_cannot_be_resolved_is_left_out_and_named() {
        let facts = HostFacts { resolvers: ips(&["127.0.0.53"]), ..Default::default() };
        let icmp = Exclusion { protocol: Protocol::Icmp, ..out(Remote::Any) };
        let empty = out(Remote::Cidrs(vec![]));
        let (passes, problems) = resolve(&[known(Known::Resolvers), known(Known::DhcpServers), icmp, empty], &facts, at(0));
        assert_eq!(passes, []);
        let reasons: Vec<_> = problems.iter().map(|p| p.reason).collect();
        use Unresolved::*;
        assert_eq!(reasons, [NoResolver, NoDhcpServer, PortsOfIcmp, NoNetwork]);
        assert_eq!(problems[0].to_string(), "exclusion \"x\" is left out: no resolver outside loopback is known");
    }

    #[test]
    fn dhcp_clients_may_speak_to_broadcast_of_the_families_that_have_a_server() {
        let both = HostFacts { dhcp_servers: ips(&["10.0.0.1", "fe80::1"]), ..Default::default() };
        let v4 = HostFacts { dhcp_servers: ips(&["10.0.0.1"]), ..Default::default() };
        let of = |facts: &HostFacts, exclusion| nets(&resolve(&[exclusion], facts, at(0)).0[0]);
        assert_eq!(of(&both, known(Known::DhcpServers)), ["10.0.0.1/32", "255.255.255.255/32", "fe80::1/128", "ff02::1:2/128"]);
        assert_eq!(of(&v4, known(Known::DhcpServers)), ["10.0.0.1/32", "255.255.255.255/32"]);
        assert_eq!(of(&v4, Exclusion { direction: Direction::In, ..known(Known::DhcpServers) }), ["10.0.0.1/32"]);
    }

    #[test]
    fn if_listening_is_inert_unless_something_listens() {
        let facts = HostFacts { listening: Listening { tcp: [53].into(), udp: [5353].into() }, ..Default::default() };
        let serve = |protocol, port| Exclusion {
            direction: Direction::In,
            protocol,
            remote_ports: vec![],
            local_ports: vec![PortRange::one(port)],
            if_listening: true,
            ..out(Remote::Any)
        };
        let (passes, problems) = resolve(&[serve(Protocol::Tcp, 53), serve(Protocol::Udp, 53)], &facts, at(0));
        assert_eq!(passes.len(), 1);
        assert_eq!(passes[0].protocol, Protocol::Tcp);
        assert_eq!(problems, []);
    }

    #[test]
    fn a_temporary_exclusion_ends_at_its_until() {
        let x = Exclusion { until: Some(at(100)), ..out(Remote::Any) };
        assert_eq!(resolve(std::slice::from_ref(&x), &HostFacts::default(), at(99)).0.len(), 1);
        assert_eq!(resolve(&[x], &HostFacts::default(), at(100)), (vec![], vec![]));
    }

    #[test]
    fn multicast_and_broadcast_pass_only_as_named() {
        let of = |list: &[&str]| {
            let list = list.iter().map(|net| net.parse().unwrap()).collect();
            nets(&resolve(&[out(Remote::Cidrs(list))], &HostFacts::default(), at(0)).0[0])
        };
        assert_eq!(of(&["0.0.0.0/0"]), ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"]);
        assert_eq!(of(&["224.0.0.251/32", "10.1.2.3/8", "10.0.0.0/9"]), ["10.0.0.0/8", "224.0.0.251/32"]);
        assert!(!resolve(&[out(Remote::Any)], &HostFacts::default(), at(0)).0[0].remotes.iter().any(|net| {
            net.contains(&"ff02::1".parse::<IpAddr>().unwrap()) || net.contains(&"255.255.255.255".parse::<IpAddr>().unwrap())
        }));
    }

    fn out(remote: Remote) -> Exclusion {
        Exclusion {
            name: "x".into(),
            direction: Direction::Out,
            protocol: Protocol::Udp,
            remote,
            remote_ports: vec![PortRange::one(53)],
            local_ports: vec![],
            if_listening: false,
            until: None,
        }
    }

    fn known(known: Known) -> Exclusion {
        out(Remote::Known(known))
    }

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn nets(pass: &Pass) -> Vec<String> {
        let mut nets = pass.remotes.clone();
        nets.sort();
        nets.iter().map(ToString::to_string).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(second, 0).unwrap()
    }
}
