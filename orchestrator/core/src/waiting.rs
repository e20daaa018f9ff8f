//! Detections that wait for a host that is not known yet: a fold over their decisions.
//!
//! A decision that says "waits" puts one in, the one behind it takes it out. They are found by id, name and address, so that an inventory looks at none
//! that does not mean its host. What is in hand is not handed out again until it is released.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use portcullis_schemas::events::{Decision, HostClaim, InputKind, InputRef, Inventory, Reason, WaitEnd, Waits};
use portcullis_schemas::{HostId, Timestamp};

use crate::inventory::{self, address, name, short};

/// Most detections that wait; of more, those that end first are pushed out.
pub const MOST: usize = 10_000;
/// So many addresses of a detection are waited for.
const MOST_ADDRESSES: usize = 32;

#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    pub input: InputRef,
    /// The broker's time of the detection.
    pub at: Timestamp,
    pub until: Timestamp,
    pub host: HostClaim,
    /// What is waited for, in words.
    pub wanted: String,
    pub incident: Option<String>,
    /// Hash of the key of the detection that it retracts.
    pub retracts: Option<String>,
    /// Where it is recorded in DECISIONS.
    recorded: u64,
}

#[derive(Debug, Default)]
pub struct Waiting {
    /// By their sequence in DETECTIONS.
    waits: BTreeMap<u64, Wait>,
    /// By the hash of their keys.
    by_key: HashMap<String, u64>,
    /// Retractions among them, by the hash of the key that they retract.
    retracting: HashMap<String, u64>,
    by_value: HashMap<String, BTreeSet<u64>>,
    by_record: BTreeSet<(u64, u64)>,
    /// Those that nobody has in hand, by their ends.
    by_end: BTreeSet<(Timestamp, u64)>,
    /// Those of them that were retracted.
    retracted: BTreeSet<u64>,
}

impl Waiting {
    /// Takes a decision that is stored at `recorded` in DECISIONS. True where a detection waits from then on.
    pub fn take(&mut self, decision: &Decision, recorded: u64) -> bool {
        let (InputKind::Detection, Some(sequence)) = (decision.input.kind, decision.sequence) else { return false };
        let is_new = match &decision.reason {
            Reason::Unresolved { waits: Some(waits), wanted, .. } => self.insert(sequence, decision, waits, wanted, recorded),
            _ => {
                self.remove(sequence);
                false
            }
        };
        let retracted = decision.retracts.as_ref().and_then(|hash| self.by_key.get(hash).copied());
        if let Some(retracted) = retracted {
            self.retract(retracted);
            self.retract(sequence);
        }
        is_new && !self.retracted.contains(&sequence)
    }

    fn insert(&mut self, sequence: u64, decision: &Decision, waits: &Waits, wanted: &str, recorded: u64) -> bool {
        let hash = decision.input.hash();
        // The same detection, stored again, waits once.
        if let Some(known) = self.by_key.get(&hash) {
            self.prolong(*known, waits.until);
            return false;
        }
        let wait = Wait {
            input: decision.input.clone(),
            at: decision.facts.now.unwrap_or(waits.until),
            until: waits.until,
            host: waits.host.clone(),
            wanted: wanted.to_owned(),
            incident: decision.incident.clone(),
            retracts: decision.retracts.clone(),
            recorded,
        };
        for value in values(&wait.host) {
            self.by_value.entry(value).or_default().insert(sequence);
        }
        if let Some(retracts) = &wait.retracts {
            self.retracting.insert(retracts.clone(), sequence);
        }
        self.by_record.insert((recorded, sequence));
        self.by_end.insert((wait.until, sequence));
        self.waits.insert(sequence, wait);
        if let Some(retraction) = self.retracting.get(&hash).copied() {
            self.retract(retraction);
            self.retract(sequence);
        }
        self.by_key.insert(hash, sequence);
        true
    }

    fn prolong(&mut self, sequence: u64, until: Timestamp) {
        if let Some(wait) = self.waits.get_mut(&sequence).filter(|wait| wait.until < until) {
            if self.by_end.remove(&(wait.until, sequence)) {
                self.by_end.insert((until, sequence));
            }
            wait.until = until;
        }
    }

    fn retract(&mut self, sequence: u64) {
        if self.waits.contains_key(&sequence) {
            self.retracted.insert(sequence);
        }
    }

    /// It waits no longer.
    pub fn remove(&mut self, sequence: u64) {
        let Some(wait) = self.waits.remove(&sequence) else { return };
        self.by_key.remove(&wait.input.hash());
        if let Some(retracts) = &wait.retracts {
            self.retracting.remove(retracts);
        }
        for value in values(&wait.host) {
            if let Some(found) = self.by_value.get_mut(&value) {
                found.remove(&sequence);
                if found.is_empty() {
                    self.by_value.remove(&value);
                }
            }
        }
        self.by_record.remove(&(wait.recorded, sequence));
        self.by_end.remove(&(wait.until, sequence));
        self.retracted.remove(&sequence);
    }

    pub fn contains(&self, sequence: u64) -> bool {
        self.waits.contains_key(&sequence)
    }

    /// Whether it still waits for its host: it is neither decided nor retracted.
    pub fn is_live(&self, sequence: u64) -> bool {
        self.contains(sequence) && !self.retracted.contains(&sequence)
    }

    pub fn len(&self) -> usize {
        self.waits.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Where the oldest record of those that wait stands in DECISIONS.
    pub fn recorded_from(&self) -> Option<u64> {
        self.by_record.first().map(|(recorded, _)| *recorded)
    }

    /// When the next one ends by its time.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.by_end.first().map(|(until, _)| *until)
    }

    pub fn get(&self, sequence: u64) -> Option<&Wait> {
        self.waits.get(&sequence)
    }

    /// One that nobody has in hand.
    pub fn free(&self, sequence: u64) -> Option<&Wait> {
        let wait = self.waits.get(&sequence)?;
        (self.by_end.contains(&(wait.until, sequence)) && !self.retracted.contains(&sequence)).then_some(wait)
    }

    /// Those that nobody has in hand.
    pub fn all_free(&self) -> Vec<u64> {
        self.by_end.iter().map(|(_, sequence)| *sequence).filter(|sequence| !self.retracted.contains(sequence)).collect()
    }

    /// Those that may mean the host of this inventory.
    pub fn meaning(&self, inventory: &Inventory) -> BTreeSet<u64> {
        let claims = inventory::claims(inventory).map(|claim| value_of(&claim.value));
        let values = std::iter::once(value_of_id(&inventory.hello.host)).chain(claims);
        values.filter_map(|value| self.by_value.get(&value)).flatten().copied().collect()
    }

    /// Takes one in hand.
    pub fn hold(&mut self, sequence: u64) {
        if let Some(wait) = self.waits.get(&sequence) {
            self.by_end.remove(&(wait.until, sequence));
        }
    }

    /// It is in nobody's hand any more, and waits on.
    pub fn release(&mut self, sequence: u64) {
        if let Some(wait) = self.waits.get(&sequence) {
            self.by_end.insert((wait.until, sequence));
        }
    }

    pub fn release_all(&mut self) {
        self.by_end = self.waits.iter().map(|(sequence, wait)| (wait.until, *sequence)).collect();
    }

    /// Takes those in hand whose wait is over at `now`.
    pub fn ended(&mut self, now: Timestamp) -> Vec<(u64, Wait, WaitEnd)> {
        let is_free =
            |sequence: &u64| self.waits.get(sequence).is_some_and(|wait| self.by_end.contains(&(wait.until, *sequence)));
        let mut over: Vec<(u64, WaitEnd)> =
            self.retracted.iter().filter(|one| is_free(one)).map(|one| (*one, WaitEnd::Retracted)).collect();
        let excess = self.by_end.len().saturating_sub(over.len() + MOST);
        let others = self.by_end.iter().filter(|(_, one)| !self.retracted.contains(one)).enumerate();
        let due = others.take_while(|(at, (until, _))| *at < excess || *until <= now);
        over.extend(due.map(|(_, (until, one))| (*one, if *until <= now { WaitEnd::TimedOut } else { WaitEnd::PushedOut })));
        over.into_iter()
            .filter_map(|(sequence, end)| {
                self.hold(sequence);
                self.waits.get(&sequence).map(|wait| (sequence, wait.clone(), end))
            })
            .collect()
    }
}

/// What can be waited for of what a sender knows of a host, as it is compared. None where nothing of it can tell hosts apart.
pub fn claim(host: &HostClaim) -> Option<HostClaim> {
    // 127.0.0.1 is an address that every host has, and no name.
    let called = |text: &String| name(text).filter(|name| name.parse::<IpAddr>().is_err());
    let compared = |text: &String| address(text).map(|ip| ip.to_string()).or_else(|| called(text));
    let id = host.id.as_ref().and_then(|id| id.parse::<HostId>().ok());
    let ips: BTreeSet<String> = host.ips.iter().filter_map(compared).take(MOST_ADDRESSES).collect();
    let claim = HostClaim {
        id: id.map(|id| id.to_string()),
        hostname: host.hostname.as_ref().and_then(compared),
        ips: ips.into_iter().collect(),
    };
    (claim != HostClaim::default()).then_some(claim)
}

fn values(host: &HostClaim) -> Vec<String> {
    let id = host.id.as_ref().and_then(|id| id.parse().ok()).map(|id| value_of_id(&id));
    id.into_iter().chain(host.hostname.iter().chain(&host.ips).map(|text| value_of(text))).collect()
}

fn value_of_id(id: &HostId) -> String {
    format!("id {id}")
}

/// A name is found by its first label: a host may be called by its short name or by the full one.
fn value_of(text: &str) -> String {
    match address(text) {
        Some(ip) => ip.to_string(),
        None => short(text).to_owned(),
    }
}

#[cfg(test)]
mod tests;
