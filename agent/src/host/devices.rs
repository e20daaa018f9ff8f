//! The network devices of this host, over rtnetlink. Not from sysfs, which shows the namespace that mounted it.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use portcullis_agent_core::gate::Device;

use crate::netlink::{Netlink, attributes};

/// include/uapi/linux/rtnetlink.h, if_link.h, if.h
const RTM_GETLINK: u16 = 18;
const IFINFOMSG: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const ARPHRD_ETHER: u16 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;

/// All but loopback, up or not, in the namespace of the calling thread.
pub fn list() -> io::Result<Vec<Device>> {
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let mut devices = Vec::new();
    netlink.dump(RTM_GETLINK, &[0; IFINFOMSG], |body| devices.extend(device(body)))?;
    devices.sort_unstable();
    Ok(devices)
}

/// The device that a link message is about; None for loopback.
pub(crate) fn device(body: &[u8]) -> Option<Device> {
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let flags = u32::from_ne_bytes(body.get(8..12)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?);
    let value = |wanted: u16| attributes(body.get(IFINFOMSG..)?).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
    let name = value(IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    let address = value(IFLA_ADDRESS).filter(|_| kind == ARPHRD_ETHER).and_then(|address| address.try_into().ok());
    (flags & IFF_LOOPBACK == 0).then_some(Device { index, name, address })
}
