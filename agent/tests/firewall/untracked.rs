//! A host whose own rules exempt packets from conntrack, as DNS servers and nodes of Kubernetes have them: exclusions work all the same.

use portcullis_agent_core::gate::{Gate, Local, Pass};
use portcullis_schemas::exclusion::{Direction, Protocol};

use crate::cut::exchange;
use crate::net::{AGENT_UID, FRIEND, HOST, Namespace, Net, SILENCE, SOON, STRANGER, at, gate, pass};

const USER: u32 = 64_992;

/// Exempts what matches, both ways, in a table of somebody else.
pub fn notrack(net: &Net, matches: &[&str]) {
    let rules: String = matches.iter().map(|what| format!("{what} notrack\n")).collect();
    let chain = |name: &str, hook: &str| format!("chain {name} {{\ntype filter hook {hook} priority raw;\n{rules}}}\n");
    let table = format!("table inet somebody {{\n{}{}}}", chain("pre", "prerouting"), chain("out", "output"));
    net.host.sh(&format!("nft -f - <<'END'\n{table}\nEND"));
}

const DNS: [&str; 2] = ["udp dport 53", "udp sport 53"];

#[test]
fn dns_that_a_host_does_not_track_passes_for_client_and_server() {
    let net = Net::new();
    notrack(&net, &DNS);
    let dns = [pass(Direction::Out, Protocol::Udp, 53, 0), pass(Direction::In, Protocol::Udp, 0, 53)];
    net.isolate(&Gate { passes: [gate().passes, dns.to_vec()].concat(), ..gate() });
    for (friend, host) in FRIEND.into_iter().zip(HOST) {
        let (server, client) = (net.outside.udp(at(friend, 53)), net.host.udp(at(host, 0)));
        asked(&client, &server, &format!("{friend}: the host asks"));
        let (server, client) = (net.host.udp(at(host, 53)), net.outside.udp(at(friend, 0)));
        asked(&client, &server, &format!("{friend}: the host is asked"));
    }
    for (stranger, host) in STRANGER.into_iter().zip(HOST) {
        let server = net.outside.udp(at(stranger, 53));
        let _ = net.host.udp(at(host, 0)).send_to(b"query", server.local_addr().unwrap());
        assert!(Namespace::silent(&server), "{stranger}");
        let server = net.host.udp(at(host, 53));
        net.outside.udp(at(stranger, 0)).send_to(b"query", server.local_addr().unwrap()).unwrap();
        assert!(Namespace::silent(&server), "{stranger} asks");
    }
}

#[test]
fn the_agents_own_questions_are_answered_where_dns_is_not_tracked() {
    let net = Net::new();
    notrack(&net, &DNS);
    net.isolate(&Gate { resolvers: FRIEND.map(|ip| ip.parse().unwrap()).into(), ..gate() });
    for friend in FRIEND {
        let server = net.outside.udp(at(friend, 53));
        assert_eq!(query_as(&net, AGENT_UID, &server), "answer", "{friend}");
        assert_eq!(query_as(&net, 0, &server), "refused", "{friend}: root");
    }
}

#[test]
fn what_is_not_tracked_opens_nothing_against_its_direction() {
    let net = Net::new();
    notrack(&net, &["meta l4proto { tcp, udp, icmp, ipv6-icmp, sctp }"]);
    net.isolate(&gate());
    for (friend, host) in FRIEND.into_iter().zip(HOST) {
        let (mut client, mut server) = net.connected(&net.host, &net.outside, at(friend, 8000));
        exchange(&mut client, &mut server);
        let (mut client, mut server) = net.connected(&net.outside, &net.host, at(host, 2200));
        exchange(&mut client, &mut server);
        // From the port that the host may call.
        let _listener = net.host.listen(at(host, 9000));
        assert!(!opens(&net.outside, at(friend, 8000), at(host, 9000)), "{friend} calls");
        // From the port that may be called.
        let _listener = net.outside.listen(at(friend, 9000));
        assert!(!opens(&net.host, at(host, 2200), at(friend, 9000)), "{friend} is called");
        assert!(net.host.pings(at(friend, 0), SOON), "{friend}");
        assert!(!net.outside.pings(at(host, 0), SILENCE), "{friend} pings");
    }
}

#[test]
fn an_exclusion_for_a_user_holds_for_what_is_not_tracked() {
    let net = Net::new();
    notrack(&net, &["meta l4proto { tcp, udp }"]);
    let local = Local { uid: Some(USER), group: None };
    let passes = vec![Pass { local: local.clone(), ..pass(Direction::Out, Protocol::Udp, 5400, 0) }];
    net.isolate(&Gate { passes: [gate().passes, passes].concat(), ..gate() });
    for friend in FRIEND {
        let server = net.outside.udp(at(friend, 5400));
        assert_eq!(query_as(&net, USER, &server), "answer", "{friend}");
        assert_eq!(query_as(&net, 0, &server), "refused", "{friend}: root");
    }
}

/// Whether a TCP connection comes about.
fn opens(namespace: &Namespace, from: std::net::SocketAddr, to: std::net::SocketAddr) -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
    namespace.run(|| {
        let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(SILENCE)).unwrap();
        rustix::net::bind(&socket, &from).unwrap();
        rustix::net::connect(&socket, &to).is_ok()
    })
}

fn asked(client: &std::net::UdpSocket, server: &std::net::UdpSocket, what: &str) {
    client.send_to(b"query", server.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 16];
    let (_, from) = server.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
    server.send_to(b"answer", from).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}")), 6);
}

/// What a program of that user gets for a datagram to `server`.
fn query_as(net: &Net, uid: u32, server: &std::net::UdpSocket) -> String {
    let to = server.local_addr().unwrap();
    let program = format!(
        "import os, socket\nos.setgid({uid}); os.setuid({uid})\n\
         s = socket.socket(socket.AF_INET{}, socket.SOCK_DGRAM)\ns.settimeout(5)\n\
         try:\n    s.sendto(b'query', ('{}', {}))\n    print(s.recv(10).decode())\n\
         except PermissionError:\n    print('refused')\n",
        if to.is_ipv6() { "6" } else { "" },
        to.ip(),
        to.port()
    );
    let start = || {
        let mut command = std::process::Command::new("python3");
        command.args(["-c", &program]).stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let child = net.host.run(start);
    let mut buffer = [0; 16];
    if uid != 0
        && let Ok((_, from)) = server.recv_from(&mut buffer)
    {
        server.send_to(b"answer", from).unwrap();
    }
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}
