//! Reads the inputs of a batch and decides each in its turn.

use std::panic::{AssertUnwindSafe, catch_unwind};

use portcullis_schemas::events::{ReleaseDue, Seen, State, WaitEnd};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{Stream, Timestamp, ids};

use super::overlay::Laid;
use super::{Batch, Decided, Entry, Step};
use crate::machine::Machine;
use crate::machine::event::{Command, Now, Outgoing, Report};
use crate::machine::queue::Item;
use crate::machine::read;
use crate::machine::read::Decoded;
use crate::machine::write;
use crate::{Input, Outcome, decide};

impl Machine {
    /// Reads every input, then decides each in its turn against the fleet as the orders before it leave it.
    pub(super) fn decide(&mut self, batch: Batch, now: Now) -> (Batch, Decided) {
        let mut readable = Vec::new();
        for mut entry in batch.entries {
            match caught(|| self.read_entry(&mut entry)) {
                Ok(()) => match (self.text_wanted(&entry), entry.item) {
                    (Some(hash), Item::Delivered(delivered)) => self.read_first(hash, delivered),
                    (_, item) => readable.push(Entry { item, ..entry }),
                },
                Err(why) => self.reject(entry.item, why),
            }
        }
        let policy = self.policy.as_ref().map(|policy| policy.hash().to_owned());
        // The states among them are taken by now.
        let mut overlay = Vec::new();
        let mut folds = false;
        let mut decided =
            Decided { seen: self.positions(), policy, outcomes: Vec::new(), orders: Vec::new(), displaced: Vec::new() };
        let mut entries = Vec::new();
        for entry in readable {
            // What was answered in this batch ends once the answer is stored.
            if let Item::Asked(pending) = &entry.item
                && overlay.iter().any(|laid: &Laid| laid.touches(&pending.ask.id))
            {
                self.ending.remove(&pending.ask.id);
                continue;
            }
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
                    if let Some(decision) = outcome.decision.as_ref().filter(|decision| self.folds(decision)) {
                        folds = true;
                        overlay.push(self.lay_one(decision));
                    }
                    decided.outcomes.push(outcome);
                    entries.push(entry);
                }
                Err(why) => self.cannot_answer(entry, why),
            }
        }
        (Batch { folds, overlay, ..Batch::of(entries, Step::Open, batch.failures) }, decided)
    }

    pub(super) fn read_entry(&mut self, entry: &mut Entry) -> Result<(), Malformed> {
        if entry.decoded.is_none() {
            entry.decoded = Some(Box::new(self.read_item(&entry.item)?));
        }
        Ok(())
    }

    fn text_wanted(&self, entry: &Entry) -> Option<String> {
        let is_delivered = matches!(entry.item, Item::Delivered(_));
        entry.decoded.as_deref().filter(|_| is_delivered).and_then(|decoded| self.wants_text(&decoded.input))
    }

    /// Reads an input, once. A state is a fact from then on.
    pub(super) fn read_item(&mut self, item: &Item) -> Result<Decoded, Malformed> {
        let decoded = match item {
            Item::Delivered(delivered) => read::input(&self.prefix, delivered.stream, &delivered.message)?,
            Item::State(message) => read::input(&self.prefix, Stream::States, message)?,
            Item::Inventory(message) => read::inventory(&self.prefix, message)?,
            Item::Lost { stream, first, last, at } => read::lost(&self.prefix, *stream, *first, *last, *at),
            // Its faults and its kind were reported when it came.
            Item::Known(message) => return read::input(&self.prefix, Stream::Detections, message),
            Item::Over(over) => return Ok(read::over(over)),
            Item::Asked(pending) => return Ok(read::asked(pending)),
            Item::PauseOver(until) => return Ok(read::pause_over(*until)),
            Item::BreakerOver(breaker, at) => return Ok(read::breaker_over(breaker, *at)),
            Item::Activate(activate) => {
                let active = self.active_policy().map(str::to_owned);
                return read::activation(&self.prefix, &activate.delivered, activate.text.clone(), active);
            }
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
    pub(in crate::machine) fn take_state(&mut self, sequence: u64, state: &State, at: Timestamp) {
        if sequence > self.states {
            self.states = sequence;
            self.fleet.take_state(state.clone(), at);
        }
    }

    pub(super) fn decide_entry(&self, entry: &Entry, now: Now) -> Result<(Outcome, Option<Outgoing>), Malformed> {
        let Some(decoded) = &entry.decoded else { return Ok((Outcome::default(), None)) };
        let remaining = |due: &ReleaseDue| self.deadlines.rest(&due.host, due.generation, now.boot);
        let outcome = match &decoded.input {
            input @ Input::ReleaseDue { .. } => {
                let input = read::with_remaining(input.clone(), remaining);
                decide(self.basis(), &input)
            }
            input => decide(self.basis(), input),
        };
        let outcome = if matches!(entry.item, Item::Known(_)) { outcome.after_a_wait() } else { outcome };
        let order = outcome.order.as_ref().map(|order| write::order(&self.prefix, order, &entry.trace())).transpose();
        match order {
            Ok(order) => Ok((outcome, order)),
            Err(why) => Err(Malformed::Unanswerable(why.to_string())),
        }
    }

    /// Whether the host of a detection that waited is known, and it still waits.
    pub(super) fn is_known(&self, entry: &Entry, outcome: &Outcome) -> bool {
        let has_host = outcome.decision.as_ref().is_some_and(|decision| decision.host.is_some());
        has_host && self.waiting.is_live(entry.item.sequence())
    }

    /// Whether a detection whose time was over waits longer, since it was stored once more.
    pub(super) fn is_prolonged(&self, entry: &Entry) -> bool {
        let Item::Over(over) = &entry.item else { return false };
        over.end == WaitEnd::TimedOut && self.waiting.get(over.sequence).is_some_and(|wait| wait.until > over.wait.until)
    }

    pub(in crate::machine) fn positions(&self) -> Seen {
        Seen {
            term: self.term,
            orders: self.orders + self.batch.as_ref().map_or(0, Batch::orders_in_flight),
            decisions: self.decisions,
            inventory: self.inventory,
            states: self.states,
            waiting: [self.waiting.recorded_from(), self.control.recorded_from(), self.fleet.words_from()]
                .into_iter()
                .flatten()
                .min(),
        }
    }
}

/// A panic ends the work on one input, and nothing else.
fn caught<T>(work: impl FnOnce() -> Result<T, Malformed>) -> Result<T, Malformed> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Malformed::Poison(1)))
}
