//! What is known of the posture file: two copies, one write at a time, and how long the rules wait for it.

use std::time::Duration;

use super::event::{CopyName, Written};

/// A disk that is only busy has answered by then; rules wait no longer for it.
const PATIENCE: Duration = Duration::from_millis(250);
/// The second copy is written when the state event is on its way.
const SETTLE: Duration = Duration::from_millis(25);
const REWRITE: Duration = Duration::from_secs(30);
const SLOW: &str = "the posture is not on the disk yet, a restart may not know it: the disk does not answer";

/// Times are of CLOCK_BOOTTIME, in milliseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// The first copy must hold the record of this serial, since then.
    due: (u64, u64),
    /// What the first copy holds, or the second one in its place.
    recorded: u64,
    /// It holds what is due itself.
    is_whole: bool,
    /// Copy, serial, and since when.
    writing: Option<(CopyName, u64, u64)>,
    /// The write that is on its way takes longer than the rules wait.
    is_slow: bool,
    /// Why the record is not on the disk.
    problem: Option<String>,
    /// The write that is due has failed, and is tried again then.
    retry_at: Option<u64>,
    /// The second copy is to be written then.
    second_at: Option<u64>,
}

impl Disk {
    /// The record of this serial must be in the first copy, and later in the second.
    pub(super) fn require(&mut self, serial: u64, now_ms: u64) {
        self.due = (serial, now_ms);
        self.is_whole = false;
        self.retry_at = None;
        self.second(now_ms);
    }

    /// Something was noted in the record that the second copy alone has to hold.
    pub(super) fn second(&mut self, now_ms: u64) {
        self.second_at.get_or_insert(now_ms + ms(SETTLE));
    }

    /// Which copy is to be written now.
    pub(super) fn next(&self, now_ms: u64) -> Option<CopyName> {
        if self.writing.is_some() {
            return None;
        }
        if self.due.0 > 0 && !self.is_whole {
            return self.retry_at.is_none_or(|at| at <= now_ms).then_some(CopyName::A);
        }
        self.second_at.is_some_and(|at| at <= now_ms).then_some(CopyName::B)
    }

    pub(super) fn begin(&mut self, copy: CopyName, serial: u64, now_ms: u64) {
        self.writing = Some((copy, serial, now_ms));
        match copy {
            CopyName::A => self.retry_at = None,
            CopyName::B => self.second_at = None,
        }
    }

    pub(super) fn written(&mut self, copy: CopyName, serial: u64, written: Written, now_ms: u64) {
        self.writing = None;
        self.is_slow = false;
        let is_due = copy == CopyName::B || serial >= self.due.0;
        match written {
            Written::Replaced => {
                if copy == CopyName::A {
                    self.recorded = self.recorded.max(serial);
                    self.is_whole = is_due;
                }
                if is_due {
                    self.problem = None;
                }
            }
            Written::InPlace(problem) => {
                self.recorded = self.recorded.max(serial);
                self.failed(copy, is_due, problem, now_ms);
            }
            Written::Failed(problem) => self.failed(copy, is_due, problem, now_ms),
        }
    }

    fn failed(&mut self, copy: CopyName, is_due: bool, problem: String, now_ms: u64) {
        // An old one says nothing about the one that is due, which follows at once.
        if !is_due {
            return;
        }
        self.problem = Some(problem);
        match copy {
            CopyName::A => self.retry_at = Some(now_ms + ms(REWRITE)),
            CopyName::B => self.second_at = Some(now_ms + ms(REWRITE)),
        }
    }

    /// Notes that rules wait no longer for the disk.
    pub(super) fn look(&mut self, now_ms: u64) {
        if !self.is_slow && self.overdue_at().is_some_and(|at| at <= now_ms) {
            self.is_slow = true;
            self.problem = Some(SLOW.to_owned());
        }
    }

    /// Whether rules that need the record of this serial may be activated.
    pub(super) fn lets_pass(&self, serial: u64) -> bool {
        self.is_final(serial) || self.is_slow
    }

    /// Whether the disk has given its answer about the record of this serial, or a later one.
    pub(super) fn is_final(&self, serial: u64) -> bool {
        self.recorded >= serial || self.retry_at.is_some() && self.due.0 >= serial
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.writing.is_none()
    }

    /// When something is to be done if no answer comes.
    pub(super) fn wake(&self) -> Option<u64> {
        let overdue = self.overdue_at().filter(|_| !self.is_slow);
        let next = [self.retry_at, self.second_at].into_iter().flatten().min().filter(|_| self.writing.is_none());
        overdue.into_iter().chain(next).min()
    }

    /// The second copy is written now, whatever it waits for.
    pub(super) fn hurry(&mut self, now_ms: u64) {
        if self.second_at.is_some() {
            self.second_at = Some(now_ms);
        }
    }

    /// What is due has its time from when it is being written; what is in its way has that from when it became due.
    fn overdue_at(&self) -> Option<u64> {
        let (copy, serial, since) = self.writing.filter(|_| self.recorded < self.due.0)?;
        let is_due = copy == CopyName::A && serial >= self.due.0;
        Some(ms(PATIENCE) + if is_due { since } else { self.due.1 })
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
