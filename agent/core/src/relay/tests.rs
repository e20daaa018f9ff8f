//! Tables: what stands on a host, and what is seen of the way to its broker.

use super::*;
use crate::gate::Local;

const AGENT: u32 = 1;

#[test]
fn a_relay_is_told_from_a_broker_by_what_leaves_the_host() {
    let agent = socket(AGENT, "127.0.0.1:5000", "127.0.0.1:4222");
    let server = socket(2, "127.0.0.1:4222", "127.0.0.1:5000");
    let listening = Socket { state: State::Listening, ..socket(3, "0.0.0.0:4222", "0.0.0.0:0") };
    let client = socket(4, "10.0.0.5:4222", "10.0.0.77:6000");
    let leaf = socket(5, "10.0.0.5:7000", "10.0.0.9:7422");
    let (to_sidecar, at_sidecar) =
        (socket(6, "127.0.0.1:7001", "127.0.0.1:15001"), socket(7, "127.0.0.1:15001", "127.0.0.1:7001"));
    let from_sidecar = socket(8, "10.0.0.5:7002", "10.0.0.9:443");
    // The kernel turns what goes to 10.0.0.9 to a process here: REDIRECT, and a transparent proxy.
    let through = socket(AGENT, "10.0.0.5:5000", "10.0.0.9:4222");
    let redirected = socket(2, "127.0.0.1:15001", "10.0.0.5:5000");
    let transparent = socket(2, "10.0.0.9:4222", "10.0.0.5:5000");
    // Process 2 holds sockets 2 to 6, process 7 holds 7 and 8.
    let kin = |inode| Some(if inode < 7 { HashSet::from([2, 3, 4, 5, 6]) } else { HashSet::from([7, 8]) });
    for (what, sockets, ends_here, onward) in [
        ("elsewhere", vec![&through], false, vec![]),
        ("the broker itself, with a client from outside", vec![&agent, &server, &listening, &client], true, vec![]),
        ("a leaf", vec![&agent, &server, &listening, &client, &leaf], true, vec!["10.0.0.9:7422"]),
        ("somebody else's connection", vec![&agent, &server, &listening, &from_sidecar], true, vec![]),
        ("by a sidecar", vec![&agent, &server, &to_sidecar, &at_sidecar, &from_sidecar], true, vec!["10.0.0.9:443"]),
        ("redirected", vec![&through, &redirected, &leaf], true, vec!["10.0.0.9:7422"]),
        ("a transparent proxy", vec![&through, &transparent, &leaf], true, vec!["10.0.0.9:7422"]),
    ] {
        let sockets: Vec<Socket> = sockets.into_iter().cloned().collect();
        let end = end(&sockets, &[AGENT].into(), &["10.0.0.5".parse().unwrap()].into(), kin);
        assert_eq!(end.is_some(), ends_here, "{what}");
        let found = end.map(|end| end.onward.iter().map(|onward| onward.remote.to_string()).collect()).unwrap_or_default();
        let found: Vec<String> = found;
        assert_eq!(found, onward, "{what}");
    }
}

#[test]
fn where_processes_cannot_be_seen_user_and_control_group_stand_for_one() {
    let agent = Socket { uid: 900, ..socket(AGENT, "127.0.0.1:5000", "127.0.0.1:4222") };
    let server = socket(2, "127.0.0.1:4222", "127.0.0.1:5000");
    let of = |uid, group| Socket { uid, group, ..socket(5, "10.0.0.5:7000", "10.0.0.9:7422") };
    for (other, onward) in [(of(7, Some(1)), 1), (of(8, Some(1)), 0), (of(7, Some(2)), 0)] {
        let found = end(&[agent.clone(), server.clone(), other], &[AGENT].into(), &HashSet::new(), |_| None).unwrap();
        assert_eq!(found.onward.len(), onward);
    }
}

#[test]
fn a_broker_on_this_host_is_taken_as_itself_or_where_an_exclusion_carries_it_on() {
    let broker = "127.0.0.1:4222".parse().unwrap();
    let onward =
        Onward { protocol: Transport::Tcp, remote: "10.0.0.9:7422".parse().unwrap(), local_port: 7000, uid: 7, group: Some(1) };
    let (alone, goes_on) = (End { broker, onward: vec![] }, End { broker, onward: vec![onward] });
    let server = |leader: &str, replicas: &[&str]| Server {
        name: "a".into(),
        leader: Some(leader.into()),
        replicas: replicas.iter().map(ToString::to_string).collect(),
    };
    let shut = Gate::default();
    assert_eq!(judge(&alone, Some(&server("a", &[])), &shut), Ok(()));
    assert_eq!(judge(&alone, None, &shut), Err(Objection::Unknown { broker }));
    for elsewhere in [server("b", &[]), server("a", &["b"])] {
        assert!(matches!(judge(&alone, Some(&elsewhere), &shut), Err(Objection::Elsewhere { .. })), "{elsewhere:?}");
    }
    // A relay of bytes looks like the server behind it.
    let refused = judge(&goes_on, Some(&server("a", &[])), &shut).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the broker at 127.0.0.1:4222 is a relay on this host, which goes on to tcp 10.0.0.9:7422 as uid 7; an isolation cuts that"
    );
    for (uid, port, takes) in [(None, 7422, true), (Some(7), 7422, true), (Some(8), 7422, false), (None, 443, false)] {
        let pass = serde_json::json!({
            "name": "hub", "direction": "out", "protocol": "tcp", "remotes": ["10.0.0.9/32"], "remote_ports": [port], "local_ports": [],
        });
        let pass = crate::gate::Pass { local: Local { uid, group: None }, ..serde_json::from_value(pass).unwrap() };
        let gate = Gate { passes: vec![pass], ..Gate::default() };
        assert_eq!(judge(&goes_on, Some(&server("b", &[])), &gate).is_ok(), takes, "{uid:?} {port}");
    }
}

fn socket(inode: u32, local: &str, remote: &str) -> Socket {
    Socket {
        protocol: Transport::Tcp,
        state: State::Connected,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        uid: 7,
        group: Some(1),
        inode,
        interface: 0,
    }
}
