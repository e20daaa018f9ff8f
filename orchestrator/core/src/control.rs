//! What follows from the decisions beside orders: pending approvals, the pause, breakers, counts of thresholds. A fold over stored decisions.
//!
//! Every change of it is a part put in place of another one, so that what was laid over it and is not stored can be taken back, the last change first.

mod ask;
mod counter;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_schemas::events::{Breaker, Decision, Effect, Reason, Verdict};
use portcullis_schemas::{HostId, Timestamp};

pub use ask::{Approval, End, Pending};
use counter::{Counter, Key};

use crate::joined::{Join, Joins, OfHost};

#[derive(Debug, Default)]
pub struct Control {
    asks: BTreeMap<String, Arc<Pending>>,
    by_host: HashMap<HostId, BTreeSet<String>>,
    /// By the hashes of the detections behind them.
    by_cause: HashMap<String, String>,
    /// When each ends by its time; those that have ended come first.
    ends: BTreeSet<(Timestamp, String)>,
    pause: Option<Pause>,
    /// By limit and scope.
    breakers: BTreeMap<(String, Option<String>), Tripped>,
    counters: HashMap<Key, Arc<Counter>>,
    /// When the last count of each is over.
    counted: BTreeSet<(Timestamp, Key)>,
    joins: HashMap<HostId, OfHost>,
    /// Where in DECISIONS the records of all these begin.
    records: BTreeSet<(u64, Part)>,
}

/// Automatic isolation is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub until: Timestamp,
    pub by: String,
    pub reason: Option<String>,
    recorded: u64,
}

/// A breaker that is not reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tripped {
    pub breaker: Breaker,
    recorded: u64,
}

/// What was in the place of what a decision changed.
#[derive(Debug, Default)]
#[must_use]
pub struct Before(Vec<Replaced>);

#[derive(Debug)]
enum Replaced {
    Ask(String, Option<Arc<Pending>>),
    Pause(Option<Pause>),
    Breaker((String, Option<String>), Option<Tripped>),
    Counter(Key, Option<Arc<Counter>>),
    Joins(Key, Option<Arc<Joins>>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Ask(String),
    Pause,
    Breaker(String, Option<String>),
    Counter(Key),
    Joins(Key),
}

impl Control {
    /// Whether a decision changes anything here.
    pub fn concerns(&self, decision: &Decision) -> bool {
        let is_held = |host: &HostId| self.by_host.contains_key(host) || self.joins.contains_key(host);
        says_more(decision) || releases(decision).is_some_and(|(host, _)| is_held(host))
    }

    /// Takes a decision that is stored at `recorded` in DECISIONS.
    pub fn take(&mut self, decision: &Decision, recorded: u64) -> Before {
        let mut before = Before::default();
        if !self.concerns(decision) {
            return before;
        }
        let now = decision.facts.now.unwrap_or_default();
        // By what is the same for whoever reads the log from a later record on.
        if says_more(decision) {
            self.forget_counts(now, &mut before);
        }
        if decision.asked {
            self.put_ask(decision.input.hash(), None, &mut before);
        }
        if let (Some(ask), Some(host)) = (&decision.ask, &decision.host)
            && !self.asks.contains_key(&ask.id)
        {
            let pending = Pending::new(decision, ask, host, recorded);
            self.put_ask(ask.id.clone(), Some(pending), &mut before);
        }
        if let Reason::AskJoined { ask } = &decision.reason {
            let cause = decision.input.hash();
            self.change(ask, &mut before, |pending| pending.join(cause, now));
        }
        if let Some(ask) = decision.retracts.as_ref().and_then(|cause| self.by_cause.get(cause)).cloned() {
            let cause = decision.retracts.clone().unwrap_or_default();
            self.change(&ask, &mut before, |pending| pending.retract(&cause, now));
        }
        if let Some((host, by_hand)) = releases(decision) {
            for ask in self.by_host.get(host).into_iter().flatten().cloned().collect::<Vec<_>>() {
                self.change(&ask, &mut before, |pending| pending.released(now, by_hand));
            }
        }
        self.follow_joins(decision, (now, recorded), &mut before);
        for effect in &decision.effects {
            self.effect(decision, effect, (now, recorded), &mut before);
        }
        before
    }

    fn effect(&mut self, decision: &Decision, effect: &Effect, (now, recorded): (Timestamp, u64), before: &mut Before) {
        match effect {
            Effect::Paused { until, by, reason } => {
                let pause = Pause { until: *until, by: by.clone(), reason: reason.clone(), recorded };
                self.put_pause(Some(pause), before);
            }
            Effect::Resumed { .. } => self.put_pause(None, before),
            Effect::Approved { asks, by, .. } => {
                let approval = Approval { by: by.clone(), at: now, input: decision.input.clone() };
                for ask in asks {
                    self.change(ask, before, |pending| pending.approve(approval.clone()));
                }
            }
            Effect::Denied { asks, by, reason } => {
                for ask in asks {
                    self.change(ask, before, |pending| pending.deny(now, by, reason.as_deref()));
                }
            }
            Effect::BreakerTripped(breaker) => {
                let key = (breaker.limit.clone(), breaker.scope.clone());
                if !self.breakers.contains_key(&key) {
                    self.put_breaker(key, Some(Tripped { breaker: breaker.clone(), recorded }), before);
                }
            }
            Effect::BreakerReset { breaker, .. } => {
                if let Some(key) = self.breaker(breaker).map(|one| (one.limit.clone(), one.scope.clone())) {
                    self.put_breaker(key, None, before);
                }
            }
            Effect::Counted { value, until, wanted } => {
                let (Some(host), Some(rule)) = (&decision.host, &decision.rule) else { return };
                let key = Key { host: host.clone(), rule: rule.clone() };
                let mut counter = self.counters.get(&key).map(|counter| Counter::clone(counter)).unwrap_or_default();
                counter.count(value.as_deref(), *until, *wanted, recorded);
                self.put_counter(key, Some(Arc::new(counter)), before);
            }
            Effect::Labelled { .. } | Effect::OwnExclusions { .. } => {}
        }
    }

    fn follow_joins(&mut self, decision: &Decision, (now, recorded): (Timestamp, u64), before: &mut Before) {
        let Some(host) = &decision.host else { return };
        if let (Some(join), Some(rule)) = (Join::of(decision, recorded), &decision.rule) {
            let key = Key { host: host.clone(), rule: rule.clone() };
            self.change_joins(key, before, |joins| joins.add(join));
        }
        let is_over = releases(decision).is_some();
        if !is_over && decision.retracts.is_none() {
            return;
        }
        let rules: Vec<String> = self.joins.get(host).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        for rule in rules {
            let key = Key { host: host.clone(), rule };
            self.change_joins(key, before, |joins| {
                decision.retracts.iter().for_each(|hash| joins.remove(hash));
                if is_over {
                    joins.end(now);
                }
            });
        }
    }

    /// Takes back what a decision changed. What was taken last is put back first.
    pub fn put_back(&mut self, before: Before) {
        let mut ignored = Before::default();
        for replaced in before.0.into_iter().rev() {
            match replaced {
                Replaced::Ask(id, pending) => self.put_ask(id, pending.map(|one| Pending::clone(&one)), &mut ignored),
                Replaced::Pause(pause) => self.put_pause(pause, &mut ignored),
                Replaced::Breaker(key, tripped) => self.put_breaker(key, tripped, &mut ignored),
                Replaced::Counter(key, counter) => self.put_counter(key, counter, &mut ignored),
                Replaced::Joins(key, joins) => self.put_joins(key, joins, &mut ignored),
            }
        }
    }

    /// Where in DECISIONS the oldest record of all that lives stands.
    pub fn recorded_from(&self) -> Option<u64> {
        self.records.first().map(|(recorded, _)| *recorded)
    }

    pub fn ask(&self, id: &str) -> Option<&Arc<Pending>> {
        self.asks.get(id)
    }

    pub fn asks(&self) -> impl ExactSizeIterator<Item = &Arc<Pending>> {
        self.asks.values()
    }

    pub fn asks_of(&self, host: &HostId) -> impl Iterator<Item = &Arc<Pending>> {
        self.by_host.get(host).into_iter().flatten().filter_map(|id| self.asks.get(id))
    }

    /// The one that a detection of this hash is behind.
    pub fn caused_by(&self, cause: &str) -> Option<&Arc<Pending>> {
        self.asks.get(self.by_cause.get(cause)?)
    }

    /// Those that are to be ended by `now`, the longest over first.
    pub fn ended(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Pending>> {
        self.ends.iter().take_while(move |(until, _)| *until <= now).filter_map(|(_, id)| self.asks.get(id))
    }

    /// When the next one ends by its time.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.iter().map(|(until, _)| *until).find(|until| *until > Timestamp::MIN_UTC)
    }

    /// Drops a pending approval whose end can never be stored.
    pub fn forget(&mut self, id: &str) {
        self.put_ask(id.to_owned(), None, &mut Before::default());
    }

    /// The pause that was recorded last and not ended, whether or not its time is over.
    pub fn pause(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

    /// The pause, if it lasts at `now`.
    pub fn paused(&self, now: Timestamp) -> Option<&Pause> {
        self.pause.as_ref().filter(|pause| pause.until > now)
    }

    pub fn breakers(&self) -> impl ExactSizeIterator<Item = &Breaker> {
        self.breakers.values().map(|tripped| &tripped.breaker)
    }

    pub fn breaker(&self, id: &str) -> Option<&Breaker> {
        self.breakers().find(|breaker| breaker.id == id)
    }

    pub fn tripped(&self, limit: &str, scope: Option<&str>) -> Option<&Breaker> {
        let key = (limit.to_owned(), scope.map(str::to_owned));
        self.breakers.get(&key).map(|tripped| &tripped.breaker)
    }

    /// Causes that joined holds of this host without an order.
    pub fn joins_of(&self, host: &HostId) -> Option<&OfHost> {
        self.joins.get(host)
    }

    /// How many detections of a rule on a host count at `now`, with one that has this value.
    pub fn count(&self, host: &HostId, rule: &str, value: Option<&str>, now: Timestamp) -> u64 {
        let key = Key { host: host.clone(), rule: rule.to_owned() };
        self.counters.get(&key).map_or(1, |counter| counter.with(value, now))
    }

    fn forget_counts(&mut self, now: Timestamp, before: &mut Before) {
        while let Some((_, key)) = self.counted.first().filter(|(until, _)| *until < now).cloned() {
            self.put_counter(key, None, before);
        }
    }

    fn change(&mut self, id: &str, before: &mut Before, change: impl FnOnce(&mut Pending)) {
        let Some(pending) = self.asks.get(id) else { return };
        let mut changed = Pending::clone(pending);
        change(&mut changed);
        if changed != **pending {
            self.put_ask(id.to_owned(), Some(changed), before);
        }
    }

    fn put_ask(&mut self, id: String, pending: Option<Pending>, before: &mut Before) {
        let old = self.asks.remove(&id);
        if let Some(old) = &old {
            self.ends.remove(&(old.ends_at(), id.clone()));
            self.records.remove(&(old.recorded, Part::Ask(id.clone())));
            for cause in &old.causes {
                self.by_cause.remove(cause);
            }
            if let Some(of_host) = self.by_host.get_mut(&old.host) {
                of_host.remove(&id);
                if of_host.is_empty() {
                    self.by_host.remove(&old.host);
                }
            }
        }
        if let Some(pending) = pending {
            self.ends.insert((pending.ends_at(), id.clone()));
            self.records.insert((pending.recorded, Part::Ask(id.clone())));
            self.by_cause.extend(pending.causes.iter().map(|cause| (cause.clone(), id.clone())));
            self.by_host.entry(pending.host.clone()).or_default().insert(id.clone());
            self.asks.insert(id.clone(), Arc::new(pending));
        }
        before.0.push(Replaced::Ask(id, old));
    }

    fn put_pause(&mut self, pause: Option<Pause>, before: &mut Before) {
        let old = std::mem::replace(&mut self.pause, pause);
        self.records.retain(|(_, part)| *part != Part::Pause);
        self.records.extend(self.pause.as_ref().map(|pause| (pause.recorded, Part::Pause)));
        before.0.push(Replaced::Pause(old));
    }

    fn put_breaker(&mut self, key: (String, Option<String>), tripped: Option<Tripped>, before: &mut Before) {
        let part = || Part::Breaker(key.0.clone(), key.1.clone());
        let new = tripped.as_ref().map(|tripped| (tripped.recorded, part()));
        let old = match tripped {
            Some(tripped) => self.breakers.insert(key.clone(), tripped),
            None => self.breakers.remove(&key),
        };
        if let Some(old) = &old {
            self.records.remove(&(old.recorded, part()));
        }
        self.records.extend(new);
        before.0.push(Replaced::Breaker(key, old));
    }

    fn change_joins(&mut self, key: Key, before: &mut Before, change: impl FnOnce(&mut Joins)) {
        let known = self.joins.get(&key.host).and_then(|of_host| of_host.get(&key.rule));
        let mut changed = known.map(|joins| Joins::clone(joins)).unwrap_or_default();
        change(&mut changed);
        if known.is_none_or(|known| **known != changed) {
            self.put_joins(key, (!changed.is_empty()).then(|| Arc::new(changed)), before);
        }
    }

    fn put_joins(&mut self, key: Key, joins: Option<Arc<Joins>>, before: &mut Before) {
        let new = joins.as_ref().and_then(|joins| joins.recorded_from());
        let of_host = self.joins.entry(key.host.clone()).or_default();
        let old = match joins {
            Some(joins) => of_host.insert(key.rule.clone(), joins),
            None => of_host.remove(&key.rule),
        };
        if of_host.is_empty() {
            self.joins.remove(&key.host);
        }
        if let Some(recorded) = old.as_ref().and_then(|old| old.recorded_from()) {
            self.records.remove(&(recorded, Part::Joins(key.clone())));
        }
        self.records.extend(new.map(|recorded| (recorded, Part::Joins(key.clone()))));
        before.0.push(Replaced::Joins(key, old));
    }

    fn put_counter(&mut self, key: Key, counter: Option<Arc<Counter>>, before: &mut Before) {
        let new = counter.as_ref().and_then(|counter| counter.span());
        let old = match counter {
            Some(counter) => self.counters.insert(key.clone(), counter),
            None => self.counters.remove(&key),
        };
        if let Some((recorded, until)) = old.as_ref().and_then(|old| old.span()) {
            self.records.remove(&(recorded, Part::Counter(key.clone())));
            self.counted.remove(&(until, key.clone()));
        }
        if let Some((recorded, until)) = new {
            self.records.insert((recorded, Part::Counter(key.clone())));
            self.counted.insert((until, key.clone()));
        }
        before.0.push(Replaced::Counter(key, old));
    }
}

impl Before {
    /// Whether it is about this pending approval.
    pub fn touches(&self, ask: &str) -> bool {
        self.0.iter().any(|replaced| matches!(replaced, Replaced::Ask(id, _) if id == ask))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a decision changes something here, whatever is known.
fn says_more(decision: &Decision) -> bool {
    let joins = matches!(decision.reason, Reason::AskJoined { .. } | Reason::Joined { .. });
    decision.ask.is_some() || decision.asked || joins || decision.retracts.is_some() || !decision.effects.is_empty()
}

/// The host that a decision opens, or says to be open, and whether that is a person's word or the host's own.
fn releases(decision: &Decision) -> Option<(&HostId, bool)> {
    let host = decision.host.as_ref().filter(|_| decision.verdict == Verdict::Release && decision.generation.is_some())?;
    let by_hand = matches!(decision.reason, Reason::Operator | Reason::AlreadyOpen | Reason::OpenedByHost { .. });
    Some((host, by_hand))
}

#[cfg(test)]
mod tests;
