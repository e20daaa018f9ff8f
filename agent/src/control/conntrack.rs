//! A full conntrack table lets no new connection be made, the agent's own included, and any program can fill it over loopback.

use std::time::Duration;

use portcullis_schemas::events::{Posture, StateCause};
use tokio::time::Instant;

use super::Agent;
use crate::control::input::Input;
use crate::sockets::{self, TableFull};

const EVERY: Duration = Duration::from_secs(1);
/// So long there must have been room before the state event says so.
const QUIET: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Conntrack {
    at: Option<Instant>,
    /// A look is on its way.
    runs: bool,
    /// Since when there has been room again.
    quiet: Option<Instant>,
    pub(super) problem: Option<String>,
}

impl Agent {
    pub(super) fn conntrack_due(&self) -> Option<Instant> {
        let room = &self.upkeep.conntrack;
        room.at.filter(|_| self.actual.posture == Posture::Isolated && !room.runs)
    }

    /// Before the broker is called for the first time.
    pub(super) fn check_conntrack(&mut self) {
        if self.actual.posture == Posture::Isolated {
            let crowded = sockets::check_conntrack();
            self.note_conntrack(crowded);
        }
    }

    pub(super) fn late_conntrack(&mut self, now: Instant) {
        if self.actual.posture != Posture::Isolated {
            self.upkeep.conntrack = Conntrack { runs: self.upkeep.conntrack.runs, ..Conntrack::default() };
            return;
        }
        let room = &mut self.upkeep.conntrack;
        if room.runs || now < *room.at.get_or_insert(now) {
            return;
        }
        room.at = Some(now + EVERY);
        if !sockets::is_full() {
            self.note_conntrack(Ok(None));
            return;
        }
        // Deleting tens of thousands of entries takes long, and orders do not wait for it.
        let inputs = self.inputs.clone();
        let look = move || drop(inputs.blocking_send(Input::Conntrack(sockets::check_conntrack())));
        match std::thread::Builder::new().name("conntrack".into()).spawn(look) {
            Ok(_) => self.upkeep.conntrack.runs = true,
            Err(error) => tracing::warn!(%error, "conntrack table not checked: retrying"),
        }
    }

    pub(super) fn conntrack_checked(&mut self, crowded: Result<Option<TableFull>, sockets::SeverError>) {
        self.upkeep.conntrack.runs = false;
        self.note_conntrack(crowded);
    }

    fn note_conntrack(&mut self, crowded: Result<Option<TableFull>, sockets::SeverError>) {
        let now = Instant::now();
        let room = &mut self.upkeep.conntrack;
        let problem = match crowded {
            Ok(None) => {
                let quiet = *room.quiet.get_or_insert(now);
                if room.problem.is_some() && now >= quiet + QUIET {
                    room.problem = None;
                    tracing::info!("conntrack table no longer full");
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
