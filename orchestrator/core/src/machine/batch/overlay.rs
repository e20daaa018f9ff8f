//! What the decisions of a batch change beside orders lies over the fold while they are not stored, so that each later input sees it.
//!
//! It is lifted before anything else is folded, and when the batch is put off: what is folded is what is stored, with the place where it is.

use portcullis_schemas::events::Decision;

use super::{Batch, Step, waits};
use crate::machine::Machine;

/// The record of a decision that is not stored.
pub(super) const NOT_STORED: u64 = u64::MAX;

impl Machine {
    /// Whether a decision says something that is folded beside orders.
    pub(super) fn folds(&self, decision: &Decision) -> bool {
        waits(decision) || self.control.concerns(decision)
    }

    pub(super) fn lift(&mut self, batch: &mut Batch) {
        for before in std::mem::take(&mut batch.overlay).into_iter().rev() {
            self.control.put_back(before);
        }
    }

    /// Lays it over once more.
    pub(super) fn lay(&mut self, batch: &mut Batch) {
        let Step::Record { record, .. } = &batch.step else { return };
        if batch.folds && batch.overlay.is_empty() {
            batch.overlay.extend(record.answers.iter().map(|answer| self.control.take(&answer.decision, NOT_STORED)));
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
