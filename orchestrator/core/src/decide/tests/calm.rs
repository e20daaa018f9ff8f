//! After a release: what held the host does not isolate it again at once.

use super::*;

fn world(terms: &str) -> World {
    World::under(&format!(
        "version: 1\n{terms}\nrules:\n  - {{ name: a, match: {{ rule.id: a }}, then: isolate }}\n  - {{ name: b, match: {{ rule.id: b }}, then: isolate }}\n  - {{ name: q, match: {{ rule.id: q }}, then: ask }}\n  - {{ name: rest, then: observe }}\n"
    ))
}

#[test]
fn after_an_operators_release_the_same_rule_is_ignored_and_another_asks() {
    let mut world = world("cool_down_after_manual_release: 30m");
    world.detect("a", "d1", 0);
    world.release("r1", 60);
    let reason = Reason::CoolDown { released_at: at(60), until: at(60 + 1_800), by: Some("ann".into()) };
    let decision = world.decide(&seen("h1", "a", "d2", 61)).decision.expect("a decision");
    assert_eq!((decision.verdict, decision.reason, decision.rule.as_deref()), (Verdict::Ignore, reason.clone(), Some("a")));
    let decision = world.decide(&seen("h1", "b", "d3", 61)).decision.expect("a decision");
    assert_eq!((decision.verdict, decision.reason), (Verdict::Ask, reason));
    assert_eq!(world.detect("q", "d4", 61), "ask rule !!ask", "what asks anyway");
    assert!(world.detect("a", "d5", 60 + 1_800).starts_with("isolate rule"));
}

#[test]
fn a_manual_isolation_is_no_matter_of_calm() {
    let mut world = world("cool_down_after_manual_release: 30m");
    world.detect("a", "d1", 0);
    world.release("r1", 60);
    assert!(world.isolate("r2", 61).starts_with("isolate operator"));
    assert!(world.detect("a", "d2", 62).starts_with("isolate rule"), "the host is held again");
}

#[test]
fn the_hold_off_counts_after_any_release() {
    let mut world = world("hold_off_after_release: 10m");
    world.detect("a", "d1", 0);
    world.due(1, Some(Duration::ZERO), 8 * HOUR);
    assert_eq!(world.detect("a", "d2", 8 * HOUR + 599), "ignore cool_down");
    assert!(world.detect("b", "d3", 8 * HOUR + 599).starts_with("isolate rule"), "another rule");
    let mut world = World::under(
        "version: 1\nrules:\n  - { name: a, match: { rule.id: a }, then: isolate }\n  - { name: rest, then: observe }\n",
    );
    world.detect("a", "d1", 0);
    world.due(1, Some(Duration::ZERO), 8 * HOUR);
    assert!(world.detect("a", "d2", 8 * HOUR + 1).starts_with("isolate rule"), "off where nothing is said");
}

#[test]
fn where_both_are_off_a_detection_of_before_a_deadline_is_none_of_calm() {
    let mut world = world("cool_down_after_manual_release: 0s");
    world.detect("a", "d1", 0);
    world.due(1, Some(Duration::ZERO), 8 * HOUR);
    assert!(world.detect("a", "d2", 8 * HOUR - 1).starts_with("isolate rule"));
}
