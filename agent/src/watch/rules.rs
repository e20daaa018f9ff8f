//! nftables' own events: each transaction tells what it changed, then its number and whose it was.

use portcullis_agent_core::ruleset::TABLE;
use portcullis_schemas::events::Culprit;

use super::{KernelChanges, add};
use crate::netlink::{attributes, message};

/// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
pub(super) const PROTOCOL: isize = 12;
/// NFNLGRP_NFTABLES
pub(super) const GROUP: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWGEN: u16 = 15;
const NFGENMSG: usize = 4;
/// The table's name is the first attribute of every kind of object.
const NFTA_TABLE: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_DORMANT: u32 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
const NFPROTO_INET: u8 = 1;
const NFPROTO_NETDEV: u8 = 5;

/// A transaction may have thousands; some of them show what it was about.
const MOST_DEEDS: usize = 32;

/// By message: what was done to what, and which attribute names it.
const DEEDS: [(u16, &str, &str, u16); 13] = [
    (NFT_MSG_DELTABLE, "the table", "deleted", NFTA_TABLE),
    (3, "chain", "added or changed", 3),
    (5, "chain", "deleted", 3),
    (6, "a rule of chain", "added or changed", 2),
    (8, "a rule of chain", "deleted", 2),
    (9, "set", "added or changed", 2),
    (11, "set", "deleted", 2),
    (12, "an element of set", "added", 2),
    (14, "an element of set", "deleted", 2),
    (18, "object", "added or changed", 2),
    (20, "object", "deleted", 2),
    (22, "flowtable", "added or changed", 2),
    (24, "flowtable", "deleted", 2),
];

/// What the transaction that is being told has done to tables of ours.
#[derive(Default)]
pub(super) struct Transaction {
    deeds: Vec<String>,
}

impl Transaction {
    /// `own` is the socket by which this agent changes rules: the kernel says in each message whose it answers, and nobody else has that number
    /// while the socket is open.
    pub(super) fn read(&mut self, mut bytes: &[u8], own: Option<u32>, found: &mut KernelChanges) {
        while let Some((kind, _, body, after)) = message(bytes) {
            let port = bytes.get(12..16).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_ne_bytes(*bytes));
            bytes = after;
            // 0 is the kernel itself, which takes away what hangs on a device that goes: that is told by the device.
            if kind >> 8 != NFNL_SUBSYS_NFTABLES || port == own || port == Some(0) {
                continue;
            }
            let Some((header, rest)) = body.split_at_checked(NFGENMSG) else { continue };
            match kind & 0xff {
                NFT_MSG_NEWGEN => self.end(rest, found),
                kind => self.object(kind, header, rest),
            }
        }
    }

    fn object(&mut self, kind: u16, header: &[u8], rest: &[u8]) {
        let value = |wanted: u16| attributes(rest).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
        let layer = match header.first() {
            Some(&NFPROTO_INET) => "inet",
            Some(&NFPROTO_NETDEV) => "netdev",
            _ => return,
        };
        if value(NFTA_TABLE).map(text).as_deref() != Some(TABLE) {
            return;
        }
        let flags = value(NFTA_TABLE_FLAGS).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let deed = match DEEDS.iter().find(|(number, ..)| *number == kind) {
            Some((NFT_MSG_DELTABLE, what, done, _)) => {
                // Its parts are told before it.
                let parts = format!(" of {layer} {TABLE} was ");
                self.deeds.retain(|deed| !deed.contains(&parts));
                format!("{what} {layer} {TABLE} was {done}")
            }
            Some((_, what, done, name)) => {
                let name = value(*name).map(text).unwrap_or_default();
                // A set without a name is part of a rule.
                if name.starts_with("__") {
                    return;
                }
                format!("{what} {name} of {layer} {TABLE} was {done}")
            }
            None if kind == NFT_MSG_NEWTABLE && flags & NFT_TABLE_F_DORMANT != 0 => {
                format!("the table {layer} {TABLE} was made dormant")
            }
            None => format!("the table {layer} {TABLE} was added or changed"),
        };
        if self.deeds.len() < MOST_DEEDS && !self.deeds.contains(&deed) {
            self.deeds.push(deed);
        }
    }

    fn end(&mut self, rest: &[u8], found: &mut KernelChanges) {
        let mut deeds = std::mem::take(&mut self.deeds);
        if deeds.is_empty() {
            return;
        }
        found.rules = true;
        // Tables, chains and sets first: there are many rules and elements.
        deeds.sort_by_key(|deed| deed.starts_with("a"));
        deeds.into_iter().for_each(|deed| add(&mut found.what, deed));
        let value = |wanted: u16| attributes(rest).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
        if let Some(pid) = value(NFTA_GEN_PROC_PID).and_then(<[u8]>::first_chunk) {
            let program = value(NFTA_GEN_PROC_NAME).map(text).unwrap_or_default();
            add(&mut found.by, Culprit { pid: u32::from_be_bytes(*pid), program });
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}
