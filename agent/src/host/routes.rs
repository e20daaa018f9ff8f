//! Which device leads to an address, as the kernel would route a packet of a user to it now, and whether that is a tunnel, or this host itself.
//!
//! What goes through a tunnel leaves the host a second time, as a packet of the kernel or of another program, which no rule lets pass.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{DecodeError, Emitable, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::host::links::{self, Link};
use crate::netlink::Netlink;

/// include/uapi/linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;

/// Kinds of devices (IFLA_INFO_KIND) whose packets travel inside other packets or frames.
const TUNNELS: [&str; 26] = [
    "tun",
    "wireguard",
    "amneziawg",
    "ovpn",
    "ovpn-dco",
    "vxlan",
    "geneve",
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "erspan",
    "ip6erspan",
    "ipip",
    "ip6tnl",
    "sit",
    "vti",
    "vti6",
    "xfrm",
    "gtp",
    "bareudp",
    "amt",
    "ppp",
    "macsec",
    "batadv",
    "l2tpeth",
];
/// Devices on devices; the kernel knows no deeper stacks.
const DEEPEST: usize = 8;

/// How an address is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By a device that is no tunnel, or not at all.
    Plain,
    Tunnel(Tunnel),
    /// It is an address of this host.
    Here,
}

/// The tunnel on the way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub device: String,
    pub kind: String,
}

impl std::fmt::Display for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.device, self.kind)
    }
}

/// Whether what devices of a kind carry leaves inside something else.
pub fn is_tunnel(kind: &str) -> bool {
    TUNNELS.contains(&kind)
}

/// The kernel's answers, by a socket that stays open: closing one costs more than asking.
#[derive(Debug)]
pub struct Routes(Netlink);

impl Routes {
    /// Of the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_ROUTE).map(Self)
    }

    /// How packets of `uid` to `address` would go now.
    pub fn way(&mut self, address: IpAddr, uid: u32) -> io::Result<Reach> {
        let route = match self.route(address, uid) {
            // Nowhere is no tunnel.
            Err(error) if leads_nowhere(&error) => return Ok(Reach::Plain),
            route => route?,
        };
        if route.is_here {
            return Ok(Reach::Here);
        }
        let Some(device) = route.device else { return Ok(Reach::Plain) };
        let tunnel = judge(device, route.is_encapsulated, |index| links::get(&mut self.0, index))?;
        Ok(tunnel.map_or(Reach::Plain, Reach::Tunnel))
    }

    /// The device through which packets of `uid` to `address` would leave now.
    pub fn device(&mut self, address: IpAddr, uid: u32) -> io::Result<Option<u32>> {
        match self.route(address, uid) {
            Err(error) if leads_nowhere(&error) => Ok(None),
            route => Ok(route?.device),
        }
    }

    fn route(&mut self, address: IpAddr, uid: u32) -> io::Result<Route> {
        let mut question = RouteMessage::default();
        (question.header.address_family, question.header.destination_prefix_length) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        question.attributes = vec![RouteAttribute::Destination(address.into()), RouteAttribute::Uid(uid)];
        let mut request = vec![0; question.buffer_len()];
        question.emit(&mut request);
        let mut found: Result<Route, DecodeError> = Ok(Route::default());
        self.0.get(RTM_GETROUTE, &request, |body| found = RouteMessage::parse(body).map(|route| Route::of(&route)))?;
        found.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
}

#[derive(Debug, Default)]
struct Route {
    device: Option<u32>,
    /// The route itself puts packets into others (ip, seg6, mpls).
    is_encapsulated: bool,
    is_here: bool,
}

impl Route {
    fn of(message: &RouteMessage) -> Self {
        let mut route = Self { is_here: message.header.kind == RouteType::Local, ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(device) => route.device = Some(*device),
                RouteAttribute::EncapType(_) => route.is_encapsulated = true,
                _ => {}
            }
        }
        route
    }
}

/// From the device of the route down to what it stands on.
fn judge(
    device: u32,
    is_encapsulated: bool,
    mut link: impl FnMut(u32) -> io::Result<Option<Link>>,
) -> io::Result<Option<Tunnel>> {
    let mut next = Some(device);
    for _ in 0..DEEPEST {
        let Some(found) = next.map(&mut link).transpose()?.flatten() else { break };
        if is_encapsulated {
            return Ok(Some(Tunnel { device: found.name, kind: "encapsulated by its route".to_owned() }));
        }
        if let Some(kind) = found.kind.filter(|kind| is_tunnel(kind)) {
            return Ok(Some(Tunnel { device: found.name, kind }));
        }
        // The number of a device of another namespace names another device here.
        next = found.below.filter(|_| !found.below_is_elsewhere);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_found_under_what_stands_on_it() {
        let link = |index, name: &str, kind: Option<&str>, below, below_is_elsewhere| Link {
            index,
            name: name.into(),
            kind: kind.map(Into::into),
            below,
            below_is_elsewhere,
            ..Link::default()
        };
        let links = [
            link(2, "eth0", None, None, false),
            link(3, "wg0", Some("wireguard"), None, false),
            link(4, "vlan7", Some("vlan"), Some(2), false),
            link(5, "vlan8", Some("vlan"), Some(3), false),
            link(6, "veth0", Some("veth"), Some(3), true),
            // Two that name each other end all the same.
            link(7, "a", Some("veth"), Some(8), false),
            link(8, "b", Some("veth"), Some(7), false),
        ];
        let get = |index| Ok(links.iter().find(|link| link.index == index).cloned());
        let device = |index| judge(index, false, get).unwrap().map(|tunnel| tunnel.to_string());
        assert_eq!([2, 4, 6, 7, 9].map(device), [None, None, None, None, None]);
        assert_eq!([3, 5].map(device), [Some("wg0 (wireguard)".to_owned()), Some("wg0 (wireguard)".to_owned())]);
        assert_eq!(judge(2, true, get).unwrap().unwrap().device, "eth0");
    }
}
