//! Puts right at once what somebody has changed; reads back, ends what came in between and tells of it when the host is shut again.

use std::time::Duration;

use portcullis_agent_core::converge::Report;
use portcullis_agent_core::deadline::Now;
use portcullis_agent_core::record::Record;
use portcullis_schemas::events::{Posture, StateCause, Tamper};
use tokio::time::Instant;

use super::Agent;
use crate::guardian::Disturbance;

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
    heard: Disturbance,
    /// Why the rules could not be put in force at once.
    refused: Option<String>,
    times: u64,
    /// The longest time from hearing of it until the rules were in force again; None: the rules were not touched.
    took: Option<Duration>,
    restored: bool,
    /// Programs and sockets beside the rules, and how many.
    attached: (Vec<String>, u64),
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
        let what = Disturbance { what, ..Disturbance::default() };
        self.heard.merge(what);
    }
}

impl Agent {
    /// Something was heard that may concern what is in force.
    pub(super) fn disturbed(&mut self, mut heard: Disturbance) {
        if self.enforcer.posture != Posture::Isolated {
            // Another device may be the way to the broker now.
            if heard.devices {
                self.find_ways(None);
            }
            return;
        }
        let start = Instant::now();
        if self.enforcer.port().is_none() {
            // It may have been this agent itself: only reading back tells.
            (heard.lost, heard.rules) = (heard.lost | heard.rules, false);
            heard.what.clear();
        }
        let covered = (!heard.rules && !heard.lost).then(|| self.enforcer.cover(&heard.links));
        if covered.is_some_and(|covered| covered.came) {
            self.look_soon(DEVICES_TOGETHER);
        }
        let is_covered = covered.is_some_and(|covered| covered.only_came);
        if heard.attached || heard.lost || !heard.programs.is_empty() {
            self.take_off(std::mem::take(&mut heard.programs));
        }
        let devices = heard.devices && !is_covered && self.enforcer.devices_differ();
        let found = &mut self.upkeep.found;
        if heard.rules || devices {
            let refused = self.enforcer.restore().err();
            let tampering = heard.rules || refused.is_some() || !self.enforcer.gone.is_empty();
            found.times += u64::from(tampering);
            found.refused = refused.or(found.refused.take());
            found.restored = true;
            found.took = found.took.max(tampering.then(|| start.elapsed()));
        }
        let explains = self.enforcer.gone.iter().any(|gone| !gone.is_unexplained(&heard.left));
        if heard.rules || devices || heard.lost || found.has_attached() || explains {
            found.heard.merge(heard);
            let unexplained = self.enforcer.gone.iter().any(|gone| gone.is_unexplained(&found.heard.left));
            let wait = if unexplained { UNTIL_TOLD } else { Duration::ZERO };
            self.look_soon(wait);
        }
        self.upkeep.rest = Instant::now() + start.elapsed().min(LONGEST_REST);
    }

    pub(super) fn look_soon(&mut self, wait: Duration) {
        let soon = Instant::now().max(self.upkeep.looked + BETWEEN_LOOKS) + wait;
        self.upkeep.look = Some(self.upkeep.look.map_or(soon, |look| look.min(soon)));
    }

    pub(super) fn look(&mut self, start: Instant) {
        self.take_off(Vec::new());
        self.count_sockets();
        let Found { heard, refused, times, mut took, restored, attached } = std::mem::take(&mut self.upkeep.found);
        let mut what = attached.0;
        what.extend(heard.what);
        what.extend(refused);
        if restored {
            self.enforce();
            what.extend(self.upkeep.retry.as_ref().and_then(|retry| retry.error.clone()));
        } else if self.upkeep.retry.is_none() {
            let wrong = match self.enforcer.look() {
                Ok(look) => {
                    what.extend(look.differences.iter().map(ToString::to_string));
                    !look.is_whole()
                }
                // Not being able to look may be somebody's doing: enforcing again shows.
                Err(error) => {
                    what.push(format!("what is in force cannot be read back: {error}"));
                    true
                }
            };
            if wrong {
                let looked = start.elapsed();
                self.enforce();
                took = Some(looked + self.enforcer.took);
            }
        }
        let gone = std::mem::take(&mut self.enforcer.gone);
        what.extend(gone.iter().map(|gone| gone.tampering(&heard.left)));
        // In a storm, looking takes its time as well: what follows it belongs to putting right.
        self.upkeep.looked = Instant::now();
        self.upkeep.look = Some(start + LOOK);
        what.truncate(NAMED);
        let restored = self.upkeep.attached.problems().is_empty()
            && !gone.iter().any(|gone| gone.is_away(&heard.left))
            && self.upkeep.retry.is_none();
        let restored_in_ms = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.enforcer.give_memory_back();
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

    /// What somebody did to rules that were whole when they were last read back, while no agent lived. Asked before they are put in force again.
    pub(super) fn look_back(&mut self) {
        self.find_groups();
        let now = self.clock.now();
        let of_this_boot = |record: &&Record| record.posture == Posture::Isolated && record.mark.boot_id == now.boot_id;
        let Some(record) = self.host.standing.record().filter(of_this_boot) else { return };
        if record.frozen.as_ref().is_none_or(|frozen| frozen.whole_by.as_deref() != Some(crate::VERSION)) {
            return;
        }
        let then = Now { boot_ms: record.mark.boot_ms, ..now.clone() };
        let gates = [then, now].map(|at| record.gate(&at).0);
        self.enforcer.look_back(&gates);
    }

    /// What was held back belongs to the order that stands until now.
    pub(super) fn tell_rest_of_tampering(&mut self) {
        if let Some(tamper) = self.upkeep.tampering.rest() {
            self.tell_tampering(tamper);
        }
    }

    /// What was held back of a storm, when its time has come.
    pub(super) fn late_tampering(&mut self) {
        if let Some(tamper) = self.upkeep.tampering.due(self.clock.now().boot_ms) {
            self.tell_tampering(tamper);
        }
    }

    fn tell_tampering(&mut self, tamper: Tamper) {
        let report = Report { tamper: Some(Box::new(tamper)), ..self.host.stands(StateCause::Tamper) };
        self.report(&report);
    }
}
