//! The rendered rules: as JSON, as the kernel gives them back, and as the texts in snapshots/ that agent/POSTURES.md quotes.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests may do IO and panic")]

mod common;

use common::{connection, control_only, expected, full, in_fresh_namespace, pass, render};
use nftables::schema::{NfCmd, NfListObject, NfObject, Nftables};
use nftables::types::NfFamily;
use portcullis_agent_core::compiled::CompiledRules;
use portcullis_agent_core::gate::{Device, Gate, Proof};
use portcullis_agent_core::ruleset::{self, open, whole_probe, without};
use portcullis_agent_core::verify::{Difference, Listing, ObjectKind, Ruleset, differences, read, strays, unexplained};
use portcullis_schemas::exclusion::{Direction, Protocol};

#[test]
fn the_batch_of_a_full_gate() {
    insta::assert_snapshot!(lines(&render(&full())));
}

#[test]
fn the_batch_that_opens() {
    insta::assert_snapshot!(lines(&open(&[NfFamily::INet, NfFamily::NetDev])), @r#"
    {"add":{"table":{"family":"netdev","name":"portcullis"}}}
    {"delete":{"table":{"family":"netdev","name":"portcullis"}}}
    {"add":{"table":{"family":"inet","name":"portcullis"}}}
    {"delete":{"table":{"family":"inet","name":"portcullis"}}}
    "#);
}

/// Run with PORTCULLIS_SNAPSHOTS=write to write them anew.
#[test]
fn the_texts_in_snapshots_are_what_nft_lists() {
    for (name, gate) in [("full", full()), ("control-only", control_only())] {
        let text = in_fresh_namespace(
            "nft -j -f - && nft -s list table inet portcullis && nft -s list table netdev portcullis",
            &json(&render(&gate)),
        );
        let path = format!("{}/snapshots/{name}.nft", env!("CARGO_MANIFEST_DIR"));
        if std::env::var("PORTCULLIS_SNAPSHOTS").is_ok_and(|value| value == "write") {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{path}");
    }
}

#[test]
fn what_the_kernel_gives_back_is_what_was_expected() {
    let unproven = Gate { proof: None, ..full() };
    for gate in [full(), unproven, control_only(), Gate::default(), overlapping(), thousand()] {
        let found = read_back(&[render(&gate)], "");
        assert_eq!(differences(&expected(&gate), &found), []);
        assert_eq!(found.digest(), expected(&gate).digest());
    }
}

#[test]
fn a_change_leaves_nothing_of_the_gate_before() {
    let batches = [render(&full()), render(&thousand()), render(&full()), render(&overlapping())];
    let strays = strays(&differences(&expected(&overlapping()), &read_back(&batches, "")));
    assert_eq!((strays.chains.len(), strays.sets.len()), (0, 13), "those of the exclusion for a user, and of types of ICMP");
    let found = read_back(&[&batches[..], &[without(&strays)]].concat(), "");
    assert_eq!(differences(&expected(&overlapping()), &found), []);
    assert_eq!(found.digest(), expected(&overlapping()).digest());
}

#[test]
fn made_in_steps_it_is_the_same_and_what_is_prepared_asks_no_packet() {
    for gate in [full(), control_only(), overlapping(), thousand()] {
        let mut rules = CompiledRules::new(Gate { standing: Vec::new(), ..gate.clone() });
        let prepared: Vec<_> = rules.prepare().collect();
        assert_eq!(prepared.len(), 2);
        let hooked = in_fresh_namespace(&with_file(&format!("{EACH}; nft list ruleset")), &lines_of(&prepared));
        assert!(hooked.contains("chain leaving") && hooked.contains("chain own") && !hooked.contains("hook"), "{hooked}");
        rules.set_standing(gate.standing.clone());
        let steps: Vec<_> = prepared.into_iter().zip(rules.finish()).flat_map(<[_; 2]>::from).collect();
        assert_eq!(differences(&expected(&gate), &read_back(&steps, "")), []);
    }
}

#[test]
fn the_kernel_is_asked_about_each_kind_of_set_and_never_under_the_name_of_ours() {
    let probe = whole_probe(full().netdev, true);
    let text = json(&probe);
    assert!(text.contains("portcullis-probe") && !text.contains("\"portcullis\""), "{text}");
    let named = |object: &NfObject<'_>| match object {
        NfObject::CmdObject(NfCmd::Add(NfListObject::Set(set))) => Some(format!("\"name\":\"{}\"", set.name)),
        _ => None,
    };
    let missing: Vec<_> = render(&full()).objects.iter().filter_map(named).filter(|name| !text.contains(name)).collect();
    assert_eq!(missing, [""; 0]);
    in_fresh_namespace("nft -c -j -f -", &text);
}

#[test]
fn rendering_again_repairs_what_was_weakened() {
    let weakened = "nft 'add chain inet portcullis input { policy accept; }; insert rule inet portcullis input accept; \
                    flush set inet portcullis control4'; nft 'add table inet portcullis { flags dormant; }'";
    assert_ne!(differences(&expected(&full()), &read_back(&[render(&full())], weakened)), []);
    let script = format!("cat > $f; nft -j -f $f; {weakened}; nft -j -f $f; {LIST}");
    let listing = in_fresh_namespace(&with_file(&script), &json(&render(&full())));
    assert_eq!(differences(&expected(&full()), &parse(&listing)), []);
}

#[test]
fn each_kind_of_tampering_is_named() {
    let unexpected = |what, name: &str| Difference::Unexpected { what, name: name.into() };
    let cases: &[(&str, Difference)] = &[
        ("add chain inet portcullis mine", unexpected(ObjectKind::Chain, "mine")),
        ("add set inet portcullis mine { type mark; }", unexpected(ObjectKind::Set, "mine")),
        ("add counter inet portcullis mine", unexpected(ObjectKind::Other, "counter mine")),
        (
            "add element inet portcullis control4 { 203.0.113.9 . 443 }",
            Difference::ContentUnexpected { what: ObjectKind::Set, name: "control4".into(), content: "203.0.113.9 . 443".into() },
        ),
        (
            "delete element inet portcullis control4 { 192.0.2.11 . 4222 }",
            Difference::ContentMissing { what: ObjectKind::Set, name: "control4".into(), content: "192.0.2.11 . 4222".into() },
        ),
        (
            "insert rule inet portcullis forward accept",
            Difference::ContentUnexpected {
                what: ObjectKind::Chain,
                name: "forward".into(),
                content: "{expr:[{accept:null}]}".into(),
            },
        ),
        (
            "flush chain inet portcullis forward",
            Difference::ContentMissing {
                what: ObjectKind::Chain,
                name: "forward".into(),
                content: "{expr:[{counter:null},{drop:null}]}".into(),
            },
        ),
        (
            "add chain inet portcullis output { policy accept; }",
            Difference::Changed {
                what: ObjectKind::Chain,
                name: "output".into(),
                expected: "{hook:output,policy:drop,prio:-190,type:filter}".into(),
                found: "{hook:output,policy:accept,prio:-190,type:filter}".into(),
            },
        ),
    ];
    for (command, difference) in cases {
        let found = read_back(&[render(&full())], &format!("nft '{command}'"));
        assert_eq!(differences(&expected(&full()), &found), std::slice::from_ref(difference), "{command}");
    }
    let dormant = read_back(&[render(&full())], "nft 'add table inet portcullis { flags dormant; }'");
    assert!(matches!(&differences(&expected(&full()), &dormant)[..], [Difference::TableChanged { .. }]));
    assert_eq!(
        differences(&expected(&full()), &Ruleset::default()),
        ["netdev portcullis", "portcullis"].map(|table| Difference::TableMissing { table: table.into() })
    );
}

/// Whoever reads an event or a log does not learn it.
#[test]
fn another_mark_is_a_difference_and_the_number_is_in_no_text() {
    let other = Gate { proof: Some(Proof::new(4_242_424_242)), ..full() };
    let found = read_back(&[render(&other)], "");
    let differing = differences(&expected(&full()), &found);
    assert!(matches!(&differing[..], [Difference::Changed { name, .. }] if name.contains("mark")), "{differing:?}");
    assert_eq!(differences(&expected(&other), &found), []);
    assert_eq!(found.digest(), expected(&full()).digest());
    assert!(![format!("{found:?}"), format!("{other:?}"), format!("{differing:?}")].concat().contains("4242424242"));
}

#[test]
fn devices_that_came_or_left_explain_their_layer_and_nothing_else() {
    let mut more = full();
    let devices = &mut more.netdev.as_mut().unwrap().devices;
    devices.push(Device { index: 99, name: "later".into(), address: Some([2, 0, 0, 0, 0, 99]) });
    assert_ne!(differences(&expected(&full()), &expected(&more)), []);
    for (a, b) in [(full(), more.clone()), (more.clone(), full())] {
        assert_eq!(unexplained(differences(&expected(&a), &expected(&b))), []);
    }
    let fewer = Gate { passes: Vec::new(), ..more };
    let found = unexplained(differences(&expected(&full()), &expected(&fewer)));
    assert!(found.contains(&Difference::Missing { what: ObjectKind::Set, name: "out4".into() }), "{found:?}");
    let none = Ruleset::default();
    assert_eq!(unexplained(differences(&expected(&full()), &none)), differences(&expected(&full()), &none));
}

#[test]
fn rules_in_another_order_are_a_difference() {
    let swap = "h=$(nft -a list chain inet portcullis forward | sed -n 's/.*drop # handle //p'); \
                nft \"add rule inet portcullis forward tcp dport 1 drop; insert rule inet portcullis forward tcp dport 2 drop\"";
    let straight = swap.replace("insert rule", "add rule");
    let found = [swap, &straight].map(|script| read_back(&[render(&full())], script));
    assert_ne!(found[0].digest(), found[1].digest());
    assert_ne!(differences(&found[0], &found[1]), []);
}

#[test]
fn the_same_posture_has_the_same_digest_however_it_is_written() {
    let mut other = full();
    other.control.reverse();
    other.passes.reverse();
    other.standing.reverse();
    other.standing.extend(full().standing);
    assert_eq!(expected(&other).digest(), expected(&full()).digest());
    assert_ne!(expected(&control_only()).digest(), expected(&full()).digest());
}

#[test]
fn no_table_is_no_listing_of_ours() {
    let foreign = br#"{"nftables": [{"table": {"family": "ip", "name": "portcullis", "handle": 1}}]}"#;
    assert!(read(Listing::parse(foreign).unwrap()).is_absent());
}

fn overlapping() -> Gate {
    let passes = vec![
        pass("wide", Direction::Out, Protocol::Tcp, &["10.0.0.0/8", "2001:db8::/32"], &["1-1000"], &[]),
        pass("narrow", Direction::Out, Protocol::Tcp, &["10.1.0.0/16", "2001:db8::1/128"], &["443", "900-2000"], &["4000-5000"]),
        pass("ends", Direction::In, Protocol::Udp, &["224.0.0.0/3", "0.0.0.0/32", "ff00::/8", "::/128"], &["65535"], &["1"]),
    ];
    Gate { passes, standing: vec![connection("[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.2]:2")], ..control_only() }
}

fn thousand() -> Gate {
    let nets: Vec<String> = (0..1000).map(|n| format!("10.{}.{}.0/{}", n / 200, n % 200, 24 + n % 3)).collect();
    let nets: Vec<&str> = nets.iter().map(String::as_str).collect();
    Gate { passes: vec![pass("many", Direction::Out, Protocol::Tcp, &nets, &["443"], &[])], ..control_only() }
}

/// A listing on each line: asked for two tables of one name at once, nft 1.0.6 finds the second only.
const LIST: &str = "for family in inet netdev; do nft -j -p list table $family portcullis 2> /dev/null || true; done";

/// Loads the batches one after the other, runs `then`, and lists.
fn read_back(batches: &[Nftables<'_>], then: &str) -> Ruleset {
    let script = format!("{EACH}; {then}\n {LIST}");
    parse(&in_fresh_namespace(&with_file(&script), &lines_of(batches)))
}

/// Loads the batches that come in, one on each line.
const EACH: &str = "while read -r b; do printf '%s' \"$b\" > $f; nft -j -f $f; done";

fn lines_of(batches: &[Nftables<'_>]) -> String {
    batches.iter().map(|batch| json(batch) + "\n").collect()
}

fn with_file(script: &str) -> String {
    format!("f=$(mktemp); trap 'rm -f $f' EXIT; {script}")
}

fn parse(listing: &str) -> Ruleset {
    let parts = listing.lines().filter(|line| !line.is_empty()).map(|line| Listing::parse(line.as_bytes()).unwrap());
    read(Listing { objects: parts.flat_map(|part| part.objects).collect() })
}

fn json(batch: &Nftables<'_>) -> String {
    serde_json::to_string(&ruleset::json(batch).unwrap()).unwrap()
}

fn lines(batch: &Nftables<'_>) -> String {
    batch.objects.iter().map(|object| serde_json::to_string(object).unwrap() + "\n").collect()
}
