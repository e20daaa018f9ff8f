//! Pending approvals, breakers and the pause: what is over is decided once more, and what is over soon is announced.

use std::sync::Arc;
use std::time::Duration;

use portcullis_policy::Terms;
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Breaker, Notice, NoticeKind, Order, Severity};

use super::Machine;
use super::batch::Batch;
use super::event::Now;
use super::queue::Item;
use crate::control::Pending;
use crate::decide::resets_by_itself;

impl Machine {
    /// Ends what people have answered, and what nobody did in time. What is laid over the fold and not stored ends nothing.
    pub(super) fn end_what_is_over(&mut self, now: Now) {
        if !self.is_leading() || self.is_laid_over() {
            return;
        }
        let over = |pending: &&Arc<Pending>| !self.ending.contains(&pending.ask.id);
        let ended: Vec<_> = self.control.ended(now.broker).filter(over).cloned().collect();
        for pending in ended {
            self.ending.insert(pending.ask.id.clone());
            self.queue.push(Item::Asked(pending));
        }
        let pause = self.control.pause().map(|pause| pause.until);
        if let Some(until) = pause.filter(|until| *until <= now.broker && self.resuming != Some(*until)) {
            self.resuming = Some(until);
            self.queue.push(Item::PauseOver(until));
        }
        let to_come = |until: &Timestamp| *until > now.broker;
        let next = self.control.next_end().into_iter().chain(pause).filter(to_come).min();
        self.wake_at = next.map(|until| now.boot + (until - now.broker).to_std().unwrap_or_default());
    }

    /// Resets breakers whose limit is no longer reached.
    pub(super) fn reset_breakers(&mut self, now: Now) {
        if self.is_laid_over() {
            return;
        }
        let is_over =
            |breaker: &&Breaker| !self.resetting.contains(&breaker.id) && resets_by_itself(self.basis(), breaker, now.broker);
        for id in self.control.breakers().filter(is_over).map(|breaker| breaker.id.clone()).collect::<Vec<_>>() {
            self.resetting.insert(id.clone());
            self.queue.push(Item::BreakerOver(id, now.broker));
        }
    }

    /// Tells people of hosts that open soon, once for each order.
    pub(super) fn announce_releases(&mut self, now: Now) {
        let warning = Terms::of(self.policy.as_deref()).warn_before_release;
        let mut notices = Vec::new();
        for due in self.deadlines.soon(now.boot, Duration::from_secs(warning.as_secs())) {
            let order = self.fleet.host(&due.host).and_then(|host| host.order.as_deref());
            // An isolation that lasts no longer than the warning needs none, and the end of a manual hold may open nothing.
            let opens = |order: &&Order| {
                order.generation == due.generation
                    && order.release_at == Some(due.due_at)
                    && due.due_at - order.issued_at > warning.delta()
            };
            notices.extend(order.filter(opens).map(|order| {
                let at = due.due_at.format("%Y-%m-%d %H:%M:%S UTC");
                let text =
                    format!("{} opens at {at} (order no. {}); portcullis extend {0} keeps it isolated", due.host, due.generation);
                let (kind, severity, incident) = (NoticeKind::ReleaseSoon, Severity::Medium, Some(order.incident.clone()));
                (Notice { kind, severity, host: Some(due.host.clone()), incident, text, outputs: Vec::new() }, now.broker)
            }));
        }
        self.notify(notices, now);
    }

    /// The ends among its inputs are stored.
    pub(super) fn ended(&mut self, batch: &Batch) {
        for item in batch.items() {
            match item {
                Item::Asked(pending) => {
                    self.ending.remove(&pending.ask.id);
                }
                Item::PauseOver(_) => self.resuming = None,
                Item::BreakerOver(breaker, _) => {
                    self.resetting.remove(breaker);
                }
                _ => {}
            }
        }
    }

    pub(super) fn stop_ending(&mut self) {
        self.ending.clear();
        self.resuming = None;
        self.resetting.clear();
        self.wake_at = None;
    }

    fn is_laid_over(&self) -> bool {
        self.batch.iter().chain(&self.ahead).any(Batch::is_laid_over)
    }
}
