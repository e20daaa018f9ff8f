//! The addresses of this host, and which of them are on devices that lead nowhere else.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::host::links::{self, Link};
use crate::host::routes::Routes;
use crate::netlink::Netlink;
use crate::sockets::addresses_with_devices;

/// Kinds of devices (IFLA_INFO_KIND) that hosts make for what runs on them.
const INTERNAL: [&str; 5] = ["bridge", "dummy", "openvswitch", "veth", "vrf"];
/// Nobody has these (RFC 5737, RFC 3849): what leads there is the default route.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Those that lead elsewhere, then internal ones, each in order.
    pub all: Vec<IpAddr>,
    pub internal: Vec<IpAddr>,
}

/// The addresses in the network namespace of the calling thread, but for 127.0.0.0/8 and ::1.
pub fn read() -> io::Result<Addresses> {
    let mut routes = Routes::open()?;
    let uid = rustix::process::getuid().as_raw();
    let mut leads_out = Vec::new();
    for address in ELSEWHERE {
        leads_out.extend(routes.device(address, uid)?);
    }
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let mut internal: BTreeMap<u32, bool> = leads_out.into_iter().map(|device| (device, false)).collect();
    let mut found = Vec::new();
    for (address, device) in addresses_with_devices()?.into_iter().filter(|(address, _)| !address.is_loopback()) {
        let is_internal = match internal.get(&device) {
            Some(known) => *known,
            None => {
                // A device that has left meanwhile takes its address along.
                let is_internal = links::get(&mut netlink, device).ok().flatten().is_some_and(|link| is_internal(&link));
                internal.insert(device, is_internal);
                is_internal
            }
        };
        found.push((is_internal, address));
    }
    Ok(sorted(found))
}

fn is_internal(link: &Link) -> bool {
    link.is_loopback || link.kind.as_deref().is_some_and(|kind| INTERNAL.contains(&kind))
}

/// An address that is on two devices is internal only where both are.
fn sorted(mut found: Vec<(bool, IpAddr)>) -> Addresses {
    found.sort_unstable_by_key(|(is_internal, address)| (*address, *is_internal));
    found.dedup_by_key(|(_, address)| *address);
    found.sort_by_key(|(is_internal, _)| *is_internal);
    Addresses {
        all: found.iter().map(|(_, address)| *address).collect(),
        internal: found.iter().filter(|(is_internal, _)| *is_internal).map(|(_, address)| *address).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_comes_first_so_that_a_thousand_service_addresses_push_out_none() {
        let [a, b, c] = [5, 6, 7].map(|last| IpAddr::from([10, 0, 0, last]));
        let found = sorted(vec![(true, a), (false, c), (true, b), (true, c)]);
        assert_eq!(found, Addresses { all: vec![c, a, b], internal: vec![a, b] });
    }
}
