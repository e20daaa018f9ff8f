//! What reading back costs with many exclusions. It prints, and judges nothing: `cargo test --test firewall cost -- --ignored --nocapture`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use portcullis_agent::firewall::{Kernel, check, drop_gate};
use portcullis_agent::host::memory::give_back;
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::{Gate, Pass};
use portcullis_schemas::exclusion::{Direction, Protocol};

use crate::net::{Net, gate, pass};

const MANY: u32 = 10_000;
const ROUNDS: usize = 5;

#[test]
#[ignore = "measures"]
fn ten_thousand_exclusions_are_read_back() {
    let net = Net::new();
    let one = pass(Direction::Out, Protocol::Tcp, 443, 0);
    let passes = (1..=MANY).map(|n| {
        let remote = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + n);
        Pass { name: format!("peer {n}"), remotes: vec![IpAddr::from(remote).into()], ..one.clone() }
    });
    let gate = Gate { passes: passes.collect(), ..gate() };
    net.host.run(|| {
        let kernel = Kernel::open().unwrap();
        give_back();
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = memory("VmRSS");
        let rules = drop_gate(&kernel, &gate, None).unwrap().rules;
        println!(
            "isolated with {} KiB above {before} KiB at most, {} KiB kept",
            memory("VmHWM") - before,
            memory("VmRSS") - before
        );
        // Compiled and expected are as long as the rules are in force; what reading back itself takes comes on top.
        let rules = CompiledRules::new(rules.gate().clone());
        rules.expected();
        for _ in 0..ROUNDS {
            give_back();
            std::fs::write("/proc/self/clear_refs", "5").unwrap();
            let (before, start) = (memory("VmRSS"), Instant::now());
            assert_eq!(check(&kernel, &rules).unwrap().differences, []);
            println!("read back in {:?}, {} KiB above {before} KiB", start.elapsed(), memory("VmHWM") - before);
        }
    });
}

/// In KiB.
fn memory(what: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}
