//! Keeps up with what an exclusion names and does not stay where it was: units that start again, names that move.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use portcullis_agent_core::exclusions;
use portcullis_agent_core::machine::Event;
use portcullis_agent_core::record::FrozenFacts;
use portcullis_schemas::events::Posture;
use tokio::time::Instant;

use super::Agent;
use crate::control::input::Input;
use crate::host::{dns, groups, places};

const GROUPS_EVERY: Duration = Duration::from_secs(1);
const NAMES_EVERY: Duration = Duration::from_secs(30);
/// While some name has no address at all.
const NAMES_SOON: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(2);

/// When to look again.
#[derive(Debug, Default)]
pub(super) struct Relocation {
    groups: Option<Instant>,
    names: Option<Instant>,
}

impl Agent {
    pub(super) fn relocation_due(&self) -> Option<Instant> {
        let Relocation { groups, names } = self.upkeep.relocation;
        [groups, names].into_iter().flatten().min().filter(|_| self.machine.posture() == Posture::Isolated)
    }

    /// Units and names of the exclusions that are in force from now on are looked for again and again.
    pub(super) fn plan_relocation(&mut self) {
        let excluded = self.machine.excluded();
        let has_units = excluded.iter().any(|exclusion| exclusion.unit.is_some());
        let has_names = !exclusions::names(excluded).is_empty();
        let now = Instant::now();
        let Relocation { groups, names } = &mut self.upkeep.relocation;
        *groups = has_units.then_some(now + GROUPS_EVERY);
        *names = if has_names { Some(names.unwrap_or(now)) } else { None };
    }

    /// Looks for the units, so that the rules that follow are about groups that exist. A number of a group from before may be another's now.
    pub(super) fn find_groups(&mut self) {
        let groups = groups::named(self.machine.excluded());
        self.handle(Event::Groups(groups));
    }

    pub(super) fn relocate(&mut self) {
        let now = Instant::now();
        if self.machine.posture() != Posture::Isolated {
            self.upkeep.relocation = Relocation::default();
            return;
        }
        if self.upkeep.relocation.groups.is_some_and(|at| at <= now) {
            self.upkeep.relocation.groups = Some(now + GROUPS_EVERY);
            self.find_groups();
        }
        if self.upkeep.relocation.names.is_some_and(|at| at <= now) {
            let names = exclusions::names(self.machine.excluded());
            let frozen = self.machine.frozen();
            let servers = frozen.map(FrozenFacts::name_servers).unwrap_or_default();
            let complete = frozen.is_some_and(|frozen| names.iter().all(|name| frozen.names.contains_key(name)));
            self.upkeep.relocation.names = Some(now + if complete { NAMES_EVERY } else { NAMES_SOON });
            let inputs = self.inputs.clone();
            let asked = std::thread::Builder::new().name("names".into()).spawn(move || {
                let found = dns::resolve(&names, &servers, PATIENCE);
                let _ = inputs.blocking_send(Input::Names(found));
            });
            if let Err(error) = asked {
                tracing::warn!(%error, "exclusion names not resolved: their last addresses stay in force");
            }
        }
    }

    /// Somebody has answered for names; what was known of the others stays.
    pub(super) fn renamed(&mut self, found: BTreeMap<String, Vec<IpAddr>>) {
        let wanted = exclusions::names(self.machine.excluded());
        let Some(frozen) = self.machine.frozen() else { return };
        let mut names = frozen.names.clone();
        places::merge(&mut names, found.into_iter().filter(|(name, _)| wanted.contains(name)).collect());
        self.handle(Event::Names(names));
    }
}
