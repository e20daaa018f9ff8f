//! What the host's own stack sends passes on every device that carries it, whatever made the packet, and however its neighbours behave.

use std::io::{ErrorKind, Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use portcullis_agent_core::gate::{Gate, Pass};
use portcullis_schemas::exclusion::{Direction, Protocol};

use crate::frames::{bridge, python};
use crate::net::{AGENT_UID, FRIEND, HOST, Net, SOON, at, gate, pass};
use crate::rows::PRELUDE;
use crate::sniff::Sniffer;

/// A device of that kind on `lower` with the addresses, and `lower` without any.
fn moved(name: &str, kind: &str, lower: &str, addresses: [&str; 2]) -> String {
    format!(
        "ip addr flush dev {lower}; ip link add link {lower} name {name} {kind}; ip link set {name} up; \
         ip addr add {}/24 dev {name}; ip -6 addr add {}/64 dev {name} nodad",
        addresses[0], addresses[1]
    )
}

#[test]
fn what_the_host_sends_passes_however_its_devices_are_stacked() {
    for (name, kind) in
        [("nothing", ""), ("vlan", "type vlan id 5"), ("tag in tag", "type vlan proto 802.1ad id 5"), ("macvlan", "type macvlan")]
    {
        if !kind.is_empty() && !has(kind) {
            println!("skipped, this kernel lacks it: {name}");
            continue;
        }
        for on_bridge in [false, true] {
            let net = Net::new();
            let lower = if on_bridge { "br0" } else { "eth0" };
            if on_bridge {
                bridge(&net);
            }
            match name {
                "nothing" => {}
                "macvlan" => drop(net.host.sh(&moved("x5", &format!("address 02:00:00:00:00:0e {kind}"), lower, HOST))),
                _ => {
                    net.host.sh(&moved("x5", kind, lower, HOST));
                    net.outside.sh(&moved("x5", kind, "eth0", FRIEND));
                }
            }
            println!("{name} on {lower}");
            passes(&net);
            net.isolate(&gate());
            passes(&net);
        }
    }
}

/// Whether this kernel has devices of that kind.
fn has(kind: &str) -> bool {
    let net = Net::new();
    !net.host.sh(&format!("ip link add link eth0 name x5 {kind} 2> /dev/null && echo yes || :")).is_empty()
}

/// All kinds of packets that a kernel makes for connections that are excluded.
fn passes(net: &Net) {
    for family in [0, 1] {
        let (host, friend) = (HOST[family], FRIEND[family]);
        // Larger than any frame: segments are made late, and fragments later still.
        let (mut near, mut far) = net.connected(&net.host, &net.outside, at(friend, 8000));
        let sent = vec![7; 300_000];
        let received = std::thread::scope(|scope| {
            scope.spawn(|| {
                near.write_all(&sent).unwrap();
                // What is left in the buffer belongs to no process any more.
                drop(near);
            });
            let mut all = Vec::new();
            far.read_to_end(&mut all).map(|_| all.len())
        });
        assert_eq!(received.unwrap(), sent.len());
        let (mut inside, outside) = net.connected(&net.outside, &net.host, at(host, 2200));
        (&outside).write_all(b"x").unwrap();
        inside.read_exact(&mut [0]).unwrap();
        drop((inside, outside));
        // Nobody listens: the kernel itself answers. (A program that another test is starting may hold the listening socket for a moment.)
        let start = Instant::now();
        let refused = std::iter::repeat_with(|| net.outside.connect(at(host, 2200)).err())
            .take_while(|_| start.elapsed() < SOON)
            .find_map(|error| error);
        assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::ConnectionRefused));
        let server = net.outside.udp(at(friend, 5300));
        net.host.udp(at(host, 0)).send_to(&[7; 4000], at(friend, 5300)).unwrap();
        assert_eq!(server.recv(&mut [0; 5000]).unwrap(), 4000);
        assert!(net.host.pings(at(friend, 0), SOON));
    }
}

#[test]
fn what_the_host_sends_through_an_excluded_tunnel_passes() {
    let net = Net::new();
    for (namespace, own, peer, inner) in
        [(&net.host, HOST[0], FRIEND[0], "10.95.0.2"), (&net.outside, FRIEND[0], HOST[0], "10.95.0.1")]
    {
        namespace.sh(&format!(
            "ip link add vx0 type vxlan id 9 local {own} remote {peer} dstport 4789 dev eth0; ip link set vx0 up; ip addr add {inner}/24 dev vx0"
        ));
    }
    let mut gate = gate();
    let inner = Pass { remotes: vec!["10.95.0.1/32".parse().unwrap()], ..pass(Direction::Out, Protocol::Tcp, 8000, 0) };
    gate.passes.extend([pass(Direction::Out, Protocol::Udp, 4789, 0), pass(Direction::In, Protocol::Udp, 0, 4789), inner]);
    net.isolate(&gate);
    let (mut near, mut far) = net.connected(&net.host, &net.outside, at("10.95.0.1", 8000));
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
}

/// A DHCP client that has no address yet writes its frames itself, and so does a server that answers it.
#[test]
fn frames_of_dhcp_clients_and_servers_pass_and_are_few() {
    let net = Net::new();
    let dhcp = |remote, local| Pass {
        remotes: vec!["255.255.255.255/32".parse().unwrap(), "10.99.0.1/32".parse().unwrap()],
        ..pass(Direction::Out, Protocol::Udp, remote, local)
    };
    let passes = [gate().passes, vec![dhcp(67, 68), dhcp(68, 67)]].concat();
    net.isolate(&Gate { passes, ..gate() });
    let sniffer = Sniffer::new(&net.outside);
    for (own, port, to, rate) in [(68, 67, "255.255.255.255", 10.0), (67, 68, "10.99.0.1", 50.0)] {
        let start = Instant::now();
        let frame = format!("ether(header(17, 9, '0.0.0.0', '{to}') + struct.pack('!HHHHc', {own}, {port}, 9, 0, b'x'))");
        python(&net.host, &format!("s, f = packet(), {frame}\nfor _ in range(2000): {SEND}"));
        let seen = sniffer.seen(&net).iter().filter(|seen| **seen == format!("udp {to}:{port}")).count() as f64;
        let took = start.elapsed().as_secs_f64();
        println!("{own} to {port}: {seen} of 2000 in {took:.2} s");
        assert!(seen > 0.0 && seen <= rate + 1.0 + rate * took, "{seen} in {took} s");
    }
}

/// Sends `f` by `s`, which may be refused.
const SEND: &str = "
 try: s.send(f)
 except OSError: pass";

#[test]
fn a_process_sends_few_frames_that_a_link_needs() {
    let net = Net::new();
    net.isolate(&gate());
    let outside = net.outside.run(|| {
        let all = rustix::net::eth::ALL;
        rustix::net::socket_with(
            rustix::net::AddressFamily::PACKET,
            rustix::net::SocketType::RAW,
            rustix::net::SocketFlags::NONBLOCK,
            Some(all),
        )
    });
    let outside = outside.unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&outside, 64 << 20).unwrap();
    // Each with its sender, and whether any of it passes.
    let raw = "socket(AF_INET6, SOCK_RAW, 58); s.setsockopt(41, 16, 255); s.connect((F6, 0))";
    for (name, sender, frame, kind, passes) in [
        ("EAPOL", "packet()", "OUT[:12] + b'\\x88\\x8e' + bytes(1000)", [0x88, 0x8e], true),
        ("LACP", "packet()", "OUT[:12] + b'\\x88\\x09\\x01' + bytes(109)", [0x88, 0x09], true),
        ("ARP", "packet()", "OUT[:12] + b'\\x08\\x06' + arp(OUT[6:12])", [0x08, 0x06], true),
        ("solicitations as frames", "packet()", SOLICITATION, [0x86, 0xdd], false),
        ("solicitations as packets", raw, "bytes([135]) + bytes(23)", [0x86, 0xdd], true),
    ] {
        let start = Instant::now();
        python(&net.host, &format!("s = {sender}\nf = {frame}\nfor _ in range(2000): {SEND}"));
        let took = start.elapsed().as_secs_f64();
        let mut seen = 0.0;
        let mut buffer = vec![0; 2048];
        while let Ok((_, length)) = rustix::net::recv(&outside, &mut buffer[..], rustix::net::RecvFlags::empty()) {
            // The kernel's own solicitations have an option behind them.
            let is_own = kind == [0x86, 0xdd] && length != 78;
            seen += f64::from(!is_own && buffer[6..12] == [2, 0, 0, 0, 0, 2] && buffer[12..14] == kind);
        }
        println!("{name}: {seen} of 2000 in {took:.2} s");
        assert!((seen > 0.0) == passes && seen <= 51.0 + 50.0 * took, "{name}: {seen} in {took} s");
    }
}

const SOLICITATION: &str =
    "OUT[:12] + b'\\x86\\xdd' + bytes([96, 0, 0, 0, 0, 24, 58, 255]) + bytes(32) + bytes([135]) + bytes(23)";

/// Ends with its process.
struct Flood(std::process::Child);

impl Flood {
    /// `count` times a second what `frame` gives for a number, from outside, until it is dropped.
    fn new(net: &Net, frame: &str) -> Self {
        let script = format!(
            "{PRELUDE}{FRAMES}s = packet(); i = 0; start = time.monotonic()\nprint('begun', flush=True)\nwhile True:\n \
             while i < 2700 * (time.monotonic() - start): n = i % 200; s.send({frame}); i += 1\n time.sleep(0.001)"
        );
        let mut child = net.outside.run(|| Command::new("python3").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap());
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        Self(child)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Frames to the host from a neighbour whose number is `n`. There are few enough for the kernel's table of neighbours, which all namespaces share and
/// which a flood of ever new ones fills on an open host as well.
const FRAMES: &str = "
import time
def six(kind, body, hops=255):
    f, t = b'\\xfd\\x99' + bytes(9) + b'\\x09' + struct.pack('!I', n), inet_pton(AF_INET6, H6)
    m = bytearray(struct.pack('!BBH', kind, 0, 0) + body)
    m[2:4] = checksum(f + t + struct.pack('!II', len(m), 58) + bytes(m))
    return bytes([2, 0, 0, 0, 0, 2, 2, 9]) + struct.pack('!I', n) + b'\\x86\\xdd' + struct.pack('!IHBB', 6 << 28, len(m), 58, hops) + f + t + bytes(m)
def solicit(): return six(135, bytes(4) + inet_pton(AF_INET6, H6) + b'\\1\\1\\2\\x09' + struct.pack('!I', n))
def advertise(): return six(136, bytes([32, 0, 0, 0]) + b'\\xfd\\x99' + bytes(9) + b'\\x09' + struct.pack('!I', n) + b'\\2\\1\\2\\x09' + struct.pack('!I', n))
def router(): return six(134, bytes(12))
def too_big(): return six(2, struct.pack('!I', 1280) + bytes(48))
def query(): return six(130, bytes(20), 1)
def ask():
    a = struct.pack('!I', n)
    return bytes([2, 0, 0, 0, 0, 2, 2, 9]) + a + b'\\x08\\x06\\0\\1\\x08\\0\\6\\4\\0\\1\\2\\x09' + a + bytes([10, 98]) + a[2:] + bytes(6) + inet_aton(H4)
";

#[test]
fn a_neighbours_flood_keeps_the_host_from_no_neighbour() {
    let net = Net::new();
    net.isolate(&gate());
    let listeners = FRIEND.map(|friend| net.outside.listen(at(friend, 4222)));
    for frame in ["solicit()", "advertise()", "router()", "query()", "too_big()", "ask()"] {
        let _flood = Flood::new(&net, frame);
        let start = Instant::now();
        for round in 0..5 {
            for namespace in [&net.host, &net.outside] {
                namespace.sh("ip neigh flush dev eth0");
            }
            for (number, listener) in listeners.iter().enumerate() {
                let (family, friend, host) = (["AF_INET", "AF_INET6"][number], FRIEND[number], HOST[number]);
                // As the agent's user: this is how a release reaches the host.
                python(
                    &net.host,
                    &format!("os.setuid({AGENT_UID}); s = socket({family}); s.settimeout(5); s.connect(('{friend}', 4222))"),
                );
                drop(listener.accept().unwrap());
                for (namespace, neighbour) in [(&net.host, friend), (&net.outside, host)] {
                    let known = namespace.sh(&format!("ip neigh show {neighbour} dev eth0"));
                    assert!(known.contains("lladdr") && !known.contains("FAILED"), "{frame}, round {round}: {known}");
                }
            }
        }
        println!("{frame}: five rounds in {:?}", start.elapsed());
    }
}
