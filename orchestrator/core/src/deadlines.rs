//! Deadlines: which releases are due, on a clock that a wall-clock step does not move.
//!
//! A deadline ([`next_end`]) is anchored when its order is heard: what is left of it then, counted on the monotonic clock. Orders heard
//! live have all of it left, from their `issued_at`; orders read back after a start have what is left by the broker's time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::TimeDelta;
use portcullis_schemas::events::Order;
use portcullis_schemas::{HostId, Timestamp};

use crate::isolation::next_end;

/// A point on the shell's monotonic clock, as the time since its start.
pub type Monotonic = Duration;

/// What fell due and is not answered by a higher generation is said again after this long.
pub const REPEAT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub host: HostId,
    pub generation: u64,
    pub due_at: Timestamp,
}

#[derive(Debug, Default)]
pub struct Deadlines {
    queue: BTreeSet<(Monotonic, HostId)>,
    hosts: BTreeMap<HostId, Entry>,
    /// The highest generation of each host: an older order that is read late waits for nothing.
    heard: BTreeMap<HostId, u64>,
}

#[derive(Debug)]
struct Entry {
    generation: u64,
    due_at: Timestamp,
    /// The same on the monotonic clock.
    due: Monotonic,
    /// When it is said next.
    next: Monotonic,
    /// People were told that it comes.
    is_announced: bool,
}

impl Deadlines {
    /// Follows an order that was heard at `heard`. `broker_now` is the broker's time at that moment where the order is read back; None
    /// where it is heard live.
    pub fn follow(&mut self, order: &Order, heard: Monotonic, broker_now: Option<Timestamp>) {
        let highest = self.heard.entry(order.host.clone()).or_default();
        if *highest >= order.generation {
            return;
        }
        *highest = order.generation;
        self.remove(&order.host);
        let Some(due_at) = next_end(order) else { return };
        let left = due_at - broker_now.unwrap_or(order.issued_at);
        let due = heard + duration(left);
        self.queue.insert((due, order.host.clone()));
        let entry = Entry { generation: order.generation, due_at, due, next: due, is_announced: false };
        self.hosts.insert(order.host.clone(), entry);
    }

    /// Those that come within `warning` from `now` on, each once.
    pub fn soon(&mut self, now: Monotonic, warning: Duration) -> Vec<Due> {
        let mut found = Vec::new();
        for (_, host) in self.queue.iter().take_while(|(at, _)| *at <= now + warning) {
            if let Some(entry) = self.hosts.get_mut(host).filter(|entry| !entry.is_announced && entry.due > now) {
                entry.is_announced = true;
                found.push(Due { host: host.clone(), generation: entry.generation, due_at: entry.due_at });
            }
        }
        found
    }

    /// All that is to be said at `now`; each is due again after [`REPEAT`], until a higher generation is followed.
    pub fn due(&mut self, now: Monotonic) -> Vec<Due> {
        let mut found = Vec::new();
        while let Some((at, host)) = self.queue.pop_first() {
            if at > now {
                self.queue.insert((at, host));
                break;
            }
            if let Some(entry) = self.hosts.get_mut(&host) {
                entry.next = now + REPEAT;
                found.push((Due { host: host.clone(), generation: entry.generation, due_at: entry.due_at }, entry.next));
            }
        }
        found
            .into_iter()
            .map(|(due, next)| {
                self.queue.insert((next, due.host.clone()));
                due
            })
            .collect()
    }

    /// Says one again at `at`: the last time it was not heard.
    pub fn again(&mut self, host: &HostId, generation: u64, at: Monotonic) {
        if let Some(entry) = self.hosts.get_mut(host).filter(|entry| entry.generation == generation) {
            self.queue.remove(&(entry.next, host.clone()));
            entry.next = at;
            self.queue.insert((at, host.clone()));
        }
    }

    /// When the next one is to be said.
    pub fn next(&self) -> Option<Monotonic> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// How long this generation has still to wait at `now`; zero when it is due, None when it is not waited for.
    pub fn rest(&self, host: &HostId, generation: u64, now: Monotonic) -> Option<Duration> {
        let entry = self.hosts.get(host).filter(|entry| entry.generation == generation)?;
        Some(entry.due.saturating_sub(now))
    }

    pub fn pending(&self) -> usize {
        self.hosts.len()
    }

    fn remove(&mut self, host: &HostId) {
        if let Some(entry) = self.hosts.remove(host) {
            self.queue.remove(&(entry.next, host.clone()));
        }
    }
}

/// A span of time that is not below zero.
fn duration(delta: TimeDelta) -> Duration {
    delta.to_std().unwrap_or_default()
}

#[cfg(test)]
mod tests;
