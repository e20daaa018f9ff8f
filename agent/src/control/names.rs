//! Names of exclusions that are not known as the gate drops: a thread asks for them, and neither the gate nor an order waits for it beyond a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use portcullis_agent_core::machine::Event;
use portcullis_agent_core::record::{FrozenFacts, NameServer};
use portcullis_schemas::events::{Order, Posture};
use portcullis_schemas::exclusion::Exclusion;
use tokio::time::Instant;

use super::Agent;
use crate::broker::event::Received;
use crate::host::{facts, places};

/// An answer that is not there by then counts as none, whatever the thread does.
const LIMIT: Duration = places::BEFORE_THE_GATE.saturating_add(Duration::from_millis(50));

/// Questions for the thread.
#[derive(Debug)]
pub struct Question {
    /// Tells this question's answer from that of one before, which came too late.
    pub number: u64,
    pub names: BTreeSet<String>,
    pub servers: Vec<NameServer>,
}

/// The lookup for the order that came last.
#[derive(Debug, Default)]
pub(super) struct NameLookup {
    number: u64,
    /// What has been asked for it, answered or not.
    asked: BTreeSet<String>,
    found: BTreeMap<String, Vec<IpAddr>>,
    /// Until when the answer is waited for.
    until: Option<Instant>,
    /// What is frozen when the answer is there.
    frozen: Option<FrozenFacts>,
    /// The order that is judged when the answer is there.
    held: Option<Received>,
}

impl NameLookup {
    pub(super) fn due(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn holds_an_order(&self) -> bool {
        self.held.is_some()
    }

    /// What was found for the order that came last.
    pub(super) fn found(&self) -> BTreeMap<String, Vec<IpAddr>> {
        self.found.clone()
    }

    fn forget(&mut self) {
        self.asked.clear();
        self.found.clear();
    }
}

impl Agent {
    /// What the host knows of itself, and where the exclusions are. None: it is handed in later, when names have been looked up.
    pub(super) fn freeze(&mut self, known: Option<FrozenFacts>, exclusions: &[Exclusion]) -> Option<FrozenFacts> {
        let mut frozen = known.unwrap_or_else(|| {
            let programs = self.programs_before();
            FrozenFacts { programs, ..facts::gather(&self.resolv_conf) }
        });
        places::locate(&mut frozen, exclusions);
        let lookup = &mut self.upkeep.names;
        places::merge(&mut frozen.names, std::mem::take(&mut lookup.found));
        let names: BTreeSet<String> = places::unknown_names(&frozen, exclusions).difference(&lookup.asked).cloned().collect();
        lookup.forget();
        if names.is_empty() {
            return Some(frozen);
        }
        self.ask_for(names, frozen.name_servers());
        self.upkeep.names.frozen = Some(frozen);
        None
    }

    /// Whether an order has to wait for names: it is judged by what its exclusions let pass where the connection to the broker ends on this host.
    pub(super) fn asks_for_names(&mut self, order: &Order) -> bool {
        let is_new = order.posture == Posture::Isolated && order.generation > self.machine.generation();
        if !is_new || self.allow_relay || !self.upkeep.reach.ends_here() {
            return false;
        }
        let frozen = self.machine.frozen().cloned().unwrap_or_else(|| facts::gather(&self.resolv_conf));
        let names: BTreeSet<String> =
            places::unknown_names(&frozen, &order.exclusions).difference(&self.upkeep.names.asked).cloned().collect();
        let is_unknown = !names.is_empty();
        if is_unknown {
            self.ask_for(names, frozen.name_servers());
        }
        is_unknown
    }

    pub(super) fn hold(&mut self, order: Received) {
        self.upkeep.names.held = Some(order);
    }

    fn ask_for(&mut self, names: BTreeSet<String>, servers: Vec<NameServer>) {
        let lookup = &mut self.upkeep.names;
        lookup.number += 1;
        lookup.until = Some(Instant::now() + LIMIT);
        lookup.asked.extend(names.iter().cloned());
        self.names.send(Question { number: lookup.number, names, servers });
    }

    /// Name servers have answered, or not.
    pub(super) fn located(&mut self, number: u64, found: BTreeMap<String, Vec<IpAddr>>) {
        let lookup = &mut self.upkeep.names;
        if lookup.until.is_some() && lookup.number == number {
            lookup.found.extend(found);
            self.go_on_without_names();
        } else {
            // It comes after its time, and is as good as one that was asked for while isolated.
            self.renamed(found);
        }
    }

    pub(super) fn late_names(&mut self, now: Instant) {
        if self.upkeep.names.until.is_some_and(|until| until <= now) {
            self.go_on_without_names();
        }
    }

    /// Goes on with what is known of the names by now.
    pub(super) fn go_on_without_names(&mut self) {
        let lookup = &mut self.upkeep.names;
        lookup.until = None;
        let held = lookup.held.take();
        if let Some(mut frozen) = lookup.frozen.take() {
            places::merge(&mut frozen.names, lookup.found());
            // Another order may have come meanwhile: its users and units are found here, its names afterwards.
            places::locate(&mut frozen, self.machine.excluded());
            self.handle(Event::FrozenFacts(Box::new(frozen)));
        }
        if let Some(order) = held {
            self.order(order);
        }
        // One that comes again is looked up again.
        let lookup = &mut self.upkeep.names;
        if lookup.until.is_none() {
            lookup.forget();
        }
    }
}
