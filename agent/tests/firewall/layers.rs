//! The leak matrix: what gets by an open host, by the inet layer alone, and by both layers. Nothing gets by both.

use portcullis_schemas::events::Level;

use crate::net::{FRIEND, HOST, Namespace, Net, STRANGER, gate};
use crate::sniff::Sniffer;

/// One way out.
struct Row {
    name: &'static str,
    /// Python, on the host; `out` is a UDP datagram to the stranger as a whole Ethernet frame, `ip` is that without its Ethernet header.
    program: &'static str,
    /// What the sniffer then sees.
    seen: &'static str,
    /// The inet layer alone lets it out.
    leaks_at_inet: bool,
}

const ROWS: &[Row] = &[
    Row {
        name: "UDP",
        program: "s = socket(AF_INET, SOCK_DGRAM); s.sendto(b'x', ('10.99.0.3', 7777))",
        seen: "udp 10.99.0.3:7777",
        leaks_at_inet: false,
    },
    Row {
        name: "UDP over IPv6",
        program: "s = socket(AF_INET6, SOCK_DGRAM); s.sendto(b'x', ('fd99::3', 7777))",
        seen: "udp [fd99::3]:7777",
        leaks_at_inet: false,
    },
    Row {
        name: "DNS to another resolver",
        program: "s = socket(AF_INET, SOCK_DGRAM); s.sendto(b'x', ('10.99.0.3', 53))",
        seen: "udp 10.99.0.3:53",
        leaks_at_inet: false,
    },
    Row {
        name: "SCTP, by a raw socket",
        program: "s = socket(AF_INET, SOCK_RAW, 132); s.sendto(bytes(12), ('10.99.0.3', 0))",
        seen: "protocol 132 10.99.0.3",
        leaks_at_inet: false,
    },
    Row {
        name: "an IP protocol that nobody knows",
        program: "s = socket(AF_INET6, SOCK_RAW, 253); s.sendto(bytes(12), ('fd99::3', 0))",
        seen: "protocol 253 fd99::3",
        leaks_at_inet: false,
    },
    Row {
        name: "a later fragment, by a raw socket",
        program: "s = socket(AF_INET, SOCK_RAW, 255); f = bytearray(ip); f[7] = 5; s.sendto(bytes(f), ('10.99.0.3', 0))",
        seen: "udp 10.99.0.3",
        leaks_at_inet: false,
    },
    Row {
        name: "IPv6 with destination options",
        program: "s = socket(AF_INET6, SOCK_RAW, 60); s.sendto(bytes([17, 0, 1, 4, 0, 0, 0, 0]) + bytes([1, 0, 30, 97, 0, 9, 0, 0, 120]), ('fd99::3', 0))",
        seen: "protocol 60 fd99::3",
        leaks_at_inet: false,
    },
    Row {
        name: "a packet socket",
        program: "s = socket(AF_PACKET, SOCK_RAW); s.bind(('eth0', 0)); s.send(out)",
        seen: "udp 10.99.0.3:7777",
        leaks_at_inet: true,
    },
    Row {
        name: "a packet socket past the queueing discipline",
        program: "s = socket(AF_PACKET, SOCK_RAW); s.setsockopt(263, 20, 1); s.bind(('eth0', 0)); s.send(out)",
        seen: "udp 10.99.0.3:7777",
        leaks_at_inet: true,
    },
    Row {
        name: "a packet socket without Ethernet headers",
        program: "s = socket(AF_PACKET, SOCK_DGRAM); s.sendto(ip, ('eth0', 0x0800, 0, 0, out[:6]))",
        seen: "udp 10.99.0.3:7777",
        leaks_at_inet: true,
    },
    Row {
        name: "an inherited packet socket, used by a user without capabilities",
        program: "s = socket(AF_PACKET, SOCK_RAW); s.bind(('eth0', 0)); os.setgid(65534); os.setuid(65534); s.send(out)",
        seen: "udp 10.99.0.3:7777",
        leaks_at_inet: true,
    },
    Row {
        name: "a frame that is not IP",
        program: "s = socket(AF_PACKET, SOCK_RAW); s.bind(('eth0', 0)); s.send(out[:12] + b'\\x88\\xb5' + bytes(46))",
        seen: "ethertype 88b5",
        leaks_at_inet: true,
    },
    Row {
        name: "an ARP frame with a message behind it",
        program: "s = socket(AF_PACKET, SOCK_RAW); s.bind(('eth0', 0)); s.send(out[:12] + b'\\x08\\x06' + bytes(500))",
        seen: "long arp",
        leaks_at_inet: true,
    },
    Row {
        name: "a frame with a VLAN tag",
        program: "s = socket(AF_PACKET, SOCK_RAW); s.bind(('eth0', 0)); s.send(out[:12] + b'\\x81\\x00\\x00\\x05' + out[12:])",
        // The sniffer gets it without its tag.
        seen: "udp 10.99.0.3:7777",
        leaks_at_inet: true,
    },
    Row {
        name: "a packet written into a tun device, to be forwarded",
        program: "f = os.open('/dev/net/tun', os.O_RDWR); fcntl.ioctl(f, 0x400454ca, struct.pack('16sH', b'tun9', 0x1001)); \
                  os.system('ip addr add 10.97.0.1/24 dev tun9; ip link set tun9 up'); \
                  p = bytearray(ip); p[12:16] = inet_aton('10.97.0.2'); p[10:12] = b'\\0\\0'; p[10:12] = checksum(p[:20]); os.write(f, bytes(p))",
        seen: "udp 10.99.0.3:7777",
        leaks_at_inet: false,
    },
    Row {
        name: "VXLAN to the stranger",
        program: "os.system('ip link add vx9 type vxlan id 9 remote 10.99.0.3 dstport 4789 dev eth0; ip addr add 10.96.0.1/24 dev vx9; ip link set vx9 up'); \
                  s = socket(AF_INET, SOCK_DGRAM); s.setsockopt(SOL_SOCKET, SO_BROADCAST, 1); s.sendto(b'x', ('10.96.0.255', 7777)); os.system('ip link del vx9')",
        seen: "udp 10.99.0.3:4789",
        leaks_at_inet: false,
    },
];

const PRELUDE: &str = "\
import os, struct, fcntl
from socket import *
def checksum(b):
    s = sum(struct.unpack('!%dH' % (len(b) // 2), bytes(b))); s = (s & 0xffff) + (s >> 16); s = (s & 0xffff) + (s >> 16)
    return struct.pack('!H', ~s & 0xffff)
ip = bytearray(b'\\x45\\0\\0\\x1d\\0\\1\\0\\0\\x40\\x11\\0\\0' + inet_aton('10.99.0.2') + inet_aton('10.99.0.3'))
ip[10:12] = checksum(ip)
ip = bytes(ip) + struct.pack('!HHHH', 7777, 7777, 9, 0) + b'x'
out = bytes([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]) + ip
try:
    exec(os.environ['PROBE'])
except OSError as error:
    print(error)
";

#[test]
fn no_frame_of_the_host_gets_by_both_layers() {
    let net = Net::new();
    net.host.sysctl("net/ipv4/ip_forward", "1");
    let sniffer = Sniffer::new(&net.outside);
    let probe = |row: &Row| {
        net.host.sh(&format!("PROBE=\"{}\" python3 -c \"$(cat << 'END'\n{PRELUDE}END\n)\"", row.program.replace('\\', "\\\\")));
        sniffer.seen_of_all(&net).iter().any(|seen| seen.starts_with(row.seen))
    };
    for row in ROWS {
        assert!(probe(row), "{}: not seen while open", row.name);
    }
    // Another table that accepts first changes nothing.
    net.host.sh(
        "nft 'add table inet first; add chain inet first o { type filter hook output priority -400; }; add rule inet first o accept; \
         add chain inet first f { type filter hook forward priority -400; }; add rule inet first f accept; add table netdev first; \
         add chain netdev first o { type filter hook egress device eth0 priority -400; }; add rule netdev first o accept'",
    );
    for (level, name) in [(Level::Inet, "inet"), (Level::Full, "full")] {
        net.isolate_at(level, &gate());
        for row in ROWS {
            let leaks = level == Level::Inet && row.leaks_at_inet;
            println!("{name}: {}: {}", row.name, if leaks { "leaks" } else { "stopped" });
            assert_eq!(probe(row), leaks, "{} at level {name}", row.name);
        }
    }
}

#[test]
fn a_macvlan_device_of_a_container_gets_by_the_inet_layer_alone() {
    let net = Net::new();
    let container = Namespace::new();
    net.host.sh("ip link add mv0 link eth0 address 02:00:00:00:00:09 type macvlan mode bridge");
    container.take(&net.host, "mv0");
    container.sh("ip addr add 10.99.0.9/24 dev mv0; ip link set mv0 up");
    of_a_container(&net, &container, true);
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
    of_a_container(&net, &container, true);
}

#[test]
fn what_is_routed_for_a_container_is_stopped_in_both_layers() {
    let net = Net::new();
    let container = Namespace::new();
    container.link("eth0", "02:00:00:00:00:09", &net.host, "port0", "02:00:00:00:00:0a");
    container.sh("ip addr add 10.98.0.2/24 dev eth0; ip route add default via 10.98.0.1");
    net.host.sh("ip addr add 10.98.0.1/24 dev port0");
    net.host.sysctl("net/ipv4/ip_forward", "1");
    of_a_container(&net, &container, false);
}

/// What a program in a container sends leaves an open host, and no isolated one, also where it pretends to be the excluded friend.
fn of_a_container(net: &Net, container: &Namespace, leaks_at_inet: bool) {
    let sniffer = Sniffer::new(&net.outside);
    let probe = || {
        for to in [STRANGER[0], FRIEND[0]] {
            let send = "from socket import *; s = socket(AF_INET, SOCK_DGRAM); s.bind(('', 5301)); s.sendto(b'x', ('TO', 5300))";
            container.sh(&format!("python3 -c \"{}\" 2> /dev/null || :", send.replace("TO", to)));
        }
        let seen = sniffer.seen_of_all(net);
        ["udp 10.99.0.3:5300", "udp 10.99.0.1:5300"].map(|wanted| seen.iter().any(|seen| seen == wanted))
    };
    assert_eq!(probe(), [true, true], "not seen while open");
    net.isolate_at(Level::Inet, &gate());
    assert_eq!(probe(), [leaks_at_inet; 2], "at level inet");
    net.isolate_at(Level::Full, &gate());
    assert_eq!(probe(), [false, false], "at level full");
}
