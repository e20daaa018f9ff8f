//! The protocol of a batch: decided against the fleet with its own orders laid over it, orders stored, answers stored, acknowledged.
//!
//! Whatever is no clean acknowledgement is answered by reading the log on: all of the batch is there, or nothing. Where nothing is there, its orders are
//! taken back; it is put off, in halves, and decided again. What an answer says stays, once its orders are stored.

mod ahead;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use portcullis_policy::Policy;
use portcullis_schemas::events::{Decision, Order, PolicyActivated, Reason, ReleaseDue, Seen, State, WaitEnd};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{Stream, Timestamp, ids};

use super::Machine;
use super::event::{Appended, Command, Delivered, Log, Message, Now, Outgoing, Report, Ticket};
use super::page::{self, Answer};
use super::queue::Item;
use super::read::{self, Decoded};
use super::write::{self, Trace};
use crate::fleet::Displaced;
use crate::{Input, Outcome, decide};

/// An input on which work was begun and never finished while it was alone is what ended the process.
const POISON: u64 = 1;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const READ_ON: &str = "read the log on";
const TOO_LARGE: &str = "the message is larger than the broker takes";

/// Inputs that are decided and stored together.
#[derive(Debug)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    step: Step,
    failures: u32,
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
    activates: Option<Activation>,
}

/// The policy that is to decide; None where a leader has none.
#[derive(Clone, Debug)]
pub(super) struct Activation(pub Option<Arc<Policy>>);

impl Activation {
    pub(super) fn hash(&self) -> Option<&str> {
        self.0.as_ref().map(|policy| policy.hash())
    }
}

impl Batch {
    pub(super) fn new(items: Vec<Item>) -> Self {
        let step = if items.len() == 1 && items[0].is_suspect() { Step::Mark } else { Step::Open };
        Self { entries: items.into_iter().map(|item| Entry { item, decoded: None }).collect(), step, failures: 0 }
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

    /// Its inputs. Its orders have been taken back, or are stored.
    pub(super) fn dissolve(self) -> Vec<Item> {
        self.entries.into_iter().map(|entry| entry.item).collect()
    }
}

impl Record {
    /// Whether it says anything of detections that wait.
    fn has_waits(&self) -> bool {
        waits(self.answers.iter().map(|answer| &answer.decision))
    }
}

/// Whether any of these says something of detections that wait.
fn waits<'a>(mut decisions: impl Iterator<Item = &'a Decision>) -> bool {
    decisions.any(|decision| {
        let waits = matches!(&decision.reason, Reason::Unresolved { waits: Some(_), .. });
        waits || decision.waited || decision.retracts.is_some()
    })
}

impl Entry {
    fn ticket(&self) -> Option<Ticket> {
        match &self.item {
            Item::Delivered(Delivered { stream, message, .. }) => Some(Ticket { stream: *stream, sequence: message.sequence }),
            _ => None,
        }
    }

    /// Part of its order's time is over.
    fn waited(&self) -> bool {
        matches!(&self.item, Item::Delivered(Delivered { waited: true, .. }) | Item::Known(_))
    }

    fn trace(&self) -> Trace {
        // What nobody sent has no cause.
        let caused =
            self.decoded.as_deref().filter(|_| matches!(self.item, Item::Delivered(_) | Item::State(_) | Item::Known(_)));
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

    /// Reads every input, then decides each in its turn against the fleet as the orders before it leave it.
    fn decide(&mut self, batch: Batch, now: Now) -> (Batch, Decided) {
        let mut readable = Vec::new();
        for mut entry in batch.entries {
            match caught(|| self.read_entry(&mut entry)) {
                Ok(()) => readable.push(entry),
                Err(why) => self.reject(entry.item, why),
            }
        }
        // The states among them are taken by now.
        let mut decided = Decided { seen: self.positions(), outcomes: Vec::new(), orders: Vec::new(), displaced: Vec::new() };
        let mut entries = Vec::new();
        for entry in readable {
            match caught(|| self.decide_entry(&entry, now)) {
                Ok((outcome, order)) => {
                    if matches!(entry.item, Item::Known(_)) && !self.is_known(&entry, &outcome) || self.is_prolonged(&entry) {
                        self.waiting.release(entry.item.sequence());
                        continue;
                    }
                    if let (Some(delay), Some(ticket)) = (outcome.again_in, entry.ticket()) {
                        self.commands.push_back(Command::Defer(ticket, delay));
                        continue;
                    }
                    if let (Some(made), Some(outgoing)) = (&outcome.order, order) {
                        let sha256 = ids::sha256(&outgoing.body);
                        decided.displaced.push(self.fleet.take_order(made.clone(), sha256));
                        decided.orders.push(outgoing);
                    }
                    decided.outcomes.push(outcome);
                    entries.push(entry);
                }
                Err(why) => self.cannot_answer(entry, why),
            }
        }
        (Batch { entries, step: Step::Open, failures: batch.failures }, decided)
    }

    fn send(&mut self, batch: Batch, decided: Decided, now: Now) {
        if decided.orders.is_empty() {
            return self.record(batch, decided, now);
        }
        self.append(Log::Orders, decided.orders.clone());
        self.batch = Some(Batch { step: Step::Orders { decided: Box::new(decided), unclear: None }, ..batch });
    }

    fn read_entry(&mut self, entry: &mut Entry) -> Result<(), Malformed> {
        if entry.decoded.is_none() {
            entry.decoded = Some(Box::new(self.read_item(&entry.item)?));
        }
        Ok(())
    }

    fn decide_entry(&self, entry: &Entry, now: Now) -> Result<(Outcome, Option<Outgoing>), Malformed> {
        let Some(decoded) = &entry.decoded else { return Ok((Outcome::default(), None)) };
        let remaining = |due: &ReleaseDue| self.deadlines.rest(&due.host, due.generation, now.boot);
        let outcome = match &decoded.input {
            input @ Input::ReleaseDue { .. } => {
                let input = read::with_remaining(input.clone(), remaining);
                decide(&self.fleet, self.policy.as_deref(), &self.config, &input)
            }
            input => decide(&self.fleet, self.policy.as_deref(), &self.config, input),
        };
        let outcome = if matches!(entry.item, Item::Known(_)) { outcome.after_a_wait() } else { outcome };
        let order = outcome.order.as_ref().map(|order| write::order(&self.prefix, order, &entry.trace())).transpose();
        match order {
            Ok(order) => Ok((outcome, order)),
            Err(why) => Err(Malformed::Unanswerable(why.to_string())),
        }
    }

    /// Reads an input, once. A state is a fact from then on.
    fn read_item(&mut self, item: &Item) -> Result<Decoded, Malformed> {
        let decoded = match item {
            Item::Delivered(delivered) => read::input(&self.prefix, delivered.stream, &delivered.message)?,
            Item::State(message) => read::input(&self.prefix, Stream::States, message)?,
            Item::Inventory(message) => read::inventory(&self.prefix, message)?,
            Item::Lost { stream, first, last, at } => read::lost(&self.prefix, *stream, *first, *last, *at),
            // Its faults and its kind were reported when it came.
            Item::Known(message) => return read::input(&self.prefix, Stream::Detections, message),
            Item::Over(over) => return Ok(read::over(over)),
        };
        if let [first, ..] = decoded.faults() {
            let (token, id) = (decoded.key.token.clone(), decoded.key.id.clone());
            let (faults, first) = (decoded.faults().len(), first.clone());
            self.report(Report::Faults { token, id, faults, first });
        }
        if let Input::State(meta, state) = &decoded.input {
            self.take_state(item.sequence(), state, meta.at);
        }
        self.report(Report::Input(decoded.key.kind));
        Ok(decoded)
    }

    /// A state is a fact once. One that is answered late is not the host's last word by that.
    pub(super) fn take_state(&mut self, sequence: u64, state: &State, at: Timestamp) {
        if sequence > self.states {
            self.states = sequence;
            self.fleet.take_state(state.clone(), at);
        }
    }

    /// Whether the host of a detection that waited is known, and it still waits.
    fn is_known(&self, entry: &Entry, outcome: &Outcome) -> bool {
        let has_host = outcome.decision.as_ref().is_some_and(|decision| decision.host.is_some());
        has_host && self.waiting.is_live(entry.item.sequence())
    }

    /// Whether a detection whose time was over waits longer, since it was stored once more.
    fn is_prolonged(&self, entry: &Entry) -> bool {
        let Item::Over(over) = &entry.item else { return false };
        over.end == WaitEnd::TimedOut && self.waiting.get(over.sequence).is_some_and(|wait| wait.until > over.wait.until)
    }

    pub(super) fn positions(&self) -> Seen {
        Seen {
            term: self.term,
            orders: self.orders + self.batch.as_ref().map_or(0, Batch::orders_in_flight),
            decisions: self.decisions,
            inventory: self.inventory,
            states: self.states,
            waiting: self.waiting.recorded_from(),
        }
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
                if record.has_waits() {
                    self.take_own_waits(&record.messages, first);
                }
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

    fn record(&mut self, batch: Batch, decided: Decided, now: Now) {
        let (mut answers, mut notices) = (Vec::new(), Vec::new());
        for (entry, outcome) in batch.entries.iter().zip(decided.outcomes) {
            let at = outcome.decision.as_ref().and_then(|decision| decision.facts.now).unwrap_or(now.broker);
            if let Some(decision) = outcome.decision {
                let (stream, sequence) = (entry.item.stream(), entry.item.sequence());
                answers.push(Answer::new(stream, sequence, decision, &outcome.notices, entry.trace()));
            }
            notices.extend(outcome.notices.into_iter().map(|notice| (notice, at)));
        }
        self.notify(notices, now);
        let policy = self.policy.as_ref().map(|policy| policy.hash().to_owned());
        let record = Record { answers, seen: decided.seen, policy, messages: Vec::new(), shortened: false, activates: None };
        self.append_record(Batch { step: Step::Record { record: Box::new(record), unclear: None }, ..batch }, now);
    }

    /// Appends what answers the batch, behind what is known of the log by now.
    fn append_record(&mut self, mut batch: Batch, now: Now) {
        let Step::Record { record, unclear } = &mut batch.step else { return };
        *unclear = None;
        if record.activates.is_none() {
            let Record { answers, seen, policy, shortened, .. } = record.as_ref();
            match page::messages(&self.prefix, answers, seen, policy.as_deref(), *shortened) {
                Ok(messages) => record.messages = messages,
                Err(_) if !*shortened => {
                    record.shortened = true;
                    return self.append_record(batch, now);
                }
                Err(_) => return self.too_large(batch, now),
            }
        }
        if record.messages.is_empty() {
            return self.recorded(batch);
        }
        self.append(Log::Decisions, record.messages.clone());
        self.batch = Some(batch);
    }

    fn recorded(&mut self, mut batch: Batch) {
        let Step::Record { record, .. } = std::mem::replace(&mut batch.step, Step::Open) else { return };
        for answer in &record.answers {
            self.report(Report::Verdict(answer.decision.verdict));
            if let Some(sequence) = answer.sequence {
                self.answered.insert(answer.stream, sequence, sequence);
            }
        }
        // Where it was seen in the log before, it decides already, or another one by now.
        if let Some(activation) = record.activates.filter(|own| self.is_activating(own)) {
            self.active_policy = activation.hash().map(str::to_owned);
            self.activated();
        }
        let tickets: Vec<Ticket> = batch.entries.iter().filter_map(Entry::ticket).collect();
        if !tickets.is_empty() {
            self.commands.push_back(Command::Ack(tickets));
        }
    }

    /// What is on its way to its record decides, where that is the active policy by the log.
    pub(super) fn activated(&mut self) {
        let active = self.active_policy.clone();
        if let Some(Activation(policy)) = self.activating.take_if(|next| next.hash() == active.as_deref()) {
            self.policy = policy;
            self.report(Report::PolicyActivated { hash: active });
        }
    }

    fn is_activating(&self, activation: &Activation) -> bool {
        self.activating.as_ref().is_some_and(|next| next.hash() == activation.hash())
    }

    /// A policy decides from its record on.
    pub(super) fn activate(&mut self, activation: Activation, now: Now) {
        let hash = activation.hash().map(str::to_owned);
        if hash == self.active_policy {
            self.policy = activation.0;
            return;
        }
        let reason = hash.is_none().then(|| "the leader has no valid policy".to_owned());
        let data = PolicyActivated { hash: hash.clone(), activated_by: "file".into(), reason, term: self.term };
        match write::policy(&self.prefix, data, now.broker) {
            Ok(message) => {
                self.activating = Some(activation.clone());
                let record = Record {
                    answers: Vec::new(),
                    seen: self.positions(),
                    policy: hash,
                    messages: vec![message],
                    shortened: true,
                    activates: Some(activation),
                };
                let step = Step::Record { record: Box::new(record), unclear: None };
                self.append_record(Batch { entries: Vec::new(), step, failures: 0 }, now);
            }
            Err(why) => self.report(Report::Unanswerable { token: "policy".into(), why }),
        }
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
                if is_stored && record.has_waits() {
                    self.take_own_waits(&record.messages, self.decisions + 1);
                }
                self.decisions += stored as u64;
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

    /// Whether its answers came to be stored while it was put off.
    fn is_recorded(&self, batch: &Batch) -> bool {
        let Step::Record { record, .. } = &batch.step else { return false };
        let is_stored = |answer: &Answer, sequence: u64| match answer.decision.waited {
            true => !self.waiting.contains(sequence),
            false => self.answered.contains(answer.stream, sequence),
        };
        if let Some(activation) = &record.activates {
            return !self.is_activating(activation);
        }
        let mut answers = record.answers.iter();
        !record.answers.is_empty() && answers.all(|answer| answer.sequence.is_some_and(|sequence| is_stored(answer, sequence)))
    }

    /// The orders of the batch in flight are not stored: the fleet is as it was before them.
    pub(super) fn take_back(&mut self) {
        self.undo_ahead();
        let Some(Batch { step, .. }) = &mut self.batch else { return };
        if let Step::Orders { decided, .. } = step {
            for displaced in std::mem::take(&mut decided.displaced).into_iter().rev() {
                self.fleet.put_back(displaced);
            }
            *step = Step::Open;
        }
    }

    /// A message, or what follows from it, is larger than the broker takes. Alone it has no answer, and is kept whole.
    fn too_large(&mut self, batch: Batch, now: Now) {
        let is_ordered = matches!(batch.step, Step::Record { .. });
        self.batch = Some(batch);
        self.take_back();
        let Some(batch) = self.batch.take() else { return };
        if batch.entries.len() > 1 && !is_ordered {
            self.batch = Some(batch);
            return self.put_off("append a batch", TOO_LARGE.to_owned(), now);
        }
        if let Step::Record { record, .. } = &batch.step
            && record.activates.is_some()
        {
            self.activating = None;
        }
        for entry in batch.entries {
            self.cannot_answer(entry, Malformed::Unanswerable(TOO_LARGE.to_owned()));
        }
    }

    /// An answer that can never be stored: the input is kept whole.
    fn cannot_answer(&mut self, entry: Entry, why: Malformed) {
        match &entry.item {
            Item::Delivered(_) | Item::Known(_) => self.reject(entry.item, why),
            item => {
                if let Item::Over(over) = item {
                    self.waiting.remove(over.sequence);
                }
                let token = entry.decoded.map(|decoded| decoded.key.token).unwrap_or_default();
                self.report(Report::Unanswerable { token, why });
            }
        }
    }

    /// Puts the batch off after a failure that passes; others go on meanwhile. In halves, so that an input that fails alone holds up nobody.
    fn put_off(&mut self, step: &'static str, error: String, now: Now) {
        let Some(mut batch) = self.batch.take() else { return };
        let second = batch.entries.split_off(batch.entries.len().div_ceil(2));
        let failures = batch.failures + 1;
        let until = now.boot + pause(batch.failures);
        self.park(batch, step, error, now);
        if !second.is_empty() {
            self.queue.park(until, Batch { entries: second, step: Step::Open, failures });
        }
    }

    fn park(&mut self, mut batch: Batch, step: &'static str, error: String, now: Now) {
        let pause = pause(batch.failures);
        batch.failures += 1;
        self.report(Report::Retry { step, error, pause });
        self.queue.park(now.boot + pause, batch);
    }
}

/// A panic ends the work on one input, and nothing else.
fn caught<T>(work: impl FnOnce() -> Result<T, Malformed>) -> Result<T, Malformed> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Malformed::Poison(1)))
}

pub(super) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(5)).min(LONGEST_PAUSE)
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
