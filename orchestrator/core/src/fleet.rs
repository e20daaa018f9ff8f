//! The fleet as the log tells it: a fold over stored events, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::TimeDelta;
use portcullis_policy::Policy;
use portcullis_schemas::events::{Counts, Decision, Hello, Inventory, Notice, NoticeKind, Order, Posture, Severity, State};
use portcullis_schemas::{HostId, Timestamp};

pub use crate::host::{Host, PLAUSIBLE_LEAD};
use crate::inventory::{self, short};
use crate::isolation::NO_PREV;
use crate::subject::Subject;
use crate::tally::Tally;
use crate::words::{Said, Words};

/// A host is silent when it has not been heard of for this long: three of its words missed.
pub const SILENT_AFTER: TimeDelta = TimeDelta::seconds(100);

/// Hellos come every 24 to 36 s.
pub const LATE_AFTER: TimeDelta = TimeDelta::seconds(36);

#[derive(Debug)]
pub struct Fleet {
    hosts: BTreeMap<HostId, Host>,
    /// Names and addresses to the hosts that claim them.
    claims: HashMap<String, Vec<HostId>>,
    /// First labels of names to the hosts that claim such a name.
    shorts: HashMap<String, Vec<HostId>>,
    /// Ids in lower case to the spelling that stood first.
    spelled: HashMap<String, HostId>,
    isolated: u64,
    /// Counts by the limits of the policy.
    tally: Tally,
    /// What operators said of hosts and no inventory holds yet.
    words: Words,
    /// SHA-256 of the last message in the log of orders.
    prev: String,
}

/// What an order displaced.
#[derive(Debug)]
#[must_use]
pub struct Displaced {
    host: HostId,
    /// The order before it; None where that stayed.
    order: Option<Option<Box<Order>>>,
    prev: String,
    isolated: u64,
    is_new: bool,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            claims: HashMap::new(),
            shorts: HashMap::new(),
            spelled: HashMap::new(),
            isolated: 0,
            tally: Tally::default(),
            words: Words::default(),
            prev: NO_PREV.to_owned(),
        }
    }
}

impl Fleet {
    /// Takes an order. An older generation than the last one changes nothing but the chain.
    pub fn take_order(&mut self, order: Order, body_sha256: String) -> Displaced {
        let id = order.host.clone();
        let mut displaced = Displaced {
            prev: std::mem::replace(&mut self.prev, body_sha256),
            isolated: self.isolated,
            is_new: !self.hosts.contains_key(&id),
            order: None,
            host: id.clone(),
        };
        self.spelled.entry(id.folded()).or_insert_with(|| id.clone());
        let host = self.hosts.entry(id).or_default();
        if host.order.as_deref().is_some_and(|last| last.generation >= order.generation) {
            return displaced;
        }
        let was = host.order.as_deref().is_some_and(|order| order.posture == Posture::Isolated);
        let is = order.posture == Posture::Isolated;
        self.isolated = self.isolated + u64::from(is) - u64::from(was);
        displaced.order = Some(host.order.replace(Box::new(order)));
        self.tally_order(&displaced.host);
        displaced
    }

    /// Takes an order back that was never stored. What was taken last is put back first.
    pub fn put_back(&mut self, displaced: Displaced) {
        let Displaced { host, order, prev, isolated, is_new } = displaced;
        (self.prev, self.isolated) = (prev, isolated);
        if is_new {
            self.hosts.remove(&host);
            self.tally.remove(&host);
            if self.spelled.get(&host.folded()) == Some(&host) {
                self.spelled.remove(&host.folded());
            }
        } else if let (Some(entry), Some(order)) = (self.hosts.get_mut(&host), order) {
            entry.order = order;
            self.tally_order(&host);
        }
    }

    /// Counts by the limits of this policy from now on.
    pub fn count_by(&mut self, policy: &Arc<Policy>) {
        if !self.tally.is_of(policy) {
            self.tally.begin(Arc::clone(policy));
            for (id, host) in &self.hosts {
                self.tally.place(id, host, &Subject::of(id, host).view());
            }
        }
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    fn tally_order(&mut self, id: &HostId) {
        if let Some(host) = self.hosts.get(id)
            && self.tally.order(id, host)
        {
            self.tally.place(id, host, &Subject::of(id, host).view());
        }
    }

    /// Notes a message in the log of orders that is none: the chain goes over it all the same.
    pub fn take_link(&mut self, body_sha256: String) {
        self.prev = body_sha256;
    }

    /// Takes a stored state event.
    pub fn take_state(&mut self, state: State, at: Timestamp) {
        let Some(host) = self.known(&state.host) else { return };
        host.heard_at = host.heard_at.max(Some(at));
        host.state = Some(Box::new(state));
        host.state_at = Some(at);
    }

    /// Takes a stored inventory.
    pub fn take_inventory(&mut self, mut inventory: Inventory, at: Timestamp) {
        let id = inventory.hello.host.clone();
        let stored = inventory.operator.clone();
        self.words.stored(&id, stored.as_ref());
        inventory.operator = self.words.with(&id, stored.as_ref());
        let Some(host) = self.known(&id) else { return };
        host.stored_word = stored.map(Box::new);
        host.heard_at = host.heard_at.max(Some(at));
        let new: Vec<String> = inventory::claims(&inventory).map(|claim| claim.value.clone()).collect();
        let instance = inventory.hello.instance.clone();
        let old = host.inventory.replace(Box::new(inventory));
        if let Some(before) = old.as_ref().map(|old| &old.hello.instance).filter(|before| **before != instance) {
            host.instance_before = Some(before.clone());
        }
        for claim in old.iter().flat_map(|old| &old.claims) {
            strike(&mut self.claims, &claim.value, &id);
            strike(&mut self.shorts, short(&claim.value), &id);
        }
        for value in new {
            if inventory::address(&value).is_none() {
                self.shorts.entry(short(&value).to_owned()).or_default().push(id.clone());
            }
            self.claims.entry(value).or_default().push(id.clone());
        }
        if let Some(host) = self.hosts.get(&id) {
            self.tally.place(&id, host, &Subject::of(&id, host).view());
        }
    }

    /// Takes what a decision says of a host in an operator's name, stored at `recorded` in DECISIONS.
    pub fn take_words(&mut self, decision: &Decision, recorded: u64) -> Option<Said> {
        let known = decision.host.as_ref().and_then(|host| self.hosts.get(host));
        let said = self.words.take(decision, recorded, known.and_then(|host| host.stored_word.as_deref()))?;
        self.say(said.host());
        Some(said)
    }

    /// Takes it back. What was taken last is put back first.
    pub fn put_back_words(&mut self, said: Said) {
        let host = said.host().clone();
        let stored = self.hosts.get(&host).and_then(|host| host.stored_word.as_deref());
        self.words.put_back(said, stored);
        self.say(&host);
    }

    /// Where in DECISIONS the oldest word stands that no inventory holds.
    pub fn words_from(&self) -> Option<u64> {
        self.words.recorded_from()
    }

    /// Inventories to store, so that they hold what operators said.
    pub fn unstored_words(&self) -> Vec<Inventory> {
        let inventories = self.words.hosts().filter_map(|id| self.hosts.get(id)?.inventory.as_deref().cloned());
        inventories.map(|inventory| self.storable(inventory)).collect()
    }

    fn say(&mut self, id: &HostId) {
        let Some(host) = self.hosts.get_mut(id) else { return };
        let word = self.words.with(id, host.stored_word.as_deref());
        if let Some(inventory) = &mut host.inventory {
            inventory.operator = word;
        }
        if let Some(host) = self.hosts.get(id) {
            self.tally.place(id, host, &Subject::of(id, host).view());
        }
    }

    /// Notes a heartbeat. It is not stored, so nothing is decided by it but silence, which is stored.
    pub fn hear(&mut self, host: &HostId, at: Timestamp) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.heard_at = host.heard_at.max(Some(at));
        }
    }

    /// The host of this id; None where the id is another host's but for case.
    fn known(&mut self, id: &HostId) -> Option<&mut Host> {
        let first = self.spelled.entry(id.folded()).or_insert_with(|| id.clone());
        (first == id).then(|| self.hosts.entry(id.clone()).or_default())
    }

    /// After a gap in which nobody could be heard, silence counts from `at`.
    pub fn forgive_silence(&mut self, at: Timestamp) {
        for host in self.hosts.values_mut().filter(|host| host.inventory.is_some()) {
            host.heard_at = host.heard_at.max(Some(at));
        }
    }

    /// Hosts that fell silent by `now` and are not yet recorded as such: the inventories to store.
    pub fn fallen_silent(&self, now: Timestamp) -> Vec<Inventory> {
        let silent = |host: &Host| host.heard_at.is_some_and(|heard| now - heard > SILENT_AFTER);
        self.hosts
            .values()
            .filter(|host| silent(host))
            .filter_map(|host| Some((host.inventory.as_deref()?, host.heard_at)))
            .filter(|(inventory, _)| inventory.silent_since.is_none())
            .map(|(inventory, heard)| self.storable(Inventory { silent_since: heard, ..inventory.clone() }))
            .collect()
    }

    /// Hosts whose hello is late by `now` and that are not recorded as silent, with the time of the last one; at most `most`, the latest first.
    pub fn late(&self, now: Timestamp, most: usize) -> BTreeMap<HostId, Timestamp> {
        let late = self.hosts.iter().filter_map(|(id, host)| {
            let heard = host.heard_at.filter(|heard| now - *heard > LATE_AFTER)?;
            host.inventory.as_deref().filter(|inventory| inventory.silent_since.is_none())?;
            Some((heard, id.clone()))
        });
        let mut late: Vec<(Timestamp, HostId)> = late.collect();
        late.sort();
        late.into_iter().take(most).map(|(heard, id)| (id, heard)).collect()
    }

    /// The notice of a host that fell silent. One that is isolated may have been tampered with.
    pub fn unreachable(&self, inventory: &Inventory) -> Notice {
        let host = &inventory.hello.host;
        let incident = self.host(host).and_then(Host::incident);
        let (severity, was) = match incident {
            Some(_) => (Severity::High, " while isolated"),
            None => (Severity::Medium, ""),
        };
        let since =
            inventory.silent_since.map_or_else(String::new, |since| format!(" since {}", since.format("%Y-%m-%d %H:%M:%S UTC")));
        let text = format!("{host} is unreachable{was}: no heartbeat{since}");
        Notice { kind: NoticeKind::Silent, severity, host: Some(host.clone()), incident, text, outputs: Vec::new() }
    }

    /// The inventory to store for this hello, if it says anything new. A generation above the log's is news: what is decided on must be stored.
    pub fn inventory_for(&self, hello: &Hello, at: Timestamp) -> Option<Inventory> {
        let host = self.host(&hello.host);
        let ordered = host.map_or(0, Host::ordered);
        let is_ahead = hello.generation > ordered && hello.generation <= ordered.saturating_add(PLAUSIBLE_LEAD);
        let inventory = inventory::of(host.and_then(|host| host.inventory.as_deref()), hello, at, is_ahead)?;
        Some(self.storable(inventory))
    }

    /// The inventory with what operators said as far as it is recorded.
    fn storable(&self, inventory: Inventory) -> Inventory {
        let stored = self.host(&inventory.hello.host).and_then(|host| host.stored_word.as_deref());
        Inventory { operator: self.words.recorded(&inventory.hello.host, stored), ..inventory }
    }

    pub fn host(&self, id: &HostId) -> Option<&Host> {
        self.hosts.get(id)
    }

    /// A host with its id as the fleet keeps it.
    pub fn entry(&self, id: &HostId) -> Option<(&HostId, &Host)> {
        self.hosts.get_key_value(id)
    }

    pub fn hosts(&self) -> impl Iterator<Item = (&HostId, &Host)> {
        self.hosts.iter()
    }

    /// Hosts that claim a name (in lower case) or an address, in no order.
    pub fn claimants(&self, value: &str) -> &[HostId] {
        self.claims.get(value).map_or(&[], Vec::as_slice)
    }

    /// Hosts that claim a name with this first label, in no order.
    pub fn called_alike(&self, short: &str) -> &[HostId] {
        self.shorts.get(short).map_or(&[], Vec::as_slice)
    }

    /// The host whose id is this one but for case.
    pub fn spelled_otherwise(&self, id: &HostId) -> Option<&HostId> {
        self.spelled.get(&id.folded()).filter(|known| *known != id)
    }

    pub fn counts(&self) -> Counts {
        Counts { hosts: self.hosts.len() as u64, isolated: self.isolated }
    }

    pub fn prev(&self) -> &str {
        &self.prev
    }
}

fn strike(index: &mut HashMap<String, Vec<HostId>>, value: &str, id: &HostId) {
    let Some(holders) = index.get_mut(value) else { return };
    holders.retain(|holder| holder != id);
    if holders.is_empty() {
        index.remove(value);
    }
}

#[cfg(test)]
mod tests;
