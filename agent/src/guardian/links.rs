//! rtnetlink's events: devices that come and go, and programs that see frames before netfilter's hooks do.

use super::Disturbance;
use crate::netlink::{attributes, messages};

/// include/uapi/linux/rtnetlink.h, if_link.h, pkt_sched.h
pub(super) const PROTOCOL: isize = 0;
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_TC: u32 = 4;
pub(super) const GROUPS: u32 = (1 << (RTNLGRP_LINK - 1)) | (1 << (RTNLGRP_TC - 1));
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWTFILTER: u16 = 44;
const IFINFOMSG: usize = 16;
const TCMSG: usize = 20;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const TCA_KIND: u16 = 1;

pub(super) fn read(bytes: &[u8], found: &mut Disturbance) {
    for (kind, body) in messages(bytes) {
        match kind {
            RTM_NEWLINK | RTM_DELLINK => {
                found.devices = true;
                if kind == RTM_NEWLINK
                    && let Some(name) = xdp(body)
                {
                    found.attach(format!("XDP program on {name}"));
                }
            }
            // A filter on the way in may send a frame out again past the egress hook (skb->nf_skip_egress).
            RTM_NEWTFILTER => {
                let index = body.get(4..8).and_then(<[u8]>::first_chunk).map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                let kind = body.get(TCMSG..).and_then(|rest| attributes(rest).find(|(kind, _, _)| *kind == TCA_KIND));
                let kind = kind.map(|(_, value, _)| text(value)).unwrap_or_default();
                found.attach(format!("tc filter {kind} on the device with index {index}"));
            }
            _ => {}
        }
    }
}

/// The device's name, if an XDP program is attached to it.
fn xdp(body: &[u8]) -> Option<String> {
    let value = |wanted: u16| attributes(body.get(IFINFOMSG..)?).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
    let attached = attributes(value(IFLA_XDP)?).find(|(kind, _, _)| *kind == IFLA_XDP_ATTACHED)?.1;
    (*attached.first()? != 0).then(|| value(IFLA_IFNAME).map(text).unwrap_or_default())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}
