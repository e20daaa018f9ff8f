//! Other network namespaces of this machine, and whether one of them has a way out that does not lead through this one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use netlink_sys::protocols::NETLINK_ROUTE;
use portcullis_schemas::events::Level;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Finding, mounts};
use crate::host::links::{self, Link};
use crate::netlink::{Netlink, number, push, value};

const CHECK: &str = "namespaces";
/// include/uapi/linux/rtnetlink.h, net_namespace.h
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RTGENMSG: usize = 4;
/// Where `ip netns` and container engines keep namespaces that no process is in.
const NAMED: [&str; 3] = ["/run/netns", "/run/docker/netns", "/var/run/netns"];
/// Findings say of so many what they have; of the rest, how many they are.
const SHOWN: usize = 6;
/// Their other end, or what carries them, is judged in its own namespace.
const PAIRS: [&str; 2] = ["veth", "netkit"];

/// A network namespace other than this one.
#[derive(Debug)]
struct Other {
    /// A path, or a process in it.
    name: String,
    links: io::Result<Vec<Link>>,
}

pub(super) fn look(level: Level) -> Vec<Finding> {
    let seen = id(Path::new("/proc/self/ns/net")).and_then(|own| Ok((others(&own)?, first().is_some_and(|first| first != own))));
    match seen {
        Ok(((others, unseen), is_inside)) => {
            judge(&others, unseen, level).into_iter().chain(is_inside.then(inside_a_machine)).collect()
        }
        Err(error) => vec![Finding::unseen(CHECK, error)],
    }
}

/// The machine's own, which kernel threads are in; None where this process does not see them.
fn first() -> Option<String> {
    /// include/linux/sched.h
    const PF_KTHREAD: u32 = 0x0020_0000;
    const KTHREADD: &str = "/proc/2";
    let stat = fs::read_to_string(Path::new(KTHREADD).join("stat")).ok()?;
    // The ninth field; a name in brackets is the second (proc_pid_stat(5)).
    let flags: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(6)?.parse().ok()?;
    (flags & PF_KTHREAD != 0).then(|| id(&Path::new(KTHREADD).join("ns/net")).ok()).flatten()
}

/// As the hosts of a lab, and containers.
fn inside_a_machine() -> Finding {
    Finding::warn(
        CHECK,
        "this host is a namespace within a machine: the machine's own network cards are not this host's, and are not held here",
        "right for a lab and for a container that is a host by itself; to isolate the machine, run the agent in the machine's own network namespace",
    )
}

/// All that can be found but the machine's own, and how many more the kernel knows from here, which only descriptors keep alive.
fn others(own: &str) -> io::Result<(Vec<Other>, usize)> {
    let mut found: BTreeMap<String, (String, PathBuf)> = BTreeMap::new();
    let processes = fs::read_dir("/proc")?.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    for process in processes {
        let path = process.path().join("ns/net");
        // A process that has ended meanwhile is in none.
        let Ok(id) = id(&path) else { continue };
        let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let name = format!("of process {} ({})", process.file_name().to_string_lossy(), comm.trim());
        found.entry(id).or_insert((name, path));
    }
    let named =
        NAMED.iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten()).map(|entry| entry.path());
    let mounted = mounts::list().into_iter().filter(|mount| mount.kind == "nsfs" && mount.root.starts_with("net:"));
    for path in named.chain(mounted.map(|mount| mount.at)) {
        // What lies under another mount cannot be reached, and is not what its path says.
        let Ok(id) = rustix::fs::stat(&path).map(|found| format!("net:[{}]", found.st_ino)) else { continue };
        if mounts::is_namespace(&path) {
            found.insert(id, (path.display().to_string(), path));
        }
    }
    found.remove(own);
    let mut known = BTreeSet::new();
    if let Some((_, (_, path))) = first().and_then(|first| found.remove_entry(&first)) {
        known.extend(File::open(path).and_then(|machine| nsid(&machine))?);
    }
    let mut others = Vec::new();
    for (name, path) in found.into_values() {
        let links = File::open(&path).and_then(|namespace| {
            known.extend(nsid(&namespace)?);
            inside(&namespace, links::list)?
        });
        // Gone between finding and looking.
        if !matches!(&links, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            others.push(Other { name, links });
        }
    }
    let unseen = nsids()?.difference(&known).count();
    Ok((others, unseen))
}

fn id(path: &Path) -> io::Result<String> {
    fs::read_link(path).map(|target| target.to_string_lossy().into_owned())
}

/// On a thread that ends there.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The number by which this namespace knows another one.
fn nsid(namespace: &File) -> io::Result<Option<u32>> {
    let mut request = vec![0; RTGENMSG];
    push(&mut request, NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
    let mut found = None;
    Netlink::open(NETLINK_ROUTE)?.get(RTM_GETNSID, &request, |body| found = number_in(body))?;
    Ok(found)
}

/// The numbers of all that this namespace knows, as the ends of its devices.
fn nsids() -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    Netlink::open(NETLINK_ROUTE)?.dump(RTM_GETNSID, &[0; RTGENMSG], |body| found.extend(number_in(body)))?;
    Ok(found)
}

fn number_in(body: &[u8]) -> Option<u32> {
    // -1: none was ever needed.
    value(body.get(RTGENMSG..)?, NETNSA_NSID).and_then(number).filter(|number| *number != u32::MAX)
}

fn judge(others: &[Other], unseen: usize, level: Level) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of = |wanted: &dyn Fn(&Link) -> bool| {
        let names = |other: &Other| {
            let links = other.links.iter().flatten().filter(|link| !link.is_loopback && wanted(link));
            let names: Vec<_> = links.map(|link| link.name.as_str()).collect();
            (!names.is_empty()).then(|| format!("{} ({})", other.name, names.join(", ")))
        };
        others.iter().filter_map(names).collect::<Vec<_>>()
    };
    let uplinks = of(&|link| link.kind.is_none());
    if !uplinks.is_empty() {
        findings.push(Finding::fail(
            CHECK,
            format!("these have network cards of their own, which are not held here: {}", some(&uplinks)),
            "give the cards back to the host's namespace, or run an agent in each of these",
        ));
    }
    // A child's frames leave by the device under it, where the egress chain sees them.
    let children = of(&|link| {
        link.below_is_elsewhere
            && !link.takes_over
            && link.kind.as_deref().is_some_and(|kind| !PAIRS.contains(&kind) && !crate::host::routes::is_tunnel(kind))
    });
    if !children.is_empty() {
        let says = format!("these have children (macvlan, ipvlan, vlan) of devices elsewhere: {}", some(&children));
        findings.push(match level {
            Level::Full => Finding::ok(CHECK, format!("{says}; held at level full, by the device under them")),
            _ => Finding::fail(
                CHECK,
                format!("{says}; not held below level full"),
                "see `level`, or connect them by veth and bridge",
            ),
        });
    }
    let over = of(&|link| link.below_is_elsewhere && link.takes_over);
    if !over.is_empty() {
        findings.push(Finding::fail(
            CHECK,
            format!(
                "these have taken a card over (macvlan, mode passthru): what excluded peers send arrives there: {}",
                some(&over)
            ),
            "use mode bridge or private, or a card that this host does not use",
        ));
    }
    let denied: Vec<_> =
        others.iter().filter_map(|other| Some(format!("{}: {}", other.name, other.links.as_ref().err()?))).collect();
    if !denied.is_empty() {
        findings.push(Finding::unseen(CHECK, some(&denied)));
    }
    if unseen > 0 {
        findings.push(Finding::warn(
            CHECK,
            format!("{unseen} more are connected to this one, and have neither a name nor a process here"),
            "run the doctor as root on the host itself, outside any container",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("none of {} others has a way out of its own", others.len())));
    }
    findings
}

fn some(names: &[String]) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join("; ");
    if more > 0 { format!("{shown}; and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    fn other(kind: Option<&str>, below_is_elsewhere: bool) -> Other {
        let link = |name: &str, kind: Option<&str>| Link { name: name.into(), kind: kind.map(Into::into), ..Link::default() };
        let lo = Link { is_loopback: true, ..link("lo", None) };
        Other { name: "/run/netns/a".into(), links: Ok(vec![lo, Link { below_is_elsewhere, ..link("x0", kind) }]) }
    }

    #[test]
    fn a_way_out_of_its_own_is_told_from_one_that_leads_through_here() {
        use Grade::{Fail, Ok};
        for (kind, elsewhere, level, grade) in [
            (None, false, Level::Full, Fail),
            (Some("veth"), true, Level::Inet, Ok),
            (Some("macvlan"), true, Level::Full, Ok),
            (Some("macvlan"), true, Level::Partial, Fail),
            (Some("ipvlan"), true, Level::Inet, Fail),
            // Its lower device is in the same namespace, and is judged itself.
            (Some("macvlan"), false, Level::Inet, Ok),
            (Some("wireguard"), true, Level::Inet, Ok),
            (Some("bridge"), false, Level::Inet, Ok),
        ] {
            let findings = judge(&[other(kind, elsewhere)], 0, level);
            assert_eq!(findings.iter().map(|f| f.grade).collect::<Vec<_>>(), [grade], "{kind:?}: {findings:?}");
        }
    }

    #[test]
    fn a_child_that_took_a_card_over_fails_at_each_level() {
        let mut taken = other(Some("macvtap"), true);
        taken.links.as_mut().unwrap()[1].takes_over = true;
        for level in [Level::Full, Level::Inet] {
            let findings = judge(std::slice::from_ref(&taken), 0, level);
            assert!(findings[0].says.contains("passthru") && findings[0].grade == Grade::Fail, "{findings:?}");
        }
    }

    #[test]
    fn what_could_not_be_looked_into_is_said() {
        let denied = Other { name: "a".into(), links: Err(io::ErrorKind::PermissionDenied.into()) };
        assert_eq!(judge(&[denied], 0, Level::Full)[0].grade, Grade::Warn);
        assert!(judge(&[], 2, Level::Full)[0].says.starts_with("2 more"));
        let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        assert_eq!(some(&names), "0; 1; 2; 3; 4; 5; and 2 more");
    }
}
