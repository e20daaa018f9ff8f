//! The kernel's own lock: only the agent's socket changes the tables, and they outlive it. Needs Linux 6.9.

use std::sync::atomic::{AtomicBool, Ordering};

use nftables::types::NfFamily;
use portcullis_agent::firewall::{Firewall, FirewallError, Kernel, Layers, Nft};
use portcullis_agent_core::gate::Gate;
use portcullis_agent_core::ruleset::open;
use portcullis_schemas::events::Level;

use crate::net::{Net, STRANGER, at, fitted, gate, render};
use crate::sniff::Sniffer;

const BOTH: [NfFamily; 2] = [NfFamily::INet, NfFamily::NetDev];
const LIST: &str = "for family in inet netdev; do nft -s list table $family portcullis | grep -v '^\\s*flags \\|^table '; done";

#[test]
fn nobody_else_changes_locked_tables() {
    let net = Net::new();
    let kernel = net.host.run(|| Kernel::locking().unwrap());
    let batch = render(&full(&net));
    net.host.run(|| kernel.apply(&batch)).unwrap();
    assert!(kernel.is_locked().unwrap());
    let before = net.host.sh(LIST);
    net.host.sh("nft flush ruleset");
    for deed in [
        "delete table inet portcullis",
        "delete table netdev portcullis",
        "flush table inet portcullis",
        "insert rule inet portcullis output accept",
        "add element inet portcullis control4 { 203.0.113.9 . 443 }",
        "add chain inet portcullis output { policy accept; }",
        "add table inet portcullis { flags dormant; }",
    ] {
        net.host.sh(&format!("! nft '{deed}' 2> /dev/null"));
    }
    assert_eq!(net.host.sh(LIST), before);
    let other = net.host.run(|| Kernel::locking().unwrap().apply(&batch).unwrap_err());
    assert!(matches!(other, FirewallError::Kernel { .. }), "{other:?}");
    assert!(kernel.is_locked().unwrap());
    net.host.run(|| kernel.apply(&open(&BOTH))).unwrap();
    assert_eq!(net.host.sh("nft list ruleset"), "");
    assert!(!kernel.is_locked().unwrap(), "what does not stand is not locked");
}

#[test]
fn tables_outlive_their_owner_and_the_next_one_takes_them_over_under_a_flood() {
    let net = Net::new();
    let sniffer = Sniffer::new(&net.outside);
    let stranger = net.host.udp(at("0.0.0.0", 0));
    stranger.send_to(b"x", at(STRANGER[0], 7000)).unwrap();
    assert!(sniffer.seen(&net).contains(&"udp 10.99.0.3:7000".to_owned()));
    let gate = full(&net);
    let mut kernel = net.host.run(|| Kernel::locking().unwrap());
    net.host.run(|| kernel.apply(&render(&gate))).unwrap();
    sniffer.seen(&net);
    let running = AtomicBool::new(true);
    let tries = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut tries = 0u64;
            while running.load(Ordering::Relaxed) {
                let _ = stranger.send_to(b"x", at(STRANGER[0], 7000));
                tries += 1;
            }
            tries
        });
        for round in 0..50 {
            // As by SIGKILL: the socket closes, and the tables belong to nobody.
            drop(kernel);
            let before = net.host.sh(LIST);
            assert!(before.contains("chain output"), "gone with their owner");
            kernel = net.host.run(|| Kernel::locking().unwrap());
            let next = if round % 2 == 0 { Gate { passes: vec![gate.passes[2].clone()], ..gate.clone() } } else { gate.clone() };
            net.host.run(|| kernel.apply(&render(&next))).unwrap();
            assert!(kernel.is_locked().unwrap());
        }
        running.store(false, Ordering::Relaxed);
        flood.join().unwrap()
    });
    let leaked = sniffer.seen(&net).iter().filter(|seen| seen.contains("10.99.0.3")).count();
    println!("50 owners: {tries} tries, {leaked} frames");
    assert_eq!(leaked, 0);
}

#[test]
fn tables_without_the_lock_are_taken_as_they_are() {
    let net = Net::new();
    let gate = full(&net);
    net.host.run(|| Nft::find().unwrap().apply(&render(&gate))).unwrap();
    let kernel = net.host.run(|| Kernel::locking().unwrap());
    net.host.run(|| kernel.apply(&render(&gate))).unwrap();
    assert!(!kernel.is_locked().unwrap());
    net.host.run(|| kernel.apply(&open(&BOTH))).unwrap();
    net.host.run(|| kernel.apply(&render(&gate))).unwrap();
    assert!(kernel.is_locked().unwrap(), "after the next release they have it");
}

fn full(net: &Net) -> Gate {
    net.host.run(|| fitted(Layers::probe(&Kernel::open().unwrap(), Level::Full), &gate()))
}
