//! Automatic isolation is paused and goes on.

use portcullis_schemas::events::{Effect, For};

use super::*;

fn pause(hours: u64) -> Request {
    Request {
        host: None,
        reason: Some("maintenance".into()),
        duration: Some(For::Span(Span::hours(hours))),
        ..request(Action::Pause)
    }
}

fn resume() -> Request {
    Request { host: None, ..request(Action::Resume) }
}

#[test]
fn while_it_is_paused_the_policy_asks_and_people_go_on() {
    let mut world = World::new();
    let outcome = world.decide(&asked(pause(2), "p1", 0));
    let effect = Effect::Paused { until: at(2 * HOUR), by: "ann".into(), reason: Some("maintenance".into()) };
    assert_eq!(outcome.decision.map(|decision| decision.effects), Some(vec![effect]));
    assert_eq!(world.give(&asked(pause(2), "p1", 0)), "apply operator !!paused");
    let decision = world.decide(&seen("h1", "a", "d1", 10)).decision.expect("a decision");
    assert_eq!(decision.reason, Reason::Paused { until: at(2 * HOUR), by: "ann".into() });
    assert_eq!(world.detect("a", "d1", 10), "ask paused !!ask");
    assert!(world.isolate("r1", 20).starts_with("isolate operator #1"));
    assert!(world.release("r2", 30).starts_with("release operator #2"));
    assert_eq!(world.give(&asked(resume(), "p2", 40)), "apply operator !resumed");
    assert!(world.detect("a", "d2", 50).starts_with("isolate rule #3"));
}

#[test]
fn a_pause_ends_by_itself() {
    let mut world = World::new();
    let unsaid = Request { duration: None, ..pause(1) };
    world.give(&asked(unsaid, "p1", 0));
    assert_eq!(world.detect("a", "d1", HOUR - 1), "ask paused !!ask", "an hour where nothing is said");
    assert!(world.detect("b", "d2", HOUR).starts_with("isolate rule #1"));
    let over = |until| Input::PauseOver(meta(InputKind::Time, "_pause", "over", until));
    assert_eq!(world.give(&over(HOUR)), "apply pause_over !resumed");
    assert_eq!(world.give(&over(HOUR)), "nothing");
    world.give(&asked(pause(1), "p2", 2 * HOUR));
    world.give(&asked(pause(2), "p3", 2 * HOUR));
    assert_eq!(world.give(&over(3 * HOUR)), "nothing", "it was made longer");
}

#[test]
fn a_pause_has_a_reason_and_an_end() {
    let mut world = World::new();
    for (what, wish, line) in [
        ("no reason", Request { reason: Some(" \n".into()), ..pause(1) }, "refuse incomplete"),
        ("a week", pause(7 * 24), "apply operator !!paused"),
        ("longer", pause(7 * 24 + 1), "refuse too_long"),
        ("for ever", Request { duration: Some(For::Never), ..pause(1) }, "refuse too_long"),
    ] {
        assert_eq!(world.give(&asked(wish, what, 0)), line, "{what}");
    }
    assert_eq!(World::new().give(&asked(resume(), "p2", 0)), "refuse not_paused");
}

#[test]
fn what_nobody_decided_for_too_long_asks() {
    let mut world = World::new();
    world.leader_since = Some(at(2 * HOUR));
    let decision = world.decide(&seen("h1", "a", "d1", HOUR - 1)).decision.expect("a decision");
    let reason = Reason::StaleByDowntime { arrived_at: at(HOUR - 1), leader_since: at(2 * HOUR) };
    assert_eq!((decision.verdict, decision.reason), (Verdict::Ask, reason));
    assert!(world.detect("a", "d2", HOUR).starts_with("isolate rule #1"));
}

#[test]
fn several_things_that_hold_it_back_are_all_named() {
    let mut world = World::new();
    world.config.protected.insert(id("h1"), "broker".into());
    world.give(&asked(pause(1), "p1", 0));
    let old = Input::Detection(meta(InputKind::Detection, "edr", "d1", 10), detection("h1", "a", -HOUR));
    let decision = world.decide(&old).decision.expect("a decision");
    assert_eq!(decision.reason, Reason::Protected { as_what: "broker".into() });
    let further =
        [Reason::Stale { observed_at: at(-HOUR), limit: at(10 - HOUR) }, Reason::Paused { until: at(HOUR), by: "ann".into() }];
    assert_eq!(decision.further, further);
}
