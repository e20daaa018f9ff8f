//! Answers at the local door.

use portcullis_agent_core::converge::Cause;
use portcullis_schemas::events::LocalActor;
use tokio::time::Instant;

use super::Agent;
use crate::doctor::exempting;
use crate::door::{Answer, Released, Request};
use crate::probes;
use crate::view::{Exclusions, Status};

impl Agent {
    pub(super) fn answer(&mut self, request: Request, actor: LocalActor) -> Answer {
        match request {
            Request::Status => Answer::Status(Box::new(self.status())),
            Request::Exclusions => {
                let gate = self.enforcer.gate.clone().unwrap_or_default();
                let passed = self.enforcer.passed();
                self.enforcer.give_memory_back();
                let shown = Exclusions::of(
                    &self.host.me,
                    &self.host.standing,
                    gate,
                    &passed,
                    self.upkeep.left_out.clone(),
                    self.upkeep.opens.unwrap_or_default(),
                );
                let untracked = exempting().map(|chains| chains.into_iter().collect()).unwrap_or_default();
                Answer::Exclusions(Exclusions { untracked, ..shown })
            }
            Request::Release { .. } => {
                tracing::warn!(?actor, "root asks for a local release");
                let start = Instant::now();
                match self.handle(Cause::LocalRelease(actor)) {
                    Some(reason) => Answer::Refused { reason },
                    None => Answer::Released(Released {
                        posture: self.enforcer.posture,
                        generation: self.host.standing.generation(&self.host.me),
                        milliseconds: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
                        error: self.enforcer.error.clone().or_else(|| self.upkeep.unwritten.clone()),
                    }),
                }
            }
        }
    }

    fn status(&self) -> Status {
        let problems = self
            .enforcer
            .error
            .iter()
            .chain(&self.upkeep.unwritten)
            .chain(&self.host.cut_off)
            .chain(&self.upkeep.excess)
            .chain(&self.upkeep.room.problem)
            .chain(&self.upkeep.ways.condition)
            .chain(&self.upkeep.trial.lost)
            .cloned();
        let problems = problems.chain(probes::failures(&self.enforcer.evidence.probes)).collect();
        Status {
            running: true,
            posture: self.enforcer.posture,
            level: Some(self.level()),
            since: Some(self.enforcer.since),
            connected: Some(self.upkeep.connected),
            unsent: self.outbox.len(),
            problems,
            ..Status::of(&self.host.me, &self.host.standing, &self.clock.now())
        }
    }
}
