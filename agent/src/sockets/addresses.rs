//! The addresses of this host, over rtnetlink.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::Parseable;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::Netlink;

/// include/uapi/linux/rtnetlink.h, if_addr.h
const RTM_GETADDR: u16 = 22;
const IFADDRMSG: usize = 8;

pub(crate) fn list() -> io::Result<HashSet<IpAddr>> {
    Ok(with_devices()?.into_iter().map(|(address, _)| address).collect())
}

/// Each address with the number of its device.
pub(crate) fn with_devices() -> io::Result<Vec<(IpAddr, u32)>> {
    let mut found = Vec::new();
    let mut unread = None;
    Netlink::open(NETLINK_ROUTE)?.dump(RTM_GETADDR, &[0; IFADDRMSG], |body| match AddressMessage::parse(body) {
        Ok(message) => found.extend(own(&message.attributes).map(|address| (address, message.header.index))),
        Err(error) => unread = Some(error),
    })?;
    match unread {
        Some(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        None => Ok(found),
    }
}

/// On a point-to-point link the attribute called the address is that of the other side, where there is a local one as well.
fn own(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = |attribute: &AddressAttribute| if let AddressAttribute::Local(ip) = attribute { Some(*ip) } else { None };
    let other = |attribute: &AddressAttribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None };
    attributes.iter().find_map(local).or_else(|| attributes.iter().find_map(other))
}

pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        16 => bytes.first_chunk::<16>().map(|b| IpAddr::from(*b)),
        _ => None,
    }
}
