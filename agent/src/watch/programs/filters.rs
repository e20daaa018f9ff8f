//! Filters of tc's clsact and ingress. Those of other queueing disciplines run behind netfilter's egress, and what they send on is judged again.

use std::io;

use super::{Device, Program, Removal, contents};
use crate::netlink::{Netlink, number, push, text, value};

/// include/uapi/linux/rtnetlink.h, pkt_sched.h
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCMSG: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_CHAIN: u16 = 11;
const BLOCKS: [(u16, &str); 2] = [(13, "in"), (14, "out")];
/// TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS.
const WAYS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
/// The old name of the first.
const INGRESS: u32 = 0xffff_0000;
/// TCM_IFINDEX_MAGIC_BLOCK: a filter of a block that devices share.
const SHARED: u32 = u32::MAX;
/// The lower part of a handle of u32: 0 is a table, which alone does nothing.
const U32_KEY: u32 = 0xf_ffff;

pub(super) fn list(netlink: &mut Netlink, devices: &[Device]) -> io::Result<Vec<Program>> {
    let (mut found, mut holders) = (Vec::new(), Vec::new());
    let listed = netlink.dump(RTM_GETQDISC, &[0; TCMSG], |body| {
        found.extend(block(body));
        holders.extend(holder(body));
    });
    if !has_answered(listed)? {
        return Ok(found);
    }
    for (device, ways) in holders {
        for way in ways {
            let body = [0, device, 0, *way, 0].map(u32::to_ne_bytes);
            let mut programs = Vec::new();
            has_answered(netlink.dump(RTM_GETTFILTER, body.as_flattened(), |body| programs.extend(filter(body))))?;
            found.extend(programs);
        }
    }
    for program in &mut found {
        name_device(program, devices);
    }
    Ok(found)
}

/// Of a filter message; None where it is only a part of one, as a table of u32.
///
/// u32 lists the filters of one priority of a device in each of its chains and ways. So one that comes to another of them makes the known ones
/// there appear as new, and they go with it: nothing tells a copy from the filter itself.
pub(crate) fn filter(body: &[u8]) -> Option<Program> {
    let (header, rest) = body.split_at_checked(TCMSG)?;
    let [index, handle, parent, info] = words(header);
    let (kind, chain) = (value(rest, TCA_KIND)?, value(rest, TCA_CHAIN));
    let name = text(kind);
    // Handle 0 names all of a priority.
    if handle == 0 || name == "u32" && handle & U32_KEY == 0 {
        return None;
    }
    let place = if index == SHARED { format!("the shared block {parent}") } else { format!("the device with index {index}") };
    let what = format!("tc filter {name} (priority {}, handle {handle:#x}) on {place}", info >> 16);
    let parent = if parent == INGRESS && index != SHARED { WAYS[0] } else { parent };
    let identity = [index, handle, parent, info].map(u32::to_ne_bytes);
    let contents = contents::of_filter(&name, rest);
    let mut removal = header.to_vec();
    push(&mut removal, TCA_KIND, kind);
    if let Some(chain) = chain {
        push(&mut removal, TCA_CHAIN, chain);
    }
    Some(Program::new(what, &[b"filter", identity.as_flattened(), &contents], Removal::Netlink(RTM_DELTFILTER, removal)))
}

/// Of a message about a queueing discipline: blocks by which a device shares the filters of others.
pub(crate) fn block(body: &[u8]) -> Vec<Program> {
    let Some((header, rest)) = body.split_at_checked(TCMSG) else { return Vec::new() };
    let [index, handle, parent, _] = words(header);
    let of = |(kind, way): (u16, &str)| {
        let block = value(rest, kind).and_then(number)?;
        let what = format!("shared tc block {block} on the way {way} of the device with index {index}");
        let identity = [index, handle, parent, u32::from(kind), block].map(u32::to_ne_bytes);
        let mut removal = header[..16].to_vec();
        removal.resize(TCMSG, 0);
        Some(Program::new(what, &[b"block", identity.as_flattened()], Removal::Netlink(RTM_DELQDISC, removal)))
    };
    BLOCKS.into_iter().filter_map(of).collect()
}

/// Device, and the ways on which filters may be.
fn holder(body: &[u8]) -> Option<(u32, &'static [u32])> {
    let (header, rest) = body.split_at_checked(TCMSG)?;
    let ways = match text(value(rest, TCA_KIND)?).as_str() {
        "clsact" => &WAYS[..],
        "ingress" => &WAYS[..1],
        _ => return None,
    };
    Some((words(header)[0], ways))
}

/// tcm_ifindex, tcm_handle, tcm_parent, tcm_info.
fn words(header: &[u8]) -> [u32; 4] {
    [4, 8, 12, 16].map(|at| header.get(at..).and_then(number).unwrap_or_default())
}

/// False where the device has just gone, or this kernel has no tc.
fn has_answered(asked: io::Result<()>) -> io::Result<bool> {
    match asked {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EINVAL | libc::ENOENT)) => {
            Ok(false)
        }
        asked => asked.map(|()| true),
    }
}

/// Messages of tc know devices by their index alone.
fn name_device(program: &mut Program, devices: &[Device]) {
    let Some((before, index)) = program.what.rsplit_once("the device with index ") else { return };
    let name = index.parse().ok().and_then(|index: u32| devices.iter().find(|device| device.index == index));
    if let Some(device) = name {
        program.what = format!("{before}{}", device.name);
    }
}
