//! What the decisions of a batch change beside orders lies over the fold while they are not stored, so that each later input sees it.
//!
//! It is lifted before anything else is folded, and when the batch is put off: what is folded is what is stored, with the place where it is.

use portcullis_schemas::events::Decision;

use crate::control::Before;
use crate::words::{NOT_RECORDED, Said};

use super::{Batch, Step, waits};
use crate::machine::Machine;

/// What was in the place of what one decision changed.
#[derive(Debug)]
pub(super) struct Laid {
    control: Before,
    said: Option<Said>,
}

impl Laid {
    /// Whether it changed this pending approval.
    pub(super) fn touches(&self, ask: &str) -> bool {
        self.control.touches(ask)
    }
}

impl Machine {
    /// Whether a decision says something that is folded beside orders.
    pub(super) fn folds(&self, decision: &Decision) -> bool {
        waits(decision) || self.control.concerns(decision)
    }

    pub(super) fn lift(&mut self, batch: &mut Batch) {
        for Laid { control, said } in std::mem::take(&mut batch.overlay).into_iter().rev() {
            if let Some(said) = said {
                self.fleet.put_back_words(said);
            }
            self.control.put_back(control);
        }
    }

    /// Lays one decision over what is folded.
    pub(super) fn lay_one(&mut self, decision: &Decision) -> Laid {
        Laid { control: self.control.take(decision, NOT_RECORDED), said: self.fleet.take_words(decision, NOT_RECORDED) }
    }

    /// Lays it over once more.
    pub(super) fn lay(&mut self, batch: &mut Batch) {
        let Step::Record { record, .. } = &batch.step else { return };
        if batch.folds && batch.overlay.is_empty() {
            batch.overlay.extend(record.answers.iter().map(|answer| self.lay_one(&answer.decision)));
        }
    }

    /// Its records are stored, from `first` on.
    pub(super) fn take_own(&mut self, batch: &mut Batch, first: u64) {
        self.lift(batch);
        let Step::Record { record, .. } = &batch.step else { return };
        // Another leader may come behind it, and then nothing else is left of this batch.
        for answer in &record.answers {
            if let Some(sequence) = answer.sequence {
                self.answered.insert(answer.stream, sequence, sequence);
            }
        }
        if batch.folds {
            self.take_own_records(&record.messages, first);
        }
    }
}
