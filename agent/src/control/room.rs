//! A full conntrack table lets no new connection be made, the agent's own included, and any program can fill it over loopback.

use std::time::Duration;

use portcullis_schemas::events::{Posture, StateCause};
use tokio::time::Instant;

use super::Agent;
use crate::control::input::Input;
use crate::sockets::{self, Crowded};

const EVERY: Duration = Duration::from_secs(1);
/// So long there must have been room before the state event says so.
const QUIET: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Room {
    at: Option<Instant>,
    /// A look is on its way.
    runs: bool,
    /// Since when there has been room again.
    quiet: Option<Instant>,
    pub(super) problem: Option<String>,
}

impl Agent {
    pub(super) fn room_due(&self) -> Option<Instant> {
        let room = &self.upkeep.room;
        room.at.filter(|_| self.view.posture == Posture::Isolated && !room.runs)
    }

    /// Before the broker is called for the first time.
    pub(super) fn make_room(&mut self) {
        if self.view.posture == Posture::Isolated {
            let crowded = sockets::make_room();
            self.roomy(crowded);
        }
    }

    pub(super) fn late_room(&mut self, now: Instant) {
        if self.view.posture != Posture::Isolated {
            self.upkeep.room = Room { runs: self.upkeep.room.runs, ..Room::default() };
            return;
        }
        let room = &mut self.upkeep.room;
        if room.runs || now < *room.at.get_or_insert(now) {
            return;
        }
        room.at = Some(now + EVERY);
        if !sockets::is_crowded() {
            self.roomy(Ok(None));
            return;
        }
        // Deleting tens of thousands of entries takes long, and orders do not wait for it.
        let inputs = self.inputs.clone();
        let look = move || drop(inputs.blocking_send(Input::Room(sockets::make_room())));
        match std::thread::Builder::new().name("room".into()).spawn(look) {
            Ok(_) => self.upkeep.room.runs = true,
            Err(error) => tracing::warn!(%error, "cannot look after the conntrack table now"),
        }
    }

    pub(super) fn roomed(&mut self, crowded: Result<Option<Crowded>, sockets::SeverError>) {
        self.upkeep.room.runs = false;
        self.roomy(crowded);
    }

    fn roomy(&mut self, crowded: Result<Option<Crowded>, sockets::SeverError>) {
        let now = Instant::now();
        let room = &mut self.upkeep.room;
        let problem = match crowded {
            Ok(None) => {
                let quiet = *room.quiet.get_or_insert(now);
                if room.problem.is_some() && now >= quiet + QUIET {
                    room.problem = None;
                    tracing::info!("the conntrack table has room again");
                    let report = self.machine.report(StateCause::Check);
                    self.report(&report);
                }
                return;
            }
            Ok(Some(crowded)) => crowded.to_string(),
            Err(error) => {
                format!("the conntrack table is full, and cannot be emptied: {}", crate::firewall::enforce::chain(&error))
            }
        };
        room.quiet = None;
        if room.problem.replace(problem.clone()).is_none() {
            tracing::error!("{problem}");
            let report = self.machine.report(StateCause::Check);
            self.report(&report);
        }
    }
}
