//! The protocol as tables: what is handed in, and every command that comes out.

mod batching;

use std::time::Duration;

use portcullis_schemas::envelope::{self, Event as Envelope};
use portcullis_schemas::events::{
    Action, Decision, Hello, InputKind, Inventory, Order, Page, Payload, Posture, Reason, State, StateCause, Term,
};
use portcullis_schemas::{Prefix, Stream, ids};

mod ahead;
mod approvals;
mod policy;
mod waits;
mod words;

use super::*;
use crate::testing::{at, detection, hello, request, state};

const POLICY: &str = "
version: 1
rules:
  - { name: a, match: { rule.id: a }, then: isolate }
  - { name: b, match: { rule.id: b }, then: isolate }
  - { name: ask, match: { rule.id: ask }, then: ask }
  - { name: rest, then: observe }
";

#[test]
fn an_order_is_stored_before_its_decision_and_both_before_the_acknowledgement() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 2: decision.h1"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate", "ack 1"]);
}

#[test]
fn a_leader_has_a_record_in_both_logs_and_a_policy_before_it_takes_inputs() {
    let mut desk = Desk::following();
    desk.detect(1, "a", 1);
    desk.expect(&[]);
    desk.give(Event::Lead);
    desk.expect(&["append DECISIONS 0: decision._term"]);
    desk.stored(Log::Decisions);
    desk.expect(&["append ORDERS 0: order._term"]);
    desk.stored(Log::Orders);
    desk.expect(&["leading 1", "begin", "append DECISIONS 1: decision._policy"]);
    desk.detect(1, "a", 1);
    desk.expect(&[]);
    desk.stored(Log::Decisions);
    desk.expect(&["policy", "append ORDERS 1: order.h1"]);
}

#[test]
fn a_detection_waits_for_the_record_of_the_policy_and_a_release_does_not() {
    let mut desk = Desk::following();
    desk.give(Event::Lead);
    desk.stored(Log::Decisions);
    desk.stored(Log::Orders);
    desk.detect(1, "a", 1);
    desk.appended_as(Log::Decisions, Appended::Unclear("no answer".into()));
    desk.read(Log::Decisions, Ok(Vec::new()));
    desk.commands.clear();
    desk.release(2);
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    desk.expect(&["ordered h1 1", "append DECISIONS 1: decision.h1", "verdict Release", "ack 2"]);
    desk.millis = 50;
    desk.give(Event::Tick);
    desk.expect(&["read DECISIONS 2"]);
    desk.read(Log::Decisions, Ok(Vec::new()));
    desk.expect(&["append DECISIONS 2: decision._policy"]);
    desk.stored(Log::Decisions);
    // It was stored before the release.
    desk.expect(&["policy", "append DECISIONS 3: decision.h1"]);
}

#[test]
fn inputs_that_wait_are_decided_together_and_each_sees_the_orders_before_it() {
    let mut desk = Desk::new();
    desk.deliver_all(vec![
        (Stream::Detections, detection_message(1, "a", 1), 1),
        (Stream::Detections, detection_message(2, "a", 2), 1),
        (Stream::Detections, detection_message(3, "other", 3), 1),
        (Stream::Detections, detection_message(4, "b", 4), 1),
    ]);
    // The second joins the first one's hold.
    desk.expect(&["append ORDERS 1: order.h1 order.h1"]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 1", "ordered h1 2", "notify", "append DECISIONS 2: decision._pages"]);
    let page = desk.page();
    assert_eq!((page.first, page.last, page.seen.orders), (1, 4, 1));
    assert_eq!(page.plain.iter().map(|plain| (plain.count, plain.sequences.clone())).collect::<Vec<_>>(), [(1, vec![(3, 3)])]);
    assert_eq!(page.decisions.iter().map(|decision| decision.sequence).collect::<Vec<_>>(), [Some(1), Some(2), Some(4)]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate", "verdict Isolate", "verdict Observe", "verdict Isolate", "ack 1 2 3 4"]);
}

#[test]
fn an_answered_input_that_comes_again_is_only_acknowledged() {
    let mut desk = Desk::new();
    desk.deliver_all((1..=3).map(|one| (Stream::Detections, detection_message(one, "other", 1), 1)).collect());
    desk.stored(Log::Decisions);
    desk.expect(&["append DECISIONS 2: decision._pages", "verdict Observe", "verdict Observe", "verdict Observe", "ack 1 2 3"]);
    desk.deliver(Stream::Detections, detection_message(2, "other", 1), 2);
    desk.expect(&["ack 2"]);
    // Another process reads it from the page.
    let page = desk.bodies[3].clone();
    let mut other = Desk::following();
    other.give(Event::Logged(Stream::Decisions, stored("decision._pages", page, 3)));
    other.lead(3, 0);
    other.deliver(Stream::Detections, detection_message(3, "other", 1), 2);
    other.expect(&["ack 3"]);
    other.deliver(Stream::Detections, detection_message(4, "other", 1), 2);
    other.expect(&["append DECISIONS 5: decision.h1"]);
}

#[test]
fn orders_whose_acknowledgement_was_lost_are_found_in_the_log() {
    let mut desk = Desk::new();
    desk.deliver_all(
        ["a", "b"].into_iter().zip(1..).map(|(rule, one)| (Stream::Detections, detection_message(one, rule, 1), 1)).collect(),
    );
    let bodies = desk.appended();
    desk.expect(&["append ORDERS 1: order.h1 order.h1"]);
    desk.appended_as(Log::Orders, Appended::Unclear("no answer".into()));
    desk.expect(&["read ORDERS 1"]);
    let found = bodies.into_iter().zip(2..).map(|(body, sequence)| stored("order.h1", body, sequence)).collect();
    desk.read(Log::Orders, Ok(found));
    desk.expect(&["ordered h1 1", "ordered h1 2", "notify", "append DECISIONS 2: decision._pages"]);
}

#[test]
fn orders_that_the_follower_brings_before_their_acknowledgement_are_taken_once() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    let body = desk.appended().remove(0);
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.give(Event::Logged(Stream::Orders, stored("order.h1", body, 2)));
    desk.expect(&[]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 2: decision.h1"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate", "ack 1"]);
    // It joins, and is decided behind that order.
    desk.detect(2, "a", 1);
    desk.expect(&["append DECISIONS 3: decision.h1"]);
}

#[test]
fn an_overtaken_batch_is_decided_again_behind_what_came() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.appended_as(Log::Orders, Appended::Unclear("wrong last sequence".into()));
    desk.expect(&["read ORDERS 1"]);
    desk.read(Log::Orders, Ok(vec![desk.foreign_order()]));
    // The host is isolated by then: the detection joins.
    desk.expect(&["overtaken ORDERS", "append DECISIONS 2: decision.h1"]);
}

#[test]
fn a_batch_that_fails_is_put_off_in_halves_and_holds_up_no_release() {
    let mut desk = Desk::new();
    desk.deliver_all(
        ["a", "b"].into_iter().zip(1..).map(|(rule, one)| (Stream::Detections, detection_message(one, rule, 1), 1)).collect(),
    );
    desk.expect(&["append ORDERS 1: order.h1 order.h1"]);
    desk.appended_as(Log::Orders, Appended::Unclear("no room".into()));
    desk.expect(&["read ORDERS 1"]);
    desk.release(9);
    desk.expect(&[]);
    desk.read(Log::Orders, Ok(Vec::new()));
    desk.expect(&["retry append orders in 50 ms", "append ORDERS 1: order.h1"]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 1", "append DECISIONS 2: decision.h1"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Release", "ack 9"]);
    assert_eq!(desk.machine.next_wake(), Duration::from_millis(50));
    desk.millis = 50;
    desk.give(Event::Tick);
    // Each alone, and both were stored before the release.
    desk.expect(&["append DECISIONS 3: decision.h1"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ignore", "ack 1", "append DECISIONS 4: decision.h1"]);
}

#[test]
fn nothing_is_decided_while_it_is_unclear_whether_orders_are_stored() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.appended_as(Log::Orders, Appended::Unclear("no answer".into()));
    desk.expect(&["read ORDERS 1"]);
    desk.read(Log::Orders, Err("no answer".into()));
    desk.release(2);
    desk.expect(&["retry read the rest of the log in 50 ms"]);
    desk.millis = 50;
    desk.give(Event::Tick);
    desk.expect(&["read ORDERS 1"]);
    desk.read(Log::Orders, Ok(Vec::new()));
    desk.expect(&["retry append orders in 100 ms", "append ORDERS 1: order.h1"]);
}

#[test]
fn a_decision_of_an_order_that_is_stored_is_appended_until_it_is_stored() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 2: decision.h1"]);
    for pause in [50, 100, 200] {
        desk.appended_as(Log::Decisions, Appended::Unclear("no answer".into()));
        desk.expect(&["read DECISIONS 2"]);
        desk.read(Log::Decisions, Ok(Vec::new()));
        desk.expect(&[&format!("retry append decisions in {pause} ms")]);
        desk.millis += pause;
        desk.give(Event::Tick);
        desk.expect(&["read DECISIONS 2"]);
        desk.read(Log::Decisions, Ok(Vec::new()));
        desk.expect(&["append DECISIONS 2: decision.h1"]);
    }
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate", "ack 1"]);
}

#[test]
fn an_input_that_may_have_ended_the_process_is_decided_alone_and_its_attempt_counted_first() {
    let mut desk = Desk::new();
    desk.deliver_all(vec![
        (Stream::Detections, detection_message(1, "other", 1), 1),
        (Stream::Detections, detection_message(2, "other", 1), 4),
        (Stream::Detections, detection_message(3, "other", 1), 1),
    ]);
    desk.expect(&["append DECISIONS 2: decision.h1"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Observe", "ack 1", "mark 2"]);
    desk.give(Event::Marked(Ticket { stream: Stream::Detections, sequence: 2 }, Ok(0)));
    desk.expect(&["append DECISIONS 3: decision.h1"]);
}

#[test]
fn an_input_that_ended_the_process_while_it_was_alone_is_kept_unread() {
    let mut desk = Desk::new();
    desk.deliver(Stream::Detections, detection_message(1, "a", 1), 5);
    desk.expect(&["mark 1"]);
    desk.give(Event::Marked(Ticket { stream: Stream::Detections, sequence: 1 }, Ok(1)));
    desk.expect(&["reject poison"]);
    desk.give(Event::Kept(1, Kept::Stored));
    desk.expect(&["rejected poison", "ack 1"]);
}

#[test]
fn what_cannot_be_read_is_kept_before_it_is_acknowledged_and_holds_up_nobody() {
    let mut desk = Desk::new();
    desk.deliver(Stream::Detections, stored("detection.siem", "no json".into(), 1), 1);
    desk.expect(&["reject not_json"]);
    desk.give(Event::Kept(1, Kept::Failed("no answer".into())));
    desk.expect(&["retry keep a rejected input in 50 ms"]);
    desk.detect(2, "other", 1);
    desk.expect(&["append DECISIONS 2: decision.h1"]);
    desk.millis = 50;
    desk.give(Event::Tick);
    desk.expect(&["reject not_json"]);
    desk.give(Event::Kept(1, Kept::Stored));
    desk.expect(&["rejected not_json", "ack 1"]);
}

#[test]
fn a_decision_larger_than_the_broker_takes_is_stored_shortened() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 2: decision.h1"]);
    desk.appended_as(Log::Decisions, Appended::TooLarge);
    desk.expect(&["append DECISIONS 2: decision.h1"]);
    desk.appended_as(Log::Decisions, Appended::TooLarge);
    desk.expect(&["reject unanswerable"]);
}

#[test]
fn a_deposed_leader_takes_its_orders_back_and_follows() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.appended_as(Log::Orders, Appended::Unclear("wrong last sequence".into()));
    desk.expect(&["read ORDERS 1"]);
    let prev = ids::sha256(desk.bodies[1].as_bytes());
    desk.read(Log::Orders, Ok(vec![stored("order._term", term(2, "other", Some(prev)), 2)]));
    desk.expect(&["following 2 other", "step down"]);
    assert_eq!(desk.machine.fleet().counts().isolated, 0);
    desk.detect(2, "a", 2);
    desk.millis = 999_000;
    desk.give(Event::Tick);
    desk.expect(&[]);
    // It leads again behind what it has followed.
    desk.give(Event::Lead);
    desk.expect(&["append DECISIONS 2: decision._term"]);
}

#[test]
fn an_answer_to_an_earlier_append_or_read_means_nothing() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    let earlier = desk.asked(Log::Orders);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    desk.detect(2, "b", 2);
    desk.commands.clear();
    desk.give(Event::Appended(earlier, Appended::Stored));
    desk.give(Event::Read(earlier, Ok(Vec::new())));
    desk.expect(&[]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 2", "append DECISIONS 3: decision.h1"]);
}

#[test]
fn the_record_of_a_term_that_leaves_no_number_to_go_on_with_counts_for_nothing() {
    let mut desk = Desk::new();
    desk.give(Event::Logged(Stream::Decisions, stored("decision._term", term(u64::MAX, "forger", None), 3)));
    desk.expect(&["foreign term 18446744073709551615"]);
    assert!(desk.machine.is_leading());
    // Nor where no term is known yet; and a leader's term is one above the last one.
    let mut desk = Desk::following();
    desk.give(Event::Logged(Stream::Decisions, stored("decision._term", term(u64::MAX, "forger", None), 1)));
    desk.give(Event::Logged(Stream::Decisions, stored("decision._term", term(7, "before", None), 2)));
    desk.lead(2, 0);
    assert_eq!(desk.machine.term(), (8, Some("me")));
}

#[test]
fn two_that_try_to_lead_end_with_one() {
    let mut desk = Desk::following();
    desk.give(Event::Lead);
    desk.expect(&["append DECISIONS 0: decision._term"]);
    desk.appended_as(Log::Decisions, Appended::Unclear("wrong last sequence".into()));
    desk.expect(&["read DECISIONS 0"]);
    desk.read(Log::Decisions, Ok(vec![stored("decision._term", term(1, "other", None), 1)]));
    desk.expect(&["not leading", "following 1 other"]);
    assert!(!desk.machine.is_leading());
}

#[test]
fn an_order_that_does_not_follow_from_the_one_before_it_is_an_alarm() {
    let mut desk = Desk::new();
    let mut order = desk.foreign_order();
    let text = String::from_utf8(order.body.to_vec()).expect("an event is text");
    let prev = desk.machine.fleet().prev().to_owned();
    order.body = text.replace(&prev, &"f".repeat(64)).into();
    desk.give(Event::Logged(Stream::Orders, order));
    desk.expect(&["chain broken 2", "notify"]);
}

#[test]
fn a_deadline_is_published_until_it_is_taken() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    desk.expect(&[
        "append ORDERS 1: order.h1",
        "ordered h1 1",
        "notify",
        "append DECISIONS 2: decision.h1",
        "verdict Isolate",
        "ack 1",
    ]);
    desk.millis = 8 * 3_600_000 + 999;
    desk.give(Event::Connection { up: true });
    desk.expect(&[]);
    desk.millis += 1;
    desk.give(Event::Tick);
    desk.expect(&["release due h1 1"]);
    desk.give(Event::ReleaseRefused("h1".parse().expect("a host id"), 1));
    desk.millis += 1_000;
    desk.give(Event::Tick);
    desk.expect(&["release due h1 1"]);
}

#[test]
fn a_host_that_falls_silent_is_recorded_once() {
    let mut desk = Desk::new();
    desk.tick_until(105_000);
    desk.expect(&["unreachable h1", "notify", "inventory h1"]);
    desk.millis = 110_000;
    desk.give(Event::Tick);
    desk.expect(&[]);
    desk.give(Event::InventoriesStored(Err("no answer".into())));
    desk.expect(&["refused inventories 1"]);
    desk.millis = 115_000;
    desk.give(Event::Tick);
    desk.expect(&["unreachable h1", "inventory h1"]);
}

/// Paused for long, it may lead no more, and would page people about every host.
#[test]
fn a_process_that_was_paused_calls_nobody_unreachable() {
    let mut desk = Desk::new();
    desk.millis = 600_000;
    desk.give(Event::Tick);
    desk.expect(&[]);
    desk.tick_until(699_000);
    desk.expect(&[]);
    desk.tick_until(706_000);
    desk.expect(&["unreachable h1", "notify", "inventory h1"]);
}

#[test]
fn a_host_ahead_of_the_log_is_ordered_above_it_once_that_is_stored() {
    let mut desk = Desk::new();
    let ahead = Hello { generation: 5, posture: Posture::Isolated, ..hello("h1") };
    let mut message = stored("hello.h1", body("x", ahead.clone()), 0);
    message.subject = "portcullis.hello.h1".into();
    desk.give(Event::Hello(message));
    desk.expect(&["inventory h1"]);
    let inventory =
        Inventory { hello: ahead, claims: Vec::new(), silent_since: None, roles_since: Default::default(), operator: None };
    desk.give(Event::Logged(Stream::Inventory, stored("inventory.h1", body("v2", inventory), 2)));
    desk.expect(&["append ORDERS 1: order.h1"]);
}

#[test]
fn a_state_that_wants_an_answer_gets_it_from_whoever_leads_next() {
    let mut desk = Desk::following();
    let mut lost = state(3, Posture::Isolated, StateCause::PostureLost);
    lost.generation = 0;
    desk.give(Event::Logged(Stream::States, stored("state.h1", body("s1", lost), 7)));
    desk.expect(&[]);
    desk.give(Event::Lead);
    desk.stored(Log::Decisions);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    desk.expect(&[
        "append DECISIONS 0: decision._term",
        "append ORDERS 0: order._term",
        "leading 1",
        "begin",
        "append DECISIONS 1: decision._policy",
        "policy",
        "append ORDERS 1: order.h1",
    ]);
}

#[test]
fn of_what_was_removed_only_what_nobody_answered_is_lost() {
    let mut desk = Desk::new();
    desk.detect(5, "other", 1);
    desk.stored(Log::Decisions);
    desk.commands.clear();
    desk.give(Event::Lost { stream: Stream::Detections, first: 5, last: 5 });
    desk.expect(&[]);
    desk.give(Event::Lost { stream: Stream::Detections, first: 3, last: 6 });
    let reasons: Vec<Reason> = desk.page().into_decisions().map(|decision| decision.reason).collect();
    assert_eq!(reasons, [Reason::InputsLost { first: 3, last: 4 }, Reason::InputsLost { first: 6, last: 6 }]);
}

#[test]
fn a_state_that_is_answered_late_is_not_the_hosts_last_word() {
    let mut desk = Desk::following();
    let lost = State { generation: 0, ..state(3, Posture::Isolated, StateCause::PostureLost) };
    desk.give(Event::Logged(Stream::States, stored("state.h1", body("s1", lost), 7)));
    desk.give(Event::Logged(Stream::States, stored("state.h1", body("s2", state(0, Posture::Open, StateCause::Check)), 8)));
    desk.lead(0, 0);
    let posture = |desk: &Desk| {
        let hosts = desk.machine.fleet().hosts();
        hosts.filter_map(|(_, host)| host.state.as_deref().map(|state| state.posture)).collect::<Vec<_>>()
    };
    desk.stored(Log::Orders);
    assert_eq!(posture(&desk), [Posture::Open]);
}

#[test]
fn a_state_that_another_leader_has_answered_is_a_fact_all_the_same() {
    let mut desk = Desk::new();
    let answer = serde_json::json!({
        "input": { "type": "state", "token": "h1", "source": "/test", "id": "s1" }, "sequence": 7, "host": "h1", "verdict": "observe",
        "reason": { "kind": "settled" }, "facts": { "counts": { "hosts": 1, "isolated": 0 } },
    });
    let answer: Decision = serde_json::from_value(answer).expect("a decision");
    desk.give(Event::Logged(Stream::Decisions, stored("decision.h1", body("a1", answer), 3)));
    let of = |sequence, generation| {
        stored("state.h1", body(&format!("s{sequence}"), state(generation, Posture::Open, StateCause::Check)), sequence)
    };
    desk.give(Event::Logged(Stream::States, of(7, 5)));
    desk.detect(1, "a", 1);
    let order = desk.appended().remove(0);
    let generation = envelope::decode::<Order>(std::iter::empty(), order.as_bytes()).expect("an order").data.generation;
    assert_eq!(generation, 6);
}

#[test]
fn a_loss_whose_record_is_stored_late_is_not_recorded_twice() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.give(Event::Lost { stream: Stream::Detections, first: 5, last: 6 });
    desk.detect(2, "other", 1);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    let bodies = desk.appended();
    desk.appended_as(Log::Decisions, Appended::Unclear("no answer".into()));
    desk.read(Log::Decisions, Ok(Vec::new()));
    desk.commands.clear();
    for (body, sequence) in bodies.into_iter().zip(4..) {
        desk.give(Event::Logged(Stream::Decisions, stored("decision._pages", body, sequence)));
    }
    desk.millis = 50;
    desk.give(Event::Tick);
    desk.read(Log::Decisions, Ok(Vec::new()));
    let came: Vec<String> = desk.commands.iter().filter_map(line).collect();
    assert!(came.iter().any(|line| line == "ack 2") && !came.iter().any(|line| line.starts_with("append")), "{came:?}");
}

#[test]
fn releases_and_requests_go_before_detections() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.detect(2, "a", 2);
    desk.release(3);
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    desk.expect(&[
        "ordered h1 1",
        "notify",
        "append DECISIONS 2: decision.h1",
        "verdict Isolate",
        "ack 1",
        "append ORDERS 2: order.h1",
    ]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 2", "notify", "append DECISIONS 3: decision._pages decision._pages"]);
    desk.stored(Log::Decisions);
    // The detection was stored before the release.
    desk.expect(&["verdict Release", "verdict Ignore", "ack 3 2"]);
}

/// A machine with one known host, and every command that it gave.
struct Desk {
    machine: Machine,
    millis: u64,
    commands: Vec<Command>,
    /// Every body that was to be appended, in order.
    bodies: Vec<String>,
    inventories: Vec<bytes::Bytes>,
    /// The last append or read of each log.
    numbers: BTreeMap<Stream, u64>,
}

impl Desk {
    /// One that leads: its term stands at sequence 1 of both logs, its policy behind it in DECISIONS.
    fn new() -> Self {
        let mut desk = Self::following();
        desk.lead(0, 0);
        desk
    }

    fn following() -> Self {
        let mut desk = Self::without_policy();
        desk.give(Event::Policy(Policy::parse(POLICY).expect("the test's policy is valid").into()));
        desk
    }

    fn without_policy() -> Self {
        let mut machine = Machine::new(prefix(), Config::default(), "me".into());
        machine.begin(0, 0);
        let mut desk = Self {
            machine,
            millis: 0,
            commands: Vec::new(),
            bodies: Vec::new(),
            inventories: Vec::new(),
            numbers: BTreeMap::new(),
        };
        let inventory = Inventory {
            hello: hello("h1"),
            claims: Vec::new(),
            silent_since: None,
            roles_since: Default::default(),
            operator: None,
        };
        desk.give(Event::Logged(Stream::Inventory, stored("inventory.h1", body("v1", inventory), 1)));
        desk
    }

    /// Takes the lead behind these sequences.
    fn lead(&mut self, decisions: u64, orders: u64) {
        self.machine.begin(orders, decisions);
        self.give(Event::Lead);
        for log in [Log::Decisions, Log::Orders, Log::Decisions] {
            self.stored(log);
        }
        assert!(self.machine.is_leading());
        self.commands.clear();
    }

    fn stored(&mut self, log: Log) {
        self.appended_as(log, Appended::Stored);
    }

    /// The answer to the last append.
    fn appended_as(&mut self, log: Log, appended: Appended) {
        let number = self.asked(log);
        self.give(Event::Appended(number, appended));
    }

    /// The answer to the last read.
    fn read(&mut self, log: Log, read: Result<Vec<Message>, String>) {
        let number = self.asked(log);
        self.give(Event::Read(number, read));
    }

    fn asked(&self, log: Log) -> u64 {
        *self.numbers.get(&log.stream()).expect("it was appended to or read")
    }

    fn now(&self) -> Now {
        let boot = Duration::from_millis(self.millis);
        Now { boot, broker: at(0) + boot }
    }

    fn give(&mut self, event: Event) {
        self.machine.handle(event, self.now());
        while let Some(command) = self.machine.next_command() {
            if let Command::Append { messages, .. } = &command {
                let text = |message: &Outgoing| String::from_utf8(message.body.to_vec()).expect("an event is text");
                self.bodies.extend(messages.iter().map(text));
            }
            if let Command::Append { number, log, .. } | Command::Read { number, log, .. } = &command {
                self.numbers.insert(log.stream(), *number);
            }
            if let Command::StoreInventories(messages) = &command {
                self.inventories.extend(messages.iter().map(|message| message.body.clone()));
            }
            self.commands.push(command);
        }
    }

    /// As a process that runs does it.
    fn tick_until(&mut self, millis: u64) {
        while self.millis < millis {
            self.millis = (self.millis + 5_000).min(millis);
            self.give(Event::Tick);
        }
    }

    fn detect(&mut self, sequence: u64, rule: &str, second: i64) {
        self.deliver(Stream::Detections, detection_message(sequence, rule, second), 1);
    }

    fn release(&mut self, sequence: u64) {
        let message = stored("request.ann.h1", body(&format!("r{sequence}"), request(Action::Release)), sequence);
        self.deliver(Stream::Requests, message, 1);
    }

    fn deliver(&mut self, stream: Stream, message: Message, deliveries: u64) {
        self.deliver_all(vec![(stream, message, deliveries)]);
    }

    fn deliver_all(&mut self, all: Vec<(Stream, Message, u64)>) {
        let delivered = |(stream, message, deliveries)| Delivered { stream, deliveries, waited: false, message };
        self.give(Event::Delivered(all.into_iter().map(delivered).collect()));
    }

    /// The bodies of the last append.
    fn appended(&self) -> Vec<String> {
        let append = self.commands.iter().rev().find_map(|command| match command {
            Command::Append { messages, .. } => Some(messages.len()),
            _ => None,
        });
        self.bodies[self.bodies.len() - append.unwrap_or(1)..].to_vec()
    }

    /// The last page.
    fn page(&self) -> Page {
        let body = self.bodies.last().expect("a page was appended");
        envelope::decode::<Page>(std::iter::empty(), body.as_bytes()).expect("a page is read").data
    }

    /// An order of another program behind the first message of the log.
    fn foreign_order(&self) -> Message {
        let mut other = Desk::new();
        other.detect(9, "a", 1);
        let order = other.appended().remove(0);
        stored("order.h1", order, 2)
    }

    /// Everything that came out since the last time, and nothing else.
    fn expect(&mut self, lines: &[&str]) {
        let came: Vec<String> = self.commands.drain(..).filter_map(|command| line(&command)).collect();
        assert_eq!(came, lines);
    }
}

/// A term's record of another process.
fn term(term: u64, who: &str, prev: Option<String>) -> String {
    let config = portcullis_schemas::events::TermConfig::default();
    body(&format!("t{term}"), Term { term, who: who.into(), since: at(0), config, prev })
}

fn prefix() -> Prefix {
    Prefix::new("portcullis").expect("the test's prefix is valid")
}

fn detection_message(sequence: u64, rule: &str, second: i64) -> Message {
    stored("detection.siem", body(&format!("d{sequence}"), detection("h1", rule, second)), sequence)
}

fn body<T: Payload>(id: &str, data: T) -> String {
    let (subject, time, traceparent, correlation, causation) = Default::default();
    let event = Envelope { id: id.into(), source: "/test".into(), subject, time, traceparent, correlation, causation, data };
    String::from_utf8(envelope::encode(&event).expect("the test's event is written")).expect("an event is text")
}

fn stored(subject: &str, body: String, sequence: u64) -> Message {
    Message {
        subject: format!("portcullis.{subject}"),
        headers: Vec::new(),
        malformed: None,
        body: body.into(),
        at: at(1),
        sequence,
    }
}

fn line(command: &Command) -> Option<String> {
    let name = |log: &Log| format!("{log:?}").to_uppercase();
    Some(match command {
        Command::Append { log, expected, messages, .. } => {
            let subjects: Vec<&str> = messages.iter().map(|message| message.subject.trim_start_matches("portcullis.")).collect();
            format!("append {} {expected}: {}", name(log), subjects.join(" "))
        }
        Command::Read { log, after, .. } => format!("read {} {after}", name(log)),
        Command::Mark(ticket) => format!("mark {}", ticket.sequence),
        Command::Ack(tickets) => {
            let all: Vec<String> = tickets.iter().map(|ticket| ticket.sequence.to_string()).collect();
            format!("ack {}", all.join(" "))
        }
        Command::Begin => "begin".into(),
        Command::StepDown => "step down".into(),
        Command::Defer(ticket, delay) => format!("defer {} {} ms", ticket.sequence, delay.as_millis()),
        Command::Reject { why, .. } => format!("reject {}", why.code()),
        Command::StoreInventories(messages) => {
            let subjects: Vec<&str> =
                messages.iter().map(|message| message.subject.trim_start_matches("portcullis.inventory.")).collect();
            format!("inventory {}", subjects.join(" "))
        }
        Command::ReleaseDue { host, generation, .. } => format!("release due {host} {generation}"),
        Command::Fetch(ticket) => format!("fetch {}", ticket.sequence),
        Command::FetchPolicy(hash) => format!("fetch policy {}", &hash[..4]),
        Command::Notify(_) => "notify".into(),
        Command::Report(Report::Input(kind)) => {
            assert_ne!(*kind, InputKind::Stream);
            return None;
        }
        Command::Report(Report::Verdict(verdict)) => format!("verdict {verdict:?}"),
        Command::Report(Report::Ordered { host, generation, .. }) => format!("ordered {host} {generation}"),
        Command::Report(Report::Leading { term }) => format!("leading {term}"),
        Command::Report(Report::Following { term, leader }) => format!("following {term} {leader}"),
        Command::Report(Report::NotLeading(_)) => "not leading".into(),
        Command::Report(Report::ForeignTerm(term)) => format!("foreign term {term}"),
        Command::Report(Report::PolicyActivated { .. }) => "policy".into(),
        Command::Report(Report::ChainBroken { sequence }) => format!("chain broken {sequence}"),
        Command::Report(Report::Overtaken(log)) => format!("overtaken {}", name(log)),
        Command::Report(Report::Retry { step, pause, .. }) => format!("retry {step} in {} ms", pause.as_millis()),
        Command::Report(Report::Rejected(why)) => format!("rejected {}", why.code()),
        Command::Report(Report::InventoriesRefused { hosts, .. }) => format!("refused inventories {hosts}"),
        Command::Report(Report::Unreachable { host, .. }) => format!("unreachable {host}"),
        Command::Report(other) => format!("{other:?}"),
    })
}
