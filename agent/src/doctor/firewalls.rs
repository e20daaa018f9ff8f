//! Other programs that write firewall rules on this host, and whether a reload of one takes ours away.

use std::fs;
use std::path::Path;

use super::Finding;

const CHECK: &str = "firewalls";
/// Programs (comm) that keep rules of their own.
const DAEMONS: [(&str, &str); 4] =
    [("firewalld", "firewalld"), ("dockerd", "docker"), ("kube-proxy", "kube-proxy"), ("cilium-agent", "cilium")];
/// What nftables.service loads: Debian, Red Hat.
const RULES: [&str; 2] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf"];
/// Where an enabled nftables.service is linked.
const ENABLED: [&str; 2] =
    ["/etc/systemd/system/sysinit.target.wants/nftables.service", "/etc/systemd/system/multi-user.target.wants/nftables.service"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// By their names; each changes its own rules only.
    pub active: Vec<&'static str>,
    /// A file of an enabled nftables.service that begins with `flush ruleset`.
    pub flushes: Option<&'static str>,
}

pub(super) fn look() -> Seen {
    let running = programs();
    let mut active: Vec<_> =
        DAEMONS.iter().filter(|(comm, _)| running.iter().any(|name| name == comm)).map(|(_, name)| *name).collect();
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if ufw(&text("/etc/ufw/ufw.conf")) {
        active.push("ufw");
    }
    let enabled = ENABLED.iter().any(|path| fs::symlink_metadata(path).is_ok());
    if enabled {
        active.push("nftables.service");
    }
    Seen { active, flushes: RULES.into_iter().find(|path| enabled && flushes(&text(path))) }
}

fn programs() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let comm = |path: &Path| fs::read_to_string(path.join("comm")).ok().map(|name| name.trim().to_owned());
    entries.filter_map(|entry| comm(&entry.path())).collect()
}

fn ufw(text: &str) -> bool {
    text.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes"))
}

fn flushes(text: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches(';') == "flush ruleset")
}

pub(super) fn judge(seen: &Seen, locked: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(path) = seen.flushes {
        let says = format!("{path} begins with `flush ruleset`, which takes every table away");
        findings.push(match locked {
            true => Finding::ok(CHECK, format!("{says} but ours, which are locked")),
            false => Finding::warn(
                CHECK,
                format!("{says}; a reload while isolated opens the host for some tens of milliseconds"),
                "write `destroy table` (or `add` and `delete table`) of its own tables there, or use kernel 6.9 for the lock",
            ),
        });
    }
    let says = match seen.active.as_slice() {
        [] => "no other firewall is active".to_owned(),
        active => format!("active: {}; a packet must pass them and us", active.join(", ")),
    };
    findings.push(Finding::ok(CHECK, says));
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn only_a_flush_that_the_kernel_does_not_stop_is_warned_of() {
        let flushing = Seen { active: vec!["nftables.service"], flushes: Some("/etc/nftables.conf") };
        let grades = |seen: &Seen, locked| judge(seen, locked).iter().map(|finding| finding.grade).collect::<Vec<_>>();
        assert_eq!(grades(&flushing, true), [Grade::Ok, Grade::Ok]);
        assert_eq!(grades(&flushing, false), [Grade::Warn, Grade::Ok]);
        assert_eq!(grades(&Seen { active: vec!["ufw", "docker"], flushes: None }, false), [Grade::Ok]);
    }

    #[test]
    fn configuration_is_read_as_its_owners_write_it() {
        assert!(ufw("# x\nENABLED=yes\n") && !ufw("ENABLED=no\n") && !ufw("#ENABLED=yes"));
        assert!(flushes("#!/usr/sbin/nft -f\n\nflush  ruleset;\ntable inet x {}\n"));
        assert!(!flushes("# flush ruleset\ntable inet x {}\n"));
    }
}
