//! What is known of the kernel: which rules it holds, what it works on, and when a failed attempt is made again.

use std::time::Duration;

use portcullis_schemas::HostId;
use portcullis_schemas::events::{Posture, StateCause};

use super::event::Report;
use crate::jitter;

const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

/// Rules are counted: each change of what is to be enforced is a new edition.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// What it enforces, as far as is known.
    pub enforced: Posture,
    /// The edition that is desired, and the serial of the record that has to be on the disk before.
    pub desired: u64,
    pub needs: u64,
    /// Editions that were staged, attempted, and are in force whole.
    staged: u64,
    attempted: u64,
    active: u64,
    work: Option<Work>,
    failure: Option<Failure>,
    /// A comparison is asked for; true: to activate again in any case.
    compare: Option<bool>,
}

/// What the kernel works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Prepare(u64),
    /// Activate or release.
    Enforce(u64),
    Compare(u64),
}

/// The last attempt has failed.
#[derive(Clone, Debug)]
struct Failure {
    attempt: u64,
    /// CLOCK_BOOTTIME of the next one, in milliseconds.
    at_ms: u64,
    /// Sent again when an attempt succeeds, or fails otherwise.
    report: Report,
    error: Option<String>,
}

impl Kernel {
    pub(super) fn new() -> Self {
        Self {
            enforced: Posture::Open,
            desired: 0,
            needs: 0,
            staged: 0,
            attempted: 0,
            active: 0,
            work: None,
            failure: None,
            compare: None,
        }
    }

    /// What is enforced is to change; `needs`: the serial of the record that must be on the disk before.
    pub(super) fn change(&mut self, needs: Option<u64>) {
        self.desired += 1;
        self.needs = needs.unwrap_or(self.needs);
    }

    pub(super) fn ask_to_compare(&mut self, activate: bool) {
        self.compare = Some(activate | self.compare.unwrap_or_default());
    }

    /// Whether the desired edition has been attempted, with whatever result.
    pub(super) fn is_attempted(&self) -> bool {
        self.attempted == self.desired
    }

    pub(super) fn is_active(&self) -> bool {
        self.active == self.desired
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failure.is_some()
    }

    pub(super) fn last_attempted(&self) -> u64 {
        self.attempted
    }

    pub(super) fn works_on_desired(&self) -> bool {
        matches!(self.work, Some(Work::Enforce(edition) | Work::Compare(edition)) if edition == self.desired)
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.work.is_some()
    }

    /// Staged or refused: it is asked once for each edition.
    pub(super) fn is_staged(&self) -> bool {
        self.staged == self.desired
    }

    /// Whether an attempt is to be made now.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.work.is_none()
            && !self.is_active()
            && (!self.is_attempted() || self.failure.as_ref().is_none_or(|failure| failure.at_ms <= now_ms))
    }

    pub(super) fn prepare(&mut self) {
        self.work = Some(Work::Prepare(self.desired));
    }

    pub(super) fn activate(&mut self) {
        self.work = Some(Work::Enforce(self.desired));
    }

    pub(super) fn release(&mut self) {
        // Nothing is left to compare with.
        self.compare = None;
        self.work = Some(Work::Enforce(self.desired));
    }

    /// Whether to compare now, and to activate in any case.
    pub(super) fn compare(&mut self) -> Option<bool> {
        let activate = self.compare.take_if(|_| self.work.is_none())?;
        self.work = Some(Work::Compare(self.desired));
        Some(activate)
    }

    pub(super) fn prepared(&mut self) {
        if let Some(Work::Prepare(edition)) = self.work.take() {
            self.staged = edition;
        }
    }

    pub(super) fn nothing_differs(&mut self) {
        self.work = None;
    }

    /// Takes the result of an attempt. What is to be reported again, if anything; `report` is what is reported of it now.
    pub(super) fn attempted(
        &mut self,
        me: &HostId,
        whole: bool,
        error: Option<String>,
        report: Report,
        now_ms: u64,
    ) -> Option<Report> {
        let (edition, looked) = match self.work.take() {
            Some(Work::Enforce(edition)) => (edition, false),
            Some(Work::Compare(edition)) => (edition, true),
            Some(Work::Prepare(_)) | None => return None,
        };
        let is_retry = !looked && self.attempted == edition;
        self.attempted = edition;
        let before = self.failure.take();
        if whole {
            self.active = edition;
            let before = before.map(|failure| failure.report).filter(|before| before.generation == report.generation);
            // What was found by looking is told by whoever looks.
            return before.filter(|before| is_retry || before.cause != StateCause::Check);
        }
        self.active = 0;
        let attempt = before.as_ref().filter(|_| is_retry).map_or(1, |failure| failure.attempt + 1);
        let before = before.filter(|failure| failure.report.generation == report.generation);
        let again = before.as_ref().filter(|failure| is_retry && failure.error != error).map(|failure| failure.report.clone());
        let at_ms = now_ms + jitter::back_off(me, "enforce", attempt, RETRY.0, RETRY.1).as_millis() as u64;
        let report = match before {
            Some(failure) if report.cause == StateCause::Check => failure.report,
            _ => report,
        };
        self.failure = Some(Failure { attempt, at_ms, report, error });
        again
    }

    pub(super) fn wake(&self) -> Option<u64> {
        self.failure.as_ref().filter(|_| self.work.is_none()).map(|failure| failure.at_ms)
    }
}
