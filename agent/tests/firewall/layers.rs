//! The leak matrix: what gets by an open host, by each level of rules, and by all of them. Two phases for each row: first it is seen.

use std::io::Write;
use std::process::{Command, Stdio};

use portcullis_agent_core::level::{LEAKS, leaks};
use portcullis_schemas::events::Level;

use crate::net::{FRIEND, HOST, Namespace, Net, STRANGER, at, gate};
use crate::rows::{Leaks, PRELUDE, ROWS};
use crate::sniff::Sniffer;

#[test]
fn no_frame_of_the_host_gets_by_that_no_level_names() {
    let net = Net::new();
    net.host.sysctl("net/ipv4/ip_forward", "1");
    net.host.sh("ip route add default dev eth0");
    // Neighbours are known from here on, so that nothing waits for them.
    for stranger in STRANGER {
        assert!(net.host.pings(at(stranger, 0), crate::net::SOON));
    }
    let sniffer = Sniffer::new(&net.outside);
    let (open, lacking) = phase(&net, &sniffer);
    for (number, row) in ROWS.iter().enumerate() {
        let seen = row.seen.replace(":P", &format!(":{}", 7000 + number));
        match lacking.contains(&number) {
            true => println!("skipped, this kernel lacks it: {}", row.name),
            false => assert!(
                open[number].iter().any(|frame| frame.starts_with(&seen)),
                "{}: not seen while open: {:?}",
                row.name,
                open[number]
            ),
        }
    }
    for kind in ["ipvlan", "wireguard", "bond"] {
        let has = net.host.sh(&format!("ip link add x9 type {kind} 2> /dev/null && ip link del x9 && echo yes || :"));
        println!("no row for {kind}: {}", if has.is_empty() { "this kernel lacks it" } else { "it has no peer here" });
    }
    // Another table that accepts first changes nothing.
    net.host.sh(
        "nft 'add table inet first; add chain inet first o { type filter hook output priority -400; }; add rule inet first o accept; \
         add chain inet first f { type filter hook forward priority -400; }; add rule inet first f accept; add table netdev first; \
         add chain netdev first o { type filter hook egress device eth0 priority -400; }; add rule netdev first o accept'",
    );
    for level in [Level::Inet, Level::Partial, Level::Full] {
        net.isolate_at(level, &gate());
        let (seen, _) = phase(&net, &sniffer);
        for ((number, row), seen) in ROWS.iter().enumerate().zip(&seen).filter(|((number, _), _)| !lacking.contains(number)) {
            let (leaking, why) = match row.leaks {
                Leaks::Never => (false, ""),
                Leaks::Below(name) => {
                    assert!(LEAKS.iter().any(|(_, leak)| *leak == name), "{name} is in no list");
                    (leaks(level).contains(&name), name)
                }
                Leaks::Known(why) => (true, why),
            };
            println!(
                "{}: {number} {}: {}",
                level.as_str(),
                row.name,
                if leaking { format!("LEAKS, as known: {why}") } else { "stopped".into() }
            );
            assert_eq!(!seen.is_empty(), leaking, "{} at level {}: {seen:?}", row.name, level.as_str());
        }
    }
}

/// Tries each row once: what was seen of it, and which the kernel lacks.
fn phase(net: &Net, sniffer: &Sniffer) -> (Vec<Vec<String>>, Vec<usize>) {
    sniffer.seen_of_all(net);
    let rows = ROWS.iter().enumerate().map(|(number, row)| format!("row({number}, {:?})\n", row.program));
    let script = format!("{PRELUDE}{}", rows.collect::<String>());
    let said = net.host.run(|| {
        let mut python = Command::new("python3").arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        python.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    });
    assert!(said.lines().all(|line| line.starts_with("lacks ")), "{said}");
    let lacking = said.lines().filter_map(|line| line.strip_prefix("lacks ")?.parse().ok()).collect();
    let mut seen = vec![Vec::new()];
    for frame in sniffer.seen_of_all(net) {
        match frame.starts_with("row ") {
            true => seen.push(Vec::new()),
            false => seen.last_mut().unwrap().push(frame),
        }
    }
    assert_eq!(seen.len(), ROWS.len() + 1, "each row is followed by its marker");
    (seen, lacking)
}

/// Ways in, tried from outside: what the host answers to, while it is open.
const INWARD: &[(&str, &str, &str)] = &[
    ("TCP to a listener", "begin(AF_INET, (H4, 7001))", "tcp 10.99.0.1"),
    ("TCP over IPv6 to a listener", "begin(AF_INET6, (H6, 7001))", "tcp [fd99::1]"),
    ("TCP to nobody", "begin(AF_INET, (H4, 7002))", "tcp 10.99.0.1"),
    ("UDP to nobody", "u4().sendto(b'x', (H4, 7003))", "icmp-3 10.99.0.1"),
    ("UDP over IPv6 to nobody", "u6().sendto(b'x', (H6, 7003))", "icmp-1 fd99::1"),
    ("UDP from an excluded port to nobody", "s = u4(); s.bind((F4, 5300)); s.sendto(b'x', (H4, 7003))", "icmp-3 10.99.0.1"),
    ("fragmented UDP", "u4().sendto(bytes(4000), (H4, 7003))", "icmp-3 10.99.0.1"),
    ("ICMP", "ping(H4)", "icmp-0 10.99.0.1"),
    ("ICMPv6", "ping6(H6)", "icmp-129 fd99::1"),
    ("fragmented ICMP", "ping(H4, 4000)", "icmp-0 10.99.0.1"),
    ("a time stamp request", "ping(H4, 12, 13)", "icmp-14 10.99.0.1"),
    ("ICMP to the subnet's broadcast", "ping('10.99.0.255')", "icmp-0 10.99.0.1"),
    ("ICMP to all hosts", "ping('224.0.0.1')", "icmp-0 10.99.0.1"),
    ("ICMPv6 to all hosts", "ping6('ff02::1')", "icmp-129"),
    ("SCTP", "socket(AF_INET, SOCK_RAW, 132).sendto(bytes(12), (H4, 0))", "icmp-3 10.99.0.1"),
    ("an IP protocol that nobody knows", "socket(AF_INET, SOCK_RAW, 253).sendto(bytes(12), (H4, 0))", "icmp-3 10.99.0.1"),
    ("the same over IPv6", "socket(AF_INET6, SOCK_RAW, 253).sendto(bytes(12), (H6, 0))", "icmp-4 fd99::1"),
    (
        "ICMPv6 behind destination options",
        "s = socket(AF_INET6, SOCK_RAW, 58); s.setsockopt(41, 59, bytes([0, 0, 1, 4, 0, 0, 0, 0])); s.sendto(bytes([128, 0, 0, 0, 0, 1, 0, 1]), (H6, 0))",
        "icmp-129 fd99::1",
    ),
    (
        "ICMPv6 behind hop-by-hop options",
        "s = socket(AF_INET6, SOCK_RAW, 58); s.setsockopt(41, 54, bytes([0, 0, 1, 4, 0, 0, 0, 0])); s.sendto(bytes([128, 0, 0, 0, 0, 1, 0, 1]), (H6, 0))",
        "icmp-129 fd99::1",
    ),
];

const INWARD_PRELUDE: &str = "
def ping(to, length=0, kind=8):
    s = socket(AF_INET, SOCK_RAW, 1); s.setsockopt(SOL_SOCKET, SO_BROADCAST, 1)
    b = bytearray(bytes([kind, 0, 0, 0, 0, 1, 0, 1]) + bytes(length)); b[2:4] = checksum(b); s.sendto(bytes(b), (to, 0))
def ping6(to):
    s = socket(AF_INET6, SOCK_RAW, 58); s.sendto(bytes([128, 0, 0, 0, 0, 1, 0, 1]), (to, 0, 0, if_nametoindex('eth0')))
";

#[test]
fn an_isolated_host_answers_nobody() {
    let net = Net::new();
    net.host.sysctl("net/ipv4/icmp_echo_ignore_broadcasts", "0");
    for limit in ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"] {
        net.host.sysctl(limit, "0");
    }
    net.outside.sh("ip route add default dev eth0");
    let _listener = net.host.listen(at("::", 7001));
    let sniffer = Sniffer::new(&net.outside);
    let probe = |program: &str| {
        let script = format!("{PRELUDE}{INWARD_PRELUDE}{program}\n");
        net.outside.run(|| assert!(Command::new("python3").args(["-c", &script]).status().unwrap().success()));
        sniffer.seen(&net)
    };
    for (name, program, answer) in INWARD {
        let seen = probe(program);
        assert!(seen.iter().any(|seen| seen.starts_with(answer)), "{name}: no answer while open: {seen:?}");
    }
    for level in [Level::Inet, Level::Partial, Level::Full] {
        net.isolate_at(level, &gate());
        for (name, program, _) in INWARD {
            println!("{}: {name}: no answer", level.as_str());
            assert_eq!(probe(program), [""; 0], "{name} at level {}", level.as_str());
        }
    }
}

/// Frames that an XDP program sends back have never been near our rules: that is known, and the agent takes such a program off and says so.
#[test]
fn an_xdp_program_answers_before_all_rules_as_is_known() {
    let net = Net::new();
    net.isolate(&gate());
    let bounce = "
import time
s = socket(AF_PACKET, SOCK_RAW, 0x0300); s.bind(('eth0', 0x88b6)); s.settimeout(WAIT)
s.send(bytes([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 7, 0x88, 0xb6]) + bytes(46))
try:
    while s.recvfrom(2048)[1][2] == 4: pass
    print('bounced')
except OSError: pass
";
    let bounced = |wait: &str| {
        let script = format!("{PRELUDE}{}", bounce.replace("WAIT", wait).replace("import time\n", ""));
        let output = net.outside.run(|| Command::new("python3").args(["-c", &script]).output().unwrap());
        String::from_utf8(output.stdout).unwrap().contains("bounced")
    };
    assert!(!bounced("0.5"), "nothing comes back of itself");
    let attach = "
code = ctypes.create_string_buffer(struct.pack('<BBhiBBhi', 0xb7, 0, 0, 3, 0x95, 0, 0, 0)); words = ctypes.create_string_buffer(b'GPL')
load = ctypes.create_string_buffer(struct.pack('<IIQQIIQII16s', 6, 2, ctypes.addressof(code), ctypes.addressof(words), 0, 0, 0, 0, 0, b'tx'), 128)
program = ctypes.CDLL(None, use_errno=True).syscall(321, 5, load, 128)
nested = struct.pack('<HHi', 8, 1, program) + struct.pack('<HHI', 8, 3, 2)
body = struct.pack('<BBHiII', 0, 0, 0, if_nametoindex('eth0'), 0, 0) + struct.pack('<HH', 4 + len(nested), 43 | 0x8000) + nested
link = socket(AF_NETLINK, SOCK_RAW, 0); link.send(struct.pack('<IHHII', 16 + len(body), 19, 5, 1, 0) + body)
assert struct.unpack_from('<i', link.recv(4096), 16)[0] == 0
";
    net.host.run(|| assert!(Command::new("python3").args(["-c", &format!("{PRELUDE}{attach}")]).status().unwrap().success()));
    assert!(bounced("5"), "XDP_TX is no way out any more: move it to the rows that never leak");
    println!("full: XDP_TX: LEAKS, as known: told as tampering, and the program is taken off (flows: devices)");
}

/// A network card that another namespace has is not this host's any more.
#[test]
fn a_device_that_was_moved_away_speaks_as_is_known() {
    let net = Net::new();
    let away = Namespace::new();
    let sniffer = Sniffer::new(&net.outside);
    net.isolate(&gate());
    assert_eq!(sniffer.seen(&net), [""; 0]);
    away.take(&net.host, "eth0");
    away.sh("ip addr add 10.99.0.2/24 dev eth0; ip link set eth0 up");
    // It is the marker that gets out by it.
    assert_eq!(sniffer.seen_from(&away), [""; 0]);
    println!("full: a device that was moved to another namespace: LEAKS, as known: told as tampering (flows: devices)");
}

#[test]
fn a_macvlan_device_of_a_container_gets_by_the_inet_layer_alone() {
    let net = Net::new();
    let container = Namespace::new();
    net.host.sh("ip link add mv0 link eth0 address 02:00:00:00:00:09 type macvlan mode bridge");
    container.take(&net.host, "mv0");
    container.sh("ip addr add 10.99.0.9/24 dev mv0; ip link set mv0 up");
    of_a_container(&net, &container, "10.99.0.9", MACVLAN);
}

#[test]
fn a_port_of_a_bridge_gets_by_the_inet_layer_alone() {
    let net = Net::new();
    let container = Namespace::new();
    container.link("eth0", "02:00:00:00:00:09", &net.host, "port0", "02:00:00:00:00:0a");
    container.sh("ip addr add 10.99.0.9/24 dev eth0");
    // The module that shows bridged frames to the inet hooks may be there, and would hide what this is about.
    let _ = net.host.run(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0"));
    net.host.sh(&format!(
        "ip link add br0 address 02:00:00:00:00:02 type bridge; ip addr flush dev eth0; ip link set eth0 master br0; ip link set port0 master br0; \
         ip link set br0 up; ip addr add {}/24 dev br0; ip -6 addr add {}/64 dev br0 nodad",
        HOST[0], HOST[1]
    ));
    of_a_container(&net, &container, "10.99.0.9", BRIDGE);
}

#[test]
fn what_is_routed_for_a_container_is_stopped_in_both_layers() {
    let net = Net::new();
    let container = Namespace::new();
    container.link("eth0", "02:00:00:00:00:09", &net.host, "port0", "02:00:00:00:00:0a");
    container.sh("ip addr add 10.98.0.2/24 dev eth0; ip route add default via 10.98.0.1");
    net.host.sh("ip addr add 10.98.0.1/24 dev port0");
    net.host.sysctl("net/ipv4/ip_forward", "1");
    net.outside.sh("ip route add 10.98.0.0/24 via 10.99.0.2");
    of_a_container(&net, &container, "10.98.0.2", ROUTED);
}

#[test]
fn a_port_of_the_host_that_leads_to_a_container_is_closed() {
    let net = Net::new();
    let container = Namespace::new();
    container.link("eth0", "02:00:00:00:00:09", &net.host, "port0", "02:00:00:00:00:0a");
    container.sh("ip addr add 10.98.0.2/24 dev eth0; ip route add default via 10.98.0.1");
    net.host.sh("ip addr add 10.98.0.1/24 dev port0; nft 'add table ip nat; add chain ip nat pre { type nat hook prerouting priority -100; }; \
                 add rule ip nat pre tcp dport { 8080, 2200 } dnat to 10.98.0.2:80; add chain ip nat post { type nat hook postrouting priority 100; }; \
                 add rule ip nat post oifname eth0 masquerade'");
    net.host.sysctl("net/ipv4/ip_forward", "1");
    let listener = container.listen(at("10.98.0.2", 80));
    // 2200 is a port on which the friend may call the host, and this is not the host.
    for port in [8080, 2200] {
        // Ended now: a program that a test beside this one is starting may keep copies of the sockets for a while.
        for end in [net.outside.connect(at(HOST[0], port)).unwrap(), listener.accept().unwrap().0] {
            end.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }
    let sniffer = Sniffer::new(&net.outside);
    for level in [Level::Inet, Level::Partial, Level::Full] {
        net.isolate_at(level, &gate());
        for port in [8080, 2200] {
            let called =
                net.outside.run(|| std::net::TcpStream::connect_timeout(&at(HOST[0], port), crate::net::SILENCE).is_ok());
            assert!(!called, "port {port} at level {}", level.as_str());
        }
        assert_eq!(sniffer.seen(&net), [""; 0]);
    }
}

/// The levels up to which frames of a container get out, and in.
type Ways = [Option<Level>; 2];
const MACVLAN: Ways = [Some(Level::Partial), Some(Level::Inet)];
const BRIDGE: Ways = [Some(Level::Inet), Some(Level::Inet)];
const ROUTED: Ways = [None, None];

/// What a program in a container sends leaves an open host, and no isolated one, also where it pretends to be the excluded friend; and nothing
/// from outside gets to it.
fn of_a_container(net: &Net, container: &Namespace, address: &str, [out, into]: Ways) {
    let sniffer = Sniffer::new(&net.outside);
    let probe = || {
        for to in [STRANGER[0], FRIEND[0]] {
            let _ = container.udp(at(address, 5301)).send_to(b"x", at(to, 5300));
        }
        let seen = sniffer.seen_of_all(net);
        ["udp 10.99.0.3:5300", "udp 10.99.0.1:5300"].map(|wanted| seen.iter().any(|seen| seen == wanted))
    };
    let reached = || {
        let inside = container.udp(at(address, 5301));
        net.outside.udp(at(STRANGER[0], 5300)).send_to(b"x", at(address, 5301)).unwrap();
        !Namespace::silent(&inside)
    };
    assert_eq!((probe(), reached()), ([true, true], true), "not seen while open");
    for level in [Level::Inet, Level::Partial, Level::Full] {
        net.isolate_at(level, &gate());
        let leaking = [out, into].map(|until| until.is_some_and(|until| level <= until));
        assert_eq!((probe(), reached()), ([leaking[0]; 2], leaking[1]), "at level {}", level.as_str());
        println!("{}: out of a container {}, into it {}", level.as_str(), word(leaking[0]), word(leaking[1]));
    }
}

fn word(leaks: bool) -> &'static str {
    if leaks { "LEAKS" } else { "stopped" }
}
