//! Programs on devices that see frames before netfilter's hooks do, and can answer or send them on: XDP, and filters of tc's clsact.

use std::io;

use crate::netlink::{Netlink, attributes, push_padded};

/// include/uapi/linux/rtnetlink.h, if_link.h, pkt_sched.h
const NETLINK_ROUTE: isize = 0;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const IFINFOMSG: usize = 16;
const TCMSG: usize = 20;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const TCA_KIND: u16 = 1;
/// TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS.
const CLSACT: [u32; 2] = [0xffff_fff2, 0xffff_fff3];

/// One program, as the kernel told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// For people: what it is, and where.
    pub what: String,
    /// The message that takes it off.
    removal: (u16, Vec<u8>),
}

/// All that are attached now, in the network namespace of the calling thread. What is attached by a BPF link to tcx is not told over netlink.
pub fn list() -> io::Result<Vec<Program>> {
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let (mut found, mut devices) = (Vec::new(), Vec::new());
    netlink.dump(RTM_GETLINK, &[0; IFINFOMSG], |body| {
        found.extend(Program::xdp(body));
        devices.extend(body.get(4..8).map(<[u8]>::to_vec));
    })?;
    for device in devices {
        for parent in CLSACT {
            let body = [&[0; 4][..], &device, &[0; 4], &parent.to_ne_bytes(), &[0; 4]].concat();
            match netlink.dump(RTM_GETTFILTER, &body, |body| found.extend(Program::filter(body))) {
                // The device has just gone, or this kernel has no tc.
                Err(error) if error.raw_os_error().is_some() => {}
                done => done?,
            }
        }
    }
    // Dumps of both parents give what stands on an old ingress qdisc twice.
    found.dedup();
    Ok(found)
}

/// Takes a program off, where rtnetlink can do that: what a BPF link holds stays.
pub fn remove(program: &Program) -> io::Result<()> {
    let (kind, body) = &program.removal;
    Netlink::open(NETLINK_ROUTE)?.ask(*kind, body)
}

impl Program {
    /// Of a link message; None where no XDP program is attached.
    pub(crate) fn xdp(body: &[u8]) -> Option<Self> {
        let (header, rest) = body.split_at_checked(IFINFOMSG)?;
        let value = |wanted: u16| attributes(rest).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
        let xdp = value(IFLA_XDP)?;
        let of_xdp = |wanted: u16| attributes(xdp).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value);
        // XDP_ATTACHED_DRV, _SKB, _HW; the flags of these modes are XDP_FLAGS_DRV_MODE, _SKB_MODE, _HW_MODE. With several of them at once, those
        // that netlink does not name here are found when the others are gone.
        let flags: u32 = match *of_xdp(IFLA_XDP_ATTACHED)?.first()? {
            0 => return None,
            1 => 1 << 2,
            2 => 1 << 1,
            3 => 1 << 3,
            _ => 0,
        };
        let id = of_xdp(IFLA_XDP_PROG_ID).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        let name = value(IFLA_IFNAME).map(text).unwrap_or_default();
        let mut nested = attribute(IFLA_XDP_FD, &(-1i32).to_ne_bytes());
        nested.extend(attribute(IFLA_XDP_FLAGS, &flags.to_ne_bytes()));
        let mut removal = vec![0; 4];
        removal.extend(&header[4..8]);
        removal.resize(IFINFOMSG, 0);
        removal.extend(attribute(IFLA_XDP | NLA_F_NESTED, &nested));
        Some(Self { what: format!("XDP program {id} on {name}"), removal: (RTM_SETLINK, removal) })
    }

    /// Of a filter message; None where it is only a part of one, as the table of u32.
    pub(crate) fn filter(body: &[u8]) -> Option<Self> {
        let (header, rest) = body.split_at_checked(TCMSG)?;
        let number = |at: usize| u32::from_ne_bytes(*header.get(at..at + 4).and_then(<[u8]>::first_chunk).unwrap_or(&[0; 4]));
        let kind = attributes(rest).find(|(kind, _, _)| *kind == TCA_KIND).map(|(_, value, _)| value)?;
        let (index, handle, priority) = (number(4), number(8), number(16) >> 16);
        let what = format!("tc filter {} (priority {priority}) on the device with index {index}", text(kind));
        // Handle 0 names all of that priority.
        let removal = [&header[..8], &[0; 4], &header[12..], &attribute(TCA_KIND, kind)].concat();
        (handle != 0).then_some(Self { what, removal: (RTM_DELTFILTER, removal) })
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    push_padded(&mut bytes, value);
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}
