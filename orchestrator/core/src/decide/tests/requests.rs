//! Requests on a host that is held already, and what a release closes.

use portcullis_schemas::events::{For, Posture, StateCause};

use super::*;
use crate::testing::state;

fn isolate(hours: i64, incident: Option<&str>, ticket: Option<&str>) -> Request {
    Request {
        duration: Some(For::Span(Span::hours(hours.unsigned_abs()))),
        incident: incident.map(str::to_owned),
        ticket: ticket.map(str::to_owned),
        ..request(Action::Isolate)
    }
}

#[test]
fn what_a_second_isolation_asks_for_is_refused_where_it_would_be_lost() {
    let mut world = World::new();
    world.give(&asked(isolate(8, Some("A"), None), "r1", 0));
    let held = || Reason::AlreadyIsolated {
        until: Some(at(8 * HOUR)),
        by: "ann".into(),
        incident: "A".into(),
        ticket: None,
        generation: 1,
    };
    for (what, second) in [
        ("a shorter time", isolate(1, None, None)),
        ("the same end", isolate(7, Some("A"), None)),
        ("another incident, for longer", isolate(24, Some("C"), None)),
        ("all of it", isolate(1, Some("C"), Some("T"))),
    ] {
        let outcome = world.decide(&asked(second, "r2", HOUR));
        let decision = outcome.decision.expect("a decision");
        assert_eq!((decision.verdict, decision.reason, outcome.order), (Verdict::Refuse, held(), None), "{what}");
    }
    // For longer, in the same incident, nothing is lost: the hold ends later.
    let line = "isolate operator #2 -> 2 isolated [manual*2 0..90000] till 90000";
    assert_eq!(world.give(&asked(isolate(24, Some("A"), Some("T")), "r3", HOUR)), line);
    assert_eq!((world.order().incident.as_str(), world.order().ticket.as_deref()), ("A", Some("T")));
    let other = world.decide(&asked(isolate(48, None, Some("U")), "r4", HOUR)).decision.map(|decision| decision.verdict);
    assert_eq!(other, Some(Verdict::Refuse), "another ticket would push out the first");
}

#[test]
fn a_hold_ends_later_as_far_as_the_policy_allows_and_no_further() {
    let mut world = World::new();
    let day = 24 * HOUR;
    world.give(&asked(isolate(24, None, None), "r1", 0));
    let line = "isolate operator #2 -> 2 isolated [manual*2 0..604800] till 604800";
    assert_eq!(world.give(&asked(isolate(7 * 24, None, None), "r2", HOUR)), line, "7 days from the beginning of the hold");
    let decision = world.decide(&asked(isolate(3 * 24, None, None), "r3", 5 * day)).decision.expect("a decision");
    assert!(
        matches!(decision.reason, Reason::AlreadyIsolated { until: Some(until), .. } if until == at(7 * day)),
        "{decision:?}"
    );
}

#[test]
fn a_detection_holds_beside_a_person_and_a_person_beside_a_detection() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    assert!(world.give(&asked(isolate(1, Some("C"), None), "r1", 60)).starts_with("isolate operator #2"));
    assert!(world.detect("b", "d2", 120).starts_with("isolate rule #3"));
}

#[test]
fn an_extension_is_kept_also_where_a_rule_holds_the_host_longer() {
    let mut world = World::new();
    world.detect("b", "d1", 0);
    world.give(&asked(isolate(1, None, None), "r1", 60));
    let line = "isolate operator #3 -> 3 isolated [b*1 0..86400, manual*2 60..21720] till 86400";
    assert_eq!(world.give(&asked(isolate(6, None, None), "r2", 120)), line);
    let decision = world.decide(&asked(isolate(1, None, None), "r3", 180)).decision.expect("a decision");
    assert!(
        matches!(decision.reason, Reason::AlreadyIsolated { until: Some(until), .. } if until == at(21_720)),
        "it names the operator's own end: {decision:?}"
    );
}

#[test]
fn a_decision_after_a_release_does_not_carry_the_incident_that_it_closed() {
    let mut world = World::new();
    world.give(&asked(isolate(8, Some("A"), Some("T")), "r1", 0));
    world.release("r2", 10);
    assert_eq!((world.order().incident.as_str(), world.order().ticket.as_deref()), ("A", Some("T")), "the release belongs to it");
    let named = Detection { incident: Some("B".into()), ..detection("h1", "anything", 20) };
    for (what, input, incident) in [
        ("observed", seen("h1", "anything", "d1", 20), None),
        ("observed, of the sender's incident", Input::Detection(meta(InputKind::Detection, "edr", "d2", 20), named), Some("B")),
        ("too long", asked(isolate(24 * 30, Some("C"), None), "r3", 20), Some("C")),
        ("isolated by it", seen("h1", "a", "d3", 20), Some("d3")),
        ("released again", asked(request(Action::Release), "r4", 20), Some("r4")),
    ] {
        let outcome = world.decide(&input);
        assert_eq!(outcome.decision.and_then(|decision| decision.incident).as_deref(), incident, "{what}");
        assert!(outcome.order.is_none_or(|order| order.incident != "A" && order.ticket.is_none()), "{what}");
    }
    assert_eq!(world.decide(&seen("h1", "anything", "d1", 20)).decision.map(|decision| decision.incident), Some(None));
}

#[test]
fn a_release_of_an_open_host_says_that_it_was_open() {
    let mut world = World::new();
    assert!(world.release("r1", 10).starts_with("release already_open #1"));
    world.isolate("r2", 20);
    world.state(state(2, Posture::Isolated, StateCause::Order), 21);
    assert!(world.release("r3", 30).starts_with("release operator #3"));
    assert!(world.release("r4", 31).starts_with("release operator #4"), "the host has not said that it is open");
    world.state(state(4, Posture::Open, StateCause::Order), 32);
    assert!(world.release("r5", 40).starts_with("release already_open #5"));
}
