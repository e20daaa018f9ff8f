//! A name server that is known by a link-local address alone, as routers announce themselves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use portcullis_agent::host::{dns, facts};
use portcullis_agent_core::gate::Gate;
use tempfile::TempDir;

use crate::net::{Namespace, Net, SOON, gate};

/// Answers every question for an address.
const SERVER: &str = "import socket, struct\n\
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\ns.bind(('::', 53))\nprint('ready', flush=True)\n\
    while True:\n    query, peer = s.recvfrom(512)\n    question = query[12:]\n\
    \x20   kind = query[-4:-2]\n    record = b'\\xc0\\x0c\\x00\\x01\\x00\\x01\\x00\\x00\\x00\\x05\\x00\\x04\\x0a\\x00\\x00\\x07'\n\
    \x20   if kind != b'\\x00\\x01': continue\n\
    \x20   s.sendto(query[:2] + b'\\x81\\x80' + query[4:6] + b'\\x00\\x01' + bytes(4) + question + record, peer)\n";

#[test]
fn a_link_local_name_server_is_asked_on_its_device_and_heard() {
    let net = Net::new();
    // The same address on two links, of which only the second one has the server.
    let other = Namespace::new();
    net.host.link("eth1", "02:00:00:00:01:02", &other, "eth0", "02:00:00:00:01:01");
    for outside in [&net.outside, &other] {
        outside.address("eth0", "fe80::53", &[]);
    }
    let start = || Command::new("python3").args(["-c", SERVER]).stdout(Stdio::piped()).spawn().unwrap();
    let mut server = other.run(start);
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("resolv.conf");
    let names = ["a.example".to_owned()].into();
    let ask = |text: &str, patience| {
        std::fs::write(&path, text).unwrap();
        net.host.run(|| dns::resolve(&names, &facts::name_servers(std::slice::from_ref(&path)), patience))
    };
    let expected = [("a.example".to_owned(), vec!["10.0.0.7".parse().unwrap()])].into();
    assert_eq!(ask("nameserver fe80::53%eth1\n", SOON), expected, "open");
    net.isolate(&Gate { resolvers: vec!["fe80::53".parse().unwrap()], agent_uid: 0, ..gate() });
    assert_eq!(ask("nameserver fe80::53%eth1\n", SOON), expected, "isolated");
    assert_eq!(ask("nameserver fe80::53%eth0\nnameserver fe80::53%eth1\n", SOON), expected, "both links");
    assert_eq!(ask("nameserver fe80::53%eth0\n", crate::net::SILENCE), [].into(), "another device");
    assert_eq!(ask("nameserver fe80::53%eth9\n", crate::net::SILENCE), [].into(), "no device");
    server.kill().unwrap();
    server.wait().unwrap();
}
