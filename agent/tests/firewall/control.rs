//! The control channel: the broker for the agent's own user, and for nobody else on the host.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::cut::exchange;
use crate::net::{AGENT_UID, FRIEND, Net, SOON, at, gate, silent_with};
use crate::sniff::Sniffer;

/// Connects, says `ready`, and then sends to the server each line of its input and prints each line of the server.
const CLIENT: &str = "exec 3<>/dev/tcp/$0/4222 || exit 3; echo ready; cat <&3 & cat >&3; wait";

#[test]
fn a_new_control_connection_passes_for_the_agents_user_alone() {
    for friend in FRIEND {
        let net = Net::new();
        let sniffer = Sniffer::new(&net.outside);
        net.isolate(&gate());
        let listener = net.outside.listen(at(friend, 4222));
        let mut other = client(&net, friend, 0);
        assert_eq!(other.wait().unwrap().code(), Some(3));
        assert_eq!(sniffer.seen(&net), [""; 0]);
        let agent = client(&net, friend, AGENT_UID);
        let (server, _) = listener.accept().unwrap();
        converse(agent, server);
    }
}

#[test]
fn a_standing_control_connection_is_neither_cut_nor_listed_whoever_speaks_first() {
    for friend in FRIEND {
        let net = Net::new();
        let listener = net.outside.listen(at(friend, 4222));
        let agent = client(&net, friend, AGENT_UID);
        let (server, _) = listener.accept().unwrap();
        let mut other = client(&net, friend, 1234);
        let (other_server, _) = listener.accept().unwrap();
        let dropped = net.isolate(&gate());
        assert_eq!((dropped.severed.sockets_killed, dropped.rules.gate().standing.len()), (1, 0));
        // The program of the other user has lost its connection, and its peer hears nothing of it.
        other_server.set_read_timeout(Some(crate::net::SILENCE)).unwrap();
        assert!(silent_with(|| (&other_server).read(&mut [0; 1])));
        let _ = other.kill();
        other.wait().unwrap();
        converse(agent, server);
    }
}

#[test]
fn the_control_connection_lives_through_changes_and_the_opening() {
    let net = Net::new();
    let (mut client, mut server) = net.connected(&net.host, &net.outside, at(FRIEND[0], 4222));
    let mine = portcullis_agent_core::gate::Gate { agent_uid: 0, ..gate() };
    for _ in 0..3 {
        net.isolate(&mine);
        exchange(&mut server, &mut client);
        exchange(&mut client, &mut server);
    }
    net.open();
    exchange(&mut server, &mut client);
}

fn client(net: &Net, server: &str, uid: u32) -> Child {
    net.host.run(|| {
        Command::new("bash")
            .args(["-c", CLIENT, server])
            .uid(uid)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    })
}

fn converse(mut agent: Child, mut server: std::net::TcpStream) {
    server.set_read_timeout(Some(SOON)).unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    server.write_all(b"INFO\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "INFO");
    agent.stdin.take().unwrap().write_all(b"PING\n").unwrap();
    let mut line = String::new();
    BufReader::new(&server).read_line(&mut line).unwrap();
    assert_eq!(line, "PING\n");
    let _ = agent.kill();
    server.shutdown(std::net::Shutdown::Both).unwrap();
    agent.wait().unwrap();
}
