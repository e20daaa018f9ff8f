//! Gates that the tests and the documents share, and a real nft in a network namespace of its own.
#![allow(dead_code, clippy::disallowed_methods, clippy::unwrap_used, reason = "each test file uses a part; tests may do IO")]

use std::io::Write;
use std::process::{Command, Stdio};

use nftables::schema::Nftables;
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::{Connection, Device, Gate, Local, Netdev, Pass, Proof, Transport};
use portcullis_agent_core::verify::Ruleset;
use portcullis_schemas::exclusion::{Direction, IcmpType, PortRange, Protocol};

pub fn render(gate: &Gate) -> Nftables<'static> {
    CompiledRules::new(gate.clone()).whole()
}

pub fn expected(gate: &Gate) -> Ruleset {
    CompiledRules::new(gate.clone()).expected().clone()
}

/// No exclusion: what stands when the posture file is lost, too.
pub fn control_only() -> Gate {
    Gate {
        control: vec!["192.0.2.10:4222".parse().unwrap()],
        agent_uid: 64990,
        netdev: Some(Netdev {
            egress: true,
            every_device: false,
            devices: vec![Device { index: 2, name: "eth0".into(), address: Some([2, 0, 0, 0, 0, 2]) }],
        }),
        proof: Some(Proof::new(0x5eed)),
        ..Gate::default()
    }
}

/// One of each kind, both families.
pub fn full() -> Gate {
    use Direction::{In, Out};
    use Protocol::{Icmp, Tcp, Udp};
    Gate {
        control: ["[2001:db8::10]:4222", "192.0.2.10:4222", "192.0.2.11:4222"].map(|a| a.parse().unwrap()).into(),
        agent_uid: 64990,
        resolvers: ["192.0.2.53", "2001:db8::53"].map(|a| a.parse().unwrap()).into(),
        passes: vec![
            pass("dns-client", Out, Udp, &["192.0.2.53/32", "2001:db8::53/128"], &["53"], &[]),
            pass("dns-client", Out, Tcp, &["192.0.2.53/32", "2001:db8::53/128"], &["53"], &[]),
            pass("dhcp-client", Out, Udp, &["192.0.2.1/32", "255.255.255.255/32"], &["67"], &["68"]),
            pass("ssh-admin", In, Tcp, &["198.51.100.0/24", "2001:db8:5::/64"], &[], &["22"]),
            pass("rsyslog", Out, Tcp, &["198.51.100.7/32"], &["514", "6514-6520"], &[]),
            Pass {
                icmp_types: vec![IcmpType::EchoRequest],
                ..pass("ping", In, Icmp, &["198.51.100.0/24", "2001:db8:5::/64"], &[], &[])
            },
            pass("cluster", Out, Protocol::Number(132), &["198.51.100.8/32"], &["5000"], &[]),
            Pass { local: Local { uid: Some(34), group: None }, ..pass("backup", Out, Tcp, &["198.51.100.9/32"], &["873"], &[]) },
        ],
        standing: vec![
            connection("192.0.2.20:22", "198.51.100.4:51022"),
            connection("[2001:db8::20]:40514", "[2001:db8::53]:53"),
        ],
        netdev: control_only().netdev,
        proof: control_only().proof,
    }
}

pub fn pass(name: &str, direction: Direction, protocol: Protocol, remotes: &[&str], remote: &[&str], local: &[&str]) -> Pass {
    let ports = |list: &[&str]| list.iter().map(|port| port.parse::<PortRange>().unwrap()).collect();
    Pass {
        name: name.into(),
        direction,
        protocol,
        remotes: remotes.iter().map(|net| net.parse().unwrap()).collect(),
        remote_ports: ports(remote),
        local_ports: ports(local),
        icmp_types: vec![],
        local: Local::default(),
    }
}

pub fn connection(local: &str, remote: &str) -> Connection {
    Connection::new(Transport::Tcp, local.parse().unwrap(), remote.parse().unwrap())
}

/// Runs a shell script in a fresh network namespace that has a device eth0, with `input` on its stdin.
pub fn in_fresh_namespace(script: &str, input: &str) -> String {
    let mut child = Command::new("unshare")
        .args(["--net", "sh", "-ec", &format!("ip link add eth0 type veth peer name peer0; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare, as root");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
