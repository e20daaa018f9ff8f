//! Connections that stood before end, at once for the local program, and what stands is left alone.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cut::{conntrack, exchange};
use crate::net::{FRIEND, HOST, Net, SILENCE, SOON, STRANGER, at, gate, silent_with};
use crate::sniff::Sniffer;

#[test]
fn standing_connections_are_severed_and_the_local_program_hears_of_it() {
    let net = Net::new();
    let sniffer = Sniffer::new(&net.outside);
    for (index, stranger) in STRANGER.into_iter().enumerate() {
        let (mut client, mut far) = net.connected(&net.host, &net.outside, at(stranger, 7000));
        let (mut far_client, mut server) = net.connected(&net.outside, &net.host, at(HOST[index], 7001));
        let udp = net.host.udp(at(HOST[index], 0));
        udp.connect(at(stranger, 7002)).unwrap();
        exchange(&mut client, &mut far);
        exchange(&mut server, &mut far_client);
        assert!(!sniffer.seen(&net).is_empty());

        assert_eq!(net.isolate(&gate()).severed.sockets_killed, 3);
        for stream in [&mut client, &mut server] {
            assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        }
        assert_eq!(udp.recv(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(sniffer.seen(&net), [""; 0], "not even a reset");
        for stream in [&mut far, &mut far_client] {
            stream.set_read_timeout(Some(SILENCE)).unwrap();
            assert!(silent_with(|| stream.read(&mut [0; 1])));
        }
        net.open();
        sniffer.seen(&net);
    }
}

#[test]
fn an_ipv4_connection_of_an_ipv6_socket_is_severed_or_stands_as_ipv4() {
    let net = Net::new();
    let listener = net.host.listen(at("::", 2200));
    let stranger = net.host.listen(at("::", 7000));
    let mut excluded = (net.outside.connect(at(HOST[0], 2200)).unwrap(), listener.accept().unwrap().0);
    let (_other, mut cut) = (net.outside.connect(at(HOST[0], 7000)).unwrap(), stranger.accept().unwrap().0);
    let dropped = net.isolate(&gate());
    assert_eq!(dropped.severed.sockets_killed, 1);
    assert!(dropped.rules.gate().standing[0].local.is_ipv4());
    cut.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(cut.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    exchange(&mut excluded.1, &mut excluded.0);
}

#[test]
fn conntrack_entries_go_but_for_the_excluded_ones() {
    let net = Net::new();
    // Somebody else's rule has loaded conntrack long before.
    net.host.sh("nft 'add table inet foreign; add chain inet foreign in { type filter hook input priority 0; }; \
                 add rule inet foreign in ct state new counter'");
    let mut excluded = net.connected(&net.host, &net.outside, at(FRIEND[1], 8000));
    let _cut = net.connected(&net.host, &net.outside, at(STRANGER[0], 7000));
    let _udp = net.host.udp(at(HOST[0], 0)).send_to(b"x", at(STRANGER[0], 7003));
    net.host.ping(at(STRANGER[1], 0));
    let before = conntrack(&net);
    for wanted in ["dport=8000", "dport=7000", "dport=7003", "icmpv6"] {
        assert!(before.contains(wanted), "{wanted}: {before}");
    }
    assert_eq!(net.isolate(&gate()).severed.flows_flushed, 3);
    let after = conntrack(&net);
    assert!(after.contains("dport=8000") && !after.contains("dport=700") && !after.contains("icmpv6"), "{after}");
    exchange(&mut excluded.1, &mut excluded.0);
}

#[test]
fn an_excluded_server_that_speaks_first_goes_on_after_its_exclusion_stayed_and_ends_with_it() {
    let net = Net::new();
    let (mut client, mut server) = net.connected(&net.host, &net.outside, at(FRIEND[0], 8000));
    let first = net.isolate(&gate());
    exchange(&mut server, &mut client);
    let second = net.isolate(first.rules.gate());
    assert_eq!(first.rules.gate(), second.rules.gate());
    exchange(&mut server, &mut client);
    let mut narrowed = second.rules.gate().clone();
    narrowed.passes.remove(0);
    let third = net.isolate(&narrowed);
    assert_eq!((third.severed.sockets_killed, third.rules.gate().standing.len()), (1, 0));
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

/// TCP and connected UDP, to strangers and to the friend, over both families; and as many conntrack entries.
#[test]
fn ten_thousand_sockets_go_and_no_excluded_one() {
    const OF_EACH: usize = 2_500;
    const EXCLUDED: usize = 50;
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let net = Net::new();
    // Somebody else's rule has loaded conntrack long before.
    net.host.sh("nft 'add table inet foreign; add chain inet foreign in { type filter hook input priority 0; }; \
                 add rule inet foreign in ct state new counter'");
    let [far, friend] = [7000, 8000].map(|port| net.outside.listen(at("::", port)));
    let _udp = [7002, 5300].map(|port| net.outside.udp(at("::", port)));
    let (mut cut, mut kept, mut cut_udp, mut kept_udp) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    net.host.run(|| {
        let tcp = |to| TcpStream::connect(to).unwrap();
        let udp = |to: SocketAddr| {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"x").unwrap();
            socket
        };
        for family in [0, 1] {
            for _ in 0..OF_EACH {
                cut.push((tcp(at(STRANGER[family], 7000)), far.accept().unwrap().0));
                cut_udp.push(udp(at(STRANGER[family], 7002)));
            }
            for _ in 0..EXCLUDED {
                kept.push((tcp(at(FRIEND[family], 8000)), friend.accept().unwrap().0));
                kept_udp.push(udp(at(FRIEND[family], 5300)));
            }
        }
    });
    let dropped = net.isolate(&gate());
    let timing = dropped.timing;
    let [surveyed, severed] = [timing.surveyed, timing.severed - timing.enforced];
    println!("10,000 sockets: listed in {surveyed:?}, severed with their conntrack entries in {severed:?}; {timing:?}");
    assert_eq!(dropped.severed.sockets_killed as usize, 4 * OF_EACH);
    // What is kept has its own entries; TCP leaves none behind that could be counted twice.
    assert_eq!(dropped.severed.flows_flushed as usize, 4 * OF_EACH);
    assert_eq!(dropped.rules.gate().standing.len(), 4 * EXCLUDED);
    assert!(severed < SOON, "{severed:?}");
    for (client, _) in &mut cut {
        assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }
    for socket in &cut_udp {
        assert_eq!(socket.recv(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }
    for (client, server) in &mut kept {
        exchange(client, server);
        exchange(server, client);
    }
    assert!(kept_udp.iter().all(|socket| socket.send(b"x").is_ok()));
    let left = conntrack(&net);
    assert!(left.lines().all(|line| line.contains("dport=8000") || line.contains("dport=5300")), "{left}");
}
