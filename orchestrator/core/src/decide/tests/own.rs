//! What operators say of one host: labels, and what passes on it.

use portcullis_schemas::events::{Effect, ExclusionChange, For, Posture};
use portcullis_schemas::exclusion::Exclusion;

use super::*;

const POLICY: &str = "
version: 1
exclusions:
  automatic: [{ name: auto, direction: out, protocol: tcp, remote: any, remote_ports: 1 }]
  manual_default: [{ name: hand, direction: out, protocol: tcp, remote: any, remote_ports: 2 }]
rules:
  - { name: db, match: { host.label.tier: db, rule.id: a }, then: isolate }
  - { name: b, match: { rule.id: b }, then: isolate }
  - { name: rest, then: observe }
";

#[test]
fn an_operators_label_counts_from_its_decision_before_the_hosts_own() {
    let mut world = World::under(POLICY);
    let labels = [("tier".to_owned(), "web".to_owned()), ("site".to_owned(), "a".to_owned())].into();
    world.says(Hello { labels, ..hello("h1") }, 1);
    assert_eq!(world.detect("a", "d1", 2), "observe rule");
    assert_eq!(world.give(&label(&[("tier", Some("db")), ("site", None)], "r1", 3)), "apply operator");
    let outcome = world.decide(&seen("h1", "a", "d2", 4));
    let decision = outcome.decision.expect("a decision");
    assert_eq!((decision.verdict, decision.rule.as_deref()), (Verdict::Isolate, Some("db")));
    assert_eq!(decision.facts.labels, [("tier".to_owned(), "db".to_owned())].into());
    world.says(Hello { kernel: "7".into(), ..hello("h1") }, 5);
    assert!(world.detect("a", "d3", 6).starts_with("isolate"), "what the host says then changes nothing of it");
}

#[test]
fn labels_that_cannot_be_kept_are_refused() {
    for (what, labels) in [
        ("none", vec![]),
        ("no name", vec![("", Some("x"))]),
        ("white space", vec![("a b", Some("x"))]),
        ("a control character", vec![("a", Some("x\u{7}"))]),
        ("a long one", vec![("a", Some("xxxxxxxxxxxxxxxx"))]),
    ] {
        let long = "x".repeat(257);
        let labels: Vec<(&str, Option<&str>)> = labels
            .into_iter()
            .map(|(name, value)| (name, if what == "a long one" { Some(long.as_str()) } else { value }))
            .collect();
        assert_eq!(World::new().give(&label(&labels, "r1", 0)), "refuse incomplete", "{what}");
    }
    let mut world = World::new();
    let names: Vec<String> = (0..64).map(|n| format!("l{n}")).collect();
    let all: Vec<(&str, Option<&str>)> = names.iter().map(|name| (name.as_str(), Some("x"))).collect();
    assert_eq!(world.give(&label(&all, "r1", 0)), "apply operator");
    assert_eq!(world.give(&label(&[("more", Some("x"))], "r2", 1)), "refuse incomplete");
    assert_eq!(world.give(&label(&[("l3", None)], "r3", 1)), "apply operator", "one that is there may change");
}

#[test]
fn a_change_on_an_open_host_is_its_own_list_for_manual_isolation() {
    let mut world = World::under(POLICY);
    assert_eq!(world.give(&exclude(added(&["own"]), None, "r1", 0)), "apply operator");
    assert_eq!(world.give(&exclude(added(&["soon"]), Some("1h"), "r2", 1)), "apply operator");
    assert_eq!(world.give(&exclude(removed(&["hand"]), None, "r3", 2)), "apply operator");
    assert_eq!(world.give(&exclude(removed(&["hand"]), None, "r4", 3)), "refuse incomplete", "there is none of that name");
    world.isolate("r5", 60);
    assert_eq!(names(&world), ["own", "soon"]);
    world.release("r6", 70);
    world.isolate("r7", 2 * HOUR);
    assert_eq!(names(&world), ["own"], "what was temporary has ended");
    assert_eq!(
        world.give(&exclude(ExclusionChange { reset: true, ..Default::default() }, None, "r8", 2 * HOUR + 1)),
        "apply operator #4 -> 4 isolated [manual*1 7200..36000] till 36000"
    );
    assert_eq!(names(&world), ["hand"], "the policy's default counts again");
    world.release("r9", 3 * HOUR);
    world.isolate("r10", 4 * HOUR);
    assert_eq!(names(&world), ["hand"]);
}

#[test]
fn a_temporary_exclusion_during_an_isolation_belongs_to_that_isolation_whoever_made_it() {
    let mut world = World::under(POLICY);
    world.detect("b", "d1", 0);
    let before = world.order().clone();
    let line = "apply operator #2 -> 2 isolated [b*1 0..28800] till 28800";
    assert_eq!(world.give(&exclude(added(&["ssh"]), Some("2h"), "r1", 60)), line);
    assert_eq!((names(&world), world.order().exclusions[1].until), (vec!["auto", "ssh"], Some(at(60 + 2 * HOUR))));
    assert_eq!((&world.order().holds, &world.order().incident), (&before.holds, &before.incident), "it changes nothing else");
    world.isolate("r2", 120);
    assert_eq!(names(&world), ["hand", "ssh"], "it passes on where a person isolates the host as well");
    world.detect("b", "d2", HOUR);
    assert_eq!(names(&world), ["hand", "ssh"]);
    world.detect("b", "d3", 3 * HOUR);
    assert_eq!(names(&world), ["hand"], "the next order leaves out what has ended");
    world.release("r3", 3 * HOUR + 1);
    world.isolate("r4", 3 * HOUR + 2);
    assert_eq!(names(&world), ["hand"], "the host's own list never had it");
}

#[test]
fn a_lasting_exclusion_during_an_isolation_goes_to_the_hosts_own_list_as_well() {
    let mut world = World::under(POLICY);
    world.detect("b", "d1", 0);
    let outcome = world.decide(&exclude(added(&["own"]), None, "r1", 60));
    let effects = outcome.decision.map(|decision| decision.effects).unwrap_or_default();
    assert!(matches!(&effects[..], [Effect::OwnExclusions { exclusions: Some(list) }] if list.len() == 2), "{effects:?}");
    world.give(&exclude(added(&["own"]), None, "r1", 60));
    assert_eq!(names(&world), ["auto", "own"], "it passes at once, beside what the policy lets pass");
    assert_eq!(world.give(&exclude(added(&["own"]), None, "r1", 60)), "isolate settled #2", "the same request twice");
    world.detect("b", "d2", HOUR);
    assert_eq!(names(&world), ["auto", "own"]);
    world.isolate("r2", HOUR + 1);
    assert_eq!(names(&world), ["hand", "own"]);
}

#[test]
fn a_change_that_cannot_be_is_refused_and_changes_nothing() {
    let all = |name: &str| Exclusion { remote_ports: Vec::new(), ..exclusion(name) };
    for (what, change, lasting) in [
        ("nothing", ExclusionChange::default(), None),
        ("an unknown name", removed(&["ssh"]), None),
        ("one that opens everything", ExclusionChange { exclusions: vec![all("all")], ..Default::default() }, None),
        (
            "one that has ended",
            ExclusionChange { exclusions: vec![Exclusion { until: Some(at(5)), ..exclusion("x") }], ..Default::default() },
            None,
        ),
        (
            "too long a list",
            ExclusionChange { exclusions: (0..400).map(|n| exclusion(&format!("x{n}"))).collect(), ..Default::default() },
            None,
        ),
    ] {
        let mut world = World::under(POLICY);
        world.detect("b", "d1", 0);
        let before = world.order().clone();
        assert_eq!(world.give(&exclude(change, lasting, "r1", 60)), "refuse incomplete", "{what}");
        assert_eq!(world.order(), &before, "{what}");
    }
    let mut world = World::under(POLICY);
    world.detect("b", "d1", 0);
    world.release("r1", 100);
    world.isolate("r2", 200);
    assert_eq!(
        world.give(&exclude(added(&["ssh"]), Some("1h"), "r3", 60)),
        "ignore superseded_by_release",
        "it was for the isolation before"
    );
    assert_eq!(world.order().posture, Posture::Isolated);
}

fn label(labels: &[(&str, Option<&str>)], name: &str, second: i64) -> Input {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
    asked(Request { labels, ..request(Action::Label) }, name, second)
}

fn exclude(change: ExclusionChange, lasting: Option<&str>, name: &str, second: i64) -> Input {
    let duration: Option<For> = lasting.map(|text| text.parse().expect("a duration"));
    asked(Request { change: Some(change), duration, ..request(Action::Exclude) }, name, second)
}

fn added(names: &[&str]) -> ExclusionChange {
    ExclusionChange { exclusions: names.iter().map(|name| exclusion(name)).collect(), ..ExclusionChange::default() }
}

fn removed(names: &[&str]) -> ExclusionChange {
    ExclusionChange { remove: names.iter().map(ToString::to_string).collect(), ..ExclusionChange::default() }
}

fn exclusion(name: &str) -> Exclusion {
    let text = serde_json::json!({ "name": name, "direction": "out", "protocol": "tcp", "remote": "any", "remote_ports": [22] });
    serde_json::from_value(text).expect("the test's exclusion is valid")
}

fn names(world: &World) -> Vec<&str> {
    world.order().exclusions.iter().map(|exclusion| exclusion.name.as_str()).collect()
}
