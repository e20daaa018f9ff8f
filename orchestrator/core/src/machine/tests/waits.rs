//! Detections whose host is not known yet.

use portcullis_schemas::events::{Detection, HostClaim, Reason, WaitEnd};

use super::*;

#[test]
fn a_detection_waits_for_its_host_and_is_decided_once_more_when_it_comes() {
    let mut desk = Desk::new();
    desk.deliver(Stream::Detections, about(1, "h9"), 1);
    desk.expect(&["append DECISIONS 2: decision._unresolved"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ask", "ack 1"]);
    assert_eq!(desk.machine.waiting(), 1);
    desk.knows("h8", 2);
    desk.expect(&[]);
    desk.knows("h9", 3);
    desk.expect(&["fetch 1"]);
    // A second word of the host asks for nothing more.
    desk.knows("h9", 4);
    desk.expect(&[]);
    desk.found(about(1, "h9"));
    desk.expect(&["append ORDERS 1: order.h9"]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h9 1", "notify", "append DECISIONS 3: decision.h9"]);
    let (first, last) = (desk.decision(3), desk.decision(1));
    assert_eq!((first.data.sequence, last.data.sequence), (Some(1), Some(1)));
    assert_eq!((first.data.waited, last.data.waited), (false, true));
    assert_ne!(first.id, last.id, "whoever knows events by their ids sees both");
    assert_eq!(last.data.facts.seen.map(|seen| (seen.inventory, seen.waiting)), Some((4, Some(3))));
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate"]);
    assert_eq!(desk.machine.waiting(), 0);
    // It was answered by its first decision.
    desk.deliver(Stream::Detections, about(1, "h9"), 2);
    desk.expect(&["ack 1"]);
    desk.knows("h9", 5);
    desk.expect(&[]);
}

#[test]
fn a_host_that_comes_while_the_wait_is_recorded_is_seen_and_a_contested_name_is_not() {
    let mut desk = Desk::new();
    desk.deliver(Stream::Detections, about(1, "h9"), 1);
    desk.knows("h9", 2);
    desk.expect(&["append DECISIONS 2: decision._unresolved"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ask", "ack 1", "fetch 1"]);

    let mut desk = Desk::new();
    desk.deliver(Stream::Detections, by_name(1, "h7"), 1);
    desk.calls("h8", "h7.a.example", 2);
    desk.calls("h9", "h7.b.example", 3);
    desk.expect(&["append DECISIONS 2: decision._unresolved"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ask", "ack 1"]);
}

#[test]
fn a_wait_that_is_prolonged_as_its_time_is_over_goes_on() {
    let mut desk = Desk::new();
    desk.deliver(Stream::Detections, about(1, "h9"), 1);
    desk.stored(Log::Decisions);
    desk.commands.clear();
    let again = Message { sequence: 2, at: at(60), ..about(1, "h9") };
    desk.deliver(Stream::Detections, again, 1);
    desk.expect(&["append DECISIONS 3: decision._unresolved"]);
    desk.millis = 125_000;
    desk.give(Event::Tick);
    desk.commands.clear();
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ask", "ack 2"]);
    assert_eq!(desk.machine.waiting(), 1);
    desk.millis = 181_000;
    desk.give(Event::Tick);
    desk.expect(&["notify", "append DECISIONS 4: decision._unresolved"]);
}

#[test]
fn a_wait_ends_with_a_decision_and_a_notice() {
    let mut desk = Desk::new();
    desk.waits(1);
    // The detection is of second 1, and waits for two minutes.
    desk.millis = 1_000;
    desk.give(Event::Tick);
    desk.commands.clear();
    let wakes = |desk: &Desk| desk.machine.under_way.wake_at;
    assert_eq!(wakes(&desk), Some(Duration::from_secs(121)));
    desk.tick_until(121_000);
    desk.commands
        .retain(|command| !matches!(command, Command::Report(Report::Unreachable { .. }) | Command::StoreInventories(_)));
    let notices = desk.commands.iter().filter(|command| matches!(command, Command::Notify { .. })).count();
    assert_eq!(notices, 2, "of the silent host, and of the detection");
    desk.commands.retain(|command| !matches!(command, Command::Notify { .. }));
    desk.expect(&["append DECISIONS 3: decision._unresolved"]);
    let last = desk.decision(1).data;
    assert!(last.waited && last.facts.now == Some(at(121)), "{last:?}");
    assert!(matches!(last.reason, Reason::Unresolved { ended: Some(WaitEnd::TimedOut), waits: None, .. }));
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ask"]);
    assert_eq!((desk.machine.waiting(), wakes(&desk)), (0, None));
    desk.knows("h9", 2);
    desk.expect(&[]);
}

#[test]
fn what_waits_is_known_to_the_next_leader() {
    let mut desk = Desk::new();
    desk.deliver_all((1..=3).map(|one| (Stream::Detections, about(one, &format!("h{}", one + 6)), 1)).collect());
    desk.stored(Log::Decisions);
    let page = desk.bodies[3].clone();
    let mut other = Desk::following();
    let page = stored("decision._pages", page, 3);
    assert_eq!(other.machine.waits_from(&page), Some(3));
    other.give(Event::Logged(Stream::Decisions, page));
    other.knows("h8", 2);
    other.expect(&[]);
    other.machine.begin(0, 3);
    other.give(Event::Lead);
    other.stored(Log::Decisions);
    other.stored(Log::Orders);
    other.expect(&[
        "append DECISIONS 3: decision._term",
        "append ORDERS 0: order._term",
        "leading 1",
        "begin",
        "fetch 2",
        "append DECISIONS 4: decision._policy",
    ]);
    other.found(about(2, "h8"));
    other.stored(Log::Decisions);
    other.expect(&["policy", "append ORDERS 1: order.h8"]);
    // Its order is not stored, and another process leads: it is that one's.
    let prev = ids::sha256(other.bodies[1].as_bytes());
    other.appended_as(Log::Orders, Appended::Unclear("no answer".into()));
    other.read(Log::Orders, Ok(vec![stored("order._term", term(2, "you", Some(prev)), 2)]));
    other.expect(&["read ORDERS 1", "following 2 you", "step down"]);
    assert_eq!(other.machine.waiting(), 3);
    assert_eq!(other.machine.waiting.all_free(), [1, 2, 3]);
}

#[test]
fn a_text_that_cannot_be_read_is_asked_for_again_and_one_that_is_gone_ends_the_wait() {
    let mut desk = Desk::new();
    desk.waits(1);
    desk.knows("h9", 2);
    desk.expect(&["fetch 1"]);
    let ticket = Ticket { stream: Stream::Detections, sequence: 1 };
    desk.give(Event::Fetched(ticket, Err("no answer".into())));
    desk.expect(&["retry read a detection that waits in 1000 ms"]);
    desk.millis = 1_000;
    desk.give(Event::Tick);
    desk.expect(&["fetch 1"]);
    desk.give(Event::Fetched(ticket, Ok(None)));
    desk.expect(&["notify", "append DECISIONS 3: decision._unresolved"]);
    assert!(matches!(desk.decision(1).data.reason, Reason::Unresolved { ended: Some(WaitEnd::Removed), .. }));
    // Nobody asked for it any more.
    desk.give(Event::Fetched(ticket, Ok(Some(about(1, "h9")))));
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ask"]);
}

#[test]
fn a_retraction_ends_a_wait_without_a_notice() {
    let mut desk = Desk::new();
    desk.waits(1);
    let data = Detection { retracts: Some("d1".into()), ..detection("h9", "a", 1) };
    desk.deliver(Stream::Detections, stored("detection.siem", body("d2", data), 2), 1);
    desk.expect(&["append DECISIONS 3: decision._unresolved"]);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ask", "ack 2", "append DECISIONS 4: decision._pages"]);
    let page = desk.page();
    assert_eq!(
        page.decisions.iter().map(|decision| (decision.sequence, decision.waited)).collect::<Vec<_>>(),
        [(Some(1), true), (Some(2), true)]
    );
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ignore", "verdict Ignore"]);
    desk.knows("h9", 2);
    desk.expect(&[]);
}

#[test]
fn a_decision_behind_a_wait_whose_acknowledgement_was_lost_is_found_or_appended_again() {
    for is_stored in [true, false] {
        let mut desk = Desk::new();
        desk.waits(1);
        desk.knows("h9", 2);
        desk.found(stored("detection.siem", body("d1", detection("h9", "other", 1)), 1));
        desk.expect(&["fetch 1", "append DECISIONS 3: decision.h9"]);
        let last = desk.bodies.last().cloned().expect("a body");
        desk.appended_as(Log::Decisions, Appended::Unclear("no answer".into()));
        let found = if is_stored { vec![stored("decision.h9", last, 4)] } else { Vec::new() };
        desk.read(Log::Decisions, Ok(found));
        match is_stored {
            true => desk.expect(&["read DECISIONS 3", "verdict Observe"]),
            false => desk.expect(&["read DECISIONS 3", "retry append decisions in 50 ms"]),
        }
        assert_eq!(desk.machine.waiting(), usize::from(!is_stored));
    }
}

impl Desk {
    /// One detection about `h9` that waits.
    fn waits(&mut self, sequence: u64) {
        self.deliver(Stream::Detections, about(sequence, "h9"), 1);
        self.stored(Log::Decisions);
        self.expect(&["append DECISIONS 2: decision._unresolved", "verdict Ask", &format!("ack {sequence}")]);
    }

    pub(super) fn knows(&mut self, host: &str, sequence: u64) {
        self.calls(host, &format!("{host}.corp.example"), sequence);
    }

    fn calls(&mut self, host: &str, name: &str, sequence: u64) {
        let hello = Hello { hostname: name.into(), ..hello(host) };
        let inventory = crate::inventory::of(None, &hello, at(1), false).expect("it is new");
        let message = stored(&format!("inventory.{host}"), body(&format!("v{sequence}"), inventory), sequence);
        self.give(Event::Logged(Stream::Inventory, message));
    }

    fn found(&mut self, message: Message) {
        let ticket = Ticket { stream: Stream::Detections, sequence: message.sequence };
        self.give(Event::Fetched(ticket, Ok(Some(message))));
    }

    /// The decision in the body so far from the end.
    pub(super) fn decision(&self, back: usize) -> Envelope<Decision> {
        let body = &self.bodies[self.bodies.len() - back];
        envelope::decode(std::iter::empty(), body.as_bytes()).expect("a decision is read")
    }
}

fn about(sequence: u64, host: &str) -> Message {
    stored("detection.siem", body(&format!("d{sequence}"), detection(host, "a", 1)), sequence)
}

fn by_name(sequence: u64, name: &str) -> Message {
    let host = HostClaim { hostname: Some(name.into()), ..HostClaim::default() };
    stored("detection.siem", body(&format!("d{sequence}"), Detection { host, ..detection("h1", "a", 1) }), sequence)
}
