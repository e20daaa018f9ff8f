//! Changes and the opening: no gap, nothing lost, nothing left behind.

use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_agent::firewall::{
    Kernel, Layers, Nft, check, drop_gate, is_down, lift_gate, lift_standing_gate, prepare_gate, restore_gate,
};
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::Gate;
use portcullis_schemas::events::Level;
use portcullis_schemas::exclusion::{Direction, Protocol};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::cut::exchange;
use crate::net::{FRIEND, HOST, Net, SOON, STRANGER, at, fitted, gate, pass};
use crate::sniff::Sniffer;

#[test]
fn changes_under_a_flood_leak_nothing_and_keep_the_excluded_flow() {
    let net = Net::new();
    let sniffer = Sniffer::new(&net.outside);
    let (mut client, mut server) = net.connected(&net.host, &net.outside, at(FRIEND[0], 8000));
    let stranger = net.host.udp(at("0.0.0.0", 0));
    stranger.send_to(b"x", at(STRANGER[0], 7000)).unwrap();
    assert!(sniffer.seen(&net).contains(&"udp 10.99.0.3:7000".to_owned()));
    net.isolate(&gate());
    let usual = gate();
    let more = Gate { passes: [gate().passes, vec![pass(Direction::Out, Protocol::Tcp, 8001, 0)]].concat(), ..gate() };
    let (running, excluded) = (AtomicBool::new(true), net.host.udp(at("0.0.0.0", 0)));
    let target = net.outside.udp(at(FRIEND[0], 5300));
    target.set_nonblocking(true).unwrap();
    let mut seen = Vec::new();
    let (sent, refused, arrived) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let (mut sent, mut refused, mut arrived) = (0, 0, 0);
            while running.load(Ordering::Relaxed) {
                let _ = stranger.send_to(b"x", at(STRANGER[0], 7000));
                match excluded.send_to(b"x", at(FRIEND[0], 5300)) {
                    Ok(_) => sent += 1,
                    Err(_) => refused += 1,
                }
                while target.recv(&mut [0; 1]).is_ok() {
                    arrived += 1;
                }
            }
            (sent, refused, arrived)
        });
        for index in 0..20 {
            net.isolate(if index % 2 == 0 { &more } else { &usual });
            exchange(&mut server, &mut client);
            exchange(&mut client, &mut server);
            seen.extend(sniffer.seen(&net));
        }
        running.store(false, Ordering::Relaxed);
        flood.join().unwrap()
    });
    println!("20 changes: {sent} excluded datagrams sent, {refused} refused, {arrived} arrived");
    seen.extend(sniffer.seen(&net));
    let leaked = seen.iter().filter(|seen| seen.contains("10.99.0.3")).count();
    assert_eq!((leaked, refused), (0, 0));
    assert!(sent > 1000);
}

#[test]
fn opening_leaves_the_ruleset_as_it_was_byte_for_byte() {
    let net = Net::new();
    net.host.sh("nft 'add table inet foreign; add chain inet foreign in { type filter hook input priority 0; policy accept; }; \
                 add set inet foreign s { type ipv4_addr; flags interval; }; add element inet foreign s { 10.0.0.0/8 }; \
                 add rule inet foreign in ip saddr @s tcp dport 22 accept; add table ip portcullis'");
    let before = net.host.sh("nft list ruleset; nft -j list ruleset");
    net.isolate(&gate());
    net.isolate(&Gate { passes: vec![], ..gate() });
    assert_ne!(net.host.sh("nft list ruleset"), before);
    net.open();
    let after = net.host.sh("nft list ruleset; nft -j list ruleset");
    assert_eq!(before, after);
    assert!(
        !net.host.run(|| lift_gate(&Nft::find().unwrap(), Layers::default())).unwrap(),
        "a second time there is nothing to lift"
    );
}

#[test]
fn dropping_again_is_the_same_posture_and_tampering_is_seen() {
    let net = Net::new();
    let digest = |dropped: portcullis_agent::firewall::Dropped| dropped.check.unwrap().ruleset_sha256;
    let first = digest(net.isolate(&gate()));
    assert_eq!(digest(net.isolate(&gate())), first);
    let checked = |gate: &Gate| net.host.run(|| check(&Nft::find().unwrap(), &CompiledRules::new(gate.clone()))).unwrap();
    assert_eq!(checked(&gate()).ruleset_sha256, first);
    net.host.sh("nft insert rule inet portcullis output accept");
    let tampered = checked(&gate());
    assert_ne!(tampered.ruleset_sha256, first);
    assert_eq!(tampered.differences[0].to_string(), "chain output also has {expr:[{accept:null}]}");
    net.host.sh("nft flush ruleset");
    assert_eq!(checked(&gate()).differences[0].to_string(), "the table portcullis is missing");
    assert_eq!(digest(net.isolate(&gate())), first);
}

#[test]
fn times() {
    let net = Net::new();
    net.host.run(|| {
        let nft = Nft::find().unwrap();
        for gate in [&gate(), &gate()] {
            println!("drop: {:?}", drop_gate(&nft, gate, None).unwrap().timing);
        }
        let start = std::time::Instant::now();
        lift_gate(&nft, Layers::default()).unwrap();
        println!("lift: {:?}", start.elapsed());
    });
}

/// A set that is made anew has its elements a moment after the rules that ask it are in force, and what is refused in that moment is refused for good.
#[test]
fn no_excluded_connection_is_refused_in_the_moment_of_a_change() {
    let net = Net::new();
    let kernel = net.host.run(|| Kernel::locking().unwrap());
    let gate = net.host.run(|| fitted(Layers::probe(&kernel, Level::Full), &gate()));
    let more =
        Gate { passes: [gate.passes.clone(), vec![pass(Direction::Out, Protocol::Tcp, 8001, 0)]].concat(), ..gate.clone() };
    let far = net.outside.listen(at("::", 8000));
    let running = AtomicBool::new(true);
    let (refused, made) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                drop(far.accept());
            }
        });
        let call = |friend: &'static str| {
            let (running, net) = (&running, &net);
            // Each from a port of its own: conntrack remembers for a while what was closing as the gate dropped, and may have it the wrong way round.
            let calls = move || {
                (1024..u16::MAX).take_while(|_| running.load(Ordering::Relaxed)).map(|port| called(friend, port)).collect()
            };
            scope.spawn(move || net.host.run(calls))
        };
        let calls = FRIEND.map(call);
        for _ in 0..CHANGES {
            net.host.run(|| restore_gate(&kernel, &CompiledRules::new(gate.clone()))).unwrap();
            net.host.run(|| restore_gate(&kernel, &CompiledRules::new(more.clone()))).unwrap();
            net.host.run(|| lift_standing_gate(&kernel, Layers::probe(&kernel, Level::Full))).unwrap();
        }
        running.store(false, Ordering::Relaxed);
        let called: Vec<bool> = calls.into_iter().flat_map(|call| -> Vec<bool> { call.join().unwrap() }).collect();
        // Wakes the one that accepts.
        let _ = net.outside.connect(at("::1", 8000));
        (called.iter().filter(|made| !**made).count(), called.len())
    });
    println!("{CHANGES} times dropped, changed and lifted: {made} excluded connections, {refused} refused");
    assert_eq!(refused, 0);
    assert!(made > 1000);
}

/// Whether a connection from this port is made.
fn called(friend: &str, port: u16) -> bool {
    let (host, family) = if friend.contains(':') { (HOST[1], AddressFamily::INET6) } else { (HOST[0], AddressFamily::INET) };
    let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(SOON)).unwrap();
    rustix::net::bind(&socket, &at(host, port)).is_err() || rustix::net::connect(&socket, &at(friend, 8000)).is_ok()
}

const CHANGES: usize = 200;

#[test]
fn what_is_made_ready_stops_nothing_and_is_used_for_its_own_gate_only() {
    let net = Net::new();
    let sniffer = Sniffer::new(&net.outside);
    let stranger = net.host.udp(at("0.0.0.0", 0));
    let usual = net.host.run(|| fitted(Layers::probe(&Kernel::open().unwrap(), Level::Full), &gate()));
    let other = Gate { passes: vec![], ..usual.clone() };
    for made_for in [&usual, &other] {
        let (kernel, prepared) = net.host.run(|| {
            let kernel = Kernel::open().unwrap();
            let (meanwhile, prepared) = prepare_gate(&kernel, made_for, || 5);
            assert!(meanwhile == 5 && prepared.is_some() && !is_down(&kernel));
            (kernel, prepared)
        });
        stranger.send_to(b"x", at(STRANGER[0], 7000)).unwrap();
        assert!(sniffer.seen(&net).contains(&"udp 10.99.0.3:7000".to_owned()));
        let dropped = net.host.run(|| drop_gate(&kernel, &usual, prepared)).unwrap();
        assert_eq!(dropped.check.unwrap().differences, []);
        assert!(dropped.partial.is_none() && net.host.run(|| is_down(&kernel)));
        assert!(stranger.send_to(b"x", at(STRANGER[0], 7000)).is_err());
        assert_eq!(sniffer.seen(&net), [""; 0]);
        net.host.run(|| lift_gate(&kernel, Layers::probe(&kernel, Level::Full))).unwrap();
    }
}
