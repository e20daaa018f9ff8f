//! What is excluded passes, new and standing, whichever side speaks first.

use std::time::Instant;

use portcullis_agent_core::gate::Gate;
use portcullis_schemas::exclusion::{Direction, Protocol};

use crate::cut::exchange;
use crate::net::{FRIEND, HOST, Namespace, Net, SILENCE, SOON, STRANGER, at, gate, pass};

#[test]
fn new_excluded_tcp_connections_pass_in_their_direction() {
    let net = Net::new();
    net.isolate(&gate());
    for (index, friend) in FRIEND.into_iter().enumerate() {
        let (mut client, mut server) = net.connected(&net.host, &net.outside, at(friend, 8000));
        exchange(&mut server, &mut client);
        exchange(&mut client, &mut server);
        let (mut client, mut server) = net.connected(&net.outside, &net.host, at(HOST[index], 2200));
        exchange(&mut server, &mut client);
        exchange(&mut client, &mut server);
    }
}

#[test]
fn standing_excluded_connections_survive_whoever_speaks_first() {
    for (index, friend) in FRIEND.into_iter().enumerate() {
        for server_first in [true, false] {
            // Nothing has loaded conntrack here: it sees the connections for the first time behind the gate.
            let net = Net::new();
            let mut outgoing = net.connected(&net.host, &net.outside, at(friend, 8000));
            let _listening = net.host.listen(at("::", 2200));
            let mut incoming = {
                let client = net.outside.connect(at(HOST[index], 2200)).unwrap();
                (client, _listening.accept().unwrap().0)
            };
            let dropped = net.isolate(&gate());
            assert_eq!(dropped.rules.gate().standing.len(), 2, "{:?}", dropped.rules.gate().standing);
            assert_eq!(dropped.severed.sockets_killed, 0);
            for (client, server) in [&mut outgoing, &mut incoming] {
                if server_first {
                    exchange(server, client);
                    exchange(client, server);
                } else {
                    exchange(client, server);
                    exchange(server, client);
                }
            }
        }
    }
}

#[test]
fn excluded_udp_passes_with_a_fragmented_reply() {
    let net = Net::new();
    net.isolate(&gate());
    for (index, friend) in FRIEND.into_iter().enumerate() {
        let server = net.outside.udp(at(friend, 5300));
        let client = net.host.udp(at(HOST[index], 0));
        client.send_to(b"query", at(friend, 5300)).unwrap();
        let mut buffer = [0; 8000];
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&[7; 4000], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 4000);

        let server = net.host.udp(at(HOST[index], 5301));
        let client = net.outside.udp(at(friend, 0));
        client.send_to(&[7; 4000], at(HOST[index], 5301)).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(length, 4000);
        server.send_to(&[7; 4000], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 4000);
        // The same server does not speak unasked.
        let unasked = net.outside.udp(at(friend, 5302));
        let _ = server.send_to(b"x", at(friend, 5302));
        assert!(Namespace::silent(&unasked));
    }
}

#[test]
fn a_query_under_way_is_answered_if_its_socket_is_connected() {
    let net = Net::new();
    for (index, friend) in FRIEND.into_iter().enumerate() {
        let server = net.outside.udp(at(friend, 5300));
        let client = net.host.udp(at(HOST[index], 0));
        client.connect(at(friend, 5300)).unwrap();
        client.send(b"query").unwrap();
        let mut buffer = [0; 10];
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        net.isolate(&gate());
        server.send_to(b"answer", from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
        net.open();
    }
}

#[test]
fn excluded_ping_goes_out_and_none_comes_in() {
    let net = Net::new();
    net.isolate(&gate());
    for (index, friend) in FRIEND.into_iter().enumerate() {
        assert!(net.host.pings(at(friend, 0), SOON));
        assert!(!net.outside.pings(at(HOST[index], 0), SILENCE));
    }
    net.isolate(&Gate { passes: vec![pass(Direction::In, Protocol::Icmp, 0, 0)], ..gate() });
    for (index, friend) in FRIEND.into_iter().enumerate() {
        assert!(!net.host.pings(at(friend, 0), SILENCE));
        assert!(net.outside.pings(at(HOST[index], 0), SOON));
    }
}

#[test]
fn both_port_conditions_hold_together() {
    let net = Net::new();
    let passes = vec![pass(Direction::Out, Protocol::Udp, 67, 68), pass(Direction::Out, Protocol::Udp, 5300, 53)];
    net.isolate(&Gate { passes, ..gate() });
    for (remote, local, through) in [(67, 68, true), (5300, 53, true), (67, 53, false), (5300, 68, false), (67, 1000, false)] {
        let server = net.outside.udp(at(FRIEND[0], remote));
        let _ = net.host.udp(at(HOST[0], local)).send_to(b"x", at(FRIEND[0], remote));
        if through {
            assert_eq!(server.recv(&mut [0; 10]).unwrap(), 1, "{remote} {local}");
        } else {
            assert!(Namespace::silent(&server), "{remote} {local}");
        }
    }
}

#[test]
fn frag_needed_reaches_the_host_for_passing_connections_alone() {
    let net = Net::new();
    let send = |peer: &str, port: u16| {
        let socket = net.host.udp(at(HOST[0], 0));
        let _ = socket.connect(at(peer, port)).and_then(|()| socket.send(b"x"));
        let message = frag_needed(socket.local_addr().unwrap().port(), peer, port);
        let raw = net.outside.raw_icmp(at(HOST[0], 0), SOON);
        rustix::net::send(&raw, &message, rustix::net::SendFlags::empty()).unwrap();
        socket
    };
    let learned = |peer: &str| net.host.sh(&format!("ip route get {peer}")).contains("mtu 1300");
    let becomes_learned = |peer: &str| {
        let start = Instant::now();
        while !learned(peer) {
            assert!(start.elapsed() < SOON, "{peer}");
        }
    };
    let _open = send(STRANGER[0], 7000);
    becomes_learned(STRANGER[0]);
    net.isolate(&gate());
    net.host.sh("ip route flush cache");
    // The one that passes comes last: when it has been learned, the other one has been dropped.
    let _isolated = (send(STRANGER[0], 7000), send(FRIEND[0], 5300));
    becomes_learned(FRIEND[0]);
    assert!(!learned(STRANGER[0]));
}

/// ICMP "fragmentation needed, at most 1300 bytes" about a UDP datagram of the host.
fn frag_needed(from: u16, to: &str, port: u16) -> Vec<u8> {
    let to: std::net::Ipv4Addr = to.parse().unwrap();
    let host: std::net::Ipv4Addr = HOST[0].parse().unwrap();
    let mut about = [&[0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 64, 17, 0, 0][..], &host.octets(), &to.octets()].concat();
    let checksum = internet_checksum(&about);
    about[10..12].copy_from_slice(&checksum);
    let udp = [&from.to_be_bytes()[..], &port.to_be_bytes(), &1480u16.to_be_bytes(), &[0, 0]].concat();
    let mut message = [&[3, 4, 0, 0, 0, 0][..], &1300u16.to_be_bytes(), &about, &udp].concat();
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum);
    message
}

fn internet_checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(folded + (folded >> 16)) as u16).to_be_bytes()
}
