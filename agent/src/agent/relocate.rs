//! Keeps up with what an exclusion names and does not stay where it was: units that start again, names that move.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use portcullis_agent_core::exclusions;
use portcullis_agent_core::record::{Frozen, Record, Standing};
use portcullis_schemas::events::Posture;
use portcullis_schemas::exclusion::Exclusion;
use tokio::time::Instant;

use super::Agent;
use crate::facts::groups;
use crate::input::Input;
use crate::{dns, places};

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
    /// The exclusions of the order in force, where one isolates.
    fn excluded(&self) -> &[Exclusion] {
        let record = self.host.standing.record().filter(|record| record.posture == Posture::Isolated);
        record.and_then(|record| record.order.as_ref()).map_or(&[], |order| &order.exclusions)
    }

    pub(super) fn relocation_due(&self) -> Option<Instant> {
        let Relocation { groups, names } = self.upkeep.relocation;
        [groups, names].into_iter().flatten().min().filter(|_| self.host.standing.posture() == Posture::Isolated)
    }

    /// Looks for the units, so that the rules that follow are about groups that exist. A number of a group from before may be another's now.
    pub(super) fn find_groups(&mut self) -> bool {
        let has_units = self.excluded().iter().any(|exclusion| exclusion.unit.is_some());
        let has_names = !exclusions::names(self.excluded()).is_empty();
        self.upkeep.relocation.groups = has_units.then(|| Instant::now() + GROUPS_EVERY);
        if !has_names {
            self.upkeep.relocation.names = None;
        } else if self.upkeep.relocation.names.is_none() {
            self.upkeep.relocation.names = Some(Instant::now());
        }
        let groups = groups::named(self.excluded());
        let Standing::Known(record) = &mut self.host.standing else { return false };
        record.frozen.as_mut().is_some_and(|frozen| std::mem::replace(&mut frozen.groups, groups.clone()) != groups)
    }

    pub(super) fn relocate(&mut self) {
        let now = Instant::now();
        if self.host.standing.posture() != Posture::Isolated {
            self.upkeep.relocation = Relocation::default();
            return;
        }
        if self.upkeep.relocation.groups.is_some_and(|at| at <= now) && self.find_groups() {
            self.enforce();
        }
        if self.upkeep.relocation.names.is_some_and(|at| at <= now) {
            let names = exclusions::names(self.excluded());
            let frozen = self.host.standing.record().and_then(|record| record.frozen.as_ref());
            let servers = frozen.map(Frozen::name_servers).unwrap_or_default();
            let complete = frozen.is_some_and(|frozen| names.iter().all(|name| frozen.names.contains_key(name)));
            self.upkeep.relocation.names = Some(now + if complete { NAMES_EVERY } else { NAMES_SOON });
            let inputs = self.inputs.clone();
            let asked = std::thread::Builder::new().name("names".into()).spawn(move || {
                let found = dns::resolve(&names, &servers, PATIENCE);
                let _ = inputs.blocking_send(Input::Names(found));
            });
            if let Err(error) = asked {
                tracing::warn!(%error, "names are not asked now; the last answers stand");
            }
        }
    }

    /// Somebody has answered for names; what was known of the others stays.
    pub(super) fn renamed(&mut self, found: BTreeMap<String, Vec<IpAddr>>) {
        let wanted = exclusions::names(self.excluded());
        let Some(record) = self.host.standing.record().filter(|record| record.posture == Posture::Isolated) else { return };
        let Some(frozen) = &record.frozen else { return };
        let mut names = frozen.names.clone();
        places::merge(&mut names, found.into_iter().filter(|(name, _)| wanted.contains(name)).collect());
        let sets = |names: &BTreeMap<String, Vec<IpAddr>>| {
            names
                .iter()
                .map(|(name, found)| (name.clone(), found.iter().copied().collect()))
                .collect::<Vec<(_, std::collections::BTreeSet<_>)>>()
        };
        if sets(&names) == sets(&frozen.names) {
            return;
        }
        let mut next = Record { serial: record.serial + 1, ..record.clone() };
        if let Some(frozen) = &mut next.frozen {
            frozen.names = names;
        }
        self.persist(next);
        self.enforce();
    }
}
