//! Looks where the agent's connection to its broker ends: on another machine, or on this host.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use portcullis_agent_core::relay::{self, End};

use crate::sockets::{Sockets, addresses};

/// None where it ends elsewhere, or there is none.
pub fn look() -> io::Result<Option<End>> {
    let own = sockets_of(Path::new("/proc/self"))?;
    end(&own)
}

/// The same for a connection by the inodes of its sockets.
pub fn end(own: &HashSet<u32>) -> io::Result<Option<End>> {
    let sockets = Sockets::list()?;
    Ok(relay::end(sockets.as_slice(), own, &addresses::list()?, kin))
}

/// The sockets of all processes that hold this one. None where no process that may be looked at does.
fn kin(inode: u32) -> Option<HashSet<u32>> {
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let of = processes.filter_map(|process| sockets_of(&process).ok());
    let found: HashSet<u32> = of.filter(|sockets| sockets.contains(&inode)).flatten().collect();
    (!found.is_empty()).then_some(found)
}

/// The inodes of a process's sockets, as its descriptors name them: `socket:[12345]` (proc(5)).
fn sockets_of(process: &Path) -> io::Result<HashSet<u32>> {
    let inode = |link: &Path| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    let links = fs::read_dir(process.join("fd"))?.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(links.filter_map(|link| inode(&link)).collect())
}
