//! The addresses of this host, over rtnetlink.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{Netlink, attributes, number};

/// include/uapi/linux/rtnetlink.h, if_addr.h
const RTM_GETADDR: u16 = 22;
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

pub(crate) fn list() -> io::Result<HashSet<IpAddr>> {
    Ok(with_devices()?.into_iter().map(|(address, _)| address).collect())
}

/// Each address with the number of its device.
pub(crate) fn with_devices() -> io::Result<Vec<(IpAddr, u32)>> {
    let mut found = Vec::new();
    Netlink::open(NETLINK_ROUTE)?.dump(RTM_GETADDR, &[0; IFADDRMSG], |body| {
        let Some((header, rest)) = body.split_at_checked(IFADDRMSG) else { return };
        let attributes: Vec<_> = attributes(rest).collect();
        // On a point-to-point link IFA_ADDRESS is the other side.
        let of = |wanted| attributes.iter().find(|(kind, _, _)| *kind == wanted).and_then(|(_, value, _)| ip(value));
        found.extend(of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS)).zip(number(&header[4..])));
    })?;
    Ok(found)
}

pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        16 => bytes.first_chunk::<16>().map(|b| IpAddr::from(*b)),
        _ => None,
    }
}
