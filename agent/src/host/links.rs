//! What rtnetlink tells of the network devices of a namespace: what they are, and what they stand on.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{Netlink, number, text, value};

/// include/uapi/linux/rtnetlink.h, if_link.h, if.h
const RTM_GETLINK: u16 = 18;
const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_PASSTHRU: u32 = 8;
const IFLA_LINK_NETNSID: u16 = 37;
const IFF_LOOPBACK: u32 = 1 << 3;

const MACVLANS: [&str; 2] = ["macvlan", "macvtap"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub is_loopback: bool,
    /// The driver's name of a device that is made of software (`veth`, `wireguard`); None for hardware.
    pub kind: Option<String>,
    /// The device under it, or the other end of a pair.
    pub below: Option<u32>,
    /// That one is in another network namespace.
    pub below_is_elsewhere: bool,
    /// A macvlan or macvtap that takes over all frames of the device under it, and its address.
    pub takes_over: bool,
}

/// All devices in the network namespace of the calling thread.
pub fn list() -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    Netlink::open(NETLINK_ROUTE)?.dump(RTM_GETLINK, &[0; IFINFOMSG], |body| links.extend(link(body)))?;
    Ok(links)
}

/// One device, by its number.
pub(crate) fn get(netlink: &mut Netlink, index: u32) -> io::Result<Option<Link>> {
    let mut request = [0; IFINFOMSG];
    request[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut found = None;
    netlink.get(RTM_GETLINK, &request, |body| found = link(body))?;
    Ok(found)
}

fn link(body: &[u8]) -> Option<Link> {
    let (header, rest) = body.split_at_checked(IFINFOMSG)?;
    let nested = |outer: u16, inner: u16| value(value(rest, outer)?, inner);
    let index = number(&header[4..])?;
    let kind = nested(IFLA_LINKINFO, IFLA_INFO_KIND).map(text);
    let mode = nested(IFLA_LINKINFO, IFLA_INFO_DATA).and_then(|data| value(data, IFLA_MACVLAN_MODE)).and_then(number);
    Some(Link {
        index,
        name: text(value(rest, IFLA_IFNAME)?),
        is_loopback: number(&header[8..])? & IFF_LOOPBACK != 0,
        takes_over: kind.as_deref().is_some_and(|kind| MACVLANS.contains(&kind)) && mode == Some(MACVLAN_MODE_PASSTHRU),
        kind,
        below: value(rest, IFLA_LINK).and_then(number).filter(|below| *below != 0 && *below != index),
        below_is_elsewhere: value(rest, IFLA_LINK_NETNSID).is_some(),
    })
}
