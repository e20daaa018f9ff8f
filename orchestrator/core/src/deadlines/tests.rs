//! Deadlines on a clock of their own: never early, and said until they are answered.

use portcullis_schemas::events::{Action, Request};

use super::*;
use crate::testing::{HOUR, World, asked, at, id, request};

const HOURS_8: Duration = Duration::from_secs(8 * 3_600);

#[test]
fn a_deadline_is_said_when_its_time_has_passed_and_not_before() {
    let mut deadlines = Deadlines::default();
    deadlines.follow(&isolated(1), seconds(100), None);
    assert_eq!((deadlines.next(), deadlines.pending()), (Some(seconds(100) + HOURS_8), 1));
    assert_eq!(deadlines.due(seconds(99) + HOURS_8), []);
    assert_eq!(deadlines.due(seconds(100) + HOURS_8), [Due { host: id("h1"), generation: 1, due_at: at(8 * HOUR) }]);
}

#[test]
fn the_end_of_the_last_manual_hold_is_said_where_a_rule_holds_on() {
    let mut world = World::new();
    world.detect("a", "d1", 0);
    let short = Request { duration: Some("1h".parse().expect("a span")), ..request(Action::Isolate) };
    world.give(&asked(short, "r1", 60));
    let mut deadlines = Deadlines::default();
    deadlines.follow(world.order(), seconds(60), None);
    assert_eq!(deadlines.due(seconds(59 + 3_600)), []);
    assert_eq!(deadlines.due(seconds(60 + 3_600)), [Due { host: id("h1"), generation: 2, due_at: at(60 + HOUR) }]);
}

#[test]
fn what_is_left_counts_on_the_monotonic_clock_whatever_the_wall_says() {
    let mut deadlines = Deadlines::default();
    deadlines.follow(&isolated(1), seconds(0), None);
    // The same order read again after the wall clock was set far ahead, and far back, changes nothing.
    for stepped in [at(9 * HOUR), at(-9 * HOUR)] {
        deadlines.follow(&isolated(1), seconds(10), Some(stepped));
        assert_eq!(deadlines.rest(&id("h1"), 1, seconds(10)), Some(HOURS_8 - seconds(10)));
    }
    assert_eq!(deadlines.due(HOURS_8 - seconds(1)), []);
}

#[test]
fn what_is_due_is_said_again_until_a_higher_generation_stands() {
    let mut deadlines = Deadlines::default();
    deadlines.follow(&isolated(1), seconds(0), None);
    assert_eq!(deadlines.due(HOURS_8).len(), 1);
    assert_eq!(deadlines.due(HOURS_8 + REPEAT - seconds(1)), []);
    assert_eq!(deadlines.due(HOURS_8 + REPEAT).len(), 1);
    assert_eq!(deadlines.rest(&id("h1"), 1, HOURS_8 + REPEAT), Some(Duration::ZERO), "said, and still due");
    deadlines.follow(&open(2), HOURS_8 + REPEAT, None);
    assert_eq!((deadlines.due(HOURS_8 * 2), deadlines.next(), deadlines.pending()), (Vec::new(), None, 0));
}

#[test]
fn a_higher_generation_moves_the_deadline_and_a_lower_one_does_not() {
    let mut deadlines = Deadlines::default();
    deadlines.follow(&isolated(2), seconds(60), None);
    deadlines.follow(&isolated(1), seconds(0), None);
    assert_eq!((deadlines.rest(&id("h1"), 1, seconds(60)), deadlines.rest(&id("h1"), 2, seconds(60))), (None, Some(HOURS_8)));
    deadlines.follow(&isolated(3), seconds(120), None);
    assert_eq!((deadlines.next(), deadlines.pending()), (Some(seconds(120) + HOURS_8), 1));
    deadlines.follow(&open(4), seconds(130), None);
    deadlines.follow(&isolated(3), seconds(130), None);
    assert_eq!(deadlines.pending(), 0, "an older order that is read late does not come back");
}

#[test]
fn an_order_read_back_has_what_is_left_by_the_brokers_time() {
    for (what, broker_now, left) in [
        ("an hour later", at(HOUR), seconds(7 * 3_600)),
        ("overdue", at(20 * HOUR), Duration::ZERO),
        ("the very moment", at(8 * HOUR), Duration::ZERO),
    ] {
        let mut deadlines = Deadlines::default();
        deadlines.follow(&isolated(1), seconds(5), Some(broker_now));
        assert_eq!(deadlines.next(), Some(seconds(5) + left), "{what}");
        assert_eq!(deadlines.due(seconds(5)).len(), usize::from(left.is_zero()), "{what}");
    }
}

#[test]
fn what_was_not_heard_is_said_again_sooner() {
    let mut deadlines = Deadlines::default();
    deadlines.follow(&isolated(1), seconds(0), None);
    assert_eq!(deadlines.due(HOURS_8).len(), 1);
    deadlines.again(&id("h1"), 1, HOURS_8 + seconds(1));
    assert_eq!(deadlines.due(HOURS_8 + seconds(1)).len(), 1);
    deadlines.follow(&isolated(2), HOURS_8 + seconds(1), None);
    deadlines.again(&id("h1"), 1, HOURS_8 + seconds(2));
    assert_eq!(deadlines.due(HOURS_8 + seconds(2)), [], "one that no longer stands is not said again");
}

#[test]
fn all_that_is_due_is_said_at_once() {
    let mut deadlines = Deadlines::default();
    for n in 0..100 {
        deadlines.follow(&Order { host: id(&format!("h{n}")), ..isolated(1) }, seconds(n), None);
    }
    assert_eq!(deadlines.due(HOURS_8 + seconds(49)).len(), 50);
    assert_eq!(deadlines.next(), Some(HOURS_8 + seconds(50)));
}

#[test]
fn an_isolation_without_an_end_is_not_waited_for() {
    let mut deadlines = Deadlines::default();
    deadlines.follow(&Order { release_at: None, ..isolated(1) }, seconds(0), None);
    assert_eq!(deadlines.pending(), 0);
}

fn isolated(generation: u64) -> Order {
    let mut world = World::new();
    world.give(&asked(request(Action::Isolate), "r1", 0));
    Order { generation, ..world.order().clone() }
}

fn open(generation: u64) -> Order {
    let mut world = World::new();
    world.give(&asked(request(Action::Release), "r1", 0));
    Order { generation, ..world.order().clone() }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
