//! The door: who is let in, what is answered, and that nothing else follows.

mod approvals;
mod breakers;
mod calm;
mod guarded;
mod own;
mod pauses;
mod reading;
mod reports;
mod requests;
mod restored;

use portcullis_schemas::events::{Action, HostClaim, InputKind, Level, Reason, Request, Severity, Waits};
use portcullis_schemas::time::Span;

use super::*;
use crate::testing::{HOUR, World, asked, at, detection, hello, id, key, meta, request, seen};

#[test]
fn every_verdict_of_the_policy_has_its_answer() {
    for (rule, line) in [
        ("a", "isolate rule #1 -> 1 isolated [a*1 0..28800] till 28800 !!isolated"),
        ("anything", "observe rule"),
        ("noise", "ignore rule"),
        ("dry", "observe audit"),
        ("broken", "ask rule_error !!ask"),
    ] {
        assert_eq!(World::new().detect(rule, "d1", 0), line, "{rule}");
    }
}

#[test]
fn a_decision_names_the_rule_and_the_facts_that_it_saw() {
    let mut world = World::new();
    let labels = [("tier".to_owned(), "web".to_owned())].into();
    world.says(Hello { labels, roles: vec!["router".into()], ..hello("h1") }, 1);
    world.says(hello("h2"), 1);
    world.isolate("r1", 2);
    let decision = world.decide(&seen("h1", "b", "d1", 5)).decision.expect("a decision");
    let policy = world.policy.as_ref().map(|policy| policy.hash().to_owned());
    assert_eq!((decision.rule.as_deref(), decision.host, decision.generation), (Some("b"), Some(id("h1")), Some(2)));
    assert_eq!((decision.facts.policy, decision.facts.now, decision.facts.level), (policy, Some(at(5)), Some(Level::Full)));
    assert_eq!((decision.facts.counts.hosts, decision.facts.counts.isolated), (2, 1));
    assert_eq!((decision.facts.labels["tier"].as_str(), decision.facts.roles), ("web", vec!["router".to_owned()]));
    assert_eq!(decision.facts.status.as_deref(), Some("isolating"));
}

#[test]
fn the_incident_is_the_senders_else_the_correlation_else_the_first_cause() {
    for (incident, correlation, found) in [(Some("i"), Some("c"), "i"), (None, Some("c"), "c"), (None, None, "d1")] {
        let mut meta = meta(InputKind::Detection, "edr", "d1", 0);
        meta.correlation = correlation.map(str::to_owned);
        let data = Detection { incident: incident.map(str::to_owned), ..detection("h1", "a", 0) };
        let mut world = World::new();
        world.give(&Input::Detection(meta, data));
        assert_eq!(world.order().incident, found);
        world.detect("b", "d2", 10);
        assert_eq!(world.order().incident, found, "a second cause joins the incident");
    }
}

#[test]
fn a_redelivered_input_that_had_its_effect_orders_nothing_more() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    assert_eq!(world.detect("a", "d1", 0), "isolate settled #1");
    world.isolate("r1", 10);
    assert_eq!(world.isolate("r1", 10), "isolate settled #2");
    world.release("r2", 20);
    assert_eq!(world.release("r2", 20), "release settled #3");
    assert_eq!(world.detect("a", "d1", 0), "isolate settled #1", "also when it is over");
    world.detect("a", "d2", 30);
    assert_eq!(world.due(4, Some(Duration::ZERO), 30 + 8 * HOUR), "release deadline #5 -> 5 open [] !released");
    assert_eq!(world.due(4, Some(Duration::ZERO), 60 + 8 * HOUR), "release settled #5");
}

#[test]
fn the_same_id_by_another_sender_is_another_input() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let other = Input::Detection(meta(InputKind::Detection, "siem", "d1", 60), detection("h1", "a", 60));
    assert_eq!(world.give(&other), "isolate rule #2 -> 2 isolated [a*2 0..28860] till 28860");
}

#[test]
fn a_detection_out_of_its_time_asks() {
    for (what, observed, line) in [
        ("an hour old", -HOUR, "isolate rule #1 -> 1 isolated [a*1 0..28800] till 28800 !!isolated"),
        ("older", -HOUR - 1, "ask stale !!ask"),
        ("clocks differ", 300, "isolate rule #1 -> 1 isolated [a*1 0..28800] till 28800 !!isolated"),
        ("from the future", 301, "ask from_the_future !!ask"),
    ] {
        let input = Input::Detection(meta(InputKind::Detection, "edr", "d1", 0), detection("h1", "a", observed));
        assert_eq!(World::new().give(&input), line, "{what}");
    }
}

#[test]
fn what_was_observed_before_the_floor_of_the_memory_is_stale() {
    let mut world = World::new();
    world.isolate("r1", 0);
    let mut order = world.order().clone();
    (order.generation, order.settled_floor) = (2, Some(at(1_000)));
    world.store(order);
    let observed = |second| Input::Detection(meta(InputKind::Detection, "edr", "d1", 1_100), detection("h1", "a", second));
    assert_eq!(world.give(&observed(999)), "ask stale !!ask");
    assert!(world.give(&observed(1_000)).starts_with("isolate rule #3"));
}

#[test]
fn a_detection_of_no_known_host_asks() {
    let data =
        Detection { host: HostClaim { hostname: Some("nobody".into()), ..HostClaim::default() }, ..detection("h1", "a", 0) };
    let input = Input::Detection(meta(InputKind::Detection, "edr", "d1", 0), data);
    let outcome = World::new().decide(&input);
    assert_eq!(crate::testing::line(&outcome), "ask unresolved", "nobody is asked while it waits");
    let decision = outcome.decision.expect("a decision");
    let host = HostClaim { hostname: Some("nobody".into()), ..HostClaim::default() };
    let waits = Waits { until: at(120), host };
    assert_eq!(
        (decision.host, decision.reason),
        (
            None,
            Reason::Unresolved { wanted: "name nobody".into(), candidates: Vec::new(), waits: Some(waits.into()), ended: None }
        )
    );
}

#[test]
fn a_detection_that_names_no_host_or_several_asks_at_once() {
    for (host, word) in [("localhost", "nothing that tells hosts apart"), ("web", "two hosts are called so")] {
        let mut world = World::new();
        world.says(Hello { hostname: "web.a.example".into(), ..hello("h2") }, 0);
        world.says(Hello { hostname: "web.b.example".into(), ..hello("h3") }, 0);
        let data =
            Detection { host: HostClaim { hostname: Some(host.into()), ..HostClaim::default() }, ..detection("h1", "a", 0) };
        let outcome = world.decide(&Input::Detection(meta(InputKind::Detection, "edr", "d1", 0), data));
        assert_eq!(crate::testing::line(&outcome), "ask unresolved !!ask", "{word}");
        let reason = outcome.decision.map(|decision| decision.reason);
        assert!(matches!(reason, Some(Reason::Unresolved { waits: None, .. })), "{reason:?}");
    }
}

#[test]
fn without_a_policy_detections_ask_and_everything_else_goes_on() {
    let mut world = World::new();
    world.policy = None;
    assert_eq!(world.detect("a", "d1", 0), "ask no_policy !!ask");
    assert_eq!(world.isolate("r1", 0), "isolate operator #1 -> 1 isolated [manual*1 0..28800] till 28800 !!isolated");
    assert_eq!(world.due(1, Some(Duration::ZERO), 8 * HOUR), "release deadline #2 -> 2 open [] !released");
}

#[test]
fn an_audited_policy_orders_nothing_and_asks_nobody() {
    let text = crate::testing::POLICY.replace("version: 1", "version: 1\nmode: audit");
    for (rule, would) in [("a", Verdict::Isolate), ("broken", Verdict::Ask)] {
        let outcome = World::under(&text).decide(&seen("h1", rule, "d1", 0));
        assert_eq!(crate::testing::line(&outcome), "observe audit");
        assert_eq!(outcome.decision.map(|decision| decision.reason), Some(Reason::Audit { would }));
    }
    let mut world = World::under(&text);
    assert_eq!(world.detect("noise", "d1", 0), "ignore rule");
    assert!(world.isolate("r1", 1).starts_with("isolate operator #1 ->"), "a person is not stopped by it");
}

#[test]
fn unknown_severity_never_isolates_by_itself() {
    for (rule, line) in [("a", "ask unknown_severity !!ask"), ("anything", "observe rule")] {
        let data = Detection { severity: Severity::Unknown, ..detection("h1", rule, 0) };
        assert_eq!(World::new().give(&Input::Detection(meta(InputKind::Detection, "edr", "d1", 0), data)), line);
    }
}

#[test]
fn a_protected_host_is_isolated_by_a_person_who_says_so_only() {
    let mut world = World::new();
    world.config.protected.insert(id("h1"), "broker".into());
    assert_eq!(world.detect("a", "d1", 0), "ask protected !!ask");
    assert_eq!(world.detect("dry", "d2", 0), "observe audit");
    assert_eq!(world.isolate("r1", 1), "ask protected !!ask");
    let forced = Request { override_protected: true, ..request(Action::Isolate) };
    let line = "isolate operator #1 -> 1 isolated [manual*1 2..28802] till 28802 !!isolated";
    assert_eq!(world.give(&asked(forced, "r2", 2)), line);
    assert_eq!(world.release("r3", 3), "release operator #2 -> 2 open [] !released");
}

#[test]
fn a_host_that_cannot_enforce_asks() {
    let mut world = World::new();
    world.says(Hello { level: Level::None, ..hello("h1") }, 1);
    assert_eq!(world.detect("a", "d1", 2), "ask cannot_enforce !!ask");
    for level in [Level::Inet, Level::Partial] {
        world.says(Hello { level, ..hello("h1") }, 3);
        assert!(world.detect("a", "d2", 4).starts_with("isolate"), "{level:?}");
    }
}

#[test]
fn a_request_speaks_for_its_own_principal_and_host_only() {
    let mut world = World::new();
    let other = Request { operator: "bob".into(), ..request(Action::Isolate) };
    assert_eq!(world.give(&asked(other, "r1", 0)), "refuse operator_mismatch");
    for (subject, named) in [("h2", Some("h1")), ("_fleet", Some("h1")), ("h1", None)] {
        let request = Request { host: named.map(id), ..request(Action::Isolate) };
        let input = Input::Request { meta: meta(InputKind::Request, "ann", "r1", 0), host: subject.into(), request };
        assert_eq!(world.give(&input), "refuse host_mismatch", "{subject} {named:?}");
    }
    for action in [Action::Isolate, Action::Release, Action::Extend, Action::Label, Action::Exclude] {
        let unknown = Request { host: Some(id("h9")), ..request(action) };
        assert_eq!(world.give(&asked(unknown, "r1", 0)), "refuse unresolved");
    }
    for action in [Action::Pause, Action::Resume] {
        assert_eq!(world.give(&asked(request(action), "r1", 0)), "refuse incomplete", "{action:?} is of the fleet");
    }
    for action in [Action::Label, Action::Exclude] {
        assert_eq!(world.give(&asked(request(action), "r1", 0)), "refuse incomplete", "{action:?}");
    }
}

#[test]
fn a_person_may_not_isolate_for_longer_than_allowed_and_the_default_is_cut() {
    let mut world = World::new();
    let lasting = |text: &str| Request { duration: Some(text.parse().expect("a span")), ..request(Action::Isolate) };
    assert_eq!(world.give(&asked(lasting("8d"), "r1", 0)), "refuse too_long");
    assert_eq!(world.give(&asked(lasting("never"), "r2", 0)), "refuse too_long");
    assert!(world.give(&asked(lasting("7d"), "r3", 0)).ends_with("till 604800 !!isolated"));
    let terms =
        portcullis_policy::Terms { max_isolation: portcullis_schemas::events::For::Span(Span::hours(2)), ..Default::default() };
    assert_eq!(terms.bound(terms.release_after), Some(terms.max_isolation));
    assert_eq!(terms.bound(portcullis_schemas::events::For::Never), None);
}

#[test]
fn a_reason_of_nothing_is_no_reason() {
    let because = |text: &str| Request { reason: Some(text.into()), ..request(Action::Isolate) };
    let said = |text: &str| World::new().decide(&asked(because(text), "r1", 0)).order.expect("an order").reason;
    assert_eq!([said(""), said(" \n"), said(" a test ")], ["isolated by ann", "isolated by ann", "isolated by ann: a test"]);
}

#[test]
fn a_gap_in_a_stream_is_a_decision_and_a_notice() {
    let meta = meta(InputKind::Stream, "_stream", "3-9", 0);
    let input = Input::InputsLost { meta, first: 3, last: 9 };
    assert_eq!(World::new().give(&input), "refuse inputs_lost !!inputs_lost");
}

#[test]
fn an_order_that_would_be_too_large_is_refused() {
    let exclusion = serde_json::json!({ "name": "x".repeat(1_000), "direction": "out", "protocol": "tcp", "remote": "any" });
    let exclusion: portcullis_schemas::exclusion::Exclusion = serde_json::from_value(exclusion).expect("an exclusion");
    let large = |count| Request { exclusions: Some(vec![exclusion.clone(); count]), ..request(Action::Isolate) };
    let mut world = World::new();
    assert_eq!(world.give(&asked(large(300), "r1", 0)), "refuse order_too_large");
    assert!(world.give(&asked(large(200), "r2", 1)).starts_with("isolate operator #1 ->"));
}

#[test]
fn generations_follow_the_log_and_the_host_as_far_as_its_word_is_plausible() {
    for (what, reported, first) in [
        ("nothing", &[][..], 1),
        ("behind", &[0], 1),
        ("ahead", &[7], 8),
        ("just plausible", &[1_000], 1_001),
        ("not", &[1_001], 1),
        ("a wild claim does not hide a plausible one", &[5_000, 7], 8),
    ] {
        let mut world = World::new();
        for (second, generation) in (1..).zip(reported) {
            world.says(Hello { generation: *generation, ..hello("h1") }, second);
        }
        let line = world.detect("a", "d1", 10);
        assert!(line.starts_with(&format!("isolate rule #{first} ->")), "{what}: {line}");
    }
}

#[test]
fn a_key_is_told_apart_by_all_of_its_parts() {
    let one = key(InputKind::Detection, "edr", "1");
    let others = [
        InputRef { kind: InputKind::Request, ..one.clone() },
        InputRef { token: "edr2".into(), ..one.clone() },
        InputRef { source: "/edr2".into(), ..one.clone() },
        InputRef { id: "2".into(), ..one.clone() },
    ];
    for other in others {
        assert_ne!(one.hash(), other.hash(), "{other:?}");
    }
}
