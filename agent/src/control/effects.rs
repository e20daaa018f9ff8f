//! Begins what the machine wants done, hands in what came of it, and comes back to what waits for its time.

use std::io;

use portcullis_agent_core::machine::{Effect, Event, Isolation, Report};
use portcullis_schemas::events::{Posture, StateCause};
use portcullis_schemas::exclusion::measure::TooMuch;
use tokio::time::Instant;

use super::attached::Attached;
use super::guard::{Found, LOOK, TOGETHER};
use super::{Agent, SETTLE, Upkeep};
use crate::control::report;
use crate::disk::writer;
use crate::firewall::worker::{Activated, Done, Job, Result};
use crate::local::status::Exclusions;
use crate::watch::probes;

/// A file that could not be written is tried again.
const REWRITE: std::time::Duration = std::time::Duration::from_secs(30);

impl Agent {
    /// Hands an event to the machine, and begins what follows. The refusal, for whoever asked.
    pub(super) fn handle(&mut self, event: Event<'_>) -> Option<String> {
        let held_back = self.machine.report(StateCause::Tamper);
        let before = (self.machine.generation(), self.machine.posture());
        let problem = self.machine.disk_problem().map(str::to_owned);
        self.machine.handle(event, &self.clock.now());
        let (generation, posture) = (self.machine.generation(), self.machine.posture());
        if before.0 != generation {
            // What was held back belongs to the order that was in force until now.
            self.tell_rest_of_tampering(&held_back);
        }
        if before != (generation, posture) {
            let by_itself = self.machine.stored().record().is_some_and(|record| record.opened.is_some());
            let by = if by_itself { "this host" } else { "an order" };
            tracing::info!(generation, posture = posture.as_str(), by, "posture changed");
        }
        let refused = self.perform();
        if let Some(now) = self.machine.disk_problem().filter(|now| problem.as_deref() != Some(*now)) {
            tracing::error!("{now}");
        }
        refused
    }

    /// Begins all that the machine wants done now.
    pub(super) fn perform(&mut self) -> Option<String> {
        let mut refused = None;
        while let Some(effect) = self.machine.next_effect() {
            match effect {
                Effect::FreezeFacts { known, exclusions } => {
                    if let Some(frozen) = self.freeze(known.map(|known| *known), &exclusions) {
                        self.machine.handle(Event::FrozenFacts(Box::new(frozen)), &self.clock.now());
                    }
                }
                Effect::WriteState { copy, record } => self.writer.send(writer::Job::Record { copy, record }),
                Effect::Prepare(isolation) => self.worker.send(Job::Prepare(isolation)),
                Effect::Activate(isolation) => {
                    self.note(&isolation);
                    self.expect_trial();
                    self.worker.send(Job::Activate(isolation));
                }
                Effect::Compare { isolation, activate } => {
                    self.note(&isolation);
                    self.worker.send(Job::Compare { isolation, activate });
                }
                Effect::Release => {
                    self.forget();
                    self.worker.send(Job::Release);
                }
                Effect::Report(report) => self.report(&report),
                Effect::Resend => self.outbox.resend(),
                Effect::Refuse(refusal) => {
                    tracing::warn!("{refusal}");
                    refused = Some(refusal.to_string());
                }
            }
        }
        refused
    }

    /// What is to be in force, for people.
    fn note(&mut self, isolation: &Isolation) {
        let Isolation { problems, opens, .. } = isolation;
        self.upkeep.opens = self.machine.stored().record().map(|_| *opens);
        self.upkeep.excess = problems.iter().filter(|problem| problem.is_excess()).map(ToString::to_string).take(1).collect();
        if opens.is_wide() {
            self.upkeep.excess.push(TooMuch::Open { opens: *opens }.to_string());
        }
        self.upkeep.left_out = problems.iter().map(ToString::to_string).collect();
        self.plan_relocation();
    }

    /// What belongs to an isolation ends with it.
    fn forget(&mut self) {
        self.end_trial();
        self.upkeep.left_out.clear();
        self.upkeep.attached = Attached::default();
        self.upkeep.found = Found::default();
        self.upkeep.looking = None;
        self.upkeep.conntrack.problem = None;
        self.upkeep.excess.clear();
        self.upkeep.opens = None;
    }

    /// The worker has answered.
    pub(super) fn done(&mut self, done: Done) {
        let was = std::mem::replace(&mut self.actual, done.actual).posture;
        match done.result {
            Result::Prepared => drop(self.handle(Event::Prepared)),
            Result::Activated(activated) => self.activated(was, activated, Event::Activated),
            Result::Compared(compared) => self.compared(was, compared),
            Result::Released => {
                self.probes_forgotten();
                self.note_enforced();
                let (enforced, error) = (self.actual.posture, self.actual.error.clone());
                self.handle(Event::Released { enforced, error });
            }
            Result::Reverted(reversal) => self.reverted(*reversal),
            Result::Counted { gate, passed } => {
                let shown = Exclusions::of(
                    self.machine.me(),
                    self.machine.stored(),
                    *gate,
                    &passed,
                    self.upkeep.left_out.clone(),
                    self.upkeep.opens.unwrap_or_default(),
                );
                self.counted(shown);
            }
        }
    }

    /// Rules were put in force, or were to be.
    pub(super) fn activated(
        &mut self,
        was: Posture,
        activated: Activated,
        event: impl FnOnce(portcullis_agent_core::machine::Activation) -> Event<'static>,
    ) {
        let Activated { activation, changed: (changed, took), has_gone } = activated;
        if was == Posture::Open && self.actual.posture == Posture::Isolated {
            self.begin_trial();
        }
        let soon = match (changed.is_empty(), has_gone) {
            (false, _) => TOGETHER,
            (true, true) => std::time::Duration::ZERO,
            (true, false) => LOOK,
        };
        self.upkeep.found.changed(changed, took);
        self.upkeep.look = Some(Instant::now() + soon);
        self.probe_change();
        self.note_enforced();
        for problem in self.upkeep.excess.iter() {
            tracing::error!("{problem}");
        }
        for problem in &self.upkeep.left_out {
            tracing::info!("{problem}");
        }
        self.handle(event(activation));
    }

    fn note_enforced(&self) {
        match &self.actual.error {
            Some(error) => tracing::error!(posture = self.actual.posture.as_str(), "{error}"),
            None => tracing::info!(posture = self.actual.posture.as_str(), "in force"),
        }
    }

    pub(super) fn report(&mut self, report: &Report) {
        let probes = probes::failures(self.upkeep.probing.found());
        let (attached, leaks) = match self.actual.posture {
            Posture::Isolated => (self.upkeep.attached.problems(), self.upkeep.attached.leaks()),
            Posture::Open => (Vec::new(), Vec::new()),
        };
        let Upkeep { conntrack, excess, .. } = &self.upkeep;
        let unwritten = self.machine.disk_problem().map(str::to_owned);
        let own = unwritten.iter().chain(&conntrack.problem).chain(excess).chain(&self.faults).cloned();
        let problems: Vec<String> = own.chain(probes).chain(attached).collect();
        let now = self.clock.now();
        let mut state = report::state(&self.identity, (&self.actual, self.level()), report, &problems, &now);
        state.evidence.opens = self.upkeep.opens.filter(|_| state.posture == Posture::Isolated);
        state.evidence.probes = self.upkeep.probing.found().to_vec();
        state.leaks.extend(leaks.iter().cloned());
        self.upkeep.attached.told(leaks);
        match report::event(&self.identity, report, state, now.wall) {
            Ok(event) => {
                self.upkeep.trial.says(&event.id);
                self.outbox.push(event);
            }
            Err(error) => tracing::error!(%error, "state event not encoded: it is not published"),
        }
        self.upkeep.settle.get_or_insert_with(|| Instant::now() + SETTLE);
    }

    /// What waited for its time.
    pub(super) fn late(&mut self) {
        let now = Instant::now();
        let is_due = self.upkeep.look.is_some_and(|at| at <= now) && self.upkeep.looking.is_none();
        if self.actual.posture == Posture::Isolated && is_due {
            self.look(now);
            self.probe_soon();
        }
        self.late_names(now);
        self.late_trial(now);
        self.watch_attached();
        self.late_probes(now);
        self.relocate();
        self.late_conntrack(now);
        self.late_tampering();
        if self.upkeep.settle.is_some_and(|at| at <= now) {
            self.settle();
        }
    }

    pub(super) fn settle(&mut self) {
        self.upkeep.settle = None;
        self.worker.send(Job::GiveMemoryBack);
        if self.actual.posture == Posture::Isolated {
            self.introduce_attached();
        }
        if self.upkeep.saving {
            return;
        }
        if let Some((path, body)) = self.outbox.unsaved() {
            self.upkeep.saving = true;
            self.writer.send(writer::Job::Outbox { path, body });
        }
    }

    pub(super) fn saved(&mut self, saved: io::Result<()>) {
        self.upkeep.saving = false;
        if let Err(error) = saved {
            tracing::warn!(%error, "outbox not written: state events are in memory only until the broker has stored them");
            self.outbox.not_saved();
            self.upkeep.settle.get_or_insert_with(|| Instant::now() + REWRITE);
        } else if self.outbox.is_unsaved() {
            self.upkeep.settle.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }
}
