//! When an isolated host is probed, and what is said of it: after every change and with the regular look, never in the way of either.

use std::time::Duration;

use portcullis_schemas::events::{Posture, Probe, StateCause};
use tokio::time::Instant;

use super::Agent;
use crate::control::input::Input;

/// Between the starts of two rounds: a storm of changes is probed in its pauses.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Probing {
    /// When the next round begins, unless one is on its way.
    at: Option<Instant>,
    started: Option<Instant>,
    runs: bool,
    /// Changes so far: what was found before one says nothing of what is in force after it.
    changes: u64,
    /// What was last told, and of which generation.
    told: Option<(u64, Vec<Probe>)>,
    /// Something else was found since. It is told when the broker has the word on the change itself, which it would replace.
    news: bool,
    /// The last round's, since the last change.
    found: Vec<Probe>,
}

impl Probing {
    pub(super) fn found(&self) -> &[Probe] {
        &self.found
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.at.filter(|_| !self.runs)
    }
}

impl Agent {
    /// The rules have changed: what is known of them is to be found anew.
    pub(super) fn probe_change(&mut self) {
        self.probes_forgotten();
        self.probe_soon();
    }

    pub(super) fn probes_forgotten(&mut self) {
        self.upkeep.probing.changes += 1;
        self.upkeep.probing.found.clear();
    }

    pub(super) fn probe_soon(&mut self) {
        let probing = &mut self.upkeep.probing;
        if !self.probes.is_empty() {
            let now = Instant::now();
            probing.at = Some(probing.started.map_or(now, |started| now.max(started + PAUSE)));
        }
    }

    pub(super) fn late_probes(&mut self, now: Instant) {
        let probing = &mut self.upkeep.probing;
        if self.actual.posture != Posture::Isolated {
            (probing.at, probing.told, probing.news) = (None, None, false);
            return;
        }
        if probing.news && self.outbox.is_empty() {
            probing.news = false;
            let report = self.machine.report(StateCause::Check);
            self.report(&report);
        }
        let probing = &mut self.upkeep.probing;
        if probing.due().is_none_or(|at| at > now) {
            return;
        }
        (probing.at, probing.started, probing.runs) = (None, Some(now), true);
        let (changes, inputs) = (probing.changes, self.inputs.clone());
        let done = move |found| drop(inputs.blocking_send(Input::Probed { changes, found }));
        if let Err(error) = self.probes.start(&self.actual.control, done) {
            tracing::warn!(%error, "isolation not probed: retrying");
            probing.runs = false;
        }
    }

    pub(super) fn probed(&mut self, changes: u64, found: Vec<Probe>) {
        let generation = self.machine.generation();
        let probing = &mut self.upkeep.probing;
        probing.runs = false;
        if changes != probing.changes || self.actual.posture != Posture::Isolated {
            return;
        }
        probing.found.clone_from(&found);
        let now = Some((generation, found));
        if probing.told != now {
            (probing.told, probing.news) = (now, true);
        }
    }
}
