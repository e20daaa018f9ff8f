//! Does what the core decided: writes, enforces, reports, and comes back to what failed.

use std::io;
use std::time::Duration;

use portcullis_agent_core::converge::Report;
use portcullis_agent_core::gate::Gate;
use portcullis_agent_core::record::{Frozen, Record, Standing};
use portcullis_schemas::events::{Posture, StateCause};
use portcullis_schemas::exclusion::measure::TooMuch;
use tokio::time::Instant;

use super::attached::Attached;
use super::guard::{Found, LOOK, TOGETHER};
use super::{Agent, Retry, SETTLE, Upkeep, writing};
use crate::enforce::Outcome;
use crate::facts;
use crate::jitter;
use crate::places;
use crate::posture_file::{Which, Written};
use crate::probes;
use crate::report;
use crate::steps::step;

const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
const REWRITE: Duration = Duration::from_secs(30);

impl Agent {
    pub(super) fn persist(&mut self, mut record: Record) {
        if record.posture == Posture::Isolated {
            if record.frozen.is_none() {
                let programs = self.programs_before();
                record.frozen = Some(Frozen { programs, ..facts::gather(&self.resolv_conf) });
            }
            let frozen = record.frozen.get_or_insert_default();
            places::locate(frozen, record.order.as_ref().map_or(&[][..], |order| &order.exclusions));
            frozen.brokers.clone_from(&self.brokers);
            frozen.agent_uid = rustix::process::geteuid().as_raw();
        }
        // Every other change is put in force after it, and is not until then.
        let enforced = self.host.standing.record();
        let is_same = enforced.is_some_and(|old| {
            let places = |record: &Record| record.frozen.as_ref().map(|frozen| (frozen.brokers.clone(), frozen.names.clone()));
            (old.generation, old.posture, places(old)) == (record.generation, record.posture, places(&record))
        });
        if let Some(frozen) = record.frozen.as_mut().filter(|_| !is_same) {
            frozen.whole_by = None;
        }
        let (generation, posture) = (record.generation, record.posture.as_str());
        if enforced.is_none_or(|old| old.generation != generation) {
            self.tell_rest_of_tampering();
        }
        if self.host.standing.record().is_none_or(|old| (old.generation, old.posture) != (generation, record.posture)) {
            let by = record.opened.as_ref().map_or("an order", |_| "this host itself");
            tracing::info!(generation, posture, by, "the posture changes");
        }
        self.host.standing = Standing::Known(Box::new(record.clone()));
        if record.opened.is_some() {
            // Nothing comes again that says so, and an older order would isolate the host anew: first the disk, however long it takes.
            self.wait_for_disk();
            self.write(Which::A, &record);
        } else {
            let gate = (record.posture == Posture::Isolated).then(|| self.gate());
            let writing = self.begin_writing(&record);
            let wait = || writing::wait(writing.as_ref());
            let waited = match gate {
                // Nothing is in force before it is on the disk, if that answers; what takes long is made ready meanwhile.
                Some(gate) => self.enforcer.prepare(&gate, wait),
                // Should it not come to the disk, the host is isolated again, and the order comes again.
                None => self.enforcer.lift(wait),
            };
            self.written_or_pending(writing, waited);
        }
        self.upkeep.second = true;
        self.upkeep.settle.get_or_insert_with(|| Instant::now() + SETTLE);
        step("agent.persisted");
    }

    fn write(&mut self, which: Which, record: &Record) {
        let written = self.file.write(which, record);
        self.written(which, written);
    }

    /// On a full disk everything goes on: the host is isolated all the same, and says that a reboot would not know it.
    pub(super) fn written(&mut self, which: Which, written: io::Result<Written>) {
        let path = self.file.path(which);
        self.upkeep.unwritten = match written {
            Ok(Written::Replaced) => None,
            Ok(Written::InPlace(error)) => Some(format!("the posture is on the disk in one copy only: {error}; make space")),
            Err(error) => Some(format!("the posture is not on the disk, a restart may not know it: {}: {error}", path.display())),
        };
        if let Some(error) = &self.upkeep.unwritten {
            tracing::error!("{error}");
        }
    }

    fn gate(&mut self) -> Gate {
        let bare = Frozen {
            brokers: self.brokers.clone(),
            agent_uid: rustix::process::geteuid().as_raw(),
            proof: Some(self.proof),
            ..Frozen::default()
        };
        let Some(record) = self.host.standing.record() else { return bare.bare() };
        let now = self.clock.now();
        let (gate, problems) = record.gate(&now);
        let opens = record.opens(&now);
        self.upkeep.opens = Some(opens);
        self.upkeep.excess = problems.iter().filter(|problem| problem.is_excess()).map(ToString::to_string).take(1).collect();
        if opens.is_wide() {
            self.upkeep.excess.push(TooMuch::Open { opens }.to_string());
        }
        self.upkeep.left_out = problems.iter().map(ToString::to_string).collect();
        // A record from before this start may name brokers that are no longer configured.
        Gate { control: bare.bare().control, agent_uid: bare.agent_uid, proof: gate.proof.or(bare.proof), ..gate }
    }

    /// An answer that waited for an earlier try is given with this one; what was found by looking is told by whoever looks.
    pub(super) fn enforce(&mut self) {
        let generation = self.host.standing.generation(&self.host.me);
        let untold = self.upkeep.retry.take().and_then(|retry| retry.report).filter(|report| report.generation == generation);
        if self.try_enforce() == Outcome::TryAgain {
            self.again(1, Some(untold.unwrap_or_else(|| self.host.stands(StateCause::Check))));
        } else if let Some(report) = untold.filter(|report| report.cause != StateCause::Check) {
            self.report(&report);
        }
    }

    fn try_enforce(&mut self) -> Outcome {
        let was_open = self.enforcer.posture == Posture::Open;
        let outcome = match self.host.standing.posture() {
            Posture::Open => {
                self.end_trial();
                self.upkeep.left_out.clear();
                self.upkeep.attached = Attached::default();
                self.upkeep.found = Found::default();
                self.upkeep.room.problem = None;
                self.upkeep.excess.clear();
                self.upkeep.opens = None;
                self.enforcer.open()
            }
            Posture::Isolated => {
                self.find_groups();
                let gate = self.gate();
                let outcome = self.enforcer.isolate(&gate);
                if was_open && self.enforcer.posture == Posture::Isolated {
                    self.begin_trial();
                }
                // A device that went while an order was carried out is told like any other.
                let (changed, took) = if outcome == Outcome::Done { self.enforcer.put_right() } else { (Vec::new(), None) };
                let soon = match (changed.is_empty(), self.enforcer.gone.is_empty()) {
                    (false, _) => TOGETHER,
                    (true, false) => Duration::ZERO,
                    (true, true) => LOOK,
                };
                self.upkeep.found.changed(changed, took);
                self.upkeep.look = Some(Instant::now() + soon);
                self.probe_change();
                if let (Standing::Known(record), Some(gate)) = (&mut self.host.standing, &self.enforcer.gate)
                    && let Some(frozen) = &mut record.frozen
                {
                    let whole_by = (outcome == Outcome::Done).then(|| crate::VERSION.to_owned());
                    let proof = gate.proof.or(frozen.proof);
                    self.upkeep.second |=
                        frozen.standing != gate.standing || frozen.whole_by != whole_by || frozen.proof != proof;
                    frozen.proof = proof;
                    frozen.standing.clone_from(&gate.standing);
                    frozen.whole_by = whole_by;
                }
                outcome
            }
        };
        match &self.enforcer.error {
            Some(error) => tracing::error!(posture = self.enforcer.posture.as_str(), "{error}"),
            None => tracing::info!(posture = self.enforcer.posture.as_str(), "in force"),
        }
        for problem in &self.upkeep.excess {
            tracing::error!("{problem}");
        }
        for problem in &self.upkeep.left_out {
            tracing::info!("{problem}");
        }
        outcome
    }

    fn again(&mut self, attempt: u64, report: Option<Report>) {
        let at = Instant::now() + jitter::back_off(&self.host.me, "enforce", attempt, RETRY.0, RETRY.1);
        self.upkeep.retry = Some(Retry { attempt, at, report, error: self.enforcer.error.clone() });
    }

    pub(super) fn report(&mut self, report: &Report) {
        if let Some(retry) = &mut self.upkeep.retry {
            retry.report = Some(report.clone());
        }
        let probes = probes::failures(&self.enforcer.evidence.probes);
        let (attached, leaks) = match self.enforcer.posture {
            Posture::Isolated => (self.upkeep.attached.problems(), self.upkeep.attached.leaks()),
            Posture::Open => (Vec::new(), Vec::new()),
        };
        let Upkeep { unwritten, room, excess, .. } = &self.upkeep;
        let own = unwritten.iter().chain(&room.problem).chain(excess).chain(&self.faults).cloned();
        let problems: Vec<String> = own.chain(probes).chain(attached).collect();
        let now = self.clock.now();
        let mut state = report::state(&self.identity, (&self.enforcer, self.level()), report, &problems, &now);
        state.evidence.opens = self.upkeep.opens.filter(|_| state.posture == Posture::Isolated);
        state.leaks.extend(leaks.iter().cloned());
        self.upkeep.attached.told(leaks);
        match report::event(&self.identity, report, state, now.wall) {
            Ok(event) => {
                self.upkeep.trial.says(&event.id);
                self.outbox.push(event);
            }
            Err(error) => tracing::error!(%error, "cannot write the state event"),
        }
        self.upkeep.settle.get_or_insert_with(|| Instant::now() + SETTLE);
    }

    /// What waited for its time.
    pub(super) fn late(&mut self) {
        let now = Instant::now();
        if let Some(retry) = self.upkeep.retry.take_if(|retry| retry.at <= now) {
            let outcome = self.try_enforce();
            if outcome == Outcome::TryAgain {
                self.again(retry.attempt + 1, retry.report.clone());
            }
            if let Some(report) = retry.report.filter(|_| outcome == Outcome::Done || self.enforcer.error != retry.error) {
                self.report(&report);
            }
        }
        if self.enforcer.posture == Posture::Isolated && self.upkeep.look.is_some_and(|at| at <= now) {
            self.look(now);
            self.probe_soon();
        }
        self.late_trial(now);
        self.watch_attached();
        self.late_probes(now);
        self.relocate();
        self.late_room(now);
        self.late_tampering();
        if self.upkeep.settle.is_some_and(|at| at <= now) {
            self.settle();
        }
    }

    pub(super) fn settle(&mut self) {
        self.upkeep.settle = None;
        self.enforcer.give_memory_back();
        if self.enforcer.posture == Posture::Isolated {
            self.introduce_attached();
        }
        if !self.has_written() {
            return;
        }
        if let (Standing::Known(record), true) = (&mut self.host.standing, self.upkeep.second) {
            record.serial += 1;
            let record = record.clone();
            let failed_before = self.upkeep.unwritten.is_some();
            self.write(Which::B, &record);
            if failed_before && self.upkeep.unwritten.is_none() {
                self.write(Which::A, &record);
            }
            self.upkeep.second = self.upkeep.unwritten.is_some();
        }
        if let Err(error) = self.outbox.save() {
            tracing::warn!(%error, "cannot keep the state event on the disk; it is only in memory until the broker has it");
        }
        if self.upkeep.unwritten.is_some() {
            self.upkeep.settle = Some(Instant::now() + REWRITE);
        }
    }
}
