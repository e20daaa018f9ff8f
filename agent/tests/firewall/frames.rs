//! Frames that the host's own stack has not made, however much they look like its own: from other namespaces, virtual machines and bridges.

use std::process::Command;
use std::time::Instant;

use portcullis_agent_core::gate::{Gate, Local, Pass};
use portcullis_schemas::events::Level;
use portcullis_schemas::exclusion::{Direction, Protocol};

use crate::net::{Namespace, Net, gate, pass};
use crate::rows::PRELUDE;
use crate::sniff::Sniffer;

/// Only this user may use [`BOUND`].
const USER: u32 = 65533;
const BOUND: u16 = 8001;

/// Each looks like a packet of the host that an exclusion lets out: for anybody, for the broker, for one user only, and for answers only.
const FORGED: [(&str, &str); 4] = [
    ("udp(F4, 5300)", "udp 10.99.0.1:5300"),
    ("tcp(F4, 4222)", "tcp 10.99.0.1:4222"),
    ("tcp(F4, 8001)", "tcp 10.99.0.1:8001"),
    ("tcp(F4, 40000, 2200)", "tcp 10.99.0.1:40000"),
];

/// What is sent with `put`, on whatever device that is, with the addresses of the host's own.
const FORGER: &str = "
def udp(to, port):
    return header(17, 9, H4, to) + struct.pack('!HHHHc', 40000, port, 9, 0, b'x')
def tcp(to, port, own=40000):
    return header(6, 20, H4, to) + struct.pack('!HHIIBBHHH', own, port, 1, 0, 0x50, 2, 1000, 0, 0)
def on(device):
    s = socket(AF_PACKET, SOCK_RAW); s.bind((device, 0)); return s.send
";

fn bound_gate() -> Gate {
    let mut gate = gate();
    let bound = Pass { local: Local { uid: Some(USER), group: None }, ..pass(Direction::Out, Protocol::Tcp, BOUND, 0) };
    gate.passes.push(bound);
    gate
}

/// Runs `program` in `from`, which sends each forged packet by `put`.
fn forge(from: &Namespace, put: &str) {
    // A frame that a device drops is an error of some ways to it.
    let all = FORGED.map(|(packet, _)| format!("try: put(ether({packet}))\nexcept OSError: pass\n")).concat();
    python(from, &format!("{FORGER}put = {put}\n{all}"));
}

pub fn python(from: &Namespace, program: &str) -> String {
    let script = format!("{PRELUDE}{program}");
    let output = from.run(|| Command::new("python3").args(["-c", &script]).output().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The forged packets are seen while the host is open and up to level `until`, and none above it.
fn forged_up_to(net: &Net, until: Level, forge: impl Fn()) {
    // Whoever takes the card over gets the answers as well.
    net.host.sh("ip neigh replace 10.99.0.1 lladdr 02:00:00:00:00:01 dev $(ip -o -4 addr show | sed -n 's/.*: \\(\\S*\\) .*10.99.0.2.*/\\1/p')");
    let sniffer = Sniffer::new(&net.outside);
    let seen = || {
        sniffer.seen_of_all(net);
        forge();
        let seen = sniffer.seen_of_all(net);
        FORGED.map(|(_, wanted)| seen.iter().any(|seen| seen == wanted))
    };
    assert_eq!(seen(), [true; 4], "not seen while open");
    for level in [Level::Inet, Level::Partial, Level::Full] {
        net.isolate_at(level, &bound_gate());
        assert_eq!(seen(), [level <= until; 4], "at level {}", level.as_str());
    }
}

#[test]
fn a_macvtap_descriptor_that_was_handed_over_writes_no_frame_of_the_host() {
    let net = Net::new();
    net.host.sh("ip link add mvt0 link eth0 address 02:00:00:00:00:09 type macvtap mode bridge; ip link set mvt0 up");
    // Where the device's number stands depends on the namespace that has mounted it.
    let number = net.host.sh("unshare -m sh -ec 'mount -t sysfs sysfs /sys; cat /sys/class/net/mvt0/macvtap/tap*/dev'");
    let (major, minor) = number.trim().split_once(':').unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("tap");
    net.host.sh(&format!("mknod {} c {major} {minor}", path.display()));
    // The first ten bytes are for who speaks virtio. The user has no capability and no other device.
    let put = format!(
        "(lambda f: (os.setgroups([]), os.setgid({USER}), os.setuid({USER}), lambda b: os.write(f, bytes(10) + b))[3])(os.open('{}', os.O_RDWR))",
        path.display()
    );
    forged_up_to(&net, Level::Partial, || forge(&net.host, &put));
}

#[test]
fn a_macvlan_in_each_mode_sends_no_frame_of_the_host() {
    for mode in ["private", "vepa", "bridge", "source", "passthru"] {
        let net = Net::new();
        let container = Namespace::new();
        net.host.sh(&format!("ip link add mv0 link eth0 type macvlan mode {mode}"));
        container.take(&net.host, "mv0");
        container.sh("ip link set mv0 up");
        println!("mode {mode}");
        forged_up_to(&net, Level::Partial, || forge(&container, "on('mv0')"));
    }
}

#[test]
fn a_port_of_a_bridge_sends_no_frame_of_the_host() {
    let net = Net::new();
    let container = Namespace::new();
    container.link("eth0", "02:00:00:00:00:09", &net.host, "port0", "02:00:00:00:00:0a");
    bridge(&net);
    net.host.sh("ip link set port0 master br0");
    forged_up_to(&net, Level::Inet, || forge(&container, "on('eth0')"));
}

/// Who may set marks in a namespace of his own has no socket in the host's: even the right mark gets him next to nothing, so it cannot be guessed.
#[test]
fn a_mark_of_another_namespace_can_be_tried_a_few_times_a_second_only() {
    let net = Net::new();
    let container = Namespace::new();
    net.host.sh("ip link add mv0 link eth0 type macvlan mode bridge");
    container.take(&net.host, "mv0");
    container.sh("ip addr add 10.99.0.2/24 dev mv0; ip link set mv0 up; ip neigh add 10.99.0.1 lladdr 02:00:00:00:00:01 dev mv0");
    net.isolate(&gate());
    let listed = net.host.sh("nft list chain inet portcullis marking");
    let mark = listed.split("secmark set ").nth(1).unwrap().split_whitespace().next().unwrap();
    let sniffer = Sniffer::new(&net.outside);
    let tries = |mark: &str, count: u32| {
        // nft's own language takes names of the security modules only.
        let rule = format!(
            r#"{{"nftables": [{{"add": {{"table": {{"family": "inet", "name": "m"}}}}}}, {{"flush": {{"table": {{"family": "inet", "name": "m"}}}}}},
                {{"add": {{"chain": {{"family": "inet", "table": "m", "name": "c", "type": "filter", "hook": "postrouting", "prio": 300}}}}}},
                {{"add": {{"rule": {{"family": "inet", "table": "m", "chain": "c",
                                  "expr": [{{"mangle": {{"key": {{"meta": {{"key": "secmark"}}}}, "value": {mark}}}}}]}}}}}}]}}"#
        );
        container.sh(&format!("echo '{rule}' | nft -j -f -"));
        let start = Instant::now();
        python(
            &container,
            &format!("s = u4()\nfor _ in range({count}):\n try: s.sendto(b'x', (F4, 5300))\n except OSError: pass"),
        );
        let seen = sniffer.seen_of_all(&net).iter().filter(|seen| *seen == "udp 10.99.0.1:5300").count();
        (seen as f64, start.elapsed().as_secs_f64())
    };
    assert_eq!(tries("1", 10).0, 0.0);
    let (seen, took) = tries(mark, 5000);
    println!("{seen} of 5000 in {took:.2} s");
    // The burst, and a hundred a second.
    assert!(seen > 0.0 && seen <= 101.0 + 100.0 * took, "{seen} in {took:.2} s");
}

/// What a peer sends to a child's own address would get there by the device's rules, if only the host's own addresses passed by the exclusions.
#[test]
fn what_an_excluded_peer_sends_to_a_child_does_not_arrive() {
    let net = Net::new();
    let container = Namespace::new();
    net.host.sh("ip link add mv0 link eth0 address 02:00:00:00:00:09 type macvlan mode bridge");
    container.take(&net.host, "mv0");
    container.sh("ip addr add 10.99.0.9/24 dev mv0; ip link set mv0 up");
    let inside = container.udp("10.99.0.9:5301".parse().unwrap());
    let friend = net.outside.udp("10.99.0.1:5300".parse().unwrap());
    net.outside.sh("ip neigh add 10.99.0.9 lladdr 02:00:00:00:00:09 dev eth0");
    let reached = || {
        friend.send_to(b"x", "10.99.0.9:5301").unwrap();
        !Namespace::silent(&inside)
    };
    for level in [Level::Inet, Level::Partial, Level::Full] {
        net.isolate_at(level, &gate());
        assert_eq!(reached(), level == Level::Inet, "at level {}", level.as_str());
    }
}

/// The host's own card as a port of a bridge that has its addresses.
pub fn bridge(net: &Net) {
    // The module that shows bridged frames to the inet hooks may be there, and would hide what this is about.
    for name in ["iptables", "ip6tables", "arptables"] {
        let _ = net.host.run(|| std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{name}"), "0"));
    }
    net.host.sh(
        "ip link add br0 address 02:00:00:00:00:02 type bridge; ip addr flush dev eth0; ip link set eth0 master br0; ip link set br0 up; \
         ip addr add 10.99.0.2/24 dev br0; ip -6 addr add fd99::2/64 dev br0 nodad",
    );
}
