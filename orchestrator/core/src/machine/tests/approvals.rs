//! Pending approvals and the pause in the protocol: what lies over the fold while it is not stored, and who ends it.

use portcullis_schemas::events::{InputRef, Reason, Request};

use super::*;

fn answer(sequence: u64, action: Action, operator: &str) -> Message {
    let of_fleet = matches!(action, Action::Pause | Action::Resume);
    let host = (!of_fleet).then(|| "h1".parse().expect("a host id"));
    let data = Request { host, operator: operator.into(), reason: Some("seen".into()), ..request(action) };
    let subject = format!("request.{operator}.{}", if of_fleet { "_fleet" } else { "h1" });
    stored(&subject, body(&format!("r{sequence}"), data), sequence)
}

impl Desk {
    /// An approval is pending.
    fn asking() -> Self {
        let mut desk = Self::new();
        desk.detect(1, "ask", 1);
        desk.expect(&["notify", "append DECISIONS 2: decision.h1"]);
        desk.stored(Log::Decisions);
        desk.expect(&["verdict Ask", "ack 1"]);
        assert_eq!(desk.machine.control().asks().len(), 1);
        desk
    }

    fn answers(&mut self, sequence: u64, action: Action, operator: &str) {
        self.deliver(Stream::Requests, answer(sequence, action, operator), 1);
    }
}

#[test]
fn an_approval_is_stored_before_what_it_approves_is_ordered() {
    let mut desk = Desk::asking();
    desk.answers(1, Action::Approve, "ann");
    desk.expect(&["append DECISIONS 3: decision.h1"]);
    assert_eq!(desk.decision(1).data.reason, Reason::Operator);
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Apply", "ack 1", "append ORDERS 1: order.h1"]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 4: decision.h1"]);
    let (first, last) = (desk.decision(4), desk.decision(1));
    assert_ne!(first.id, last.id, "whoever knows events by their ids sees both");
    assert!(last.data.asked && first.data.sequence == last.data.sequence, "{last:?}");
    assert_eq!(last.data.facts.seen.map(|seen| seen.waiting), Some(Some(3)), "it was pending until then");
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Isolate"]);
    assert!(desk.machine.is_idle() && desk.machine.control().asks().len() == 0);
}

#[test]
fn an_input_sees_what_was_decided_before_it_in_its_batch() {
    let mut desk = Desk::new();
    let all = vec![
        (Stream::Requests, answer(1, Action::Pause, "ann"), 1),
        (Stream::Detections, detection_message(1, "a", 1), 1),
        (Stream::Detections, detection_message(2, "a", 2), 1),
    ];
    desk.deliver_all(all);
    desk.expect(&["notify", "append DECISIONS 2: decision._pages decision._pages"]);
}

#[test]
fn what_is_not_stored_is_lifted_before_others_are_folded_and_laid_over_again() {
    let mut desk = Desk::asking();
    desk.answers(1, Action::Approve, "ann");
    desk.commands.clear();
    let approved = |desk: &Desk| desk.machine.control().asks().next().map(|pending| pending.approvals.len());
    assert_eq!(approved(&desk), Some(1), "laid over");
    desk.appended_as(Log::Decisions, Appended::Unclear("no answer".into()));
    desk.read(Log::Decisions, Ok(Vec::new()));
    desk.expect(&["read DECISIONS 3", "retry append decisions in 50 ms"]);
    assert_eq!(approved(&desk), Some(0), "put off");
    desk.millis += 60;
    desk.give(Event::Tick);
    desk.read(Log::Decisions, Ok(Vec::new()));
    desk.expect(&["read DECISIONS 3", "append DECISIONS 3: decision.h1"]);
    assert_eq!(approved(&desk), Some(1), "laid over again");
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Apply", "ack 1", "append ORDERS 1: order.h1"]);
}

#[test]
fn a_deposed_leader_knows_what_is_stored_and_no_more() {
    let mut desk = Desk::asking();
    desk.answers(1, Action::Approve, "ann");
    desk.commands.clear();
    desk.appended_as(Log::Decisions, Appended::Unclear("wrong last sequence".into()));
    desk.read(Log::Decisions, Ok(vec![stored("decision._term", term(2, "other", None), 4)]));
    desk.expect(&["read DECISIONS 3", "following 2 other", "step down"]);
    let pending: Vec<usize> = desk.machine.control().asks().map(|pending| pending.approvals.len()).collect();
    assert_eq!(pending, [0]);
}

#[test]
fn the_next_leader_ends_what_was_approved() {
    let mut desk = Desk::asking();
    desk.answers(1, Action::Approve, "ann");
    desk.stored(Log::Decisions);
    desk.commands.clear();
    // Its order is on its way when another one takes over, and it leads again.
    desk.give(Event::Logged(Stream::Orders, stored("order._term", term(2, "other", Some(String::new())), 2)));
    desk.commands.clear();
    desk.appended_as(Log::Orders, Appended::Unclear("wrong last sequence".into()));
    desk.read(Log::Orders, Ok(vec![stored("order._term", term(2, "other", None), 2)]));
    assert!(!desk.machine.is_leading());
    assert_eq!(desk.machine.control().ended(at(0)).count(), 1, "approved, and not ended");
    desk.commands.clear();
    desk.lead(4, 2);
    assert!(desk.appended().iter().any(|body| body.contains("approved by ann")), "{:?}", desk.appended());
}

#[test]
fn a_batch_that_is_folded_beside_orders_is_stored_before_the_next_is_decided() {
    let mut desk = Desk::new();
    desk.detect(1, "ask", 1);
    desk.detect(2, "a", 2);
    assert!(!desk.machine.can_decide_ahead());
    desk.commands.clear();
    desk.stored(Log::Decisions);
    desk.expect(&["verdict Ask", "ack 1", "append ORDERS 1: order.h1"]);
}

#[test]
fn nobody_answers_and_the_time_is_over() {
    let mut desk = Desk::asking();
    assert_eq!(desk.machine.wake_at, Some(Duration::from_secs(1_801)));
    desk.millis = 1_801_000;
    desk.give(Event::Tick);
    desk.commands.retain(|command| matches!(command, Command::Append { .. }));
    desk.expect(&["append DECISIONS 3: decision.h1"]);
    assert!(matches!(desk.decision(1).data.reason, Reason::Unanswered { .. }));
    desk.give(Event::Tick);
    desk.expect(&[]);
    desk.stored(Log::Decisions);
    assert!(desk.machine.control().asks().len() == 0);
}

#[test]
fn the_pause_is_over_by_its_time_and_that_is_stored_once() {
    let mut desk = Desk::new();
    desk.answers(1, Action::Pause, "ann");
    desk.stored(Log::Decisions);
    desk.commands.clear();
    desk.millis = 3_601_000;
    desk.give(Event::Tick);
    desk.give(Event::Tick);
    desk.commands.retain(|command| matches!(command, Command::Append { .. }));
    desk.expect(&["append DECISIONS 3: decision._unresolved"]);
    let input: InputRef = desk.decision(1).data.input;
    assert_eq!((input.kind, desk.decision(1).data.sequence), (InputKind::Time, None));
    desk.stored(Log::Decisions);
    assert!(desk.machine.control().pause().is_none());
}

/// A policy under which one host may be isolated at once.
const ONE: &str = "
version: 1
cool_down_after_manual_release: 0s
limits:
  - { name: fleet, isolated: 1 }
rules:
  - { name: rest, then: isolate }
";

#[test]
fn a_breaker_is_seen_in_its_batch_and_reset_without_a_detection_once() {
    let mut desk = Desk::following();
    desk.give(Event::Policy(Arc::new(Policy::parse(ONE).expect("the policy is valid"))));
    desk.lead(0, 0);
    for (host, second) in [("h2", 1), ("h3", 2)] {
        desk.knows(host, second);
    }
    let of = |sequence: u64, host: &str| {
        stored("detection.edr", body(&format!("d{sequence}"), detection(host, "a", sequence.cast_signed())), sequence)
    };
    desk.commands.clear();
    desk.deliver_all((1..=3).map(|one| (Stream::Detections, of(one, &format!("h{one}")), 1)).collect());
    desk.expect(&["append ORDERS 1: order.h1"]);
    desk.stored(Log::Orders);
    desk.expect(&["ordered h1 1", "notify", "append DECISIONS 2: decision._pages"]);
    let reasons: Vec<Reason> = desk.page().decisions.into_iter().map(|decision| decision.reason).collect();
    assert!(matches!(reasons.as_slice(), [Reason::Rule, Reason::BlastRadius { .. }, Reason::Breaker { .. }]), "{reasons:?}");
    desk.stored(Log::Decisions);
    assert_eq!(desk.machine.control().breakers().len(), 1);
    desk.release(1);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    desk.commands.clear();
    desk.millis += 6_000;
    desk.give(Event::Tick);
    desk.give(Event::Tick);
    desk.commands.retain(|command| matches!(command, Command::Append { .. }));
    desk.expect(&["append DECISIONS 4: decision._unresolved"]);
    assert!(matches!(desk.decision(1).data.reason, Reason::BelowLimit { .. }));
    desk.stored(Log::Decisions);
    assert_eq!(desk.machine.control().breakers().len(), 0);
}

#[test]
fn a_release_is_announced_once_half_an_hour_before_it() {
    let mut desk = Desk::new();
    desk.detect(1, "a", 1);
    desk.stored(Log::Orders);
    desk.stored(Log::Decisions);
    desk.commands.clear();
    let told = |desk: &mut Desk, minutes: u64| {
        desk.millis = minutes * 60_000;
        desk.give(Event::Tick);
        let texts = desk.commands.drain(..).filter_map(|command| match command {
            Command::Notify(notices) => Some(notices),
            _ => None,
        });
        let texts: Vec<String> = texts.flatten().map(|one| String::from_utf8_lossy(&one.body).into_owned()).collect();
        texts.iter().filter(|text| text.contains("release_soon")).count()
    };
    assert_eq!(told(&mut desk, 7 * 60 + 29), 0);
    assert_eq!(told(&mut desk, 7 * 60 + 31), 1);
    assert_eq!(told(&mut desk, 7 * 60 + 33), 0);
}
