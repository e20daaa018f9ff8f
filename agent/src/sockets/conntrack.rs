//! Conntrack entries, over ctnetlink.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use portcullis_agent_core::gate::Gate;
use portcullis_agent_core::sever::{self, Flow};

use super::addresses::ip;
use super::{SeverError, Severed};
use crate::netlink::{Netlink, attributes, push_padded};

/// include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
const NETLINK_NETFILTER: isize = 12;
const NFNL_SUBSYS_CTNETLINK: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const IPCTNL_MSG_CT_GET_STATS: u16 = 5;
const NFGENMSG: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_SRC: [u16; 2] = [1, 3];
const CTA_IP_DST: [u16; 2] = [2, 4];
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const ENOENT: i32 = 2;

pub(super) fn flush(gate: &Gate, local: &HashSet<IpAddr>, severed: &mut Severed) {
    let (mut netlink, flows, keys) = match list() {
        Ok(all) => all,
        Err(error) => return severed.errors.push(SeverError::ListFlows(error)),
    };
    let doomed = sever::flush(&flows, gate, local);
    let bodies: Vec<&[u8]> = doomed.iter().map(|index| keys[*index].as_slice()).collect();
    let asked = netlink.ask_all(NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_DELETE, &bodies, |number, outcome| match outcome {
        Ok(()) => severed.flows_flushed += 1,
        Err(error) if error.raw_os_error() == Some(ENOENT) => {}
        Err(error) => severed.errors.push(SeverError::DeleteFlow(flows[doomed[number]].clone(), error)),
    });
    if let Err(error) = asked {
        severed.errors.push(SeverError::DeleteFlows(error));
    }
}

/// Whether conntrack answers over netlink.
pub(crate) fn answers() -> io::Result<()> {
    Netlink::open(NETLINK_NETFILTER)?.get(NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_GET_STATS, &[0; NFGENMSG], |_| {})
}

/// Flows, and for each the body of the message that names it: its family and the kernel's own attributes, unchanged, with the
/// id, so that an entry that took its place is not deleted instead.
fn list() -> io::Result<(Netlink, Vec<Flow>, Vec<Vec<u8>>)> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let (mut flows, mut keys) = (Vec::new(), Vec::new());
    // Family 0 lists both.
    netlink.dump(NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_GET, &[0; NFGENMSG], |body| {
        if let Some((flow, key)) = entry(body) {
            flows.push(flow);
            keys.push(key);
        }
    })?;
    Ok((netlink, flows, keys))
}

fn entry(body: &[u8]) -> Option<(Flow, Vec<u8>)> {
    let mut key = body.get(..NFGENMSG)?.to_vec();
    let mut flow = None;
    for (kind, value, whole) in attributes(body.get(NFGENMSG..)?) {
        if kind == CTA_TUPLE_ORIG {
            flow = tuple(value);
        }
        if [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE].contains(&kind) {
            push_padded(&mut key, whole);
        }
    }
    Some((flow?, key))
}

fn tuple(value: &[u8]) -> Option<Flow> {
    let nested = |wanted: u16| attributes(value).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
    let (ips, proto) = (nested(CTA_TUPLE_IP)?, nested(CTA_TUPLE_PROTO)?);
    let address = |kinds: [u16; 2]| attributes(ips).find(|(kind, _, _)| kinds.contains(kind)).and_then(|(_, value, _)| ip(value));
    let number = |wanted: u16| attributes(proto).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
    let port = |kind| number(kind).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_be_bytes(*bytes));
    Some(Flow {
        protocol: *number(CTA_PROTO_NUM)?.first()?,
        from: SocketAddr::new(address(CTA_IP_SRC)?, port(CTA_PROTO_SRC_PORT)),
        to: SocketAddr::new(address(CTA_IP_DST)?, port(CTA_PROTO_DST_PORT)),
    })
}
