//! Which connections end when the gate drops, as tables.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use common::{connection, full};
use portcullis_agent_core::gate::{Gate, Transport};
use portcullis_agent_core::sever::{Cut, Flow, Socket, State, cut, flush};

const AGENT: u32 = 64990;

#[derive(Debug, PartialEq)]
enum Fate {
    Destroyed,
    Standing,
    Untouched,
}
use Fate::{Destroyed, Standing, Untouched};

#[test]
fn sockets() {
    let gate = Gate { standing: vec![], ..full() };
    let around = [tcp(State::Listening, "[::]:22", "[::]:0", 0)];
    for (socket, fate, why) in [
        (tcp(State::Connected, "192.0.2.20:40000", "203.0.113.1:443", 0), Destroyed, "not excluded"),
        (tcp(State::Connected, "192.0.2.20:40000", "198.51.100.7:514", 0), Standing, "excluded, outgoing"),
        (tcp(State::Connected, "192.0.2.20:40000", "198.51.100.7:515", 0), Destroyed, "another port"),
        (tcp(State::Connected, "192.0.2.20:22", "198.51.100.9:50000", 0), Standing, "excluded, incoming"),
        (tcp(State::Connected, "192.0.2.20:22", "198.51.101.9:50000", 0), Destroyed, "incoming from elsewhere"),
        (tcp(State::Connected, "192.0.2.20:22", "198.51.100.7:514", 0), Standing, "incoming, by the incoming exclusion"),
        (tcp(State::Connected, "[2001:db8::20]:22", "[2001:db8:5::9]:50000", 0), Standing, "excluded, incoming, IPv6"),
        (tcp(State::Connected, "192.0.2.20:40000", "192.0.2.10:4222", AGENT), Untouched, "the control channel"),
        (tcp(State::Connected, "192.0.2.20:40000", "192.0.2.10:4222", 0), Destroyed, "the broker, another user"),
        (tcp(State::Connected, "192.0.2.20:40000", "192.0.2.10:4223", AGENT), Destroyed, "the agent, another port"),
        (udp(State::Connected, "192.0.2.20:40000", "192.0.2.10:4222", AGENT), Destroyed, "the control channel is TCP"),
        (udp(State::Connected, "192.0.2.20:40000", "192.0.2.53:53", 0), Standing, "a connected resolver socket"),
        (udp(State::Connected, "192.0.2.20:69", "192.0.2.1:67", 0), Destroyed, "one of two port conditions holds"),
        (udp(State::Connected, "192.0.2.20:68", "192.0.2.1:67", 0), Standing, "both port conditions hold"),
        (tcp(State::Connected, "127.0.0.1:40000", "127.0.0.53:53", 0), Untouched, "loopback"),
        (tcp(State::Connected, "[::1]:40000", "[::1]:631", 0), Untouched, "loopback, IPv6"),
        (tcp(State::Connected, "192.0.2.20:40000", "192.0.2.20:80", 0), Untouched, "the host to itself"),
        (tcp(State::Listening, "192.0.2.20:80", "0.0.0.0:0", 0), Untouched, "a listener"),
        (tcp(State::Idle, "192.0.2.20:40000", "203.0.113.1:443", 0), Untouched, "TIME_WAIT"),
        (udp(State::Listening, "192.0.2.20:5353", "0.0.0.0:0", 0), Untouched, "UDP without a peer"),
    ] {
        let sockets = [vec![socket.clone()], around.to_vec()].concat();
        let Cut { destroy, standing } = cut(&sockets, &gate, &local());
        let found = match (&destroy[..], &standing[..]) {
            ([0], []) => Destroyed,
            ([], [_]) => Standing,
            ([], []) => Untouched,
            other => panic!("{why}: {other:?}"),
        };
        assert_eq!(found, fate, "{why}");
    }
}

#[test]
fn without_a_listener_a_connection_is_outgoing_and_an_incoming_exclusion_does_not_hold() {
    let ssh = tcp(State::Connected, "192.0.2.20:22", "198.51.100.9:50000", 0);
    assert_eq!(cut(std::slice::from_ref(&ssh), &Gate { standing: vec![], ..full() }, &local()).destroy, [0]);
    let stood = connection("192.0.2.20:22", "198.51.100.9:50000");
    let again = cut(&[ssh], &Gate { standing: vec![stood], ..full() }, &local());
    assert_eq!(again, Cut { destroy: vec![], standing: vec![stood] });
}

#[test]
fn what_stood_ends_when_its_exclusion_does_or_when_it_closes() {
    let stood = connection("192.0.2.20:22", "198.51.100.9:50000");
    let ssh = tcp(State::Connected, "192.0.2.20:22", "198.51.100.9:50000", 0);
    let narrowed = Gate { passes: vec![], standing: vec![stood], ..full() };
    assert_eq!(cut(&[ssh], &narrowed, &local()), Cut { destroy: vec![0], standing: vec![] });
    assert_eq!(cut(&[], &Gate { standing: vec![stood], ..full() }, &local()), Cut::default());
}

#[test]
fn flows() {
    for (protocol, from, to, kept, why) in [
        (6, "192.0.2.20:40000", "203.0.113.1:443", false, "not excluded"),
        (6, "192.0.2.20:40000", "198.51.100.7:514", true, "excluded, outgoing"),
        (6, "198.51.100.7:514", "192.0.2.20:40000", false, "the same turned round is incoming"),
        (6, "198.51.100.9:50000", "192.0.2.20:22", true, "excluded, incoming"),
        (6, "198.51.100.4:51022", "192.0.2.20:22", true, "stood"),
        (6, "[2001:db8::53]:53", "[2001:db8::20]:40514", true, "stood, taken the wrong way round"),
        (17, "192.0.2.20:40000", "192.0.2.53:53", true, "a query under way"),
        (17, "172.17.0.2:40000", "192.0.2.53:53", false, "a container's query, forwarded"),
        (1, "198.51.100.9:0", "192.0.2.20:0", true, "excluded ping"),
        (1, "192.0.2.20:0", "198.51.100.9:0", false, "ping the other way"),
        (47, "192.0.2.20:0", "198.51.100.9:0", false, "another protocol"),
        (6, "192.0.2.20:40000", "192.0.2.10:4222", true, "the control channel"),
        (17, "192.0.2.20:40000", "192.0.2.10:4222", false, "the control channel is TCP"),
        (17, "127.0.0.1:40000", "127.0.0.53:53", true, "loopback"),
        (6, "192.0.2.20:40000", "192.0.2.20:80", true, "the host to itself"),
    ] {
        let flow = Flow { protocol, from: from.parse().unwrap(), to: to.parse().unwrap() };
        assert_eq!(flush(&[flow], &full(), &local()).is_empty(), kept, "{why}");
    }
}

fn local() -> HashSet<IpAddr> {
    ["127.0.0.1", "::1", "192.0.2.20", "2001:db8::20"].iter().map(|ip| ip.parse().unwrap()).collect()
}

fn tcp(state: State, local: &str, remote: &str, uid: u32) -> Socket {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    Socket {
        protocol: Transport::Tcp,
        state,
        local: address(local),
        remote: address(remote),
        uid,
        group: None,
        inode: 1,
        interface: 0,
    }
}

fn udp(state: State, local: &str, remote: &str, uid: u32) -> Socket {
    Socket { protocol: Transport::Udp, ..tcp(state, local, remote, uid) }
}
