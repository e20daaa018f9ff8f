//! DHCP servers of this host, from what clients leave on the disk. Files are told by what is in them: their names differ by client, distribution and version.
//!
//! | who | where | what |
//! | --- | --- | --- |
//! | dhclient | `/var/lib/dhcp/dhclient.eth0.leases` (Debian, Ubuntu), `/var/lib/dhclient/dhclient--eth0.lease`, `dhclient-UUID-eth0.lease` (RHEL, cloud images) | blocks `lease { ... }`, the last one of an interface counts |
//! | NetworkManager | `/var/lib/NetworkManager/dhclient-UUID-eth0.lease`, `internal-UUID-eth0.lease`; `/run/NetworkManager/devices/2` (1.36 and later) | as dhclient; lines `NAME=value` |
//! | systemd-networkd | `/run/systemd/netif/leases/2` | lines `NAME=value` |
//! | dhcpcd | `/var/lib/dhcpcd/eth0.lease`, `/var/lib/dhcpcd5/dhcpcd-eth0.lease` (older Debian), `/var/db/dhcpcd/` | the server's message as it came |
//! | wicked (SUSE) | `/var/lib/wicked/lease-eth0-dhcp-ipv4.xml` | XML |
//! | ipconfig (initramfs) | `/run/net-eth0.conf` | lines `NAME='value'` |
//! | udhcpc | nothing, but its script has `serverid` in its environment: read where that is kept as `/run/udhcpc/eth0` or `/var/lib/udhcpc/eth0` | lines `NAME=value` |
//!
//! A DHCPv6 client keeps no address of its server, and speaks to all of the link (ff02::1:2).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;

const DIRECTORIES: [&str; 12] = [
    "run/systemd/netif/leases",
    "run/NetworkManager/devices",
    "var/lib/NetworkManager",
    "var/lib/dhcp",
    "var/lib/dhcp3",
    "var/lib/dhclient",
    "var/lib/dhcpcd",
    "var/lib/dhcpcd5",
    "var/db/dhcpcd",
    "var/lib/wicked",
    "var/lib/udhcpc",
    "run/udhcpc",
];
/// A directory of much else: only `net-*.conf` is looked at.
const RUN: &str = "run";

/// More is no lease file.
const MOST_BYTES: u64 = 1 << 20;
/// The newest ones of a directory. Each connection of NetworkManager leaves a file behind.
const MOST_FILES: usize = 128;
/// Entries of a directory that are looked at at all.
const MOST_ENTRIES: usize = 4096;
/// A host has a few; each is an address to which frames may go.
const MOST_SERVERS: usize = 32;

/// The servers of the newest lease of each interface. `root` is `/`.
pub fn servers(root: &Path) -> Vec<IpAddr> {
    let mut newest: BTreeMap<String, (SystemTime, Ipv4Addr)> = BTreeMap::new();
    let directories = DIRECTORIES.iter().map(|directory| newest_files(&root.join(directory), |_| true));
    let of_initramfs = newest_files(&root.join(RUN), |name| name.starts_with("net-") && name.ends_with(".conf"));
    for (written, path) in directories.flatten().chain(of_initramfs) {
        let Some(bytes) = read(&path) else { continue };
        for (interface, server) in leases(&bytes) {
            let key = interface.unwrap_or_else(|| path.display().to_string());
            if newest.get(&key).is_none_or(|(at, _)| *at <= written) {
                newest.insert(key, (written, server));
            }
        }
    }
    let mut found: Vec<(SystemTime, IpAddr)> = newest.into_values().map(|(at, server)| (at, server.into())).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(MOST_SERVERS);
    let mut servers: Vec<IpAddr> = found.into_iter().map(|(_, server)| server).collect();
    servers.sort_unstable();
    servers.dedup();
    servers
}

fn newest_files(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MOST_ENTRIES);
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(&is_wanted));
    let mut files: Vec<_> = named
        .filter_map(|entry| {
            let found = fs::metadata(entry.path()).ok().filter(|found| found.is_file() && found.len() <= MOST_BYTES)?;
            Some((found.modified().ok()?, entry.path()))
        })
        .collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    files.truncate(MOST_FILES);
    files
}

/// What was a file may be a pipe by now: opening it waits for nobody.
fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The last lease of each interface that the file names; of a file that names none, its last.
fn leases(bytes: &[u8]) -> Vec<(Option<String>, Ipv4Addr)> {
    if let Some(server) = of_message(bytes) {
        return vec![(None, server)];
    }
    let text = String::from_utf8_lossy(bytes);
    let mut found: BTreeMap<Option<String>, Ipv4Addr> = BTreeMap::new();
    let (mut interface, mut server) = (None, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with("lease") && line.ends_with('{') || line.starts_with('}') {
            found.extend(server.take().map(|server| (interface.take(), server)));
            interface = None;
        } else if let Some(name) = line.strip_prefix("interface ") {
            interface = Some(plain(name).to_owned());
        } else {
            server = server_of(line).or(server);
        }
    }
    found.extend(server.map(|server| (interface, server)));
    found.into_iter().collect()
}

const TAGS: [&str; 2] = ["<server-id>", "<server-address>"];

/// In whichever of the texts.
fn server_of(line: &str) -> Option<Ipv4Addr> {
    const NAMES: [&str; 6] =
        ["SERVER_ADDRESS", "dhcp_server_identifier", "new_dhcp_server_identifier", "serverid", "SERVERID", "ROOTSERVER"];
    let value = if let Some(value) = line.strip_prefix("option dhcp-server-identifier ") {
        value
    } else if let Some((_, rest)) = TAGS.iter().find_map(|tag| line.split_once(tag)) {
        rest.split_once("</")?.0
    } else {
        let (name, value) = line.split_once('=')?;
        Some(value).filter(|_| NAMES.contains(&name.strip_prefix("export ").unwrap_or(name).trim()))?
    };
    plain(value).parse().ok().filter(is_a_server)
}

fn plain(value: &str) -> &str {
    value.trim().trim_end_matches(';').trim().trim_matches(['"', '\''])
}

/// From a server's message (RFC 2131), which dhcpcd keeps as it came.
fn of_message(bytes: &[u8]) -> Option<Ipv4Addr> {
    const REPLY: u8 = 2;
    const COOKIE: [u8; 4] = [99, 130, 83, 99];
    const PAD: u8 = 0;
    const END: u8 = 255;
    const SERVER_IDENTIFIER: u8 = 54;
    let mut options = bytes.get(236..).filter(|_| bytes.first() == Some(&REPLY))?.strip_prefix(&COOKIE)?;
    while let Some((&code, rest)) = options.split_first().filter(|(code, _)| **code != END) {
        if code == PAD {
            options = rest;
            continue;
        }
        let (&length, rest) = rest.split_first()?;
        let (value, after) = rest.split_at_checked(length.into())?;
        if code == SERVER_IDENTIFIER {
            return <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from).filter(is_a_server);
        }
        options = after;
    }
    None
}

fn is_a_server(address: &Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

#[cfg(test)]
mod tests;
