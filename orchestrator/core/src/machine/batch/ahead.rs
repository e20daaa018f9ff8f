//! The next batch, decided while one is stored: deciding and storing take about as long, and so neither waits for the other.
//!
//! Its orders lie over those in flight, and are numbered behind them. Whatever is no clean acknowledgement of the batch in flight undoes it first.

use super::super::Machine;
use super::super::event::Now;
use super::{Batch, Step};

impl Machine {
    /// Whether what waits can be decided while a batch is stored: see [`Event::Idle`](crate::machine::Event::Idle).
    pub fn can_decide_ahead(&self) -> bool {
        let is_stored = |batch: &Batch| match &batch.step {
            Step::Orders { unclear, .. } => unclear.is_none() && !batch.folds,
            Step::Record { unclear, record } => unclear.is_none() && record.activates.is_none() && !batch.folds,
            _ => false,
        };
        self.ahead.is_none() && !self.policies.has_next() && self.has_next() && self.batch.as_ref().is_some_and(is_stored)
    }

    /// Decides what waits against the fleet as the batch in flight leaves it. It is sent when that one is stored.
    pub(in crate::machine) fn decide_ahead(&mut self, now: Now) {
        if !self.can_decide_ahead() {
            return;
        }
        let batch = Batch::new(self.take_next());
        self.ahead = Some(match batch.step {
            Step::Open => {
                let (batch, decided) = self.decide(batch, now);
                Batch { step: Step::Ahead(Box::new(decided)), ..batch }
            }
            _ => batch,
        });
    }

    /// What was decided ahead is decided again, when its turn comes.
    pub(super) fn undo_ahead(&mut self) {
        let Some(mut batch) = self.ahead.take() else { return };
        self.lift(&mut batch);
        let step = &mut batch.step;
        if let Step::Ahead(decided) = step {
            for displaced in std::mem::take(&mut decided.displaced).into_iter().rev() {
                self.fleet.put_back(displaced);
            }
            *step = Step::Open;
        }
        self.ahead = Some(batch);
    }

    /// Whether orders that nobody has stored lie over the fleet, or may.
    pub(in crate::machine) fn is_overlaid(&self) -> bool {
        self.ahead.as_ref().is_some_and(|batch| matches!(batch.step, Step::Ahead(_)))
    }
}
