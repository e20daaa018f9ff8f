//! A log of orders that was lost, or restored from a copy, and what hosts still know.

use portcullis_schemas::events::{Action, Hello, Hold, InputKind, LastOrder, Order, Posture, Request, State, StateCause};

use crate::Input;
use crate::testing::{HOUR, World, asked, at, hello, id, meta, request, state};

/// Seen before: a manual isolation of 30 minutes came back as an automatic one of 8 hours.
#[test]
fn what_the_log_has_lost_is_ordered_again_as_it_was() {
    let (mut before, mut world) = (World::new(), World::new());
    before.detect("a", "d1", 0);
    before.give(&asked(manual(), "r1", 60));
    let lost = before.order().clone();
    // The agent tells its order in a state event, so its hello is no reason to guess.
    let hello = Hello { generation: 2, posture: Posture::Isolated, tells_last_order: true, ..hello("h1") };
    assert_eq!(world.says(hello, 90), "nothing");
    let line = "isolate agent_ahead #3 -> 3 isolated [a*1 0..28800, manual*1 60..1860] till 28800 !!isolated";
    assert_eq!(world.state(claims(&lost), 100), line);
    let order = world.order();
    let whole = |order: &Order| {
        let Order { holds, release_at, exclusions, when_unreachable, local_release, incident, ticket, reason, .. } =
            order.clone();
        (holds, release_at, exclusions, when_unreachable, local_release, incident, ticket, reason)
    };
    assert_eq!(whole(order), whole(&lost));
    // Said again, it orders nothing; a person and the deadline end it as ever.
    assert_eq!(world.state(claims(&lost), 101), "nothing");
    assert_eq!(world.release("r2", 200), "release operator #4 -> 4 open [] !released");
}

#[test]
fn what_a_host_says_shortens_nothing_that_the_log_knows() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let known = world.order().clone();
    let hold = known.holds[0].clone();
    let exclusions = Some(Vec::new());
    for (what, holds, line) in [
        ("shorter", vec![Hold { until: Some(at(60)), ..hold.clone() }], "[a*1 0..28800] till 28800"),
        ("longer", vec![Hold { until: Some(at(9 * HOUR)), ..hold.clone() }], "[a*1 0..32400] till 32400"),
        ("another one, later", vec![later(&hold, "b", 2)], "[a*1 0..28800, b*1 0..28800] till 28800"),
        ("another one, of a time that the log knows", vec![later(&hold, "b", 1)], "[a*1 0..28800] till 28800"),
    ] {
        let mut world = World::new();
        world.detect("a", "d1", 0);
        let said = State {
            last_order: Some(Box::new(LastOrder { holds, exclusions: exclusions.clone(), ..LastOrder::of(&known).unwrap() })),
            ..state(2, Posture::Isolated, StateCause::Check)
        };
        assert_eq!(world.state(said, 9), format!("isolate agent_ahead #3 -> 3 isolated {line}"), "{what}");
        assert_eq!(world.order().exclusions, known.exclusions, "{what}");
    }
}

/// Seen before: a copy of the log ended with an isolation, the host was open since and isolated anew. It said so in two events, and the first
/// alone was answered, so that the newer isolation was forgotten.
#[test]
fn the_last_word_of_a_host_is_answered_and_none_before_it() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let known = world.order().clone();
    let holds = vec![later(&known.holds[0], "b", 3)];
    let last = State {
        last_order: Some(Box::new(LastOrder { holds, ..LastOrder::of(&known).unwrap() })),
        ..state(3, Posture::Isolated, StateCause::Order)
    };
    // Both are stored when they are read.
    world.fleet.take_state(last.clone(), at(8));
    let opened = state(2, Posture::Open, StateCause::Order);
    assert_eq!(world.give(&Input::State(meta(InputKind::State, "h1", "state-7", 7), opened)), "nothing");
    let line = "isolate agent_ahead #4 -> 4 isolated [a*1 0..28800, b*1 0..28800] till 28800";
    assert_eq!(world.state(last, 8), line);
}

#[test]
fn holds_that_ended_are_not_brought_back() {
    let (mut before, mut world) = (World::new(), World::new());
    before.detect("a", "d1", 0);
    let lost = before.order().clone();
    // The log knows of the release, and nothing above it.
    world.detect("a", "d1", 0);
    world.release("r1", 5);
    let said = State { generation: 3, ..claims(&lost) };
    assert_eq!(world.state(said, 9), "release agent_ahead #4 -> 4 open []");
    // Their time is over.
    let mut world = World::new();
    assert_eq!(world.state(claims(&lost), 9 * HOUR), "release agent_ahead #2 -> 2 open []");
}

#[test]
fn a_host_isolates_itself_no_longer_than_the_policy_lets_anybody() {
    let mut before = World::new();
    before.detect("a", "d1", 0);
    let lost = before.order().clone();
    for until in [None, Some(at(1_000 * 24 * HOUR))] {
        let mut world = World::new();
        let holds = vec![Hold { until, ..lost.holds[0].clone() }];
        let said = State {
            last_order: Some(Box::new(LastOrder { holds, ..LastOrder::of(&lost).unwrap() })),
            ..state(1, Posture::Isolated, StateCause::Check)
        };
        world.state(said, 9);
        assert_eq!(world.order().release_at, Some(at(9 + 7 * 24 * HOUR)));
    }
}

fn manual() -> Request {
    Request {
        duration: Some("30m".parse().unwrap()),
        incident: Some("INC-7".into()),
        ticket: Some("T-7".into()),
        reason: Some("beaconing".into()),
        ..request(Action::Isolate)
    }
}

/// A state event of a host that holds this order.
fn claims(order: &Order) -> State {
    let last_order = LastOrder::of(order).map(Box::new);
    assert!(last_order.is_some() && order.host == id("h1"));
    State { last_order, ..state(order.generation, Posture::Isolated, StateCause::Check) }
}

fn later(hold: &Hold, rule: &str, generation: u64) -> Hold {
    Hold { rule: Some(rule.into()), generation, ..hold.clone() }
}
