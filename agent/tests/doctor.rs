//! The doctor on hosts that are made for it: network, processes and /run of their own, so that it sees nothing of this machine's others.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use chrono::Utc;
use portcullis_agent::disk::posture_file::{CopyName, PostureFile};
use portcullis_agent_core::deadline::{Mark, Now};
use portcullis_agent_core::record::{Record, Trace, VERSION};
use portcullis_schemas::events::Posture;
use serde_json::Value;
use tempfile::TempDir;

/// A wire with one end in a namespace `other`.
const OTHER: &str = "ip netns add other; ip link add eth0 type veth peer name up0 netns other; ip link set eth0 up; \
                     ip -n other link set up0 up; ip addr add 10.88.0.1/24 dev eth0; ip route add default via 10.88.0.2";

/// What was found.
struct Found {
    code: Option<i32>,
    /// By check: grade and text of each finding.
    findings: BTreeMap<String, Vec<(String, String)>>,
    whole: Value,
}

impl Found {
    /// Whether one of the findings of a check has this grade and holds this text.
    fn has(&self, check: &str, grade: &str, text: &str) -> bool {
        self.findings.get(check).is_some_and(|all| all.iter().any(|(found, says)| found == grade && says.contains(text)))
    }
}

#[test]
fn a_host_that_holds_everything_keeps_the_promise() {
    let found = doctor(OTHER, "", &[]);
    assert_eq!((found.code, &found.whole["keeps_promise_a"]), (Some(0), &true.into()), "{}", found.whole);
    for check in ["kernel", "level", "nft", "conntrack", "sock_diag", "firewalls", "tables", "namespaces", "xdp", "tc", "posture"]
    {
        assert!(found.has(check, "ok", ""), "{check}: {}", found.whole);
    }
    assert!(found.has("namespaces", "ok", "none of 1 others"), "{}", found.whole);
    assert!(found.has("agent", "warn", "is not running") && found.has("signatures", "warn", "not signed"), "{}", found.whole);
}

#[test]
fn a_level_below_full_breaks_the_promise_and_names_what_leaks() {
    for (level, word) in [("partial", "frames of packet sockets, outwards"), ("inet", "ports of a bridge, both ways")] {
        let found = doctor("", "", &["--level", level]);
        assert_eq!((found.code, &found.whole["level"]), (Some(1), &level.into()));
        assert!(found.has("level", "fail", word) && found.has("kernel", "ok", "netdev egress"), "{}", found.whole);
    }
    assert!(doctor("", "", &["--lock", "off"]).has("lock", "warn", "can be changed by root"));
}

#[test]
fn rules_that_exempt_packets_from_conntrack_are_named() {
    let setup = "nft 'add table inet dns; add chain inet dns pre { type filter hook prerouting priority raw; }; \
                 add rule inet dns pre udp dport 53 notrack'";
    let found = doctor(setup, "", &[]);
    assert!(found.has("tables", "warn", "exempt packets from conntrack (inet dns pre)"), "{}", found.whole);
}

#[test]
fn a_child_in_another_namespace_is_held_at_full_alone() {
    let setup = format!("{OTHER}; ip link add link eth0 name mv0 netns other type macvlan");
    let found = doctor(&setup, "", &[]);
    assert!(found.code == Some(0) && found.has("namespaces", "ok", "mv0"), "{}", found.whole);
    let found = doctor(&setup, "", &["--level", "inet"]);
    assert!(found.has("namespaces", "fail", "/run/netns/other (mv0)"), "{}", found.whole);
}

/// What `ip netns exec` makes of a host of a lab: /proc of the machine, and /sys of its own.
#[test]
fn a_host_of_a_lab_is_not_blamed_for_the_cards_of_its_machine_nor_for_a_hidden_cgroup_tree() {
    let own = "umount -R /sys; mount -t sysfs none /sys";
    let found = run(&["--net", "--mount"], tempfile::tempdir().unwrap().path(), own, "", &[]);
    if std::fs::metadata("/proc/2/exe").is_ok() {
        eprintln!("skipped: this machine shows no kernel threads");
        return;
    }
    assert!(
        found.has("namespaces", "warn", "a namespace within a machine") && !found.whole.to_string().contains("kthreadd"),
        "{}",
        found.whole
    );
    let mounts = std::fs::read_to_string("/proc/1/mountinfo").unwrap();
    let grade = if mounts.contains(" - cgroup2 ") { "ok" } else { "warn" };
    assert!(found.has("cgroup", grade, ""), "{}", found.whole);
}

#[test]
fn rules_of_others_are_named_and_those_that_drop_when_the_broker_does_not_answer() {
    let setup = "nft 'table inet strict { chain out { type filter hook output priority 0; policy drop; }; }'; \
                 nft 'table netdev shaper { chain in { type filter hook ingress device lo priority 0; }; }'";
    let found = doctor(setup, "", &["--nats", "nats://127.0.0.1:4222"]);
    assert!(found.has("tables", "warn", "inet strict out") && found.has("tables", "warn", "netdev shaper in"), "{}", found.whole);
    assert!(found.has("broker", "warn", "does not answer at 127.0.0.1:4222"), "{}", found.whole);
    assert_eq!(found.code, Some(0), "{}", found.whole);
}

#[test]
fn a_broker_that_answers_is_said() {
    let serve = "import os, socket\ns = socket.create_server(('127.0.0.1', 4222))\n\
                 if os.fork() == 0:\n c, _ = s.accept()\n c.sendall(b'INFO {}')\n c.recv(1)";
    let found = doctor(&format!("ip link set lo up; python3 -c \"{serve}\""), "", &["--nats", "nats://127.0.0.1:4222"]);
    assert!(found.has("broker", "ok", "answers"), "{}", found.whole);
}

#[test]
fn a_broker_behind_a_tunnel_breaks_the_promise_unless_there_is_another_way() {
    let setup = format!(
        "{OTHER}; ip tuntap add tun0 mode tun; ip link set tun0 up; ip addr add 10.89.0.1/24 dev tun0; \
         ip addr add fd89::1/64 dev tun0 nodad"
    );
    for broker in ["nats://10.89.0.9:4222", "nats://[fd89::9]:4222"] {
        let found = doctor(&setup, "", &["--nats", broker]);
        assert!(found.code == Some(1) && found.has("broker", "fail", "tun0 (tun)"), "{}", found.whole);
    }
    let found = doctor(&setup, "", &["--nats", "nats://10.89.0.9:4222,nats://10.88.0.2:4222"]);
    assert!(found.code == Some(0) && found.has("broker", "warn", "others are not"), "{}", found.whole);
}

#[test]
fn sockets_that_send_past_the_rules_break_the_promise() {
    // AF_XDP, SOCK_RAW.
    let holder = "python3 -c 'import os, socket, sys; s = socket.socket(44, 3, 0); os.set_inheritable(s.fileno(), True); \
                  os.execvp(sys.argv[1], sys.argv[1:])'";
    if !Command::new("python3").args(["-c", "import socket; socket.socket(44, 3, 0)"]).status().unwrap().success() {
        eprintln!("skipped: this kernel has no AF_XDP");
        return;
    }
    let found = doctor("", holder, &[]);
    assert!(found.code == Some(1) && found.has("xdp", "fail", "1 AF_XDP"), "{}", found.whole);
}

#[test]
fn a_filter_of_tc_is_named() {
    let filter = "tc filter add dev eth0 ingress prio 7 u32 match u32 0 0 action mirred egress redirect dev lo";
    let found = doctor(&format!("{OTHER}; tc qdisc add dev eth0 clsact; {filter}"), "", &[]);
    assert!(found.code == Some(0) && found.has("tc", "warn", "tc filter u32 (priority 7"), "{}", found.whole);
    assert!(found.has("tc", "warn", "on eth0"), "{}", found.whole);
}

#[test]
fn a_posture_that_is_another_hosts_or_not_in_force_is_named() {
    let directory = tempfile::tempdir().unwrap();
    write_posture(directory.path(), "h1", Posture::Isolated);
    let found = doctor_in(directory.path(), "", "", &[]);
    assert!(found.code == Some(1) && found.has("posture", "fail", "this host is open"), "{}", found.whole);
    write_posture(directory.path(), "h2", Posture::Open);
    let found = doctor_in(directory.path(), "", "", &[]);
    assert!(found.code == Some(0) && found.has("posture", "warn", "of host h2"), "{}", found.whole);
}

#[test]
fn people_read_what_programs_do() {
    let directory = TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis-agent"))
        .args(["doctor", "--host-id", "h1", "--level", "inet", "--state-dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("FAIL level       inet: these leak: frames of packet sockets"), "{text}");
    assert!(text.ends_with("This host cannot be fully isolated (promise A of POSTURES.md); level inet.\n"), "{text}");
}

fn doctor(setup: &str, before: &str, arguments: &[&str]) -> Found {
    doctor_in(TempDir::new().unwrap().path(), setup, before, arguments)
}

/// Runs `setup` on a fresh host, and then the doctor, started by `before`.
fn doctor_in(state_dir: &Path, setup: &str, before: &str, arguments: &[&str]) -> Found {
    run(&["--net", "--mount", "--pid", "--fork", "--mount-proc"], state_dir, setup, before, arguments)
}

/// The same, with these things of its own.
fn run(own: &[&str], state_dir: &Path, setup: &str, before: &str, arguments: &[&str]) -> Found {
    let script = format!("mount -t tmpfs none /run; {{ :; {setup}; }} >&2; exec {before} \"$@\"", setup = non_empty(setup));
    let output = Command::new("unshare")
        .args(own)
        .args(["sh", "-ec", &script, "sh"])
        .args([env!("CARGO_BIN_EXE_portcullis-agent"), "doctor", "--json", "--host-id", "h1", "--state-dir"])
        .arg(state_dir)
        .args(arguments)
        .output()
        .unwrap();
    let whole: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let mut findings: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for finding in whole["findings"].as_array().unwrap() {
        let text = |key: &str| finding[key].as_str().unwrap().to_owned();
        assert_eq!(finding["grade"] == "ok", finding.get("remedy").is_none(), "{finding}");
        findings.entry(text("check")).or_default().push((text("grade"), text("says")));
    }
    Found { code: output.status.code(), findings, whole }
}

fn non_empty(script: &str) -> &str {
    if script.is_empty() { ":" } else { script }
}

fn write_posture(directory: &Path, host: &str, posture: Posture) {
    let now = Now { wall: Utc::now(), broker: None, boot_ms: 1, boot_id: "another".into() };
    let record = Record {
        version: VERSION,
        serial: 1,
        host: host.parse().unwrap(),
        generation: 3,
        posture,
        opened: None,
        order: None,
        trace: Trace::default(),
        frozen: None,
        mark: Mark::start(&now),
    };
    PostureFile::new(directory).write(CopyName::A, &record).unwrap();
}
