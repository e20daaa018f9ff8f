//! How many hosts are known, isolated, and isolated lately, for each limit of a policy and each of its scopes. Kept up to date host by host, so that
//! a detection looks at no other host.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::TimeDelta;
use portcullis_policy::{HostView, Policy};
use portcullis_schemas::events::Posture;
use portcullis_schemas::time::Span;
use portcullis_schemas::{HostId, Timestamp};

use crate::host::Host;

/// Hosts that were not heard of for longer are no part of a share.
const HEARD_WITHIN: TimeDelta = TimeDelta::hours(24);

/// A limit by its place in the policy, and one of its scopes.
type Scope = (usize, Option<String>);

#[derive(Debug, Default)]
pub struct Tally {
    /// Whose limits are counted.
    policy: Option<Arc<Policy>>,
    counts: HashMap<Scope, Count>,
    members: HashMap<HostId, Member>,
    /// When hosts were isolated last by detections of a source.
    sources: HashMap<String, Times>,
}

/// The hosts of one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    known: u64,
    isolated: u64,
    silent: Times,
    begun: Times,
}

/// What a host is counted as.
#[derive(Debug, Default)]
struct Member {
    scopes: Vec<Scope>,
    is_known: bool,
    is_isolated: bool,
    silent_since: Option<Timestamp>,
    begun: Option<Timestamp>,
    source: Option<String>,
}

/// Moments, the earliest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Times(Vec<Timestamp>);

impl Tally {
    pub fn is_of(&self, policy: &Policy) -> bool {
        self.policy.as_ref().is_some_and(|counted| counted.hash() == policy.hash())
    }

    /// Counts by the limits of another policy.
    pub fn begin(&mut self, policy: Arc<Policy>) {
        *self = Self { policy: Some(policy), ..Self::default() };
    }

    /// Counts a host whose inventory came.
    pub fn place(&mut self, id: &HostId, host: &Host, view: &HostView<'_>) {
        let Some(policy) = &self.policy else { return };
        let limits = policy.limits().iter().enumerate().filter(|(_, limit)| limit.takes(view));
        let scopes = limits.flat_map(|(at, limit)| limit.scopes(view).into_iter().map(move |scope| (at, scope))).collect();
        let member = Member { scopes, ..Member::of(host) };
        self.put(id, Some(member));
    }

    /// Counts a host whose order is another one. True where it is not placed yet.
    pub fn order(&mut self, id: &HostId, host: &Host) -> bool {
        let Some(member) = self.members.get(id) else { return self.policy.is_some() };
        let new = Member::of(host);
        if (member.is_isolated, member.begun, &member.source) != (new.is_isolated, new.begun, &new.source) {
            let scopes = member.scopes.clone();
            self.put(id, Some(Member { scopes, ..new }));
        }
        false
    }

    pub fn remove(&mut self, id: &HostId) {
        self.put(id, None);
    }

    pub fn count(&self, limit: usize, scope: Option<&str>) -> &Count {
        static NONE: Count = Count { known: 0, isolated: 0, silent: Times(Vec::new()), begun: Times(Vec::new()) };
        self.counts.get(&(limit, scope.map(str::to_owned))).unwrap_or(&NONE)
    }

    /// How many hosts a source has isolated within `per`.
    pub fn by_source(&self, source: &str, per: Span, now: Timestamp) -> u64 {
        self.sources.get(source).map_or(0, |times| times.since(now - per.delta()))
    }

    fn put(&mut self, id: &HostId, member: Option<Member>) {
        if let Some(old) = self.members.remove(id) {
            for scope in &old.scopes {
                if let Some(count) = self.counts.get_mut(scope) {
                    count.remove(&old);
                }
            }
            if let (Some(source), Some(begun)) = (&old.source, old.begun)
                && let Some(times) = self.sources.get_mut(source)
            {
                times.remove(begun);
            }
        }
        let Some(member) = member else { return };
        for scope in &member.scopes {
            self.counts.entry(scope.clone()).or_default().add(&member);
        }
        if let (Some(source), Some(begun)) = (&member.source, member.begun) {
            self.sources.entry(source.clone()).or_default().add(begun);
        }
        self.members.insert(id.clone(), member);
    }
}

impl Count {
    /// Hosts heard of lately.
    pub fn base(&self, now: Timestamp) -> u64 {
        self.known - self.silent.before(now - HEARD_WITHIN)
    }

    pub fn isolated(&self) -> u64 {
        self.isolated
    }

    /// Hosts that were isolated within `per`, of which some may be open again.
    pub fn lately(&self, per: Span, now: Timestamp) -> u64 {
        self.begun.since(now - per.delta())
    }

    fn add(&mut self, member: &Member) {
        self.known += u64::from(member.is_known);
        self.isolated += u64::from(member.is_isolated);
        member.silent_since.into_iter().for_each(|since| self.silent.add(since));
        member.begun.into_iter().for_each(|begun| self.begun.add(begun));
    }

    fn remove(&mut self, member: &Member) {
        self.known -= u64::from(member.is_known);
        self.isolated -= u64::from(member.is_isolated);
        member.silent_since.into_iter().for_each(|since| self.silent.remove(since));
        member.begun.into_iter().for_each(|begun| self.begun.remove(begun));
    }
}

impl Member {
    fn of(host: &Host) -> Self {
        let order = host.order.as_deref();
        let last = order.and_then(|order| order.last_isolation.as_ref());
        Self {
            scopes: Vec::new(),
            is_known: host.inventory.is_some(),
            is_isolated: order.is_some_and(|order| order.posture == Posture::Isolated),
            silent_since: host.inventory.as_deref().and_then(|inventory| inventory.silent_since),
            begun: last.map(|last| last.at),
            source: last.and_then(|last| last.source.clone()),
        }
    }
}

impl Times {
    fn add(&mut self, time: Timestamp) {
        self.0.insert(self.0.partition_point(|known| *known <= time), time);
    }

    fn remove(&mut self, time: Timestamp) {
        if let Ok(at) = self.0.binary_search(&time) {
            self.0.remove(at);
        }
    }

    fn before(&self, time: Timestamp) -> u64 {
        self.0.partition_point(|known| *known < time) as u64
    }

    /// Those later than `time`.
    fn since(&self, time: Timestamp) -> u64 {
        (self.0.len() - self.0.partition_point(|known| *known <= time)) as u64
    }
}

#[cfg(test)]
mod tests;
