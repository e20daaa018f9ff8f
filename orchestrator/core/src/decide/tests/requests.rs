//! Requests on a host that is held already, and what a release closes.

use portcullis_schemas::events::{For, Hold, Posture, ReleasedBy, StateCause};

use super::*;
use crate::testing::{second, state};

fn isolate(hours: i64, incident: Option<&str>, ticket: Option<&str>) -> Request {
    Request {
        duration: Some(For::Span(Span::hours(hours.unsigned_abs()))),
        incident: incident.map(str::to_owned),
        ticket: ticket.map(str::to_owned),
        ..request(Action::Isolate)
    }
}

#[test]
fn each_manual_cause_is_a_hold_of_its_own_with_its_reason_ticket_incident_and_deadline() {
    let mut world = World::new();
    let first = Request { reason: Some(" beacon ".into()), ..isolate(8, Some("A"), Some("T-1")) };
    world.give(&asked(first, "r1", 0));
    let second = Request { reason: Some("forensics".into()), ..isolate(24, Some("B"), Some("T-2")) };
    let line = "isolate operator #2 -> 2 isolated [manual*1 0..28800, manual*1 3600..90000] till 90000";
    assert_eq!(world.give(&asked(second, "r2", HOUR)), line);
    let shorter = "isolate operator #3 -> 3 isolated [manual*1 0..28800, manual*1 3600..90000, manual*1 3660..7260] till 90000";
    assert_eq!(world.give(&asked(isolate(1, None, Some("T-3")), "r3", HOUR + 60)), shorter, "also where it ends sooner");
    let order = world.order();
    let said = |hold: &Hold| (hold.reason.clone(), hold.ticket.clone(), hold.incident.clone());
    let text = |text: &str| Some(text.to_owned());
    let wanted = [(text("beacon"), text("T-1"), None), (text("forensics"), text("T-2"), text("B")), (None, text("T-3"), None)];
    assert_eq!(order.holds.iter().map(said).collect::<Vec<_>>(), wanted);
    assert_eq!((order.incident.as_str(), order.ticket.as_deref()), ("A", Some("T-1")), "the isolation's are its first cause's");
}

#[test]
fn an_isolation_that_would_change_nothing_at_all_is_refused() {
    let mut world = World::new();
    let words = |reason: &str, request: Request| Request { reason: Some(reason.into()), ..request };
    world.give(&asked(words("beacon", isolate(8, Some("A"), Some("T"))), "r1", 0));
    for (what, second, is_refused) in [
        ("a shorter time", isolate(1, None, None), true),
        ("the same end", words("beacon", isolate(7, Some("A"), Some("T"))), true),
        ("a later end", isolate(8, None, None), false),
        ("no end", Request { duration: Some(For::Never), ..isolate(1, None, None) }, false),
        ("another incident", isolate(1, Some("C"), None), false),
        ("another ticket", isolate(1, None, Some("U")), false),
        ("another reason", words("again", isolate(1, None, None)), false),
        ("other exclusions", Request { exclusions: Some(Vec::new()), ..isolate(1, None, None) }, false),
    ] {
        let outcome = world.decide(&asked(second, "r2", HOUR));
        let reason = outcome.decision.expect("a decision").reason;
        let held = Reason::AlreadyIsolated {
            until: Some(at(8 * HOUR)),
            by: "ann".into(),
            incident: "A".into(),
            ticket: Some("T".into()),
            generation: 1,
        };
        assert_eq!((reason == held, outcome.order.is_none() || !is_refused), (is_refused, true), "{what}: {reason:?}");
    }
    let of_bob = Request { operator: "bob".into(), ..isolate(1, None, None) };
    let meta = meta(InputKind::Request, "bob", "r3", HOUR);
    let input = Input::Request { meta, host: "h1".into(), request: of_bob };
    assert!(world.give(&input).starts_with("isolate operator #2"), "another operator holds the host as well");
    assert!(world.order().reason.contains("isolated by bob"), "{}", world.order().reason);
}

#[test]
fn an_extension_moves_the_deadline_to_what_was_asked_sooner_or_later() {
    let to = |second: i64| Request { until: Some(at(second)), ..request(Action::Extend) };
    let by = |duration: &str| Request { duration: Some(duration.parse().expect("a duration")), ..request(Action::Extend) };
    for (what, asking, line) in [
        ("later", by("48h"), "apply operator #3 -> 3 isolated [a*1 0..176400, manual*1 60..176400] till 176400"),
        ("sooner", by("10m"), "apply operator #3 -> 3 isolated [a*1 0..4200, manual*1 60..4200] till 4200"),
        ("between the two", to(6 * HOUR), "apply operator #3 -> 3 isolated [a*1 0..21600, manual*1 60..21600] till 21600"),
        (
            "the last second that the policy allows",
            to(604_860),
            "apply operator #3 -> 3 isolated [a*1 0..604800, manual*1 60..604860] till 604860",
        ),
        ("longer than it allows", to(604_861), "refuse too_long"),
        ("for ever", by("never"), "refuse too_long"),
        ("into the past", to(HOUR), "refuse incomplete"),
        ("to nothing", request(Action::Extend), "refuse incomplete"),
        ("to two times", Request { until: Some(at(2 * HOUR)), ..by("1h") }, "refuse incomplete"),
    ] {
        let mut world = World::new();
        world.detect("a", "d1", 0);
        world.give(&asked(isolate(12, None, Some("T")), "r1", 60));
        let mut before = world.order().clone();
        before.exclusions.truncate(2);
        before.generation += 1;
        world.store(before.clone());
        let asking =
            Request { reason: Some("night shift".into()), ticket: Some("U".into()), incident: Some("I".into()), ..asking };
        let line = line.replace("#3 -> 3", "#4 -> 4");
        assert_eq!(world.give(&asked(asking, "r2", HOUR)), line, "{what}");
        let order = world.order();
        assert_eq!((&order.exclusions, &order.incident), (&before.exclusions, &before.incident), "{what}");
        if order.generation > before.generation {
            assert!(order.reason.contains("by ann: night shift (incident I)"), "{what}: {}", order.reason);
            assert_eq!(order.ticket.as_deref(), Some("U"), "{what}");
        }
    }
    let mut world = World::new();
    assert_eq!(world.give(&asked(by("1h"), "r1", 0)), "refuse not_isolated");
    world.detect("a", "d1", 10);
    world.give(&asked(by("1h"), "r2", 20));
    assert_eq!(world.give(&asked(by("1h"), "r2", 20)), "isolate settled #2", "the same request twice");
    world.release("r3", 30);
    world.detect("b", "d2", 40);
    assert_eq!(world.give(&asked(by("1h"), "r4", 25)), "ignore superseded_by_release", "it was about what was released");
}

#[test]
fn an_isolation_without_an_end_needs_a_policy_that_allows_it() {
    let mut world = World::under(
        "{ version: 1, defaults: { max_isolation: never }, rules: [{ name: a, match: { rule.id: a }, then: isolate }, { name: rest, then: observe }] }",
    );
    world.detect("a", "d1", 0);
    let never = Request { duration: Some(For::Never), ..request(Action::Extend) };
    assert_eq!(world.give(&asked(never, "r1", 60)), "apply operator #2 -> 2 isolated [a*1 0..never]");
    let back = Request { until: Some(at(HOUR)), ..request(Action::Extend) };
    assert_eq!(world.give(&asked(back, "r2", 70)), "apply operator #3 -> 3 isolated [a*1 0..3600] till 3600");
}

#[test]
fn each_opening_says_how_it_came_about_and_which_rules_it_ended() {
    let last = |world: &World| world.order().last_release.clone().map(|last| (second(last.at), last.by, last.who, last.rules));
    let rules = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let ann = Some("ann".to_owned());
    let held = || {
        let mut world = World::new();
        world.detect("b", "d1", 0);
        world.detect("a", "d2", 5);
        assert_eq!(last(&world), None, "it never was open by an order");
        world
    };
    let mut world = held();
    world.release("r1", 60);
    assert_eq!(last(&world), Some((60, ReleasedBy::Operator, ann.clone(), rules(&["a", "b"]))));
    world.release("r2", 70);
    assert_eq!(last(&world), Some((60, ReleasedBy::Operator, ann, rules(&["a", "b"]))), "nothing was left to end");
    world.detect("a", "d3", 80);
    assert_eq!(last(&world).map(|last| last.0), Some(60), "it is remembered while the host is isolated again");
    world.retract("d3", "x1", 90);
    assert_eq!(last(&world), Some((90, ReleasedBy::Retraction, None, rules(&["a"]))));
    let mut world = held();
    world.due(2, Some(std::time::Duration::ZERO), 24 * HOUR);
    assert_eq!(last(&world), Some((24 * HOUR, ReleasedBy::Deadline, None, rules(&["a", "b"]))));
    for (cause, by) in [(StateCause::Local, ReleasedBy::Host), (StateCause::Deadline, ReleasedBy::Deadline)] {
        let mut world = held();
        world.state(state(2, Posture::Open, cause), 30);
        assert_eq!(last(&world), Some((30, by, None, rules(&["a", "b"]))));
    }
}

#[test]
fn a_detection_holds_beside_a_person_and_a_person_beside_a_detection() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    assert!(world.give(&asked(isolate(1, Some("C"), None), "r1", 60)).starts_with("isolate operator #2"));
    assert!(world.detect("b", "d2", 120).starts_with("isolate rule #3"));
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
