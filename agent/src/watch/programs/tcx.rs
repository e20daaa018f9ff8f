//! tcx (Linux 6.6 and later): a list of programs on each device's way in and one on its way out, asked by bpf(2) alone.

use std::io;

use super::bpf::{self, Query};
use super::{Device, Program, Removal};

/// include/uapi/linux/bpf.h
const HOOKS: [(u32, &str); 2] = [(46, "in"), (47, "out")];
/// The list may change between asking and taking off.
const TRIES: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    device: u32,
    hook: u32,
    program: u32,
    /// 0: no link holds it.
    link: u32,
}

pub(super) fn list(devices: &[Device]) -> io::Result<Vec<Program>> {
    let mut found = Vec::new();
    for device in devices {
        for (hook, way) in HOOKS {
            let programs = match bpf::query(device.index, hook) {
                Ok(query) => query.programs,
                Err(error) => match error.raw_os_error() {
                    // This kernel has no tcx, or no bpf(2).
                    Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => return Ok(found),
                    // The device has just gone.
                    Some(libc::ENODEV) => continue,
                    _ => return Err(error),
                },
            };
            found.extend(programs.into_iter().map(|(program, link)| {
                let what = format!("tcx program {program} on the way {way} of {}", device.name);
                let parts = [device.index, hook, program, link].map(u32::to_ne_bytes);
                let attached = Attached { device: device.index, hook, program, link };
                Program::new(what, &[b"tcx", parts.as_flattened()], Removal::Tcx(attached))
            }));
        }
    }
    Ok(found)
}

impl Attached {
    pub(super) fn detach(&self) -> io::Result<()> {
        if self.link != 0 {
            return bpf::detach_link(self.link);
        }
        let mut last = Ok(());
        for _ in 0..TRIES {
            let Query { revision, programs } = bpf::query(self.device, self.hook)?;
            let place = programs.iter().position(|found| *found == (self.program, 0));
            let Some(place) = place else { return Err(io::Error::from_raw_os_error(libc::ENOENT)) };
            let before = place.checked_sub(1).and_then(|before| programs.get(before));
            last = bpf::detach(self.device, self.hook, before.copied(), revision);
            if last.as_ref().err().and_then(io::Error::raw_os_error) != Some(libc::ESTALE) {
                break;
            }
        }
        last
    }
}
