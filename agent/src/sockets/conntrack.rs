//! Conntrack entries, over ctnetlink.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::{fmt, fs, io};

use netlink_sys::protocols::NETLINK_NETFILTER;
use portcullis_agent_core::gate::Gate;
use portcullis_agent_core::sever::{self, Flow};

use super::addresses::ip;
use super::{SeverError, Severed};
use crate::netlink::{Netlink, attributes, push_padded, value};

/// include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
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
    let (mut netlink, flows, keys) = match list(local) {
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
pub struct TableFull {
    pub entries: u64,
    pub most: u64,
    /// Entries that were taken out, all of them of what the host says to itself.
    pub removed: u64,
}

impl fmt::Display for TableFull {
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
pub fn is_full() -> bool {
    numbers().is_some_and(|(entries, most)| entries > most - most / 16)
}

fn numbers() -> Option<(u64, u64)> {
    let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
    let most: u64 = number("/proc/sys/net/netfilter/nf_conntrack_max")?;
    (most > 0).then_some((number("/proc/sys/net/netfilter/nf_conntrack_count")?, most))
}

/// Deletes entries of what the host says to itself, an eighth of the table at most: the agent waits for this before it calls its broker. Those whose
/// addresses NAT has changed stay: without its entry such a connection would end.
pub(super) fn check_conntrack(local: &HashSet<IpAddr>) -> Result<TableFull, SeverError> {
    let (entries, most) = numbers().unwrap_or_default();
    let mut keys = Vec::new();
    let open = || Netlink::open(NETLINK_NETFILTER).map_err(SeverError::ListFlows);
    let listed = open()?.search(NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_GET, &[0; NFGENMSG], |body| {
        if !is_translated(body) {
            keys.extend(flow(body).filter(|flow| sever::is_with_itself(flow, local)).map(|_| key(body)));
        }
        if keys.len() as u64 * 8 < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    listed.map_err(SeverError::ListFlows)?;
    let mut removed = 0;
    open()?
        .ask_all(NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_DELETE, &keys, |_, outcome| removed += u64::from(outcome.is_ok()))
        .map_err(SeverError::DeleteFlows)?;
    Ok(TableFull { entries, most, removed })
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

/// Flows that are no loopback, and for each the body of the message that names it: its family and the kernel's own attributes, unchanged,
/// with the id, so that an entry that took its place is not deleted instead.
fn list(local: &HashSet<IpAddr>) -> io::Result<(Netlink, Vec<Flow>, Vec<Vec<u8>>)> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let (mut flows, mut keys) = (Vec::new(), Vec::new());
    // Family 0 lists both.
    netlink.dump(NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_GET, &[0; NFGENMSG], |body| {
        // Any program can fill the table with what the host says to itself, which is kept: it costs as little as it can.
        if let Some(flow) = flow(body).filter(|flow| !sever::is_with_itself(flow, local)) {
            flows.push(flow);
            keys.push(key(body));
        }
    })?;
    Ok((netlink, flows, keys))
}

fn flow(body: &[u8]) -> Option<Flow> {
    tuple(value(body.get(NFGENMSG..)?, CTA_TUPLE_ORIG)?)
}

fn key(body: &[u8]) -> Vec<u8> {
    let (family, rest) = body.split_at_checked(NFGENMSG).unwrap_or((body, &[]));
    let mut key = family.to_vec();
    for (kind, _, whole) in attributes(rest) {
        if [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE].contains(&kind) {
            push_padded(&mut key, whole);
        }
    }
    key
}

fn tuple(tuple: &[u8]) -> Option<Flow> {
    let (mut from, mut to, mut protocol, mut ports) = (None, None, None, (0, 0));
    let port = |value: &[u8]| value.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    for (part, inner, _) in attributes(tuple) {
        for (kind, value, _) in attributes(inner) {
            match (part, kind) {
                (CTA_TUPLE_IP, kind) if CTA_IP_SRC.contains(&kind) => from = ip(value),
                (CTA_TUPLE_IP, kind) if CTA_IP_DST.contains(&kind) => to = ip(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => ports.0 = port(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => ports.1 = port(value),
                _ => {}
            }
        }
    }
    Some(Flow { protocol: protocol?, from: SocketAddr::new(from?, ports.0), to: SocketAddr::new(to?, ports.1) })
}
