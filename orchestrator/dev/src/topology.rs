//! Which namespaces a lab has, how they are joined, and how they go away.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use crate::error::{Result, Tried};
use crate::ip;
use crate::netns::{self, Netns, in_netns};

pub const HUB_V4: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
pub const HUB_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x213, 0, 0, 0, 0, 0, 1);
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 250);
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x213, 0, 0, 0, 0, 0, 0x250);
pub const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 53);
pub const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x213, 0, 0, 0, 0, 0, 0x53);
pub const BROKER_PORT: u16 = 4222;
pub const DNS_PORT: u16 = 53;
pub const ECHO_PORT: u16 = 7;
pub(crate) const MAX_HOSTS: usize = 200;

/// A host of the lab, and the container behind it.
#[derive(Debug, Clone, Serialize)]
pub struct VirtualHost {
    pub id: String,
    #[serde(serialize_with = "name_only")]
    pub netns: Netns,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    #[serde(serialize_with = "name_only")]
    pub container: Netns,
    pub container_ipv4: Ipv4Addr,
    pub container_ipv6: Ipv6Addr,
    pub state_dir: PathBuf,
    pub log: PathBuf,
    #[serde(skip)]
    pub(crate) number: u8,
}

impl VirtualHost {
    pub(crate) fn new(lab: &str, number: u8, dir: &Path) -> Self {
        // The resolver has .53.
        let last = number + if number + 10 < 53 { 10 } else { 11 };
        let id = format!("h{number}");
        let state_dir = dir.join(&id);
        Self {
            netns: netns_of(lab, &id),
            ipv4: Ipv4Addr::new(10, 213, 0, last),
            ipv6: Ipv6Addr::new(0xfd00, 0x213, 0, 0, 0, 0, 0, looks_like(last)),
            container: netns_of(lab, &format!("c{number}")),
            container_ipv4: Ipv4Addr::new(10, 214, number, 2),
            container_ipv6: Ipv6Addr::new(0xfd00, 0x214, looks_like(number), 0, 0, 0, 0, 2),
            log: state_dir.join("agent.log"),
            state_dir,
            id,
            number,
        }
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.state_dir.join("resolv.conf")
    }

    /// The host's address on the side of its container.
    fn gateway(&self) -> (Ipv4Addr, Ipv6Addr) {
        let group = looks_like(self.number);
        (Ipv4Addr::new(10, 214, self.number, 1), Ipv6Addr::new(0xfd00, 0x214, group, 0, 0, 0, 0, 1))
    }
}

/// The names of a lab's namespaces. When dropped, they and the processes in them go.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) hub: Netns,
    pub(crate) outside: Netns,
    pub(crate) hosts: Vec<VirtualHost>,
}

impl Topology {
    /// Takes away what an earlier lab of this name left, and makes the namespaces, links, addresses and routes.
    pub(crate) fn create(lab: &str, hosts: u8, dir: &Path) -> Result<Self> {
        remove_all(lab)?;
        let topology = Self {
            hub: netns_of(lab, "hub"),
            outside: netns_of(lab, "outside"),
            hosts: (1..=hosts).map(|number| VirtualHost::new(lab, number, dir)).collect(),
        };
        let mut add = String::new();
        for netns in topology.all() {
            let _ = writeln!(add, "netns add {}", netns.name());
        }
        ip::batch(None, &add)?;
        // Before there are links: these are the defaults that a link takes when it comes.
        for netns in topology.all() {
            in_netns(netns, set_sysctls).and_then(|set| set).tried(|| format!("set the sysctls of {}", netns.name()))?;
        }
        ip::batch(Some(topology.hub.name()), &topology.hub_links())?;
        for host in &topology.hosts {
            ip::batch(Some(host.netns.name()), &host_links(host))?;
            ip::batch(Some(host.container.name()), &container_links(host))?;
        }
        ip::batch(Some(topology.outside.name()), &topology.outside_links())?;
        ip::batch(Some(topology.hub.name()), &topology.container_routes("br0"))?;
        Ok(topology)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        let names: Vec<&str> = self.all().map(Netns::name).collect();
        remove_namespaces(&names)
    }

    fn all(&self) -> impl Iterator<Item = &Netns> {
        let hosts = self.hosts.iter().flat_map(|host| [&host.netns, &host.container]);
        [&self.hub, &self.outside].into_iter().chain(hosts)
    }

    // Multicast snooping without a querier would lose neighbour solicitations; without STP a port forwards at once.
    fn hub_links(&self) -> String {
        let mut lines = format!(
            "link set lo up\n\
             link add br0 address 02:70:63:00:00:01 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set br0 up\n\
             address add {HUB_V4}/24 dev br0\n\
             address add {HUB_V6}/64 dev br0 nodad\n"
        );
        let ports = self.hosts.iter().map(|host| (host.id.as_str(), &host.netns));
        for (port, netns) in ports.chain([("outside", &self.outside)]) {
            let _ = write!(
                lines,
                "link add {port} type veth peer name eth0 netns {}\n\
                 link set {port} master br0 up\n",
                netns.name()
            );
        }
        lines
    }

    fn outside_links(&self) -> String {
        let mut lines = format!(
            "link set lo up\n\
             link set eth0 up\n\
             address add {OUTSIDE_V4}/24 dev eth0\n\
             address add {RESOLVER_V4}/24 dev eth0\n\
             address add {OUTSIDE_V6}/64 dev eth0 nodad\n\
             address add {RESOLVER_V6}/64 dev eth0 nodad\n\
             route add default via {HUB_V4}\n\
             route add default via {HUB_V6}\n"
        );
        lines += &self.container_routes("eth0");
        lines
    }

    fn container_routes(&self, device: &str) -> String {
        let mut lines = String::new();
        for host in &self.hosts {
            let group = looks_like(host.number);
            let _ = write!(
                lines,
                "route add 10.214.{}.0/24 via {} dev {device}\n\
                 route add fd00:214:{group:x}::/64 via {} dev {device}\n",
                host.number, host.ipv4, host.ipv6
            );
        }
        lines
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(error = &error as &dyn std::error::Error, "namespaces left behind by the lab");
        }
    }
}

/// Removes every namespace that a lab of this name may have made, and kills what lives in them.
pub(crate) fn remove_all(lab: &str) -> Result<()> {
    let names = existing()?;
    let ours: Vec<&str> = names.iter().filter(|name| lab_of(name) == Some(lab)).map(String::as_str).collect();
    remove_namespaces(&ours)
}

/// The names of all labs that have a namespace.
pub(crate) fn labs() -> Result<HashSet<String>> {
    Ok(existing()?.iter().filter_map(|name| lab_of(name)).map(str::to_owned).collect())
}

fn host_links(host: &VirtualHost) -> String {
    let (gateway_v4, gateway_v6) = host.gateway();
    format!(
        "link set lo up\n\
         link set eth0 up\n\
         address add {}/24 dev eth0\n\
         address add {}/64 dev eth0 nodad\n\
         route add default via {HUB_V4}\n\
         route add default via {HUB_V6}\n\
         link add veth0 type veth peer name eth0 netns {}\n\
         link set veth0 up\n\
         address add {gateway_v4}/24 dev veth0\n\
         address add {gateway_v6}/64 dev veth0 nodad\n",
        host.ipv4,
        host.ipv6,
        host.container.name()
    )
}

fn container_links(host: &VirtualHost) -> String {
    let (gateway_v4, gateway_v6) = host.gateway();
    format!(
        "link set lo up\n\
         link set eth0 up\n\
         address add {}/24 dev eth0\n\
         address add {}/64 dev eth0 nodad\n\
         route add default via {gateway_v4}\n\
         route add default via {gateway_v6}\n",
        host.container_ipv4, host.container_ipv6
    )
}

/// Of a thread inside the namespace: /proc/sys/net shows the reader's own.
fn set_sysctls() -> io::Result<()> {
    for (key, value) in [
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/bindv6only", "0"),
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
    ] {
        let path = format!("/proc/sys/net/{key}");
        fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    }
    Ok(())
}

fn remove_namespaces(names: &[&str]) -> Result<()> {
    let names: Vec<&str> = names.iter().copied().filter(|name| Netns::new(*name).path().exists()).collect();
    if names.is_empty() {
        return Ok(());
    }
    kill_inhabitants(&names).tried(|| "look for processes in the lab's namespaces under /proc".to_owned())?;
    let mut lines = String::new();
    for name in names {
        let _ = writeln!(lines, "netns delete {name}");
    }
    ip::batch_all(&lines)
}

/// A process that stayed would keep its namespace, now without a name, for as long as it runs.
fn kill_inhabitants(names: &[&str]) -> io::Result<()> {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let doomed: HashSet<_> = names.iter().filter_map(|name| fs::metadata(Netns::new(*name).path()).ok()).map(identity).collect();
    let lives_there = |pid: i32| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|netns| doomed.contains(&identity(netns)));
    let own = std::process::id();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if !lives_there(pid) || u32::try_from(pid) == Ok(own) {
            continue;
        }
        let Some(known) = Pid::from_raw(pid) else { continue };
        // Held by a descriptor and looked at again, it cannot be another process that got the same pid.
        let Ok(process) = pidfd_open(known, PidfdFlags::empty()) else {
            continue;
        };
        if lives_there(pid) {
            tracing::debug!(pid, "process left in the lab: killing it");
            let _gone_already = pidfd_send_signal(process, Signal::KILL);
        }
    }
    Ok(())
}

fn existing() -> Result<Vec<String>> {
    let entries = match fs::read_dir(netns::DIRECTORY) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.tried(|| format!("list {}", netns::DIRECTORY))?,
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

fn netns_of(lab: &str, part: &str) -> Netns {
    Netns::new(format!("pclab-{lab}-{part}"))
}

/// The lab that a namespace belongs to. A part has no dash, so that lab `a` is never taken for lab `a-b`.
fn lab_of(netns: &str) -> Option<&str> {
    let (lab, part) = netns.strip_prefix("pclab-")?.rsplit_once('-')?;
    let numbered = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let known = part == "hub" || part == "outside" || part.strip_prefix(['h', 'c']).is_some_and(numbered);
    (known && !lab.is_empty()).then_some(lab)
}

/// The number whose hexadecimal digits look like `number`'s decimal ones, so that .11 and ::11 are the same host.
fn looks_like(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

fn name_only<S: serde::Serializer>(netns: &Netns, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(netns.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_look_alike_and_are_never_shared() {
        let hosts: Vec<_> = (1..=200).map(|number| VirtualHost::new("x", number, Path::new("/d"))).collect();
        assert_eq!(hosts[0].ipv4.to_string(), "10.213.0.11");
        assert_eq!(hosts[0].ipv6.to_string(), "fd00:213::11");
        assert_eq!(hosts[122].container_ipv6.to_string(), "fd00:214:123::2");
        let mut seen = HashSet::from([HUB_V4, OUTSIDE_V4, RESOLVER_V4]);
        assert!(hosts.iter().all(|host| seen.insert(host.ipv4)));
        let mut seen = HashSet::from([HUB_V6, OUTSIDE_V6, RESOLVER_V6]);
        assert!(hosts.iter().all(|host| seen.insert(host.ipv6)));
    }

    #[test]
    fn a_namespace_belongs_to_one_lab_only() {
        assert_eq!(lab_of("pclab-a-hub"), Some("a"));
        assert_eq!(lab_of("pclab-a-b-c12"), Some("a-b"));
        assert_eq!(lab_of("pclab-a-h1-outside"), Some("a-h1"));
        for foreign in ["pclab-a-h", "pclab-a-x1", "pclab-hub", "pclab--hub", "other", "pclab-a-h1x"] {
            assert_eq!(lab_of(foreign), None, "{foreign}");
        }
    }
}
