//! What joined a hold without an order, as its decisions tell it.

use portcullis_schemas::events::{Facts, Verdict};

use super::*;
use crate::testing::{at, key};

#[test]
fn a_decision_tells_of_a_join_and_no_other_does() {
    let told = Join::of(&decision("d1", 5, 3), 7).expect("a join");
    assert_eq!((told.cause, told.at, told.generation, told.recorded), (key(InputKind::Detection, "edr", "d1"), at(5), 3, 7));
    let other = Decision { reason: Reason::Settled, ..decision("d1", 5, 3) };
    let request = Decision { input: key(InputKind::Request, "ann", "r1"), ..decision("d1", 5, 3) };
    assert_eq!((Join::of(&other, 7), Join::of(&request, 7)), (None, None));
}

#[test]
fn a_join_belongs_to_the_hold_that_stood_and_to_no_later_one() {
    let mut joins = Joins::default();
    joins.add(join("d1", 3));
    joins.add(join("d2", 8));
    joins.add(join("d2", 8));
    let ids = |hold: &Hold| joins.of_hold(hold).map(|join| join.cause.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&hold(2)), ["d1", "d2"], "the hold that goes on with the first");
    assert_eq!(ids(&hold(4)), ["d2"], "one that was made after the first joined");
    assert_eq!(ids(&Hold { origin: Origin::Manual, ..hold(2) }), [""; 0]);
    let of_host = OfHost::from([("a".to_owned(), Arc::new(joins.clone()))]);
    assert_eq!(of_hold(Some(&of_host), &hold(2)).0.len(), 2);
    let of_other_rule = Hold { rule: Some("b".into()), ..hold(2) };
    assert_eq!((of_hold(Some(&of_host), &of_other_rule), of_hold(None, &hold(2))), (Default::default(), Default::default()));
}

#[test]
fn of_too_many_the_oldest_are_forgotten_and_that_they_were_there_is_not() {
    let mut joins = Joins::default();
    for n in 0..=MOST as u64 {
        joins.add(join(&format!("d{n}"), n));
    }
    assert_eq!(joins.of_hold(&hold(0)).count(), MOST);
    assert_eq!((joins.forgot(&hold(0)), joins.forgot(&hold(1))), (true, false), "one that was made later has all of its own");
    assert_eq!(joins.recorded_from(), Some(100), "the forgotten one is read back as well");
    (0..=MOST).for_each(|n| joins.remove(&key(InputKind::Detection, "edr", &format!("d{n}")).hash()));
    assert!(!joins.is_empty() && joins.forgot(&hold(0)));
    joins.end(at(0));
    assert_eq!((joins.is_empty(), joins.recorded_from()), (true, None));
}

#[test]
fn what_was_retracted_or_released_is_gone_and_what_came_after_the_release_is_not() {
    let mut joins = Joins::default();
    joins.add(join("d1", 1));
    joins.add(join("d2", 2));
    joins.add(join("d3", 3));
    joins.remove(&key(InputKind::Detection, "edr", "d1").hash());
    assert_eq!((joins.joins.len(), joins.recorded_from()), (2, Some(101)));
    joins.end(at(2));
    assert_eq!((joins.joins.len(), joins.recorded_from()), (1, Some(103)));
    joins.end(at(3));
    assert!(joins.is_empty() && joins.recorded_from().is_none());
}

fn decision(name: &str, second: i64, generation: u64) -> Decision {
    let reason = Reason::Joined { generation, until: None };
    let facts = Facts { now: Some(at(second)), ..Facts::default() };
    Decision::new(key(InputKind::Detection, "edr", name), Verdict::Isolate, reason, facts)
}

fn join(name: &str, generation: u64) -> Join {
    let second = i64::try_from(generation).expect("a small number");
    Join::of(&decision(name, second, generation), 100 + generation).expect("a join")
}

fn hold(generation: u64) -> Hold {
    Hold {
        rule: Some("a".into()),
        origin: Origin::Automatic,
        causes: Vec::new(),
        more: None,
        generation,
        since: at(0),
        until: None,
        reason: None,
        ticket: None,
        incident: None,
    }
}
