//! From the bytes of a detection to its answer: what decides nothing changes nothing.

use portcullis_schemas::envelope;
use portcullis_schemas::events::{Doubtful, Payload, Sighting};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// Rules on all that a detection says that decides, behind each other.
const POLICY: &str = "
version: 1
rules:
  - { name: exact, match: { severity: '>= high', confidence: '>= 80', technique: T1486, source: edr, rule.id: r1, indicator.type: file }, then: isolate }
  - { name: sure, match: { confidence: '>= 50' }, when: 'detection.severity_rank >= 3 && detection.rule.id == \"r1\"', then: isolate, release_after: 1h }
  - { name: known, match: { technique: 'T*' }, then: ignore }
  - { name: rest, then: observe }
";

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, rng_seed: RngSeed::Fixed(0x9e37_79b9), ..ProptestConfig::default() })]

    #[test]
    fn what_decides_nothing_never_changes_the_answer(
        severity in proptest::sample::select(vec!["low", "high", "critical", "unknown"]),
        confidence in 0u8..=100,
        rule in "r[12]",
        techniques in proptest::sample::select(vec!["[]", "[\"T1486\"]", "null", "[\"T1059\"]"]),
        members in proptest::collection::vec((proptest::sample::select(FREE.to_vec()), value()), 0..8),
        attributes in proptest::collection::vec(("(subject|time|dataschema|traceparent|ext[0-9]|Bad-Name)", value()), 0..4),
        binary in any::<bool>(),
    ) {
        let decides = format!(
            r#""host":{{"id":"h1"}},"severity":"{severity}","confidence":{confidence},"techniques":{techniques},"indicator":{{"type":"file","value":"v"}},"observed_at":"{}""#,
            at(0).to_rfc3339()
        );
        let plain = format!(r#"{decides},"rule":{{"id":"{rule}","name":"n"}},"product":"p""#);
        let mut changed = format!(r#"{decides},"rule":{{"id":"{rule}","name":"#).into_bytes();
        changed.extend(members.first().map_or(b"\"n\"".to_vec(), |(_, value)| value.clone()));
        changed.push(b'}');
        for (name, value) in &members {
            changed.extend([b",\"", name.as_bytes(), b"\":", value].concat());
        }
        let expected = answer(plain.as_bytes(), &[], false);
        prop_assert_eq!(answer(&changed, &attributes, binary), expected, "{}", String::from_utf8_lossy(&changed));
    }
}

thread_local! {
    static WORLD: World = World::under(POLICY);
}

/// Members that decide nothing.
const FREE: [&str; 8] = ["process", "user", "url", "product", "raw", "future", "r\\u0061w", "incident"];

/// What senders make of them: JSON of any kind, and what is close to it.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let text = proptest::collection::vec(
        prop_oneof![
            any::<char>().prop_filter("not a quote", |c| !matches!(c, '"' | '\\')).prop_map(|c| c.to_string().into_bytes()),
            Just(b"\\udcff".to_vec()),
            Just(b"\xff".to_vec()),
            Just(b"\\\"".to_vec()),
            Just(b"\\u0000".to_vec()),
        ],
        0..12,
    );
    let leaf = prop_oneof![
        text.prop_map(|pieces| [b"\"", pieces.concat().as_slice(), b"\""].concat()),
        Just(b"null".to_vec()),
        Just(b"1e400".to_vec()),
        Just(b"NaN".to_vec()),
        Just(b"-12.5e3".to_vec()),
        Just(b"{\"severity\":\"low\",\"severity\":\"low\"}".to_vec()),
        (0usize..400).prop_map(|deep| ["[".repeat(deep), "0".to_owned(), "]".repeat(deep)].concat().into_bytes()),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        proptest::collection::vec(inner, 0..4).prop_map(|items| [b"[", items.join(&b","[..]).as_slice(), b"]"].concat())
    })
}

fn answer(data: &[u8], attributes: &[(String, Vec<u8>)], binary: bool) -> String {
    let data = [b"{", data, b"}"].concat();
    let (event, _) = if binary {
        let texts: Vec<(String, String)> =
            attributes.iter().map(|(name, value)| (format!("ce-{name}"), String::from_utf8_lossy(value).into_owned())).collect();
        let headers = [("ce-specversion", "1.0"), ("ce-id", "d1"), ("ce-source", "s"), ("ce-type", Detection::TYPE)];
        let more = texts.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        envelope::detection(headers.into_iter().chain(more), &data)
    } else {
        let mut body =
            format!(r#"{{"specversion":"1.0","id":"d1","source":"s","type":"{}","data":"#, Detection::TYPE).into_bytes();
        body.extend(data);
        for (name, value) in attributes {
            body.extend([b",\"", name.as_bytes(), b"\":", value].concat());
        }
        body.push(b'}');
        envelope::detection(std::iter::empty(), &body)
    }
    .unwrap_or_else(|error| panic!("{error}"));
    let meta = meta(InputKind::Detection, "edr", "d1", 0);
    match event.data {
        Sighting::Sound(detection) => {
            let input = Input::Detection(meta, *detection);
            WORLD.with(|world| crate::testing::line(&world.decide(&input)))
        }
        Sighting::Doubtful(doubtful) => panic!("{doubtful:?}"),
    }
}

fn doubtful(host: &str) -> Input {
    let host = HostClaim { id: Some(host.into()), ..HostClaim::default() };
    let doubtful = Doubtful { host, incident: Some("i".into()), member: ".confidence".into(), problem: "is 101".into() };
    Input::Doubtful(meta(InputKind::Detection, "edr", "d1", 10), doubtful)
}

#[test]
fn a_member_that_decides_and_cannot_be_read_asks_and_orders_nothing() {
    let mut world = World::new();
    let outcome = world.decide(&doubtful("h1"));
    assert_eq!(crate::testing::line(&outcome), "ask unreadable !!ask");
    let decision = outcome.decision.expect("a decision");
    assert_eq!(
        (decision.host, decision.incident.as_deref()),
        (Some(id("h1")), Some("i")),
        "no incident holds the host: the sender's"
    );
    let reason = Reason::Unreadable { member: ".confidence".into(), problem: "is 101".into() };
    assert_eq!(decision.reason, reason);
    assert_eq!(outcome.notices[0].incident.as_deref(), Some("i"));
    assert!(outcome.notices[0].text.contains(".confidence"), "{:?}", outcome.notices);
    assert_eq!(world.decide(&doubtful("h9")).decision.map(|decision| decision.verdict), Some(Verdict::Ask));
    // Without a policy, and under one that only watches, a person is asked all the same.
    world.policy = None;
    assert_eq!(world.give(&doubtful("h1")), "ask unreadable !!ask");
    assert_eq!(
        World::under("version: 1\nmode: audit\nrules: [{ name: rest, then: observe }]").give(&doubtful("h1")),
        "ask unreadable !!ask"
    );
}

#[test]
fn a_release_settles_what_could_not_be_read_before_it() {
    let mut world = World::new();
    world.release("r1", 20);
    assert_eq!(world.give(&doubtful("h1")), "ignore superseded_by_release");
}

#[test]
fn the_facts_name_what_could_not_be_read() {
    let faults = vec![".process is not all text; what is none is U+FFFD".to_owned()];
    let meta = Meta { faults: faults.clone(), ..meta(InputKind::Detection, "edr", "d1", 0) };
    let decision = World::new().decide(&Input::Detection(meta, detection("h1", "a", 0))).decision.expect("a decision");
    assert_eq!((decision.verdict, decision.facts.input_faults), (Verdict::Isolate, faults));
}

#[test]
fn addresses_without_number_fail_no_rule_that_does_not_look_at_them() {
    let when = |expression: &str| {
        World::under(&format!(
            "version: 1\nrules:\n  - {{ name: a, when: '{expression}', then: isolate }}\n  - {{ name: rest, then: observe }}\n"
        ))
    };
    let ips = (0..10_000).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let host = HostClaim { id: Some("h1".into()), ips, ..HostClaim::default() };
    let input = Input::Detection(meta(InputKind::Detection, "edr", "d1", 0), Detection { host, ..detection("h1", "a", 0) });
    assert!(when("detection.rule.id == \"a\"").give(&input).starts_with("isolate rule"));
    let asked = when("detection.host.ips.exists(ip, ip == \"10.0.0.1\")").give(&input);
    assert!(asked.starts_with("ask rule_error"), "{asked}");
}
