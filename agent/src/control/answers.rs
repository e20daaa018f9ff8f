//! Answers on the local socket.

use portcullis_agent_core::machine::Event;
use portcullis_schemas::events::Posture;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Agent;
use crate::firewall::exempting;
use crate::firewall::worker::Job;
use crate::local::socket::{Answer, Exchange, Released, Request};
use crate::local::status::{Exclusions, Status};
use crate::watch::probes;

/// A local release that is on its way.
#[derive(Debug)]
pub(super) struct Releasing {
    since: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Agent {
    pub(super) fn answer(&mut self, Exchange { request, actor, answer }: Exchange) {
        match request {
            Request::Status => drop(answer.send(Answer::Status(Box::new(self.status())))),
            Request::Exclusions => {
                self.upkeep.counting.push_back(answer);
                self.worker.send(Job::Count);
            }
            Request::Release { .. } => {
                tracing::warn!(?actor, "local release requested");
                let since = Instant::now();
                match self.handle(Event::LocalRelease(actor)) {
                    Some(reason) => drop(answer.send(Answer::Refused { reason })),
                    None => self.upkeep.releasing.push(Releasing { since, answer }),
                }
            }
        }
    }

    pub(super) fn counted(&mut self, shown: Exclusions) {
        let Some(answer) = self.upkeep.counting.pop_front() else { return };
        let untracked = exempting().map(|chains| chains.into_iter().collect()).unwrap_or_default();
        let _ = answer.send(Answer::Exclusions(Exclusions { untracked, ..shown }));
    }

    /// Whoever asked for a release is answered when the kernel has, or when an order has come between.
    pub(super) fn answer_releases(&mut self) {
        if self.machine.posture() == Posture::Open && !self.machine.is_attempted() {
            return;
        }
        for Releasing { since, answer } in std::mem::take(&mut self.upkeep.releasing) {
            let _ = answer.send(Answer::Released(Released {
                posture: self.actual.posture,
                generation: self.machine.generation(),
                milliseconds: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
                error: self.actual.error.clone().or_else(|| self.machine.disk_problem().map(str::to_owned)),
            }));
        }
    }

    fn status(&self) -> Status {
        let texts = [self.actual.error.as_deref(), self.machine.disk_problem(), self.machine.cut_off()];
        let problems = texts.into_iter().flatten().map(str::to_owned);
        let problems = problems
            .chain(self.upkeep.excess.iter().cloned())
            .chain(self.upkeep.conntrack.problem.clone())
            .chain(self.upkeep.reach.condition.clone())
            .chain(self.upkeep.trial.lost.clone());
        let problems = problems.chain(probes::failures(self.upkeep.probing.found())).collect();
        Status {
            running: true,
            posture: self.actual.posture,
            level: Some(self.level()),
            since: Some(self.actual.since),
            connected: Some(self.upkeep.connected),
            unsent: self.outbox.len(),
            problems,
            ..Status::of(self.machine.me(), self.machine.stored(), &self.clock.now())
        }
    }
}
