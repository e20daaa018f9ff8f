//! XDP: at most one program in each of three modes of a device, told with the device.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::{Program, Removal, bpf, device};
use crate::netlink::{Netlink, number, push, value};

/// include/uapi/linux/if_link.h, rtnetlink.h
const RTM_SETLINK: u16 = 19;
const IFINFOMSG: usize = 16;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Where the id of each mode's program is told, with the mode's flag.
const MODES: [(u16, &str, u32); 3] = [(6, "generic", 1 << 1), (5, "driver", 1 << 2), (7, "hardware", 1 << 3)];
const NLA_F_NESTED: u16 = 1 << 15;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    device: u32,
    flags: u32,
    program: u32,
}

/// Those of a link message.
pub(crate) fn of_link(body: &[u8]) -> Vec<Program> {
    let (Some(device), Some(xdp)) = (device(body), body.get(IFINFOMSG..).and_then(|rest| value(rest, IFLA_XDP))) else {
        return Vec::new();
    };
    let of = |kind| value(xdp, kind).and_then(number).filter(|id| *id != 0);
    let mut found: Vec<_> = MODES.iter().filter_map(|(kind, mode, flags)| Some((of(*kind)?, *mode, *flags))).collect();
    // Older kernels tell of one mode alone, by its number: driver, generic, hardware.
    if let (Some(id), true, Some(mode)) = (of(IFLA_XDP_PROG_ID), found.is_empty(), value(xdp, IFLA_XDP_ATTACHED)) {
        let (_, mode, flags) = [MODES[1], MODES[0], MODES[2]][usize::from(mode.first().map_or(0, |mode| mode.clamp(&1, &3) - 1))];
        found.push((id, mode, flags));
    }
    let program = |(id, mode, flags): (u32, &str, u32)| {
        let what = format!("XDP program {id} ({mode}) on {}", device.name);
        let attached = Attached { device: device.index, flags, program: id };
        Program::new(
            what,
            &[b"xdp", &device.index.to_ne_bytes(), &flags.to_ne_bytes(), &id.to_ne_bytes()],
            Removal::Xdp(attached),
        )
    };
    found.into_iter().map(program).collect()
}

impl Attached {
    pub(super) fn detach(&self) -> io::Result<()> {
        let mut nested = Vec::new();
        push(&mut nested, IFLA_XDP_FD, &(-1i32).to_ne_bytes());
        push(&mut nested, IFLA_XDP_FLAGS, &self.flags.to_ne_bytes());
        let mut request = vec![0; IFINFOMSG];
        request[4..8].copy_from_slice(&self.device.to_ne_bytes());
        push(&mut request, IFLA_XDP | NLA_F_NESTED, &nested);
        match Netlink::open(NETLINK_ROUTE)?.ask(RTM_SETLINK, &request) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => bpf::detach_link_of_xdp(self.device, self.program),
            done => done,
        }
    }
}
