//! The protocol as tables: what is handed in, and every command that comes out.

use std::time::Duration;

use portcullis_schemas::envelope::{self, Event as Envelope};
use portcullis_schemas::events::{Action, InputKind, Payload};
use portcullis_schemas::{Prefix, Stream};

use super::*;
use crate::testing::{at, detection, hello, request};

const POLICY: &str = "
version: 1
rules:
  - { name: a, match: { rule.id: a }, then: isolate }
  - { name: rest, then: observe }
";

#[test]
fn an_order_is_stored_before_its_decision_and_both_before_the_acknowledgement() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 0"]);
    desk.give(Event::Appended(Log::Orders, Appended::Stored));
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 0"]);
    desk.give(Event::Appended(Log::Decisions, Appended::Stored));
    desk.expect(&["verdict Isolate", "ack 1"]);
}

#[test]
fn what_orders_nothing_is_decided_again_where_orders_came_meanwhile() {
    let mut desk = Desk::new();
    desk.detect(1, "other", 1);
    desk.expect(&["read ORDERS 0"]);
    desk.give(Event::Read(Log::Orders, Ok(vec![desk.foreign_order()])));
    desk.expect(&["overtaken ORDERS", "read ORDERS 1"]);
    desk.give(Event::Read(Log::Orders, Ok(Vec::new())));
    desk.expect(&["append DECISIONS 0"]);
}

#[test]
fn an_order_whose_acknowledgement_was_lost_is_found_in_the_log() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    let body = desk.appended();
    desk.expect(&["append ORDERS 0"]);
    desk.give(Event::Appended(Log::Orders, Appended::Unclear("no answer".into())));
    desk.expect(&["read ORDERS 0"]);
    desk.give(Event::Read(Log::Orders, Ok(vec![stored("order.h1", body, 1)])));
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 0"]);
}

#[test]
fn an_order_that_the_follower_brings_before_its_acknowledgement_is_taken_once() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    let body = desk.appended();
    desk.expect(&["append ORDERS 0"]);
    desk.give(Event::Logged(Stream::Orders, stored("order.h1", body, 1)));
    desk.expect(&[]);
    desk.give(Event::Appended(Log::Orders, Appended::Stored));
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 0"]);
    desk.give(Event::Appended(Log::Decisions, Appended::Stored));
    desk.expect(&["verdict Isolate", "ack 1"]);
    // It joins, and is decided behind that order.
    desk.detect(2, "a", 2);
    desk.expect(&["read ORDERS 1"]);
}

#[test]
fn an_overtaken_order_is_decided_again_behind_what_came() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 0"]);
    desk.give(Event::Appended(Log::Orders, Appended::Unclear("wrong last sequence".into())));
    desk.expect(&["read ORDERS 0"]);
    desk.give(Event::Read(Log::Orders, Ok(vec![desk.foreign_order()])));
    // The host is isolated by then: the detection joins.
    desk.expect(&["overtaken ORDERS", "read ORDERS 1"]);
}

#[test]
fn a_failure_that_passes_holds_up_no_release() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 0"]);
    desk.give(Event::Appended(Log::Orders, Appended::Unclear("no room".into())));
    desk.expect(&["read ORDERS 0"]);
    desk.release(2);
    desk.expect(&[]);
    desk.give(Event::Read(Log::Orders, Ok(Vec::new())));
    desk.expect(&["retry append an order in 50 ms", "append ORDERS 0"]);
    desk.give(Event::Appended(Log::Orders, Appended::Stored));
    desk.expect(&["ordered h1 1", "append DECISIONS 0"]);
    desk.give(Event::Appended(Log::Decisions, Appended::Stored));
    desk.expect(&["verdict Release", "ack 2"]);
    assert_eq!(desk.machine.next_wake(), Duration::from_millis(50));
    desk.millis = 50;
    desk.give(Event::Tick);
    // It was stored before the release.
    desk.expect(&["read ORDERS 1"]);
}

#[test]
fn a_decision_of_an_order_that_is_stored_is_appended_until_it_is_stored() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 0"]);
    desk.give(Event::Appended(Log::Orders, Appended::Stored));
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 0"]);
    for pause in [50, 100, 200] {
        desk.give(Event::Appended(Log::Decisions, Appended::Unclear("no answer".into())));
        desk.expect(&["read DECISIONS 0"]);
        desk.give(Event::Read(Log::Decisions, Ok(Vec::new())));
        desk.expect(&[&format!("retry append a decision in {pause} ms")]);
        desk.millis += pause;
        desk.give(Event::Tick);
        desk.expect(&["read DECISIONS 0"]);
        desk.give(Event::Read(Log::Decisions, Ok(Vec::new())));
        desk.expect(&["append DECISIONS 0"]);
    }
    desk.give(Event::Appended(Log::Decisions, Appended::Stored));
    desk.expect(&["verdict Isolate", "ack 1"]);
}

#[test]
fn an_input_that_came_again_is_looked_up_and_its_attempt_counted_first() {
    let mut desk = Desk::new();
    desk.deliver(Stream::Detections, detection_message(1, "a", 1), 2);
    desk.expect(&["read DECISIONS 0"]);
    desk.give(Event::Read(Log::Decisions, Ok(Vec::new())));
    desk.expect(&["mark 1"]);
    desk.give(Event::Marked(Ok(1)));
    desk.expect(&["append ORDERS 0"]);
}

#[test]
fn an_input_that_was_begun_three_times_is_kept_unread() {
    let mut desk = Desk::new();
    desk.deliver(Stream::Detections, detection_message(1, "a", 1), 5);
    desk.expect(&["read DECISIONS 0"]);
    desk.give(Event::Read(Log::Decisions, Ok(Vec::new())));
    desk.expect(&["mark 1"]);
    desk.give(Event::Marked(Ok(3)));
    desk.expect(&["reject poison"]);
    desk.give(Event::Kept(Kept::Stored));
    desk.expect(&["rejected poison", "ack 1"]);
}

#[test]
fn what_cannot_be_read_is_kept_before_it_is_acknowledged() {
    let mut desk = Desk::new();
    desk.deliver(Stream::Detections, stored("detection.siem", "no json".into(), 1), 1);
    desk.expect(&["reject not_json"]);
    desk.give(Event::Kept(Kept::Failed("no answer".into())));
    desk.expect(&["retry keep a rejected input in 50 ms"]);
    desk.millis = 50;
    desk.give(Event::Tick);
    desk.expect(&["reject not_json"]);
    desk.give(Event::Kept(Kept::Stored));
    desk.expect(&["rejected not_json", "ack 1"]);
}

#[test]
fn a_decision_larger_than_the_broker_takes_is_stored_shortened() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 0"]);
    desk.give(Event::Appended(Log::Orders, Appended::Stored));
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 0"]);
    desk.give(Event::Appended(Log::Decisions, Appended::TooLarge));
    desk.expect(&["append DECISIONS 0"]);
    desk.give(Event::Appended(Log::Decisions, Appended::TooLarge));
    desk.expect(&["reject unanswerable"]);
}

#[test]
fn a_deadline_is_published_until_it_is_taken() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.expect(&["append ORDERS 0"]);
    desk.give(Event::Appended(Log::Orders, Appended::Stored));
    desk.give(Event::Appended(Log::Decisions, Appended::Stored));
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 0", "verdict Isolate", "ack 1"]);
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
    desk.millis = 102_000;
    desk.give(Event::Tick);
    desk.expect(&["unreachable h1", "inventory h1", "notify"]);
    desk.millis = 107_000;
    desk.give(Event::Tick);
    desk.expect(&[]);
    desk.give(Event::InventoryRefused("h1".parse().expect("a host id")));
    desk.millis = 112_000;
    desk.give(Event::Tick);
    desk.expect(&["unreachable h1", "inventory h1"]);
}

#[test]
fn releases_and_requests_go_before_detections() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.detect(2, "a", 2);
    desk.release(3);
    desk.expect(&["append ORDERS 0"]);
    desk.give(Event::Appended(Log::Orders, Appended::Stored));
    desk.give(Event::Appended(Log::Decisions, Appended::Stored));
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 0", "verdict Isolate", "ack 1", "append ORDERS 1"]);
    desk.give(Event::Appended(Log::Orders, Appended::Stored));
    desk.give(Event::Appended(Log::Decisions, Appended::Stored));
    desk.expect(&["ordered h1 2", "notify", "append DECISIONS 1", "verdict Release", "ack 3", "read ORDERS 2"]);
}

/// A machine with one known host, and every command that it gave.
struct Desk {
    machine: Machine,
    millis: u64,
    commands: Vec<Command>,
}

impl Desk {
    fn new() -> Self {
        let machine = Machine::new(prefix(), Config::default());
        let mut desk = Self { machine, millis: 0, commands: Vec::new() };
        let inventory = Inventory { hello: hello("h1"), claims: Vec::new(), silent_since: None };
        desk.give(Event::Logged(Stream::Inventory, stored("inventory.h1", body("v1", inventory), 1)));
        desk.give(Event::Policy(Policy::parse(POLICY).expect("the test's policy is valid").into()));
        desk.machine.begin(0, 0, desk.now());
        desk
    }

    fn now(&self) -> Now {
        let boot = Duration::from_millis(self.millis);
        Now { boot, broker: at(0) + boot }
    }

    fn give(&mut self, event: Event) {
        self.machine.handle(event, self.now());
        while let Some(command) = self.machine.next_command() {
            self.commands.push(command);
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
        self.give(Event::Delivered(Delivered { stream, deliveries, waited: false, message }));
    }

    /// The body that is being appended.
    fn appended(&self) -> String {
        let Some(Command::Append { body, .. }) = self.commands.last() else { panic!("nothing is being appended") };
        String::from_utf8(body.to_vec()).expect("an event is text")
    }

    /// An order of another orchestrator.
    fn foreign_order(&self) -> Message {
        let mut other = Desk::new();
        other.detect(9, "a", 1);
        let order = other.appended();
        stored("order.h1", order, 1)
    }

    /// Everything that came out since the last time, and nothing else.
    fn expect(&mut self, lines: &[&str]) {
        let came: Vec<String> = self.commands.drain(..).filter_map(|command| line(&command)).collect();
        assert_eq!(came, lines);
    }
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
        Command::Append { log, expected, .. } => format!("append {} {expected}", name(log)),
        Command::Read { log, after } => format!("read {} {after}", name(log)),
        Command::Mark(ticket) => format!("mark {}", ticket.sequence),
        Command::Ack(ticket) => format!("ack {}", ticket.sequence),
        Command::Defer(ticket, delay) => format!("defer {} {} ms", ticket.sequence, delay.as_millis()),
        Command::Reject { why, .. } => format!("reject {}", why.code()),
        Command::StoreInventory { host, .. } => format!("inventory {host}"),
        Command::ReleaseDue { host, generation, .. } => format!("release due {host} {generation}"),
        Command::Notify { .. } => "notify".into(),
        Command::Report(Report::Input(kind)) => {
            assert!(matches!(kind, InputKind::Detection | InputKind::Request));
            return None;
        }
        Command::Report(Report::Verdict(verdict)) => format!("verdict {verdict:?}"),
        Command::Report(Report::Ordered { host, generation, .. }) => format!("ordered {host} {generation}"),
        Command::Report(Report::Overtaken(log)) => format!("overtaken {}", name(log)),
        Command::Report(Report::Retry { step, pause, .. }) => format!("retry {step} in {} ms", pause.as_millis()),
        Command::Report(Report::Rejected(why)) => format!("rejected {}", why.code()),
        Command::Report(Report::Unreachable { host, .. }) => format!("unreachable {host}"),
        Command::Report(other) => format!("{other:?}"),
    })
}
