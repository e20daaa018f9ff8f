//! What waits is decided while a batch is stored, and sent when that is.

use super::*;

/// A batch whose orders are appended, and one that was decided behind it.
fn desk() -> Desk {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 1: order.h1"]);
    assert!(!desk.machine.can_decide_ahead(), "nothing waits");
    desk.detect(2, "b", 2);
    assert!(desk.machine.can_decide_ahead());
    desk.give(Event::Idle);
    desk.expect(&[]);
    assert!(!desk.machine.can_decide_ahead(), "one batch is decided ahead");
    assert_eq!(desk.machine.fleet().counts().isolated, 1);
    desk
}

#[test]
fn the_next_batch_is_decided_while_one_is_stored_and_sent_when_it_is() {
    let mut desk = desk();
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 2: decision.h1"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate", "ack 1", "append ORDERS 2: order.h1"]);
    let (first, second) = (desk.bodies[3].clone(), desk.bodies[5].clone());
    let second = envelope::decode::<Order>(std::iter::empty(), second.as_bytes()).expect("an order is read").data;
    assert_eq!(second.prev, ids::sha256(first.as_bytes()));
    assert_eq!((second.generation, second.holds.len()), (2, 2), "it was decided behind the order in flight");
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 2", "append DECISIONS 3: decision.h1"]);
    let seen = desk.decision(1).data.facts.seen.expect("positions");
    assert_eq!((seen.orders, seen.decisions), (2, 2), "the order in flight, and the decisions that were known");
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate", "ack 2"]);
    assert!(desk.machine.is_idle());
}

#[test]
fn what_was_decided_ahead_is_decided_again_behind_the_order_of_another() {
    let mut desk = desk();
    desk.appended_as(Log::Orders, Appended::Unclear("wrong last sequence".into()));
    desk.expect(&["read ORDERS 1"]);
    desk.read(Log::Orders, Ok(vec![desk.foreign_order()]));
    desk.expect(&["overtaken ORDERS", "append DECISIONS 2: decision.h1"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate", "ack 1", "append ORDERS 2: order.h1"]);
    let order = desk.appended().remove(0);
    let order = envelope::decode::<Order>(std::iter::empty(), order.as_bytes()).expect("an order is read").data;
    assert_eq!(order.generation, 2);
}

#[test]
fn what_was_decided_ahead_is_decided_again_when_a_batch_is_put_off() {
    let mut desk = desk();
    desk.appended_as(Log::Orders, Appended::Unclear("no room".into()));
    desk.read(Log::Orders, Ok(Vec::new()));
    desk.expect(&["read ORDERS 1", "retry append orders in 50 ms", "append ORDERS 1: order.h1"]);
    let order = desk.appended().remove(0);
    let order = envelope::decode::<Order>(std::iter::empty(), order.as_bytes()).expect("an order is read").data;
    assert_eq!((order.generation, order.holds.len()), (1, 1), "the order that was put off is none");
}

#[test]
fn a_deposed_leader_takes_both_back() {
    let mut desk = desk();
    desk.appended_as(Log::Orders, Appended::Unclear("wrong last sequence".into()));
    let prev = ids::sha256(desk.bodies[1].as_bytes());
    desk.read(Log::Orders, Ok(vec![stored("order._term", term(2, "other", Some(prev)), 2)]));
    desk.expect(&["read ORDERS 1", "following 2 other", "step down"]);
    assert_eq!(desk.machine.fleet().counts().isolated, 0);
    desk.give(Event::Lead);
    desk.expect(&["append DECISIONS 2: decision._term"]);
}

#[test]
fn an_order_of_another_waits_for_what_lies_over_the_fleet() {
    let mut desk = desk();
    desk.stored(Log::Orders);
    let own = stored("order.h1", desk.bodies[3].clone(), 2);
    desk.give(Event::Logged(Stream::Orders, own));
    assert!(desk.machine.held.is_empty(), "what is known is not kept");
    let prev = ids::sha256(desk.bodies[3].as_bytes());
    let others = stored("order._term", term(2, "other", Some(prev)), 3);
    desk.give(Event::Logged(Stream::Orders, others.clone()));
    desk.commands.clear();
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate", "ack 1", "append ORDERS 2: order.h1"]);
    desk.appended_as(Log::Orders, Appended::Unclear("wrong last sequence".into()));
    desk.read(Log::Orders, Ok(vec![others]));
    desk.expect(&["read ORDERS 2", "following 2 other", "step down"]);
    assert_eq!(desk.machine.fleet().counts().isolated, 1);
}

#[test]
fn nothing_is_decided_ahead_of_a_policy_or_of_a_host_that_is_waited_for() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.detect(2, "b", 2);
    desk.give(Event::Policy(Policy::parse(&format!("{POLICY}\n")).expect("valid").into()));
    assert!(!desk.machine.can_decide_ahead());
    let mut desk = Desk::new();
    let unknown = stored("detection.siem", body("d1", detection("h9", "a", 1)), 1);
    desk.deliver(Stream::Detections, unknown, 1);
    desk.detect(2, "b", 2);
    desk.expect(&["append DECISIONS 2: decision._unresolved"]);
    assert!(!desk.machine.can_decide_ahead());
}
