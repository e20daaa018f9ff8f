//! The metadata services of clouds, which hand the host's credentials to whoever asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_schemas::exclusion::{Direction, Exclusion, Protocol, Remote};

/// AWS, Azure and Google Cloud; Azure's platform (WireServer); AWS by IPv6; Google Cloud by IPv6.
const SERVICES: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];
const NAMES: [&str; 2] = ["metadata.google.internal", "metadata.goog"];
/// HTTP, and the second port of Azure's platform.
const PORTS: [u16; 2] = [80, 32_526];

/// The service that `exclusion` opens, be it by the way.
pub(super) fn opened(exclusion: &Exclusion) -> Option<String> {
    let ports = &exclusion.remote_ports;
    let asked = ports.is_empty() || PORTS.iter().any(|port| ports.iter().any(|range| range.contains(*port)));
    let spoken = matches!(exclusion.protocol, Protocol::Tcp | Protocol::Any);
    if exclusion.direction == Direction::In || !spoken || !asked {
        return None;
    }
    let covers = |service: &&IpAddr| match &exclusion.remote {
        Remote::Any => true,
        Remote::Cidrs(nets) => nets.iter().any(|net| net.contains(*service)),
        Remote::Names(_) | Remote::Known(_) => false,
    };
    let named = |name: &&&str| match &exclusion.remote {
        Remote::Names(names) => names.iter().any(|written| written.as_str().eq_ignore_ascii_case(name)),
        _ => false,
    };
    let by_address = SERVICES.iter().find(covers).map(ToString::to_string);
    by_address.or_else(|| NAMES.iter().find(named).map(|name| (*name).to_owned()))
}
