//! On which devices the chains of the netdev table stand: asked of the kernel, since nft's JSON says it only from version 1.0.7 on.

use std::collections::BTreeMap;
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use portcullis_agent_core::ruleset::{EVERY_DEVICE, TABLE};
use portcullis_agent_core::verify::Listing;

use super::{NFNL_SUBSYS_NFTABLES, NFPROTO_NETDEV};
use crate::netlink::{Netlink, attributes};

/// include/uapi/linux/netfilter/nf_tables.h
const GETCHAIN: u16 = 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;
const NFTA_DEVICE_PREFIX: u16 = 2;

/// Gives each netdev chain of a listing the devices that it stands on, as `dev`.
pub(super) fn complete(listing: &mut Listing) -> io::Result<()> {
    let devices = devices()?;
    for object in &mut listing.objects {
        if object.kind == "chain"
            && object.word("family") == "netdev"
            && let Some(devices) = devices.get(object.word("name"))
        {
            object.body.insert("dev".to_owned(), devices.as_slice().into());
        }
    }
    Ok(())
}

/// The devices of each base chain of our netdev table.
fn devices() -> io::Result<BTreeMap<String, Vec<String>>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned();
    let mut found = BTreeMap::new();
    let kind = NFNL_SUBSYS_NFTABLES << 8 | GETCHAIN;
    Netlink::open(NETLINK_NETFILTER)?.dump(kind, &[NFPROTO_NETDEV, 0, 0, 0], |body| {
        let value = |wanted: u16| attributes(body.get(4..)?).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
        let (Some(table), Some(name)) = (value(NFTA_CHAIN_TABLE).map(text), value(NFTA_CHAIN_NAME).map(text)) else { return };
        let Some(hook) = value(NFTA_CHAIN_HOOK).filter(|_| table == TABLE) else { return };
        let mut devices = Vec::new();
        for (kind, value, _) in attributes(hook) {
            match kind {
                // With one device it stands there and in the list.
                NFTA_HOOK_DEVS => devices = attributes(value).map(|(kind, name, _)| named(kind, text(name))).collect(),
                NFTA_HOOK_DEV if devices.is_empty() => devices.push(text(value)),
                _ => {}
            }
        }
        found.insert(name, devices);
    })?;
    Ok(found)
}

fn named(kind: u16, name: String) -> String {
    match kind {
        NFTA_DEVICE_PREFIX if name.is_empty() => EVERY_DEVICE.to_owned(),
        // No name of a device is so long.
        NFTA_DEVICE_PREFIX => format!("{EVERY_DEVICE} of {name}"),
        _ => name,
    }
}
