//! nftables' own events: each transaction tells what it changed, then its number and whose it was.

use std::process;

use portcullis_agent_core::ruleset::TABLE;
use portcullis_schemas::events::Culprit;

use super::Disturbance;
use crate::netlink::{attributes, messages};

/// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
pub(super) const PROTOCOL: isize = 12;
const NFNLGRP_NFTABLES: u32 = 7;
pub(super) const GROUPS: u32 = 1 << (NFNLGRP_NFTABLES - 1);
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWGEN: u16 = 15;
const NFGENMSG: usize = 4;
/// The table's name is the first attribute of every kind of object.
const NFTA_TABLE: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
const NFPROTO_INET: u8 = 1;
const NFPROTO_NETDEV: u8 = 5;

/// What the transaction that is being told has touched.
#[derive(Default)]
pub(super) struct Transaction {
    ours: bool,
}

impl Transaction {
    pub(super) fn read(&mut self, bytes: &[u8], found: &mut Disturbance) {
        for (kind, body) in messages(bytes) {
            if kind >> 8 != NFNL_SUBSYS_NFTABLES {
                continue;
            }
            let Some((header, rest)) = body.split_at_checked(NFGENMSG) else { continue };
            let value = |wanted: u16| attributes(rest).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
            if kind & 0xff != NFT_MSG_NEWGEN {
                let family = header.first().is_some_and(|family| [NFPROTO_INET, NFPROTO_NETDEV].contains(family));
                self.ours |= family && value(NFTA_TABLE).map(text).as_deref() == Some(TABLE);
                continue;
            }
            if !std::mem::take(&mut self.ours) {
                continue;
            }
            let pid = value(NFTA_GEN_PROC_PID).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_be_bytes(*bytes));
            // In a container the kernel's number is another one: then reading back shows that nothing is wrong.
            if pid == Some(process::id()) {
                continue;
            }
            found.rules = true;
            if let Some(pid) = pid {
                found.blame(Culprit { pid, program: value(NFTA_GEN_PROC_NAME).map(text).unwrap_or_default() });
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}
