//! Limits of the policy and their breakers: how many hosts may be isolated at once and within a time, of all and of each scope.
//!
//! An isolation that would go beyond a limit trips its breaker. From then on whatever the limit takes is held back, until the breaker is reset: as
//! the policy says, or by an operator. What people isolate counts, and is never held back.

use portcullis_policy::{Limit, OnLimit, Policy};
use portcullis_schemas::events::{Breaker, Effect, Notice, NoticeKind, Reason, Request, Resets, Severity, Verdict};
use portcullis_schemas::time::Span;
use portcullis_schemas::{HostId, Timestamp, ids};

use super::words::applied;
use super::{Basis, Door, Meta, Outcome};
use crate::host::Host;
use crate::subject::Subject;
use crate::tally::Count;

/// What limits say to one more isolation.
#[derive(Default)]
pub struct Limited {
    pub reasons: Vec<Reason>,
    /// The breakers that hold it back.
    pub breakers: Vec<String>,
    pub effects: Vec<Effect>,
    pub notices: Vec<Notice>,
    /// One of the limits says so.
    pub refuses: bool,
}

/// A limit with one of its scopes, and the figure that would be exceeded.
enum Reached {
    AtOnce { isolated: u64, base: u64, most: u64 },
    Lately { isolated: u64, most: u64, per: Span },
}

/// Judges one more isolation by the policy. A host that is isolated already is counted.
pub fn judge(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host) -> Limited {
    let mut limited = Limited::default();
    let Some(policy) = door.policy.filter(|policy| !policy.limits().is_empty() && host.incident().is_none()) else {
        return limited;
    };
    for (limit, scope, count) in counts(door, policy, id, host) {
        let reached = reached(limit, count, meta.at);
        match (door.control.tripped(limit.name(), scope.as_deref()), reached) {
            (Some(breaker), reached) if reached.is_some() || !is_over(breaker, meta.at) => {
                limited.hold(limit, breaker.id.clone(), reason_of(breaker));
            }
            (Some(breaker), _) => {
                limited.effects.push(Effect::BreakerReset { breaker: breaker.id.clone(), by: None });
                limited.notices.push(notice(Severity::Medium, reset_text(breaker, "the limit is no longer reached")));
            }
            (None, None) => {}
            (None, Some(reached)) => {
                let breaker = Breaker {
                    id: ids::digest([limit.name(), scope.as_deref().unwrap_or_default(), &meta.input.hash()])[..16].to_owned(),
                    limit: limit.name().to_owned(),
                    scope: scope.clone(),
                    since: meta.at,
                    resets: limit.resets(),
                };
                limited.hold(limit, breaker.id.clone(), reached.reason(&breaker));
                limited.notices.push(notice(Severity::High, tripped_text(&breaker, &reached, limit.then())));
                limited.effects.push(Effect::BreakerTripped(breaker));
            }
        }
    }
    limited
}

/// What a person is told who isolates beyond a limit.
pub fn warn(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host) -> Vec<Notice> {
    let Some(policy) = door.policy.filter(|_| host.incident().is_none()) else { return Vec::new() };
    let beyond = |(limit, scope, count): (&Limit, Option<String>, &Count)| {
        let figures = reached(limit, count, meta.at)?.words();
        let text = format!(
            "{id} is isolated by {} beyond {}: {figures}; manual isolation is not held back",
            meta.input.token,
            named(limit.name(), scope.as_deref())
        );
        Some(Notice { host: Some(id.clone()), ..notice(Severity::Medium, text) })
    };
    counts(door, policy, id, host).into_iter().filter_map(beyond).collect()
}

/// An operator resets a breaker.
pub fn reset(door: Door<'_>, meta: &Meta, request: &Request, id: &str) -> Outcome {
    let Some(breaker) = door.control.breaker(id) else {
        return door.answer(meta, None, Verdict::Refuse, Reason::NotTripped { breaker: id.to_owned() });
    };
    let by = request.operator.clone();
    let text = reset_text(breaker, &format!("by {by}"));
    let effect = Effect::BreakerReset { breaker: id.to_owned(), by: Some(by) };
    applied(door, meta, Reason::Operator, effect, (NoticeKind::Breaker, Severity::Medium, text))
}

/// The time of a breaker is over, or its limit is no longer reached.
pub fn over(door: Door<'_>, meta: &Meta, id: &str) -> Outcome {
    let Some(breaker) = door.control.breaker(id).filter(|breaker| resets_by_itself(door.basis, breaker, meta.at)) else {
        return Outcome::default();
    };
    let reason = Reason::BelowLimit { limit: breaker.limit.clone(), scope: breaker.scope.clone(), breaker: id.to_owned() };
    let text = reset_text(breaker, "the limit is no longer reached");
    let effect = Effect::BreakerReset { breaker: id.to_owned(), by: None };
    applied(door, meta, reason, effect, (NoticeKind::Breaker, Severity::Medium, text))
}

/// Whether a breaker is to be reset at `now` without an operator. One of a limit that the policy has no more is.
pub fn resets_by_itself(basis: Basis<'_>, breaker: &Breaker, now: Timestamp) -> bool {
    let Some(policy) = basis.policy else { return false };
    let limit = policy.limits().iter().enumerate().find(|(_, limit)| limit.name() == breaker.limit);
    let is_reached =
        limit.is_some_and(|(at, limit)| reached(limit, basis.fleet.tally().count(at, breaker.scope.as_deref()), now).is_some());
    is_over(breaker, now) && !is_reached
}

fn counts<'a>(door: Door<'a>, policy: &'a Policy, id: &HostId, host: &Host) -> Vec<(&'a Limit, Option<String>, &'a Count)> {
    let subject = Subject::of(id, host);
    let view = subject.view();
    let tally = door.basis.fleet.tally();
    let taken = policy.limits().iter().enumerate().filter(|(_, limit)| limit.takes(&view));
    let scoped = taken.flat_map(|(at, limit)| limit.scopes(&view).into_iter().map(move |scope| (at, limit, scope)));
    scoped.map(|(at, limit, scope)| (limit, scope.clone(), tally.count(at, scope.as_deref()))).collect()
}

/// Whether one more isolation would go beyond the limit.
fn reached(limit: &Limit, count: &Count, now: Timestamp) -> Option<Reached> {
    let (isolated, base) = (count.isolated(), count.base(now));
    if let Some(most) = limit.most(base).filter(|most| isolated >= *most) {
        return Some(Reached::AtOnce { isolated, base, most });
    }
    let (most, per) = limit.window()?;
    let isolated = count.lately(per, now);
    (isolated >= most).then_some(Reached::Lately { isolated, most, per })
}

/// Whether its time is over, if it has one.
fn is_over(breaker: &Breaker, now: Timestamp) -> bool {
    match breaker.resets {
        Resets::Below => true,
        Resets::After(span) => now >= breaker.since + span.delta(),
        Resets::Manual => false,
    }
}

impl Limited {
    fn hold(&mut self, limit: &Limit, breaker: String, reason: Reason) {
        self.reasons.push(reason);
        self.breakers.push(breaker);
        self.refuses |= limit.then() == OnLimit::Refuse;
    }
}

impl Reached {
    fn reason(&self, breaker: &Breaker) -> Reason {
        let (limit, scope, breaker) = (breaker.limit.clone(), breaker.scope.clone(), breaker.id.clone());
        match *self {
            Reached::AtOnce { isolated, base, most } => Reason::BlastRadius { limit, scope, isolated, base, most, breaker },
            Reached::Lately { isolated, most, per } => Reason::IsolationRate { limit, scope, isolated, most, per, breaker },
        }
    }

    fn words(&self) -> String {
        match self {
            Reached::AtOnce { isolated, base, most } => format!("{isolated} of {base} hosts are isolated, at most {most} may be"),
            Reached::Lately { isolated, most, per } => {
                format!("{isolated} hosts were isolated within {per}, at most {most} may be")
            }
        }
    }
}

fn reason_of(breaker: &Breaker) -> Reason {
    let (limit, scope, breaker, since) = (breaker.limit.clone(), breaker.scope.clone(), breaker.id.clone(), breaker.since);
    Reason::Breaker { limit, scope, since, breaker }
}

fn tripped_text(breaker: &Breaker, reached: &Reached, then: OnLimit) -> String {
    let id = &breaker.id;
    let held = match then {
        OnLimit::Ask => format!("further isolations wait for a person; portcullis approve --breaker {id} answers all of them"),
        OnLimit::Refuse => "further isolations are refused".to_owned(),
    };
    let resets = match breaker.resets {
        Resets::Below => "it is reset when the limit is no longer reached".to_owned(),
        Resets::After(span) => format!("it is reset after {span} at the earliest"),
        Resets::Manual => "an operator resets it".to_owned(),
    };
    let limit = named(&breaker.limit, breaker.scope.as_deref());
    format!("breaker {id} of {limit} is tripped: {}; {held}; {resets}, or by portcullis resume --breaker {id}", reached.words())
}

fn reset_text(breaker: &Breaker, why: &str) -> String {
    format!("breaker {} of {} is reset: {why}", breaker.id, named(&breaker.limit, breaker.scope.as_deref()))
}

fn named(limit: &str, scope: Option<&str>) -> String {
    match scope {
        None => format!("limit {limit}"),
        Some("") => format!("limit {limit} for hosts without a value"),
        Some(scope) => format!("limit {limit} for {scope}"),
    }
}

fn notice(severity: Severity, text: String) -> Notice {
    Notice { kind: NoticeKind::Breaker, severity, host: None, incident: None, text, outputs: Vec::new() }
}
