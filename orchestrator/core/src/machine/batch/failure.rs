//! A batch that cannot go on: it takes its orders back, is put off in halves, or its inputs are kept whole.

use std::time::Duration;

use portcullis_schemas::rejected::Malformed;

use super::{Batch, Entry, FIRST_PAUSE, LONGEST_PAUSE, Step, TOO_LARGE};
use crate::machine::Machine;
use crate::machine::event::{Now, Report};
use crate::machine::queue::Item;

impl Machine {
    /// The orders of the batch in flight are not stored: the fleet is as it was before them.
    pub(in crate::machine) fn take_back(&mut self) {
        self.undo_ahead();
        let Some(mut batch) = self.batch.take() else { return };
        self.lift(&mut batch);
        let step = &mut batch.step;
        if let Step::Orders { decided, .. } = step {
            for displaced in std::mem::take(&mut decided.displaced).into_iter().rev() {
                self.fleet.put_back(displaced);
            }
            *step = Step::Open;
        }
        self.batch = Some(batch);
    }

    /// A message, or what follows from it, is larger than the broker takes. Alone it has no answer, and is kept whole.
    pub(super) fn too_large(&mut self, batch: Batch, now: Now) {
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
            self.give_up_activation();
        }
        for entry in batch.entries {
            self.cannot_answer(entry, Malformed::Unanswerable(TOO_LARGE.to_owned()));
        }
    }

    /// An answer that can never be stored: the input is kept whole.
    pub(super) fn cannot_answer(&mut self, entry: Entry, why: Malformed) {
        match &entry.item {
            Item::Delivered(_) | Item::Known(_) | Item::Activate(_) => self.reject(entry.item, why),
            item => {
                match item {
                    Item::Over(over) => self.waiting.remove(over.sequence),
                    Item::Asked(pending) => self.control.forget(&pending.ask.id),
                    _ => {}
                }
                let token = entry.decoded.map(|decoded| decoded.key.token).unwrap_or_default();
                self.report(Report::Unanswerable { token, why });
            }
        }
    }

    /// Puts the batch off after a failure that passes; others go on meanwhile. In halves, so that an input that fails alone holds up nobody.
    pub(super) fn put_off(&mut self, step: &'static str, error: String, now: Now) {
        let Some(mut batch) = self.batch.take() else { return };
        let second = batch.entries.split_off(batch.entries.len().div_ceil(2));
        let failures = batch.failures + 1;
        let until = now.boot + pause(batch.failures);
        self.park(batch, step, error, now);
        if !second.is_empty() {
            self.queue.park(until, Batch::of(second, Step::Open, failures));
        }
    }

    pub(super) fn park(&mut self, mut batch: Batch, step: &'static str, error: String, now: Now) {
        self.lift(&mut batch);
        let pause = pause(batch.failures);
        batch.failures += 1;
        self.report(Report::Retry { step, error, pause });
        self.queue.park(now.boot + pause, batch);
    }
}

pub(in crate::machine) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(5)).min(LONGEST_PAUSE)
}
