//! What is not named does not pass: each probe is seen while the host is open, and not any more when the gate has dropped.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};

use portcullis_agent_core::gate::Gate;

use crate::net::{FRIEND, HOST, Namespace, Net, SILENCE, SOON, STRANGER, at, gate};
use crate::sniff::Sniffer;

#[test]
fn nothing_new_gets_out() {
    let net = Net::new();
    let sniffer = Sniffer::new(&net.outside);
    let _listener = net.outside.listen(at("::", 7000));
    let probe = |expect: Option<ErrorKind>| {
        for to in STRANGER.into_iter().chain(FRIEND) {
            // Isolated, it is refused at once: a SYN that is dropped in silence would time out.
            assert_eq!(net.host.connect(at(to, 7000)).err().map(|error| error.kind()), expect, "{to}");
            let _ = net.host.udp(at(if to.contains(':') { "::" } else { "0.0.0.0" }, 0)).send_to(b"x", at(to, 7001));
        }
        for to in STRANGER {
            net.host.ping(at(to, 0));
        }
        // Broadcast and multicast too.
        let socket = net.host.udp(at(HOST[0], 0));
        socket.set_broadcast(true).unwrap();
        for to in ["255.255.255.255", "10.99.0.255", "224.0.0.251"] {
            let _ = socket.send_to(b"x", at(to, 7001));
        }
        sniffer.seen(&net)
    };
    let open = probe(None);
    for to in STRANGER.into_iter().chain(FRIEND) {
        assert!(open.contains(&format!("tcp {}", at(to, 7000))), "{open:?}");
        assert!(open.contains(&format!("udp {}", at(to, 7001))), "{open:?}");
    }
    for wanted in
        ["icmp-8 10.99.0.3", "icmp-128 fd99::3", "udp 255.255.255.255:7001", "udp 10.99.0.255:7001", "udp 224.0.0.251:7001"]
    {
        assert!(open.iter().any(|seen| seen == wanted), "{wanted}: {open:?}");
    }
    net.isolate(&gate());
    assert_eq!(probe(Some(ErrorKind::ConnectionRefused)), [""; 0]);
    net.open();
    assert!(!probe(None).is_empty());
}

#[test]
fn nothing_new_gets_in_and_nothing_answers() {
    let net = Net::new();
    let sniffer = Sniffer::new(&net.outside);
    let _listener = net.host.listen(at("::", 7000));
    // Held open: the acknowledgement of a FIN may come 40 ms late, just before the gate drops.
    let mut held = Vec::new();
    let mut probe = |expect: Option<ErrorKind>| {
        for to in HOST {
            let connected = net.outside.run(|| TcpStream::connect_timeout(&at(to, 7000), SILENCE));
            assert_eq!(connected.as_ref().err().map(|error| error.kind()), expect, "{to}");
            held.push(connected);
            // Nobody has this port: an open host says so.
            let _ = net.outside.udp(at(if to.contains(':') { "::" } else { "0.0.0.0" }, 0)).send_to(b"x", at(to, 7001));
            net.outside.ping(at(to, 0));
        }
        sniffer.seen(&net)
    };
    let open = probe(None);
    for wanted in ["icmp-3 10.99.0.1", "icmp-1 fd99::1", "icmp-0 10.99.0.1", "icmp-129 fd99::1"] {
        assert!(open.iter().any(|seen| seen == wanted), "{wanted}: {open:?}");
    }
    net.isolate(&gate());
    assert_eq!(probe(Some(ErrorKind::TimedOut)), [""; 0]);
}

#[test]
fn an_excluded_peer_cannot_call_from_the_port_that_may_be_called() {
    let net = Net::new();
    let _listener = net.host.listen(at("::", 7000));
    for server in FRIEND {
        for port in [8000, 4222] {
            let call = || {
                let address = format!("{}/{port}", server);
                let script = format!(
                    "import socket; s = socket.socket({}); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); \
                     s.bind(('{server}', {port})); s.settimeout(0.3); s.connect(('{}', 7000))",
                    if server.contains(':') { "socket.AF_INET6" } else { "socket.AF_INET" },
                    if server.contains(':') { HOST[1] } else { HOST[0] },
                );
                let output = net.outside.run(|| std::process::Command::new("python3").args(["-c", &script]).output().unwrap());
                (output.status.success(), address)
            };
            assert!(call().0, "open: {}", call().1);
            net.isolate(&gate());
            assert!(!call().0, "isolated: {}", call().1);
            net.open();
        }
    }
}

#[test]
fn the_host_still_speaks_to_itself() {
    let net = Net::new();
    net.isolate(&gate());
    for address in ["127.0.0.1", "::1", HOST[0], HOST[1]] {
        let (mut client, mut server) = net.connected(&net.host, &net.host, at(address, 7000));
        exchange(&mut client, &mut server);
        // A change cuts none of it either, though the gate does not name it.
        assert_eq!(net.isolate(&gate()).severed.sockets_killed, 0);
        exchange(&mut server, &mut client);
    }
}

#[test]
fn what_is_forwarded_ends_and_its_conntrack_entries_go() {
    let net = Net::new();
    let inner = Namespace::new();
    net.host.link("inner0", "02:00:00:00:01:02", &inner, "eth0", "02:00:00:00:01:01");
    net.host.address("inner0", "10.98.0.1", &[]);
    inner.address("eth0", "10.98.0.2", &[]);
    inner.ip(&["route", "add", "default", "via", "10.98.0.1"]);
    net.host.sysctl("net/ipv4/ip_forward", "1");
    net.host.sh("nft 'add table ip foreign; add chain ip foreign post { type nat hook postrouting priority 100; }; \
                 add rule ip foreign post ip saddr 10.98.0.0/24 masquerade'");
    let sniffer = Sniffer::new(&net.outside);
    // To the friend's excluded port: exclusions are about the host itself.
    let (mut client, mut server) = net.connected(&inner, &net.outside, at(FRIEND[0], 8000));
    exchange(&mut client, &mut server);
    assert!(!sniffer.seen(&net).is_empty());
    assert!(conntrack(&net).contains("dport=8000"));
    assert!(net.isolate(&gate()).severed.flows_flushed >= 1);
    let _ = std::io::Write::write_all(&mut client, b"x");
    assert!(inner.run(|| TcpStream::connect_timeout(&at(FRIEND[0], 8000), SILENCE)).is_err());
    assert_eq!(sniffer.seen(&net), [""; 0]);
    assert!(!conntrack(&net).contains("dport=8000"), "{}", conntrack(&net));
}

#[test]
fn a_destination_that_another_table_changes_afterwards_does_not_pass() {
    let net = Net::new();
    net.host.sh("nft 'add table ip foreign; add chain ip foreign out { type nat hook output priority -100; }; \
                 add rule ip foreign out ip daddr 10.99.0.1 tcp dport 8000 dnat to 10.99.0.3:7000'");
    let sniffer = Sniffer::new(&net.outside);
    let _listener = net.outside.listen(at(STRANGER[0], 7000));
    // Its end goes out now, and not when a program that a test beside this one is starting has let go of its copy of the socket.
    net.host.connect(at(FRIEND[0], 8000)).unwrap().shutdown(Shutdown::Both).unwrap();
    assert!(sniffer.seen(&net).contains(&"tcp 10.99.0.3:7000".to_owned()));
    net.isolate(&gate());
    let refused = net.host.run(|| TcpStream::connect_timeout(&at(FRIEND[0], 8000), SILENCE));
    assert!(refused.is_err());
    assert_eq!(sniffer.seen(&net), [""; 0]);
}

#[test]
fn without_exclusions_only_the_control_channel_is_left() {
    let net = Net::new();
    let _listener = net.outside.listen(at("::", 8000));
    net.host.connect(at(FRIEND[0], 8000)).unwrap();
    net.isolate(&Gate { passes: vec![], ..gate() });
    for to in FRIEND {
        assert_eq!(net.host.connect(at(to, 8000)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(!net.host.pings(at(to, 0), SILENCE));
    }
}

pub fn exchange(from: &mut TcpStream, to: &mut TcpStream) {
    use std::io::{Read, Write};
    let mut buffer = [0; 5];
    from.write_all(b"hello").unwrap();
    to.set_read_timeout(Some(SOON)).unwrap();
    to.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
}

/// Lists over /proc, where the kernel has it, else with conntrack-tools.
pub fn conntrack(net: &Net) -> String {
    net.host.sh("cat /proc/net/nf_conntrack 2>/dev/null || conntrack -L 2>/dev/null")
}
