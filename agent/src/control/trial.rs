//! Whether orders still reach this host once it is isolated: the broker has to store what it says of that.
//!
//! A broker that is lost in this moment opens nothing by itself: whoever can cut the way to it would open the host. Where the connection ended at
//! a process on this host and went on by no exclusion, nobody outside can have cut it but the isolation, which ends whatever hidden way that process
//! had: there the order's `when_unreachable` decides, after the grace time.

use std::sync::Arc;
use std::time::Duration;

use portcullis_agent_core::machine::{Event, Lost};
use portcullis_schemas::events::Posture;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Agent;
use crate::host::clock;

/// For a broker that was there before.
const PATIENCE: Duration = Duration::from_secs(10);

/// More do not wait for a broker.
const MOST_EVENTS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Trial {
    running: Option<Running>,
    /// The broker was there as the gate was about to drop.
    connected: bool,
    /// Said while the broker is lost.
    pub(super) lost: Option<String>,
    /// Has the NATS client try the next broker.
    pub(super) next_broker: Arc<Notify>,
}

#[derive(Debug)]
struct Running {
    ends: Instant,
    since_ms: u64,
    /// State events of this isolation: one that is stored proves that the host is heard.
    events: Vec<String>,
    /// The connection ended at a process on this host that was taken for the broker itself, and no other broker is elsewhere.
    ended_here: bool,
}

impl Trial {
    pub(super) fn due(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.ends).filter(|_| self.lost.is_none())
    }

    pub(super) fn says(&mut self, event: &str) {
        if let Some(running) = &mut self.running {
            let over = (running.events.len() + 1).saturating_sub(MOST_EVENTS);
            running.events.drain(..over);
            running.events.push(event.to_owned());
        }
    }
}

impl Agent {
    /// The gate is about to drop: a connection may be lost before it is known that it has.
    pub(super) fn expect_trial(&mut self) {
        if self.actual.posture == Posture::Open {
            self.upkeep.trial.connected = self.upkeep.connected;
        }
    }

    /// The gate has dropped.
    pub(super) fn begin_trial(&mut self) {
        let ended_here = self.upkeep.reach.taken_for_itself;
        let running = Running { ends: Instant::now() + PATIENCE, since_ms: clock::boot_ms(), events: Vec::new(), ended_here };
        self.upkeep.trial.running = Some(running).filter(|_| self.upkeep.trial.connected);
    }

    pub(super) fn end_trial(&mut self) {
        self.upkeep.trial.running = None;
        if self.upkeep.trial.lost.take().is_some() {
            self.machine.handle(Event::Lost(None), &self.clock.now());
        }
    }

    pub(super) fn stored(&mut self, event: &str) {
        if self.upkeep.trial.running.as_ref().is_some_and(|running| running.events.iter().any(|id| id == event)) {
            if self.upkeep.trial.lost.is_some() {
                tracing::info!("broker reachable again");
            }
            self.end_trial();
        }
    }

    pub(super) fn late_trial(&mut self, now: Instant) {
        let trial = &mut self.upkeep.trial;
        let Some(running) = trial.running.as_ref().filter(|running| running.ends <= now && trial.lost.is_none()) else { return };
        let then = match running.ended_here {
            true => {
                "the connection went through a process on this host, whose own connection the isolation has cut; `when_unreachable` of the order decides"
            }
            false => "an attacker who cuts the route to the broker must not open the host: it stays isolated until its deadline",
        };
        let text = format!(
            "the broker was lost when this host was isolated: nothing was stored for {} s; {then}; as root, `portcullis-agent release` opens it",
            PATIENCE.as_secs()
        );
        tracing::error!("{text}");
        if running.ended_here {
            let lost = Lost { since_ms: running.since_ms };
            self.machine.handle(Event::Lost(Some(lost)), &self.clock.now());
        }
        trial.lost = Some(text);
        trial.next_broker.notify_one();
    }
}
