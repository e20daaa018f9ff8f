//! Rules that come to the kernel directly are those that nft would have brought.

use nftables::schema::Nftables;
use portcullis_agent::firewall::{Firewall, FirewallError, Kernel, Layers, Nft};
use portcullis_agent::host::facts::proof;
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::{Connection, Gate, Transport};
use portcullis_agent_core::ruleset::{open, without};
use portcullis_agent_core::verify;
use portcullis_schemas::events::Level;
use portcullis_schemas::exclusion::{Direction, Protocol};

use crate::net::{FRIEND, HOST, Net, at, gate, pass, render};

#[test]
fn both_ways_give_the_same_rules() {
    let net = Net::new();
    for gate in gates(&net) {
        let batch = render(&gate);
        let [direct, forked] = [0, 1].map(|way| {
            net.host.run(|| {
                let firewall: Box<dyn Firewall> =
                    if way == 0 { Box::new(Kernel::open().unwrap()) } else { Box::new(Nft::find().unwrap()) };
                firewall.check(&batch).unwrap();
                assert!(way == 1 || firewall.list().unwrap().is_none(), "a check leaves nothing");
                firewall.apply(&batch).unwrap();
            });
            let listed = net.host.sh("nft -s list ruleset");
            net.host.run(|| {
                Kernel::open().unwrap().apply(&open(Layers::probe(&Kernel::open().unwrap(), Level::Full).families())).unwrap()
            });
            assert_eq!(net.host.sh("nft list ruleset"), "");
            listed
        });
        // nft joins matches on neighbouring parts of the Ethernet header into one, and does not read counters of elements.
        let mut joined = direct.clone();
        for (apart, one) in [
            ("@ll,48,16 0x200 @ll,64,32 0x2 ", "@ll,48,48 0x20000000002 "),
            ("@ll,0,16 0x200 @ll,16,32 0x2 ", "@ll,0,48 0x20000000002 "),
            ("@ll,96,16 0x8809 @ll,112,8 0x1 ", "@ll,96,24 0x880901 "),
            ("@ll,96,16 0x8809 @ll,112,8 0x2 ", "@ll,96,24 0x880902 "),
        ] {
            joined = joined.replace(apart, one);
        }
        assert_eq!(joined.replace(" counter,\n", ",\n").replace(" counter }\n", " }\n"), forked);
        assert_eq!(direct.contains("0-65535 counter"), !gate.passes.is_empty());
        assert!(direct.contains("table netdev portcullis"));
    }
}

#[test]
fn each_way_changes_what_the_other_one_made() {
    let net = Net::new();
    let all = gates(&net);
    for (before, after) in all.iter().zip(all.iter().skip(1)) {
        let listed = net.host.run(|| {
            let (kernel, nft) = (Kernel::open().unwrap(), Nft::find().unwrap());
            [(&kernel as &dyn Firewall, &nft as &dyn Firewall), (&nft, &kernel)].map(|(first, second)| {
                first.apply(&render(before)).unwrap();
                second.apply(&render(after)).unwrap();
                let differences = verify::differences(
                    CompiledRules::new(after.clone()).expected(),
                    &verify::read(nft.list().unwrap().unwrap()),
                );
                second.apply(&without(&verify::strays(&differences))).unwrap();
                let listed = nft.list().unwrap().unwrap();
                kernel.apply(&open(Layers::probe(&kernel, Level::Full).families())).unwrap();
                verify::read(listed)
            })
        });
        let rules = CompiledRules::new(after.clone());
        for found in listed {
            assert_eq!(verify::differences(rules.expected(), &found), []);
        }
    }
}

#[test]
fn a_refusal_names_what_was_refused_and_leaves_nothing() {
    let net = Net::new();
    net.host.sh("nft 'add table inet portcullis; add chain inet portcullis input { type filter hook prerouting priority 5; }'");
    let before = net.host.sh("nft list ruleset");
    let error = net.host.run(|| Kernel::open().unwrap().apply(&render(&gate())).unwrap_err());
    assert!(matches!(&error, FirewallError::Kernel { about, .. } if about == "chain input"), "{error:?}");
    assert_eq!(net.host.sh("nft list ruleset"), before);
}

#[test]
fn what_is_not_known_goes_by_nft() {
    let net = Net::new();
    let batch: Nftables<'_> = serde_json::from_str(
        r#"{"nftables":[{"add":{"table":{"family":"inet","name":"portcullis"}}},
            {"add":{"counter":{"family":"inet","table":"portcullis","name":"mine"}}}]}"#,
    )
    .unwrap();
    net.host.run(|| Kernel::open().unwrap().apply(&batch).unwrap());
    assert!(net.host.sh("nft list ruleset").contains("counter mine"));
}

#[test]
fn ten_thousand_exclusions_go_in_one_transaction() {
    let net = Net::new();
    let mut gate = gate();
    gate.passes = (0..10_000u32)
        .map(|n| {
            let mut pass = pass(Direction::Out, Protocol::Tcp, (n % 7 + 1) as u16, 0);
            pass.remotes = vec![format!("10.{}.{}.{}/32", n / 65536, n / 256 % 256, n % 256).parse().unwrap()];
            pass
        })
        .collect();
    net.isolate(&gate);
}

fn gates(net: &Net) -> Vec<Gate> {
    let netdev = net.host.run(|| Layers::probe(&Nft::find().unwrap(), Level::Full).netdev().unwrap());
    let standing = vec![
        Connection::new(Transport::Tcp, at(HOST[0], 22), at(FRIEND[0], 51022)),
        Connection::new(Transport::Udp, at(HOST[1], 40000), at(FRIEND[1], 53)),
    ];
    let gates = [gate(), Gate { passes: vec![], ..gate() }, Gate { standing, control: vec![], ..gate() }, Gate::default()];
    let proofs = [Some(proof()), None];
    let with = |gate: Gate| proofs.map(|proof| Gate { netdev: netdev.clone(), proof, ..gate.clone() });
    gates.into_iter().flat_map(with).collect()
}
