//! Exclusions of an order become passes: what the host alone knows is filled in, and nothing is ever widened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portcullis_schemas::exclusion::measure::{self, Opens};
use portcullis_schemas::exclusion::{Direction, Exclusion, Known, Protocol, Remote};
use portcullis_schemas::time::Timestamp;

use crate::gate::{ControlGroup, Local, Pass};

/// What the host knows about itself when the gate drops; frozen from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    pub resolvers: Vec<IpAddr>,
    pub dhcp_servers: Vec<IpAddr>,
    pub listening: Listening,
    /// The last good answer for each name; unlike the rest it is refreshed.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Local users by name.
    pub users: BTreeMap<String, u32>,
    /// Control groups by what exclusions call them; refreshed, as a unit that starts again gets another one.
    pub groups: BTreeMap<String, ControlGroup>,
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

impl Problem {
    /// Whether it was left out since the order asks too much, and not since the host does not know something.
    pub fn is_excess(&self) -> bool {
        matches!(self.reason, Unresolved::TooManyParts(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unresolved {
    #[error("no resolver outside loopback is known")]
    NoResolver,
    #[error("no DHCP server is known")]
    NoDhcpServer,
    #[error("it names no network")]
    NoNetwork,
    #[error("none of its names has an address yet")]
    NoAddress,
    #[error("this protocol has no ports")]
    NoPorts,
    #[error("only protocol icmp has types of ICMP")]
    NoTypes,
    #[error("there is no such user on this host")]
    NoUser,
    #[error("the unit does not run, and has no control group")]
    NoUnit,
    #[error("the order's exclusions break into more than {most} parts; {0} from this one on are not taken", most = measure::MOST_PARTS)]
    TooManyParts(usize),
    #[error("types of ICMP are not distinguished for a user or unit")]
    TypesOfUser,
    #[error("at most {MOST_BOUND} exclusions for a user or unit are in force on one host")]
    TooManyBound,
}

/// Each of them is a rule on the way of every packet.
pub const MOST_BOUND: usize = 64;

const MULTICAST_AND_ABOVE_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3);
const MULTICAST_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
const ALL_DHCP_AGENTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Passes for those that are in force, and a problem for each that cannot be resolved. Expired and inert ones are neither.
pub fn resolve(exclusions: &[Exclusion], facts: &HostFacts, now: Timestamp) -> (Vec<Pass>, Vec<Problem>) {
    let taken = taken(exclusions);
    let mut passes = Vec::new();
    let mut problems: Vec<Problem> = Vec::new();
    let mut named = BTreeSet::new();
    // The exclusions of one profile have one name, and often one reason.
    let mut leave_out = |exclusion: &Exclusion, reason| {
        if named.insert((exclusion.name.clone(), reason)) {
            problems.push(Problem { exclusion: exclusion.name.clone(), reason });
        }
    };
    let mut bound = 0;
    let (exclusions, behind) = exclusions.split_at(taken);
    if let Some(first) = behind.first() {
        leave_out(first, Unresolved::TooManyParts(behind.len()));
    }
    for exclusion in exclusions {
        let expired = exclusion.until.is_some_and(|until| until <= now);
        if expired || (exclusion.if_listening && !listens(exclusion, &facts.listening)) {
            continue;
        }
        let resolved = remotes(exclusion, facts).and_then(|remotes| Ok((remotes, local(exclusion, facts)?)));
        let (remotes, local) = match resolved {
            Ok(resolved) => resolved,
            Err(reason) => {
                leave_out(exclusion, reason);
                continue;
            }
        };
        bound += usize::from(!local.is_anybody());
        if !local.is_anybody() && bound > MOST_BOUND {
            leave_out(exclusion, Unresolved::TooManyBound);
            continue;
        }
        passes.push(Pass {
            name: exclusion.name.clone(),
            direction: exclusion.direction,
            protocol: exclusion.protocol,
            remotes,
            remote_ports: exclusion.remote_ports.clone(),
            local_ports: exclusion.local_ports.clone(),
            icmp_types: exclusion.icmp_types.clone(),
            local,
        });
    }
    (passes, problems)
}

/// What the exclusions of an order open that are in force at `now`.
pub fn opens(exclusions: &[Exclusion], now: Timestamp) -> Opens {
    let lives = |exclusion: &&Exclusion| exclusion.until.is_none_or(|until| until > now);
    measure::opens(exclusions[..taken(exclusions)].iter().filter(lives))
}

/// How many of them, from the first one on, break into no more parts than a host takes.
fn taken(exclusions: &[Exclusion]) -> usize {
    if measure::fits(exclusions) {
        return exclusions.len();
    }
    let (mut fit, mut too_many) = (0, exclusions.len());
    while too_many - fit > 1 {
        let middle = fit.midpoint(too_many);
        *(if measure::fits(&exclusions[..middle]) { &mut fit } else { &mut too_many }) = middle;
    }
    fit
}

/// The names that these exclusions are for, each once.
pub fn names(exclusions: &[Exclusion]) -> BTreeSet<String> {
    let of = |exclusion: &Exclusion| match &exclusion.remote {
        Remote::Names(names) => names.iter().map(|name| name.as_str().to_owned()).collect(),
        _ => Vec::new(),
    };
    exclusions.iter().flat_map(of).collect()
}

fn local(exclusion: &Exclusion, facts: &HostFacts) -> Result<Local, Unresolved> {
    if exclusion.user.is_none() && exclusion.unit.is_none() {
        return Ok(Local::default());
    }
    if !exclusion.icmp_types.is_empty() {
        return Err(Unresolved::TypesOfUser);
    }
    let user = exclusion
        .user
        .as_ref()
        .map(|user| user.number().or_else(|| facts.users.get(user.as_str()).copied()).ok_or(Unresolved::NoUser));
    let group = exclusion.unit.as_ref().map(|unit| facts.groups.get(unit.as_str()).cloned().ok_or(Unresolved::NoUnit));
    Ok(Local { uid: user.transpose()?, group: group.transpose()? })
}

fn listens(exclusion: &Exclusion, listening: &Listening) -> bool {
    let ports = match exclusion.protocol {
        Protocol::Tcp => &listening.tcp,
        Protocol::Udp => &listening.udp,
        Protocol::Icmp | Protocol::Number(_) | Protocol::Any => return false,
    };
    let wanted = &exclusion.local_ports;
    ports.iter().any(|port| wanted.is_empty() || wanted.iter().any(|range| range.contains(*port)))
}

fn remotes(exclusion: &Exclusion, facts: &HostFacts) -> Result<Vec<IpNet>, Unresolved> {
    let names_ports = !exclusion.remote_ports.is_empty() || !exclusion.local_ports.is_empty();
    if names_ports && !exclusion.protocol.has_ports() {
        return Err(Unresolved::NoPorts);
    }
    if exclusion.protocol != Protocol::Icmp && !exclusion.icmp_types.is_empty() {
        return Err(Unresolved::NoTypes);
    }
    let nets: Vec<IpNet> = match &exclusion.remote {
        Remote::Cidrs(nets) => nets.iter().flat_map(|net| unicast_part(net.trunc())).collect(),
        Remote::Names(names) => {
            let known = names.iter().filter_map(|name| facts.names.get(name.as_str())).flatten();
            hosts(&known.filter(|address| is_elsewhere(address.to_canonical())).copied().collect::<Vec<_>>())
        }
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
            Remote::Names(_) => Unresolved::NoAddress,
            Remote::Cidrs(_) | Remote::Any => Unresolved::NoNetwork,
        });
    }
    Ok(IpNet::aggregate(&nets))
}

fn hosts(addresses: &[IpAddr]) -> Vec<IpNet> {
    let outside = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    addresses.iter().map(IpAddr::to_canonical).filter(outside).map(IpNet::from).collect()
}

/// Whoever answers for a name does not choose to open the link, a group or a cloud's metadata service: those pass by address alone.
fn is_elsewhere(address: IpAddr) -> bool {
    let of_the_link = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    };
    !of_the_link && !METADATA.contains(&address)
}

/// Those that are not of the link: Azure's (168.63.129.16) and the one of AWS over IPv6 (fd00:ec2::254).
const METADATA: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254))];

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
mod tests;
