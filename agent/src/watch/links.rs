//! rtnetlink's events: devices that come and go, and programs that see frames before netfilter's hooks do.

use super::{KernelChanges, add};
use crate::host::devices;
use crate::netlink::{attributes, messages};
use crate::watch::programs;

/// include/uapi/linux/rtnetlink.h, if_link.h
pub(super) const PROTOCOL: isize = 0;
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_TC: u32 = 4;
pub(super) const GROUPS: u32 = (1 << (RTNLGRP_LINK - 1)) | (1 << (RTNLGRP_TC - 1));
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_NEWACTION: u16 = 48;
const IFINFOMSG: usize = 16;
/// The device's index in the network namespace to which it goes (Linux 4.17 and later).
const IFLA_NEW_IFINDEX: u16 = 49;

pub(super) fn read(bytes: &[u8], found: &mut KernelChanges) {
    for (kind, body) in messages(bytes) {
        match kind {
            RTM_NEWLINK => {
                found.devices = true;
                found.links.extend(devices::device(body).map(|device| (device.index, Some(device))));
                programs::of_link(body).into_iter().for_each(|program| add(&mut found.programs, program));
            }
            RTM_DELLINK => {
                found.devices = true;
                let moves = body.get(IFINFOMSG..).is_some_and(|rest| attributes(rest).any(|(kind, ..)| kind == IFLA_NEW_IFINDEX));
                let index = body.get(4..8).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_ne_bytes(*bytes));
                if let Some(index) = index {
                    found.links.insert(index, None);
                    add(&mut found.left, (index, moves));
                }
            }
            RTM_NEWTFILTER => {
                found.attached = true;
                programs::filter(body).into_iter().for_each(|program| add(&mut found.programs, program));
            }
            RTM_NEWQDISC => programs::block(body).into_iter().for_each(|program| add(&mut found.programs, program)),
            // Filters share actions: one that is changed is changed in all of them.
            RTM_NEWACTION => found.attached = true,
            _ => {}
        }
    }
}
