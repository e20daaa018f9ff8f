//! The memory of an order forgets its oldest, and says from when on it is whole.

use super::*;
use crate::testing::{World, at};

#[test]
fn what_is_pushed_out_raises_the_floor() {
    let mut order = empty();
    for n in 0..MAX_SETTLED as i64 {
        add(&mut order, format!("{n:016x}"), at(n), Some(1));
    }
    assert_eq!((order.settled.len(), order.settled_floor), (MAX_SETTLED, None));
    add(&mut order, "x".into(), at(9_000), None);
    let floor = at(0) + chrono::TimeDelta::milliseconds(1);
    assert_eq!((order.settled.len(), order.settled_floor), (MAX_SETTLED, Some(floor)), "the first one lies before the floor");
    assert_eq!(order.settled.last().map(|entry| entry.hash.as_str()), Some("x"));
}

#[test]
fn the_floor_never_sinks() {
    let mut order = Order { settled_floor: Some(at(500)), ..empty() };
    for n in 0..4 {
        add(&mut order, n.to_string(), at(n), None);
    }
    trim(&mut order, 2);
    assert_eq!((order.settled.len(), order.settled_floor), (2, Some(at(500))));
    trim(&mut order, 2);
    assert_eq!(order.settled.len(), 2);
}

#[test]
fn of_late_entries_that_are_pushed_out_the_latest_counts() {
    let mut order = empty();
    for second in [50, 10, 90] {
        add(&mut order, second.to_string(), at(second), None);
    }
    trim(&mut order, 1);
    assert_eq!(order.settled_floor, Some(at(50) + chrono::TimeDelta::milliseconds(1)));
}

#[test]
fn an_input_is_remembered_once() {
    let mut order = empty();
    add(&mut order, "x".into(), at(0), None);
    add(&mut order, "x".into(), at(5), Some(3));
    assert_eq!(order.settled.len(), 1);
    assert_eq!(order.settled[0].generation, Some(3));
}

fn empty() -> Order {
    let mut world = World::new();
    world.release("r1", 0);
    Order { settled: Vec::new(), ..world.order().clone() }
}
