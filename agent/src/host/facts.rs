//! What this host knows about itself as the gate drops: resolvers, DHCP servers, and what listens.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use portcullis_agent_core::exclusions::Listening;
use portcullis_agent_core::gate::{Proof, Transport};
use portcullis_agent_core::record::{FrozenFacts, NameServer};
use portcullis_agent_core::sever::State;

use crate::host::leases;
use crate::sockets::Sockets;

pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved names the resolvers behind its stub.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// What is frozen as the gate drops.
pub fn gather(resolv_conf: &[PathBuf]) -> FrozenFacts {
    let dhcp_servers = leases::servers(Path::new("/"));
    let Listening { tcp, udp } = listening();
    let servers = name_servers(resolv_conf);
    let resolvers = servers.iter().map(|server| server.address).collect();
    let on_links = servers.into_iter().filter(|server| server.device.is_some()).collect();
    let proof = Some(proof());
    FrozenFacts { resolvers, on_links, dhcp_servers, listening_tcp: tcp, listening_udp: udp, proof, ..FrozenFacts::default() }
}

/// A new one, keyed by the operating system's randomness.
pub fn proof() -> Proof {
    Proof::new(RandomState::new().build_hasher().finish() as u32)
}

/// Where all that is named is a stub on loopback, the resolvers behind it count as well.
pub fn name_servers(paths: &[PathBuf]) -> Vec<NameServer> {
    let read = |path: &Path| fs::read_to_string(path).map(|text| nameservers(&text)).unwrap_or_default();
    let mut found: Vec<NameServer> = paths.iter().flat_map(|path| read(path)).collect();
    if found.iter().all(|server| server.address.is_loopback()) {
        found.extend(read(Path::new(BEHIND_STUB)));
    }
    found
}

fn nameservers(text: &str) -> Vec<NameServer> {
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let value = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        let (address, device) = value.split_once('%').map_or((value, None), |(address, device)| (address, Some(device)));
        let address: IpAddr = address.parse().ok()?;
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        Some(NameServer { address, device: device.filter(|_| link_local).map(str::to_owned) })
    };
    text.lines().filter_map(of).collect()
}

fn listening() -> Listening {
    let sockets = match Sockets::listening() {
        Ok(sockets) => sockets,
        Err(error) => {
            tracing::warn!(%error, "listening sockets not listed: exclusions for servers on this host have no effect");
            return Listening::default();
        }
    };
    let mut found = Listening::default();
    for socket in sockets.as_slice().iter().filter(|s| s.state == State::Listening && !s.local.ip().is_loopback()) {
        match socket.protocol {
            Transport::Tcp => found.tcp.insert(socket.local.port()),
            Transport::Udp => found.udp.insert(socket.local.port()),
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_with_their_devices_and_without_comments_and_options() {
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 10.0.0.53\n nameserver\tfe80::1%eth0 # x\noptions edns0\nnameserver x\n";
        let server = |address: &str, device: Option<&str>| NameServer {
            address: address.parse().unwrap(),
            device: device.map(str::to_owned),
        };
        assert_eq!(nameservers(text), [server("10.0.0.53", None), server("fe80::1", Some("eth0"))]);
        let text = "nameserver 2001:db8::1%eth0\nnameserver fe80::1\n";
        assert_eq!(nameservers(text), [server("2001:db8::1", None), server("fe80::1", None)]);
    }
}
