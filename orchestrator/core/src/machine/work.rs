//! The protocol of one input: mark (where it came again), decide, order stored, decision stored, acknowledged.
//!
//! Each step that needs the shell is a [`Step`]; its answer leads to the next. Whatever is no clean acknowledgement is answered by reading the
//! log on: the same bytes there mean that they were stored all the same. A lost compare-and-set drops what was decided and decides again.

use std::time::Duration;

use bytes::Bytes;
use portcullis_schemas::Stream;
use portcullis_schemas::events::Decision;
use portcullis_schemas::rejected::Malformed;

use super::Machine;
use super::event::{Appended, Command, Delivered, Kept, Log, Message, Now, Report, Ticket};
use super::queue::Item;
use super::read::{self, Decoded};
use super::write::{self, Trace};
use crate::{Input, Outcome, decide};

/// An input on which work was begun so often, beside its first delivery, and never finished is kept unread at its fifth.
const POISON: u64 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const TOO_LARGE: &str = "the message is larger than the broker takes";

/// An input on its way.
#[derive(Debug)]
pub(super) struct Work {
    origin: Origin,
    /// None until it is read.
    decoded: Option<Decoded>,
    step: Step,
    /// What was to be appended has been seen in its log.
    seen: bool,
    /// The last known sequence of ORDERS when it was decided, and of DECISIONS when its decision was appended.
    decided_at: u64,
    appended_at: u64,
    failures: u32,
}

#[derive(Debug)]
enum Origin {
    Delivered(Delivered),
    /// A stored state event: its stream's follower brings it once.
    State(Message),
    Hello(Message),
    Lost,
}

/// What is waited for, or was when it failed.
#[derive(Debug)]
enum Step {
    /// DECISIONS is read on, before work on an input that came again: another orchestrator may have answered it.
    Tail,
    Mark,
    /// To be read and decided.
    Open,
    /// The order is appended, or its log read on since that was unclear.
    Order {
        outcome: Box<Outcome>,
        body: Bytes,
        unclear: Option<String>,
    },
    /// ORDERS is read on: what orders nothing has no compare-and-set to lose, so it is right only if all orders are known.
    Check {
        outcome: Box<Outcome>,
    },
    /// The decision is appended, or its log read on since that was unclear.
    Record {
        record: Box<Record>,
        unclear: Option<String>,
    },
    Reject {
        why: Malformed,
    },
}

#[derive(Debug)]
struct Record {
    decision: Decision,
    body: Bytes,
    shortened: bool,
    /// Its order is stored: it holds whatever others have decided meanwhile.
    ordered: bool,
}

impl Work {
    fn new(origin: Origin, decoded: Option<Decoded>) -> Self {
        Self { origin, decoded, step: Step::Open, seen: false, decided_at: 0, appended_at: 0, failures: 0 }
    }

    /// Notes a message of one of the logs, if it is what this work is appending. Says whether all of its time is left.
    pub(super) fn recognise(&mut self, message: &[u8]) -> bool {
        let own = match &self.step {
            Step::Order { body, .. } => body == message,
            Step::Record { record, .. } => record.body == message,
            _ => false,
        };
        self.seen |= own;
        own && !self.waited()
    }

    fn ticket(&self) -> Option<Ticket> {
        match &self.origin {
            Origin::Delivered(Delivered { stream, message, .. }) => Some(Ticket { stream: *stream, sequence: message.sequence }),
            _ => None,
        }
    }

    fn trace(&self) -> Trace {
        let decoded = self.decoded.as_ref();
        // What nobody sent has no cause.
        let caused = decoded.filter(|_| matches!(self.origin, Origin::Delivered(_) | Origin::State(_)));
        Trace {
            traceparent: caused.and_then(|decoded| decoded.traceparent.clone()),
            causation: caused.map(|decoded| decoded.key.id.clone()),
        }
    }

    fn waited(&self) -> bool {
        matches!(&self.origin, Origin::Delivered(Delivered { waited: true, .. }))
    }

    fn token(&self) -> String {
        self.decoded.as_ref().map(|decoded| decoded.key.token.clone()).unwrap_or_default()
    }
}

impl Machine {
    pub(super) fn begin_work(&mut self, item: Item, now: Now) {
        let work = match item {
            Item::Delivered(delivered) if delivered.deliveries > 1 => {
                let work = Work { step: Step::Tail, ..Work::new(Origin::Delivered(delivered), None) };
                return self.resume(work, now);
            }
            Item::Delivered(delivered) => Work::new(Origin::Delivered(delivered), None),
            Item::State(message) => Work::new(Origin::State(message), None),
            Item::Hello(message) => Work::new(Origin::Hello(message), None),
            Item::Lost { stream, first, last } => {
                Work::new(Origin::Lost, Some(read::lost(&self.prefix, stream, first, last, now.broker)))
            }
        };
        self.open(work, now);
    }

    /// Does the step at which work was parked.
    pub(super) fn resume(&mut self, work: Work, now: Now) {
        match &work.step {
            Step::Tail => self.commands.push_back(Command::Read { log: Log::Decisions, after: self.decisions }),
            Step::Mark => match work.ticket() {
                Some(ticket) => self.commands.push_back(Command::Mark(ticket)),
                None => return self.open(work, now),
            },
            Step::Open | Step::Check { .. } => return self.decide(work, now),
            // Others may have written meanwhile, or the append may have come late.
            Step::Order { .. } => self.commands.push_back(Command::Read { log: Log::Orders, after: self.orders }),
            Step::Record { .. } => self.commands.push_back(Command::Read { log: Log::Decisions, after: self.decisions }),
            Step::Reject { why } => {
                let why = why.clone();
                return self.reject(work, why);
            }
        }
        self.work = Some(work);
    }

    /// Reads the message, and decides it.
    fn open(&mut self, mut work: Work, now: Now) {
        if work.decoded.is_none() {
            let read = match &work.origin {
                Origin::Delivered(delivered) => read::input(&self.prefix, delivered.stream, &delivered.message),
                Origin::State(message) => read::input(&self.prefix, Stream::States, message),
                Origin::Hello(message) => read::hello(&self.prefix, message),
                // Made by us, and so read already.
                Origin::Lost => return,
            };
            match read {
                Ok(decoded) => work.decoded = Some(decoded),
                Err(why) => return self.reject(work, why),
            }
        }
        let Some(decoded) = &work.decoded else { return };
        let (kind, input) = (decoded.key.kind, decoded.input.clone());
        if let [first, ..] = decoded.faults() {
            let (token, id) = (decoded.key.token.clone(), decoded.key.id.clone());
            let (faults, first) = (decoded.faults().len(), first.clone());
            self.commands.push_back(Command::Report(Report::Faults { token, id, faults, first }));
        }
        match &input {
            Input::State(meta, state) => self.fleet.take_state(state.clone(), meta.at),
            Input::Hello(meta, hello) => {
                let inventory = self.fleet.inventory_for(hello, meta.at);
                if self.fleet.spelled_otherwise(&hello.host).is_none() {
                    self.fleet.hear(hello, meta.at);
                    if let Some(inventory) = inventory.filter(|_| !self.storing.contains(&hello.host)) {
                        self.store_inventory(inventory, meta.at);
                    }
                }
            }
            _ => {}
        }
        self.report(Report::Input(kind));
        self.decide(work, now);
    }

    fn decide(&mut self, mut work: Work, now: Now) {
        let Some(decoded) = &work.decoded else { return self.open(work, now) };
        // A copy may have been answered while this one was parked, or before it came.
        if self.recent.contains(&decoded.key) {
            return self.finish(work);
        }
        let remaining = |due: &portcullis_schemas::events::ReleaseDue| self.deadlines.rest(&due.host, due.generation, now.boot);
        let input = read::with_remaining(decoded.input.clone(), remaining);
        let outcome = decide(&self.fleet, self.policy.as_deref(), &self.config, &input);
        if let (Some(delay), Some(ticket)) = (outcome.again_in, work.ticket()) {
            return self.commands.push_back(Command::Defer(ticket, delay));
        }
        (work.seen, work.decided_at) = (false, self.orders);
        let outcome = Box::new(outcome);
        match (&outcome.order, &outcome.decision) {
            (Some(order), _) => match write::order(&self.prefix, order, &work.trace()) {
                Ok((subject, body)) => {
                    let (log, expected) = (Log::Orders, self.orders);
                    self.commands.push_back(Command::Append { log, subject, body: body.clone(), expected });
                    self.wait(work, Step::Order { outcome, body, unclear: None });
                }
                Err(why) => self.cannot_answer(work, &why.to_string()),
            },
            (None, Some(_)) => {
                self.commands.push_back(Command::Read { log: Log::Orders, after: self.orders });
                self.wait(work, Step::Check { outcome });
            }
            (None, None) => {
                self.notify(outcome.notices, now.broker, now);
                self.finish(work);
            }
        }
    }

    fn wait(&mut self, work: Work, step: Step) {
        self.work = Some(Work { step, ..work });
    }

    pub(super) fn appended(&mut self, log: Log, appended: Appended, now: Now) {
        let Some(mut work) = self.work.take() else { return };
        match (&mut work.step, appended) {
            (Step::Order { .. } | Step::Record { .. }, Appended::Unclear(why)) => {
                let (Step::Order { unclear, .. } | Step::Record { unclear, .. }) = &mut work.step else { return };
                *unclear = Some(why);
                let after = if log == Log::Orders { self.orders } else { self.decisions };
                self.commands.push_back(Command::Read { log, after });
                self.work = Some(work);
            }
            (Step::Order { .. }, Appended::Stored) => self.ordered(work, now),
            (Step::Order { .. }, Appended::TooLarge) => self.cannot_answer(work, TOO_LARGE),
            (Step::Record { .. }, Appended::Stored) => {
                if !work.seen {
                    self.decisions += 1;
                }
                self.recorded(work);
            }
            (Step::Record { record, .. }, Appended::TooLarge) if !record.shortened => {
                let (decision, ordered) = (write::shortened(record.decision.clone()), record.ordered);
                self.append_decision(work, decision, ordered, true);
            }
            (Step::Record { .. }, Appended::TooLarge) => self.cannot_answer(work, TOO_LARGE),
            // An answer to nothing that was asked.
            _ => self.work = Some(work),
        }
    }

    /// The order is stored: by its acknowledgement, or seen in the log.
    fn ordered(&mut self, mut work: Work, now: Now) {
        let Step::Order { outcome, body, .. } = std::mem::replace(&mut work.step, Step::Open) else { return };
        if let Some(order) = &outcome.order {
            if !work.seen {
                self.orders += 1;
                self.fold_order(order.clone(), &body, !work.waited(), now);
            }
            self.report(Report::Ordered {
                host: order.host.clone(),
                generation: order.generation,
                posture: order.posture,
                reason: order.reason.clone(),
                latency: (now.broker - order.issued_at).to_std().unwrap_or_default(),
            });
        }
        self.record(work, *outcome, true, now);
    }

    fn record(&mut self, work: Work, outcome: Outcome, ordered: bool, now: Now) {
        let at = outcome.decision.as_ref().and_then(|decision| decision.facts.now).unwrap_or(now.broker);
        self.notify(outcome.notices, at, now);
        match outcome.decision {
            Some(decision) => self.append_decision(work, decision, ordered, false),
            None => self.finish(work),
        }
    }

    fn append_decision(&mut self, mut work: Work, decision: Decision, ordered: bool, shortened: bool) {
        let at = decision.facts.now.unwrap_or_default();
        match write::decision(&self.prefix, decision.clone(), at, &work.trace()) {
            Ok((subject, body)) => {
                let (log, expected) = (Log::Decisions, self.decisions);
                self.commands.push_back(Command::Append { log, subject, body: body.clone(), expected });
                (work.seen, work.appended_at) = (false, self.decisions);
                let record = Box::new(Record { decision, body, shortened, ordered });
                self.wait(work, Step::Record { record, unclear: None });
            }
            Err(_) if !shortened => self.append_decision(work, write::shortened(decision), ordered, true),
            Err(why) => self.cannot_answer(work, &why.to_string()),
        }
    }

    fn recorded(&mut self, mut work: Work) {
        if let Step::Record { record, .. } = std::mem::replace(&mut work.step, Step::Open) {
            self.report(Report::Verdict(record.decision.verdict));
        }
        if let Some(decoded) = &work.decoded {
            self.recent.add(&decoded.key);
        }
        self.finish(work);
    }

    pub(super) fn read(&mut self, log: Log, read: Result<Vec<Message>, String>, now: Now) {
        let failure = match read {
            Ok(messages) => {
                for message in &messages {
                    match log {
                        Log::Orders => self.take_order(message, now),
                        Log::Decisions => self.take_decision(message),
                    }
                }
                None
            }
            Err(error) => Some(error),
        };
        let Some(mut work) = self.work.take() else { return };
        if let Some(error) = failure {
            return self.park(work, "read the log on", error, now);
        }
        match &mut work.step {
            Step::Tail => {
                work.step = Step::Mark;
                self.resume(work, now);
            }
            Step::Check { .. } if self.orders != work.decided_at => {
                self.report(Report::Overtaken(log));
                self.decide(work, now);
            }
            Step::Check { outcome } => {
                let outcome = std::mem::take(outcome.as_mut());
                self.record(work, outcome, false, now);
            }
            Step::Order { .. } if work.seen => self.ordered(work, now),
            Step::Order { .. } if self.orders != work.decided_at => {
                self.report(Report::Overtaken(log));
                self.decide(work, now);
            }
            Step::Order { unclear, .. } => {
                // Not there, or not yet: it is decided again after a pause, and loses its compare-and-set if it came late.
                let error = unclear.take().unwrap_or_default();
                work.step = Step::Open;
                self.park(work, "append an order", error, now);
            }
            Step::Record { record, unclear } => {
                let known = work.seen || work.decoded.as_ref().is_some_and(|decoded| self.recent.contains(&decoded.key));
                let overtaken = self.decisions != work.appended_at;
                let unclear = unclear.take().filter(|_| !overtaken);
                let (decision, ordered, shortened) = (record.decision.clone(), record.ordered, record.shortened);
                match unclear {
                    _ if known => self.recorded(work),
                    Some(error) => self.park(work, "append a decision", error, now),
                    // What orders nothing may no longer be right.
                    None if overtaken && !ordered => {
                        self.report(Report::Overtaken(log));
                        self.decide(work, now);
                    }
                    None => self.append_decision(work, decision, ordered, shortened),
                }
            }
            _ => self.work = Some(work),
        }
    }

    pub(super) fn marked(&mut self, begun: Result<u64, String>, now: Now) {
        let Some(mut work) = self.work.take() else { return };
        match (&work.step, begun) {
            (Step::Mark, Ok(begun)) => {
                work.step = Step::Open;
                match begun {
                    begun if begun >= POISON => self.reject(work, Malformed::Poison(begun + 1)),
                    _ => self.open(work, now),
                }
            }
            (Step::Mark, Err(error)) => self.park(work, "mark an input that came again", error, now),
            _ => self.work = Some(work),
        }
    }

    /// An answer that can never be stored: the input is kept whole, and holds up nobody else.
    fn cannot_answer(&mut self, work: Work, why: &str) {
        let why = Malformed::Unanswerable(why.to_owned());
        match work.origin {
            Origin::Delivered(_) => self.reject(work, why),
            _ => self.report(Report::Unanswerable { token: work.token(), why }),
        }
    }

    fn reject(&mut self, work: Work, why: Malformed) {
        let (kind, message) = match &work.origin {
            Origin::Delivered(Delivered { stream, message, .. }) => (stream.token(), message),
            Origin::State(message) => (Stream::States.token(), message),
            Origin::Hello(message) => ("hello", message),
            Origin::Lost => return,
        };
        let stored = match &work.origin {
            Origin::State(message) => Some(Ticket { stream: Stream::States, sequence: message.sequence }),
            _ => work.ticket(),
        };
        self.commands.push_back(Command::Reject { kind, stored, message: Box::new(message.clone()), why: why.clone() });
        self.wait(work, Step::Reject { why });
    }

    pub(super) fn kept(&mut self, kept: Kept, now: Now) {
        let Some(work) = self.work.take() else { return };
        match (&work.step, kept) {
            (Step::Reject { why }, Kept::Stored) => {
                self.report(Report::Rejected(why.clone()));
                self.finish(work);
            }
            (Step::Reject { why }, Kept::TooLarge) => {
                if let Origin::Delivered(Delivered { message, .. }) | Origin::State(message) | Origin::Hello(message) =
                    &work.origin
                {
                    let (subject, bytes, why) = (message.subject.clone(), message.body.len(), why.clone());
                    self.commands.push_back(Command::Report(Report::TooLargeToKeep { subject, bytes, why }));
                }
                self.finish(work);
            }
            (Step::Reject { .. }, Kept::Failed(error)) => self.park(work, "keep a rejected input", error, now),
            _ => self.work = Some(work),
        }
    }

    fn finish(&mut self, work: Work) {
        if let Some(ticket) = work.ticket() {
            self.commands.push_back(Command::Ack(ticket));
        }
    }

    /// Puts work off after a failure that passes; others go on meanwhile.
    fn park(&mut self, mut work: Work, step: &'static str, error: String, now: Now) {
        let pause = FIRST_PAUSE.saturating_mul(1 << work.failures.min(5)).min(LONGEST_PAUSE);
        work.failures += 1;
        self.report(Report::Retry { step, error, pause });
        self.queue.park(now.boot + pause, work);
    }
}
