//! Looks at what is in force, when something was heard and at intervals, and puts right what is wrong.

use std::time::Duration;

use portcullis_agent_core::converge::Report;
use portcullis_schemas::events::{Posture, StateCause, Tamper};
use tokio::time::Instant;

use super::Agent;
use crate::guardian::Disturbance;

/// An isolated host is looked at this often, whether something was heard or not.
pub(super) const LOOK: Duration = Duration::from_secs(30);
/// After putting something right, everything else has as much time as that took, and at most this.
const LONGEST_REST: Duration = Duration::from_millis(25);

impl Agent {
    /// Something was heard that may concern what is in force.
    pub(super) fn disturbed(&mut self, disturbance: &Disturbance) {
        if self.enforcer.posture != Posture::Isolated {
            // Another device may be the way to the broker now.
            if disturbance.devices {
                self.find_ways();
            }
            return;
        }
        let start = Instant::now();
        self.look(disturbance, start);
        self.upkeep.rest = Instant::now() + start.elapsed().min(LONGEST_REST);
    }

    pub(super) fn look(&mut self, heard: &Disturbance, start: Instant) {
        self.upkeep.look = Some(Instant::now() + LOOK);
        // What could not be enforced is tried again anyway.
        if self.upkeep.retry.is_some() {
            return;
        }
        let mut what =
            heard.attached.iter().map(|program| format!("{program} sees frames before the rules do")).collect::<Vec<_>>();
        let attached = !what.is_empty();
        let wrong = match self.enforcer.look() {
            Ok(look) => {
                what.extend(look.tampering());
                !look.is_whole()
            }
            // Not being able to look may be somebody's doing: enforcing again shows.
            Err(error) => {
                what.push(format!("what is in force cannot be read back: {error}"));
                true
            }
        };
        let looked = start.elapsed();
        if wrong {
            self.enforce();
        }
        if what.is_empty() {
            return;
        }
        let restored = !attached && self.upkeep.retry.is_none();
        let took = u64::try_from((looked + self.enforcer.took).as_millis()).unwrap_or(u64::MAX);
        tracing::error!(?what, by = ?heard.by, restored, took_ms = took, "somebody changed what isolates this host");
        let by = if wrong { heard.by.clone() } else { Vec::new() };
        let tamper = Tamper { what, by, times: 1, restored, restored_in_ms: wrong.then_some(took) };
        if let Some(tamper) = self.upkeep.tampering.found(tamper, self.clock.now().boot_ms) {
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
