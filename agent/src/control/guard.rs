//! Puts right at once what somebody has changed; reads back, ends what came in between and tells of it when the host is shut again.

use std::time::Duration;

use portcullis_agent_core::machine::{Event, Report};
use portcullis_schemas::events::{Posture, StateCause, Tamper};
use tokio::time::Instant;

use super::Agent;
use crate::firewall::enforce::GoneDevice;
use crate::firewall::worker::{Compared, Job, Reversal};
use crate::watch::KernelChanges;

/// An isolated host is looked at this often, whether something was heard or not.
pub(super) const LOOK: Duration = Duration::from_secs(30);
/// Reading back costs two forks, so in a storm it waits; putting right does not.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// What is heard of a change comes a moment after what is found of it.
pub(super) const TOGETHER: Duration = Duration::from_millis(50);
/// Devices often come many at once, and what is written for them is read back together.
const DEVICES_TOGETHER: Duration = Duration::from_secs(1);
/// A device that leaves is gone before the kernel says where it went.
const UNTIL_TOLD: Duration = Duration::from_secs(2);
/// After putting something right, everything else has as much time as that took, and at most this.
const LONGEST_REST: Duration = Duration::from_millis(25);
/// What a state event names.
const NAMED: usize = 8;

/// What was heard and put right since the last look.
#[derive(Debug, Default)]
pub(super) struct Found {
    heard: KernelChanges,
    /// Why the rules could not be put in force at once.
    refused: Option<String>,
    times: u64,
    /// The longest time from hearing of it until the rules were in force again; None: the rules were not touched.
    took: Option<Duration>,
    restored: bool,
    /// Programs and sockets beside the rules, and how many.
    attached: (Vec<String>, u64),
}

/// A look that the worker is at.
#[derive(Debug)]
pub(super) struct Looking {
    start: Instant,
    found: Found,
}

impl Found {
    pub(super) fn attached(&mut self, what: impl IntoIterator<Item = String>) {
        let (named, times) = &mut self.attached;
        for what in what {
            *times += 1;
            if named.len() < NAMED && !named.contains(&what) {
                named.push(what);
            }
        }
    }

    pub(super) fn has_attached(&self) -> bool {
        self.attached.1 > 0
    }

    pub(super) fn take_attached(&mut self) -> (Vec<String>, u64) {
        std::mem::take(&mut self.attached)
    }

    /// What was put right already is still to be told.
    pub(super) fn changed(&mut self, what: Vec<String>, took: Option<Duration>) {
        self.took = self.took.max(took);
        let what = KernelChanges { what, ..KernelChanges::default() };
        self.heard.merge(what);
    }
}

impl Agent {
    /// Something was heard that may concern what is in force.
    pub(super) fn changed(&mut self, mut heard: KernelChanges) {
        if self.actual.posture != Posture::Isolated {
            // Another device may be the way to the broker now.
            if heard.devices {
                self.find_routes(None);
            }
            return;
        }
        let programs = std::mem::take(&mut heard.programs);
        let looks = heard.attached || heard.lost || heard.rules && self.actual.port.is_none() || !programs.is_empty();
        self.upkeep.reverting = true;
        self.worker.send(Job::Revert(Box::new(heard)));
        if looks {
            self.take_off(programs);
        }
    }

    /// What was heard is put right, as far as that goes at once.
    pub(super) fn reverted(&mut self, reversal: Reversal) {
        self.upkeep.reverting = false;
        self.upkeep.rest = Instant::now() + reversal.took.min(LONGEST_REST);
        if self.actual.posture != Posture::Isolated {
            return;
        }
        let Reversal { heard, came, devices, restored, refused, took, gone } = reversal;
        if came {
            self.look_soon(DEVICES_TOGETHER);
        }
        let found = &mut self.upkeep.found;
        if restored {
            let tampering = heard.rules || refused.is_some() || !gone.is_empty();
            found.times += u64::from(tampering);
            found.refused = refused.or(found.refused.take());
            found.restored = true;
            found.took = found.took.max(tampering.then_some(took));
        }
        let explains = gone.iter().any(|gone| !gone.is_unexplained(&heard.left));
        if heard.rules || devices || heard.lost || found.has_attached() || explains {
            found.heard.merge(heard);
            let unexplained = gone.iter().any(|gone| gone.is_unexplained(&found.heard.left));
            let wait = if unexplained { UNTIL_TOLD } else { Duration::ZERO };
            self.look_soon(wait);
        }
    }

    pub(super) fn look_soon(&mut self, wait: Duration) {
        let soon = Instant::now().max(self.upkeep.looked + BETWEEN_LOOKS) + wait;
        self.upkeep.look = Some(self.upkeep.look.map_or(soon, |look| look.min(soon)));
    }

    /// Begins to look: the worker compares, unless another attempt follows anyway.
    pub(super) fn look(&mut self, start: Instant) {
        self.take_off(Vec::new());
        self.count_sockets();
        let found = std::mem::take(&mut self.upkeep.found);
        let activate = found.restored;
        self.upkeep.look = Some(start + LOOK);
        self.upkeep.looking = Some(Looking { start, found });
        if activate || !self.machine.is_failing() {
            self.handle(Event::Compare { activate });
        } else {
            self.looked(Vec::new(), None, &[]);
        }
    }

    /// The worker has compared.
    pub(super) fn compared(&mut self, was: Posture, compared: Compared) {
        let Compared { what, activated, took, gone } = compared;
        match activated {
            Some(activated) => self.activated(was, activated, |activation| Event::Compared(Some(activation))),
            None => drop(self.handle(Event::Compared(None))),
        }
        self.looked(what, took, &gone);
    }

    fn looked(&mut self, differs: Vec<String>, took: Option<Duration>, gone: &[GoneDevice]) {
        let Some(Looking { start, found }) = self.upkeep.looking.take() else { return };
        let Found { heard, refused, times, took: before, restored, attached } = found;
        let mut what = attached.0;
        what.extend(heard.what);
        what.extend(refused);
        if restored && self.machine.is_failing() {
            what.extend(self.actual.error.clone());
        }
        what.extend(differs);
        what.extend(gone.iter().map(|gone| gone.tampering(&heard.left)));
        // In a storm, looking takes its time as well: what follows it belongs to putting right.
        self.upkeep.looked = Instant::now();
        let next = start + LOOK;
        self.upkeep.look = Some(self.upkeep.look.map_or(next, |look| look.min(next)));
        what.truncate(NAMED);
        let restored = self.upkeep.attached.problems().is_empty()
            && !gone.iter().any(|gone| gone.is_away(&heard.left))
            && !self.machine.is_failing();
        let restored_in_ms = took.or(before).map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.tampered(Tamper { what, by: heard.by, times: (times + attached.1).max(1), restored, restored_in_ms });
    }

    pub(super) fn tampered(&mut self, tamper: Tamper) {
        if tamper.what.is_empty() {
            return;
        }
        tracing::error!(?tamper, "tamper detected");
        if let Some(tamper) = self.upkeep.tampering.found(tamper, self.clock.now().boot_ms) {
            self.tell_tampering(tamper);
        }
    }

    /// Of an order that has been followed by another one, as it is to be reported.
    pub(super) fn tell_rest_of_tampering(&mut self, of: &Report) {
        if let Some(tamper) = self.upkeep.tampering.rest() {
            self.report(&Report { tamper: Some(Box::new(tamper)), ..of.clone() });
        }
    }

    /// What was held back of a storm, when its time has come.
    pub(super) fn late_tampering(&mut self) {
        if let Some(tamper) = self.upkeep.tampering.due(self.clock.now().boot_ms) {
            self.tell_tampering(tamper);
        }
    }

    fn tell_tampering(&mut self, tamper: Tamper) {
        let report = Report { tamper: Some(Box::new(tamper)), ..self.machine.report(StateCause::Tamper) };
        self.report(&report);
    }
}
