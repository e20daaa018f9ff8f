//! Conntrack entries, over ctnetlink.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::{fmt, fs, io};

use portcullis_agent_core::gate::Gate;
use portcullis_agent_core::sever::{self, Flow};

use super::addresses::ip;
use super::{SeverError, Severed};
use crate::netlink::{Netlink, attributes, push_padded, value};

/// include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
const NETLINK_NETFILTER: isize = 12;
const NFNL_SUBSYS_CTNETLINK: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const IPCTNL_MSG_CT_GET_STATS: u16 = 5;
const NFGENMSG: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_STATUS: u16 = 3;
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

/// A conntrack table that was nearly full, and what was done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowded {
    pub entries: u64,
    pub most: u64,
    /// Entries that were taken out, all of them of what the host says to itself.
    pub removed: u64,
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, most, removed } = self;
        write!(f, "the conntrack table was full ({entries} of {most} entries), so new connections could not be made: ")?;
        match removed {
            0 => f.write_str("none of them are of loopback, and all are kept"),
            _ => write!(f, "{removed} entries of loopback were removed"),
        }
    }
}

/// Whether there is hardly room for new entries in this network namespace. Not where conntrack is not there or has no bound.
pub fn is_crowded() -> bool {
    numbers().is_some_and(|(entries, most)| entries > most - most / 16)
}

fn numbers() -> Option<(u64, u64)> {
    let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
    let most: u64 = number("/proc/sys/net/netfilter/nf_conntrack_max")?;
    (most > 0).then_some((number("/proc/sys/net/netfilter/nf_conntrack_count")?, most))
}

/// Deletes entries of what the host says to itself, a quarter of the table at most. Those whose addresses NAT has changed stay: without its entry such a
/// connection would end.
pub(super) fn make_room(local: &HashSet<IpAddr>) -> Result<Crowded, SeverError> {
    let (entries, most) = numbers().unwrap_or_default();
    let mut netlink = Netlink::open(NETLINK_NETFILTER).map_err(SeverError::ListFlows)?;
    let mut keys = Vec::new();
    let listed = netlink.dump(NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_GET, &[0; NFGENMSG], |body| {
        if keys.len() as u64 * 4 >= most || is_translated(body) {
            return;
        }
        keys.extend(entry(body).filter(|(flow, _)| sever::is_with_itself(flow, local)).map(|(_, key)| key));
    });
    listed.map_err(SeverError::ListFlows)?;
    let mut removed = 0;
    netlink
        .ask_all(NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_DELETE, &keys, |_, outcome| removed += u64::from(outcome.is_ok()))
        .map_err(SeverError::DeleteFlows)?;
    Ok(Crowded { entries, most, removed })
}

/// IPS_SRC_NAT or IPS_DST_NAT (nf_conntrack_common.h). An entry without a status is taken for one.
fn is_translated(body: &[u8]) -> bool {
    let status = body.get(NFGENMSG..).and_then(|rest| value(rest, CTA_STATUS)).and_then(<[u8]>::first_chunk);
    status.is_none_or(|status| u32::from_be_bytes(*status) & 0x30 != 0)
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
