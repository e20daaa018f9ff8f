//! The protocol of a batch: decided against the fleet with its own orders laid over it, orders stored, answers stored, acknowledged.
//!
//! Whatever is no clean acknowledgement is answered by reading the log on: all of the batch is there, or nothing. Where nothing is there, its orders are
//! taken back; it is put off, in halves, and decided again. What an answer says stays, once its orders are stored.

mod ahead;
mod decide;
mod failure;
mod overlay;
mod record;

use std::time::Duration;

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Decision, Order, PolicyActivated, Reason, Seen};
use portcullis_schemas::rejected::Malformed;

use super::Machine;
use super::event::{Appended, Command, Delivered, Log, Message, Now, Outgoing, Report, Ticket};
use super::page::Answer;
use super::queue::Item;
use super::read::Decoded;
use super::write::Trace;
use crate::Outcome;
use crate::fleet::Displaced;
pub(super) use failure::pause;
use overlay::Laid;

/// An input on which work was begun and never finished while it was alone is what ended the process.
const POISON: u64 = 1;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const READ_ON: &str = "read the rest of the log";
const TOO_LARGE: &str = "the message is larger than the broker takes";

/// Inputs that are decided and stored together.
#[derive(Debug)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    step: Step,
    failures: u32,
    /// Its decisions say something that is folded beside orders: see [`Machine::folds`].
    folds: bool,
    /// What its decisions changed of that, while it lies there and is not stored.
    overlay: Vec<Laid>,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    /// None until it is read.
    decoded: Option<Box<Decoded>>,
}

/// What is waited for, or was when it failed.
#[derive(Debug)]
enum Step {
    /// The attempt at an input that may have ended the process is counted.
    Mark,
    /// To be read and decided.
    Open,
    /// Decided ahead: its orders lie over the fleet, and nothing is sent.
    Ahead(Box<Decided>),
    /// The orders are appended, or their log read on since that was unclear.
    Orders { decided: Box<Decided>, unclear: Option<String> },
    /// The answers are appended, or their log read on since that was unclear.
    Record { record: Box<Record>, unclear: Option<String> },
}

/// What follows from a batch.
#[derive(Debug)]
struct Decided {
    seen: Seen,
    /// The hash of the policy that decided.
    policy: Option<String>,
    outcomes: Vec<Outcome>,
    orders: Vec<Outgoing>,
    /// What the orders displaced in the fleet.
    displaced: Vec<Displaced>,
}

/// What is to be stored in DECISIONS.
#[derive(Debug)]
struct Record {
    answers: Vec<Answer>,
    seen: Seen,
    policy: Option<String>,
    messages: Vec<Outgoing>,
    shortened: bool,
    /// What decides from this record on.
    activates: Option<Activates>,
}

/// The record of a policy that is to decide.
#[derive(Debug)]
pub(super) struct Activates {
    pub data: PolicyActivated,
    pub at: Timestamp,
    pub record: Outgoing,
}

impl Batch {
    pub(super) fn new(items: Vec<Item>) -> Self {
        let step = if items.len() == 1 && items[0].is_suspect() { Step::Mark } else { Step::Open };
        let entries = items.into_iter().map(|item| Entry { item, decoded: None }).collect();
        Self::of(entries, step, 0)
    }

    fn of(entries: Vec<Entry>, step: Step, failures: u32) -> Self {
        Self { entries, step, failures, folds: false, overlay: Vec::new() }
    }

    /// A batch in which an input is in flight under this log.
    pub(super) fn appends_to(&self, log: Log) -> bool {
        match self.step {
            Step::Orders { .. } => true,
            Step::Record { .. } => log == Log::Decisions,
            _ => false,
        }
    }

    fn orders_in_flight(&self) -> u64 {
        match &self.step {
            Step::Orders { decided, .. } => decided.orders.len() as u64,
            _ => 0,
        }
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.entries.iter().map(|entry| &entry.item)
    }

    pub(super) fn is_laid_over(&self) -> bool {
        !self.overlay.is_empty()
    }

    /// Its inputs. Its orders have been taken back, or are stored.
    pub(super) fn dissolve(self) -> Vec<Item> {
        self.entries.into_iter().map(|entry| entry.item).collect()
    }
}

/// Whether this says something of detections that wait.
fn waits(decision: &Decision) -> bool {
    let waits = matches!(&decision.reason, Reason::Unresolved { waits: Some(_), .. });
    waits || decision.waited || decision.retracts.is_some()
}

impl Entry {
    fn ticket(&self) -> Option<Ticket> {
        match &self.item {
            Item::Delivered(Delivered { stream, message, .. }) => Some(Ticket { stream: *stream, sequence: message.sequence }),
            Item::Activate(activate) => {
                Some(Ticket { stream: activate.delivered.stream, sequence: activate.delivered.message.sequence })
            }
            _ => None,
        }
    }

    /// Part of its order's time is over.
    fn waited(&self) -> bool {
        matches!(&self.item, Item::Delivered(Delivered { waited: true, .. }) | Item::Known(_) | Item::Asked(_))
    }

    fn trace(&self) -> Trace {
        // What nobody sent has no cause.
        let caused = self.decoded.as_deref().filter(|_| {
            !matches!(
                self.item,
                Item::Inventory(_) | Item::Lost { .. } | Item::Over(_) | Item::PauseOver(_) | Item::BreakerOver(..)
            )
        });
        Trace {
            traceparent: caused.and_then(|decoded| decoded.traceparent.clone()),
            causation: caused.map(|decoded| decoded.key.id.clone()),
        }
    }
}

impl Machine {
    pub(super) fn resume(&mut self, batch: Batch, now: Now) {
        match batch.step {
            Step::Ahead(decided) => self.send(Batch { step: Step::Open, ..batch }, *decided, now),
            Step::Mark => match batch.entries.first().and_then(Entry::ticket) {
                Some(ticket) => {
                    self.commands.push_back(Command::Mark(ticket));
                    self.batch = Some(batch);
                }
                None => self.decide_batch(batch, now),
            },
            Step::Open => self.decide_batch(batch, now),
            // The append may have come late.
            Step::Orders { .. } => {
                self.read_on(Log::Orders);
                self.batch = Some(batch);
            }
            Step::Record { .. } => {
                self.read_on(Log::Decisions);
                self.batch = Some(batch);
            }
        }
    }

    pub(super) fn marked(&mut self, ticket: Ticket, begun: Result<u64, String>, now: Now) {
        let waits =
            |batch: &Batch| matches!(batch.step, Step::Mark) && batch.entries.first().and_then(Entry::ticket) == Some(ticket);
        let Some(mut batch) = self.batch.take_if(|batch| waits(batch)) else { return };
        match begun {
            Ok(begun) if begun >= POISON => {
                for entry in batch.entries {
                    self.reject(entry.item, Malformed::Poison(begun + 1));
                }
            }
            Ok(_) => {
                batch.step = Step::Open;
                self.decide_batch(batch, now);
            }
            Err(error) => self.park(batch, "mark an input that came again", error, now),
        }
    }

    pub(super) fn decide_batch(&mut self, batch: Batch, now: Now) {
        let (batch, decided) = self.decide(batch, now);
        self.send(batch, decided, now);
    }

    fn send(&mut self, batch: Batch, decided: Decided, now: Now) {
        if decided.orders.is_empty() {
            return self.record(batch, decided, now);
        }
        self.append(Log::Orders, decided.orders.clone());
        self.batch = Some(Batch { step: Step::Orders { decided: Box::new(decided), unclear: None }, ..batch });
    }

    pub(super) fn batch_appended(&mut self, log: Log, appended: Appended, now: Now) {
        let Some(mut batch) = self.batch.take() else { return };
        match (&mut batch.step, appended) {
            (Step::Orders { unclear, .. } | Step::Record { unclear, .. }, Appended::Unclear(why)) => {
                *unclear = Some(why);
                self.read_on(log);
                self.batch = Some(batch);
            }
            (Step::Orders { .. }, Appended::Stored) => self.ordered(batch, now),
            (Step::Orders { .. }, Appended::TooLarge) => self.too_large(batch, now),
            (Step::Record { record, .. }, Appended::Stored) => {
                let first = self.decisions + 1;
                self.decisions += record.messages.len() as u64;
                self.take_own(&mut batch, first);
                self.recorded(batch);
            }
            (Step::Record { record, .. }, Appended::TooLarge) if !record.shortened => {
                record.shortened = true;
                self.append_record(batch, now);
            }
            (Step::Record { .. }, Appended::TooLarge) => self.too_large(batch, now),
            // An answer to nothing that was asked.
            _ => self.batch = Some(batch),
        }
    }

    /// The orders are stored: by their acknowledgement, or seen in the log.
    fn ordered(&mut self, mut batch: Batch, now: Now) {
        let Step::Orders { decided, .. } = std::mem::replace(&mut batch.step, Step::Open) else { return };
        self.orders += decided.orders.len() as u64;
        self.chain_at = self.orders;
        for (entry, outcome) in batch.entries.iter().zip(&decided.outcomes) {
            if let Some(order) = &outcome.order {
                // All of its time is left of an order that was stored just now.
                self.deadlines.follow(order, now.boot, entry.waited().then_some(now.broker));
                self.commands.push_back(Command::Report(report(order, now)));
            }
        }
        self.record(batch, *decided, now);
    }

    /// The log was read on. What came in it is `messages`, and this process still leads.
    pub(super) fn batch_read(&mut self, log: Log, read: Result<Vec<Message>, String>, now: Now) {
        self.undo_ahead();
        let Some(mut batch) = self.batch.take() else { return };
        let messages = match read {
            Ok(messages) => messages,
            // Whether its orders are stored decides what the fleet is: all others wait with it.
            Err(error) if matches!(batch.step, Step::Orders { .. }) => {
                let pause = pause(batch.failures);
                batch.failures += 1;
                self.report(Report::Retry { step: READ_ON, error, pause });
                self.read_again_at = Some(now.boot + pause);
                self.batch = Some(batch);
                return;
            }
            Err(error) => return self.park(batch, READ_ON, error, now),
        };
        match &mut batch.step {
            Step::Orders { decided, .. } if log == Log::Orders => {
                let is_stored = begins_with(&messages, &decided.orders);
                let stored = if is_stored { decided.orders.len() } else { 0 };
                let Step::Orders { unclear, .. } = &mut batch.step else { return };
                let unclear = unclear.take().unwrap_or_default();
                let overtaken = !is_stored && !messages.is_empty();
                self.batch = Some(batch);
                if is_stored {
                    if let Some(batch) = self.batch.take() {
                        self.ordered(batch, now);
                    }
                } else {
                    self.take_back();
                }
                for message in &messages[stored..] {
                    self.take(log, message, now);
                }
                if overtaken && self.is_leading() {
                    self.report(Report::Overtaken(log));
                    if let Some(batch) = self.batch.take() {
                        self.decide_batch(batch, now);
                    }
                } else if !is_stored && self.is_leading() {
                    // Not there, or not yet: it is decided again after a pause, and loses its compare-and-set if it came late.
                    self.put_off("append orders", unclear, now);
                }
            }
            Step::Record { record, unclear } if log == Log::Decisions => {
                let is_stored = begins_with(&messages, &record.messages);
                let stored = if is_stored { record.messages.len() } else { 0 };
                let unclear = unclear.take();
                if is_stored {
                    self.take_own(&mut batch, self.decisions + 1);
                }
                self.decisions += stored as u64;
                // What others stored comes before what is not stored.
                self.lift(&mut batch);
                self.batch = Some(batch);
                for message in &messages[stored..] {
                    self.take(log, message, now);
                }
                let Some(batch) = self.batch.take() else { return };
                match unclear {
                    _ if is_stored || self.is_recorded(&batch) => self.recorded(batch),
                    Some(error) if messages.is_empty() => self.park(batch, "append decisions", error, now),
                    // Nobody else answers inputs while this process leads: what it says is still right.
                    _ => self.append_record(batch, now),
                }
            }
            _ => self.batch = Some(batch),
        }
    }
}

fn begins_with(messages: &[Message], outgoing: &[Outgoing]) -> bool {
    messages.len() >= outgoing.len() && outgoing.iter().zip(messages).all(|(sent, found)| sent.body == found.body)
}

fn report(order: &Order, now: Now) -> Report {
    Report::Ordered {
        host: order.host.clone(),
        generation: order.generation,
        posture: order.posture,
        reason: order.reason.clone(),
        latency: (now.broker - order.issued_at).to_std().unwrap_or_default(),
    }
}
