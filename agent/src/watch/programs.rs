//! Programs on devices that see frames before netfilter's hooks do, or send frames past them: XDP, tcx, and filters of tc's clsact.

mod bpf;
mod contents;
mod filters;
mod tcx;
mod xdp;

use std::collections::BTreeSet;
use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use portcullis_schemas::ids;

use crate::netlink::{Netlink, number, text, value};
pub(crate) use filters::{block, filter};
pub(crate) use xdp::of_link;

/// include/uapi/linux/rtnetlink.h, if_link.h
const RTM_GETLINK: u16 = 18;
const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// Of a digest; nobody looks for a second one with these.
const ID_LENGTH: usize = 32;

/// One program, as the kernel told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// For people: what it is, and where.
    pub what: String,
    /// Where it is and all that it is made of: what is replaced in its place has another one.
    pub id: String,
    removal: Removal,
}

/// What takes it off.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Removal {
    Netlink(u16, Vec<u8>),
    Xdp(xdp::Attached),
    Tcx(tcx::Attached),
}

impl Program {
    fn new(what: String, identity: &[&[u8]], removal: Removal) -> Self {
        let mut bytes = Vec::new();
        for part in identity {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(*part);
        }
        let mut id = ids::sha256(&bytes);
        id.truncate(ID_LENGTH);
        Self { what, id, removal }
    }
}

/// What is attached.
#[derive(Debug)]
pub struct Listed {
    pub programs: Vec<Program>,
    /// Why tcx could not be asked for; all else was.
    pub unseen: Option<io::Error>,
}

/// All that are attached now, in the network namespace of the calling thread, each once.
pub fn list() -> io::Result<Listed> {
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let (mut listed, devices) = quiet_ones(&mut netlink)?;
    // Devices share blocks of filters.
    let mut seen = BTreeSet::new();
    let filters = filters::list(&mut netlink, &devices)?.into_iter().filter(|program| seen.insert(program.id.clone()));
    listed.programs.extend(filters);
    Ok(listed)
}

/// Those of which the kernel tells nobody when they come by a BPF link: XDP and tcx. Cheap, so that it can be asked often.
pub fn quiet() -> io::Result<Listed> {
    Ok(quiet_ones(&mut Netlink::open(NETLINK_ROUTE)?)?.0)
}

/// Takes a program off. What a BPF link holds goes only where this process may open links (CAP_SYS_ADMIN).
pub fn remove(program: &Program) -> io::Result<()> {
    match &program.removal {
        Removal::Netlink(kind, body) => Netlink::open(NETLINK_ROUTE)?.ask(*kind, body),
        Removal::Xdp(attached) => attached.detach(),
        Removal::Tcx(attached) => attached.detach(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    index: u32,
    name: String,
}

fn quiet_ones(netlink: &mut Netlink) -> io::Result<(Listed, Vec<Device>)> {
    let (mut programs, mut devices) = (Vec::new(), Vec::new());
    let mut request = vec![0; IFINFOMSG];
    crate::netlink::push(&mut request, IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    netlink.dump(RTM_GETLINK, &request, |body| {
        programs.extend(of_link(body));
        devices.extend(device(body));
    })?;
    let unseen = tcx::list(&devices).map(|found| programs.extend(found)).err();
    Ok((Listed { programs, unseen }, devices))
}

fn device(body: &[u8]) -> Option<Device> {
    let (header, rest) = body.split_at_checked(IFINFOMSG)?;
    Some(Device { index: number(&header[4..])?, name: text(value(rest, IFLA_IFNAME)?) })
}
