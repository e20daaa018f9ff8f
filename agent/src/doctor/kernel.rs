//! Kernel, nft, the level that both allow, and the lock.

use nftables::types::NfHook;
use portcullis_agent_core::gate::Netdev;
use portcullis_agent_core::ruleset;
use portcullis_schemas::events::Level;

use super::{Config, Finding};
use crate::firewall::enforce::chain;
use crate::firewall::{Firewall, Kernel, Layers, Nft};
use portcullis_agent_core::level::leaks;

/// What needs newer kernels than a host may have; the mainline versions in which they came.
const RANGES: (u32, u32) = (5, 6);
const EGRESS: (u32, u32) = (5, 16);
const LOCK: (u32, u32) = (6, 9);

#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// As `6.1.0-18-amd64`.
    pub release: String,
    pub nft: Option<String>,
    /// Why nf_tables does not answer.
    pub unavailable: Option<String>,
    pub ingress: bool,
    pub egress: bool,
    /// Why the kernel does not take our rules.
    pub refused: Option<String>,
    pub may_lock: bool,
    pub locks: bool,
    pub most: Level,
    pub level: Level,
    /// A table of ours stands.
    pub stands: bool,
}

pub(super) fn look(config: &Config) -> Seen {
    let mut seen = Seen {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        nft: Nft::find().and_then(|nft| nft.version()).ok(),
        unavailable: None,
        ingress: false,
        egress: false,
        refused: None,
        may_lock: config.locks,
        locks: false,
        most: config.level,
        level: Level::None,
        stands: false,
    };
    let asked = Kernel::open().and_then(|kernel| {
        seen.stands = kernel.stands()?;
        kernel.check(&ruleset::lock_probe())?;
        Ok(kernel)
    });
    let kernel = match asked {
        Ok(kernel) => kernel,
        Err(error) => return Seen { unavailable: Some(chain(&error)), ..seen },
    };
    let has = |hook| kernel.check(&ruleset::probe(hook)).is_ok();
    (seen.ingress, seen.egress) = (has(NfHook::Ingress), has(NfHook::Egress));
    seen.locks = config.locks && Kernel::locking().is_ok_and(|kernel| kernel.locks());
    seen.level = Layers::probe(&kernel, config.level).level();
    let netdev = seen.ingress.then(|| Netdev { egress: seen.egress, ..Netdev::default() });
    seen.refused = kernel.check(&ruleset::whole_probe(netdev, false)).err().map(|error| chain(&error));
    if seen.refused.is_some() {
        seen.level = Level::None;
    }
    seen
}

pub(super) fn judge(seen: &Seen) -> Vec<Finding> {
    vec![kernel(seen), nft(seen), level(seen), lock(seen)]
}

fn kernel(seen: &Seen) -> Finding {
    if let Some(error) = &seen.unavailable {
        return Finding::fail(
            "kernel",
            format!("{}: nf_tables does not answer: {error}", seen.release),
            "run as root; modprobe nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET); in a container, give it CAP_NET_ADMIN",
        );
    }
    if let Some(error) = &seen.refused {
        let remedy = if before(&seen.release, RANGES) {
            "sets of ranges of several fields need kernel 5.6: install a newer kernel"
        } else {
            "modprobe nft_ct nft_limit nft_reject_inet (CONFIG_NFT_CT, CONFIG_NFT_LIMIT, CONFIG_NFT_REJECT)"
        };
        return Finding::fail("kernel", format!("{}: it does not take the rules of an isolation: {error}", seen.release), remedy);
    }
    let hooks = [("inet", true), ("netdev ingress", seen.ingress), ("netdev egress", seen.egress)];
    let list =
        |wanted: bool| hooks.iter().filter(|(_, has)| *has == wanted).map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let lacks = if seen.ingress && seen.egress { String::new() } else { format!("; it lacks {}", list(false)) };
    Finding::ok("kernel", format!("{} takes all rules of an isolation, with {}{lacks}", seen.release, list(true)))
}

fn nft(seen: &Seen) -> Finding {
    match &seen.nft {
        Some(version) => Finding::ok("nft", format!("version {version} reads the rules back")),
        None => Finding::warn(
            "nft",
            "not installed: a host is isolated all the same, and nothing is read back",
            "install the package nftables",
        ),
    }
}

fn level(seen: &Seen) -> Finding {
    let says = match seen.level {
        Level::Full => return Finding::ok("level", "full: the inet table, and the devices both ways"),
        Level::Partial | Level::Inet => format!("{}: these leak: {}", seen.level.as_str(), leaks(seen.level).join("; ")),
        Level::None => "none: nothing can be enforced".to_owned(),
    };
    let remedy = if seen.unavailable.is_some() || seen.refused.is_some() {
        "see `kernel`"
    } else if seen.egress && seen.most < Level::Full {
        "the kernel has it all: leave out --level (PORTCULLIS_LEVEL)"
    } else if seen.egress {
        "this kernel was built without what tells the host's own packets from others': CONFIG_NETWORK_SECMARK, CONFIG_CGROUP_NET_CLASSID"
    } else if before(&seen.release, EGRESS) {
        "netdev egress needs kernel 5.16: install a newer kernel"
    } else {
        "this kernel was built without the hooks: CONFIG_NF_TABLES_NETDEV, CONFIG_NETFILTER_INGRESS, CONFIG_NETFILTER_EGRESS"
    };
    Finding::fail("level", says, remedy)
}

fn lock(seen: &Seen) -> Finding {
    if seen.locks {
        return Finding::ok("lock", "the kernel keeps others from changing our tables (owner, persist)");
    }
    let says = "our tables can be changed by root; a change is detected, reverted and reported";
    let remedy = match () {
        () if !seen.may_lock => "leave out --lock off (PORTCULLIS_LOCK)",
        () if before(&seen.release, LOCK) => "the lock needs kernel 6.9: install a newer kernel",
        () => "see `kernel`",
    };
    Finding::warn("lock", says, remedy)
}

/// Whether a kernel's own number is below a version. Distributions bring newer parts into older numbers: what is there is asked, not read from it.
fn before(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) < version
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    fn full() -> Seen {
        Seen {
            release: "6.12.1-generic".into(),
            nft: Some("1.1.3".into()),
            unavailable: None,
            ingress: true,
            egress: true,
            refused: None,
            may_lock: true,
            locks: true,
            most: Level::Full,
            level: Level::Full,
            stands: false,
        }
    }

    #[test]
    fn what_kernels_have_and_lack_is_judged_with_what_helps() {
        use Grade::{Fail, Ok, Warn};
        let old = || Seen { release: "5.10.0-28".into(), egress: false, locks: false, level: Level::Partial, ..full() };
        let table: [(Seen, [Grade; 4], &str); 10] = [
            (full(), [Ok; 4], ""),
            (Seen { release: "6.1.0".into(), locks: false, ..full() }, [Ok, Ok, Ok, Warn], "kernel 6.9"),
            (Seen { may_lock: false, locks: false, ..full() }, [Ok, Ok, Ok, Warn], "--lock"),
            (Seen { nft: None, ..full() }, [Ok, Warn, Ok, Ok], "package nftables"),
            (old(), [Ok, Ok, Fail, Warn], "kernel 5.16"),
            (Seen { release: "6.12.1".into(), ..old() }, [Ok, Ok, Fail, Warn], "CONFIG_NETFILTER_EGRESS"),
            (Seen { most: Level::Inet, level: Level::Inet, ..full() }, [Ok, Ok, Fail, Ok], "--level"),
            (Seen { level: Level::Partial, ..full() }, [Ok, Ok, Fail, Ok], "CONFIG_NETWORK_SECMARK"),
            (
                Seen { release: "5.4.0".into(), refused: Some("EINVAL".into()), level: Level::None, ..old() },
                [Fail, Ok, Fail, Warn],
                "kernel 5.6",
            ),
            (
                Seen { unavailable: Some("EPERM".into()), level: Level::None, locks: false, ..full() },
                [Fail, Ok, Fail, Warn],
                "modprobe nf_tables",
            ),
        ];
        for (seen, grades, remedy) in table {
            let findings = judge(&seen);
            assert_eq!(findings.iter().map(|finding| finding.grade).collect::<Vec<_>>(), grades, "{seen:?}");
            let remedies = findings.iter().filter_map(|finding| finding.remedy.as_deref()).collect::<Vec<_>>().join("\n");
            assert!(remedies.contains(remedy), "{remedies}");
            assert!(findings.iter().all(|finding| (finding.grade == Ok) == finding.remedy.is_none()), "{findings:?}");
        }
    }

    #[test]
    fn leaking_rows_are_named_below_full() {
        for (level, word) in [(Level::Partial, "macvlan"), (Level::Inet, "bridge")] {
            let finding = super::level(&Seen { level, ..full() });
            assert!([word, "packet sockets"].iter().all(|word| finding.says.contains(word)), "{finding:?}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, version, older) in [
            ("5.10.0-28-amd64", (5, 16), true),
            ("5.16", (5, 16), false),
            ("6.2.0", (5, 16), false),
            ("4.18.0-553.el8_10", (5, 6), true),
            ("10.0-rc1", (6, 9), false),
            ("", (5, 6), true),
        ] {
            assert_eq!(before(release, version), older, "{release}");
        }
    }
}
