//! One host's isolation as a table: what stands × what happens → the next order, or why there is none.

mod holds;
mod order;

use chrono::TimeDelta;
use portcullis_schemas::events::{
    ExclusionChange, Hold, InputRef, LastOrder, LastRelease, LocalRelease, MAX_HOLDS, Order, Origin, Posture, ReleasedBy,
    WhenUnreachable,
};
use portcullis_schemas::exclusion::Exclusion;
use portcullis_schemas::{HostId, Timestamp};

use crate::joined::{self, OfHost};
use crate::{exclusions, settled};
pub use order::next_end;
use order::with_holds;

/// Automatic causes move an isolated host's deadline in steps of at least this much, which is at most one order in the same time for each
/// rule. What is left out is never more than this.
pub const JOIN_PACE: TimeDelta = TimeDelta::seconds(1);

/// `prev` of the first order in a log.
pub const NO_PREV: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What happens to a host.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A cause holds the host.
    Hold(HoldRequest<'a>),
    /// A person lets go of everything that held the host up to now.
    Release,
    /// What the standing order waits for has come: see [`next_end`].
    Due,
    /// The host opened itself while generation `opened` stood on it, by a person on the host or at its own deadline.
    Opened { opened: u64, by: ReleasedBy },
    /// A person moves the end of every hold. None: until a person ends it.
    Extend(Extension<'a>),
    /// A person changes what passes. `default` is the policy's word, to which it may be reset.
    Exclude { change: &'a ExclusionChange, default: &'a [Exclusion] },
    /// A cause is known to be false, by its hash.
    Retract { hash: &'a str, cause_at: Timestamp },
    /// The wanted posture is to be ordered once more.
    Reissue,
    /// The host says it is isolated and the log knows nothing of it: it stays so until `until`.
    Recover { until: Option<Timestamp> },
    /// The host says under which order it is isolated, and the log knows nothing above `ordered`.
    Restore { claim: &'a LastOrder, ordered: u64, longest: Option<TimeDelta> },
}

/// A cause with the hold that it asks for.
#[derive(Clone, Debug)]
pub struct HoldRequest<'a> {
    pub origin: Origin,
    pub rule: Option<&'a str>,
    /// None: until a person ends it.
    pub until: Option<Timestamp>,
    /// The longest that a hold may last from its `since`.
    pub longest: Option<TimeDelta>,
    /// The sender's; None: that of the isolation that it joins, or its own id.
    pub incident: Option<&'a str>,
    pub ticket: Option<&'a str>,
    /// The operator's words.
    pub note: Option<&'a str>,
    /// Exclusions that the request brought along.
    pub exclusions: Option<&'a [Exclusion]>,
}

/// Another end for an isolation.
#[derive(Clone, Copy, Debug)]
pub struct Extension<'a> {
    pub until: Option<Timestamp>,
    /// As in [`HoldRequest`].
    pub longest: Option<TimeDelta>,
    pub ticket: Option<&'a str>,
}

/// What every order needs beside its event.
#[derive(Clone, Copy)]
pub struct Making<'a> {
    pub host: &'a HostId,
    pub input: &'a InputRef,
    pub at: Timestamp,
    /// The next generation: above the log's and above what the host itself reported.
    pub generation: u64,
    pub reason: &'a str,
    /// What passes by the policy, or by the host's own list, where these rules hold the host.
    pub passing: &'a dyn Fn(Origin, &[&str]) -> Vec<Exclusion>,
    /// Causes that joined without an order.
    pub joins: Option<&'a OfHost>,
    pub when_unreachable: WhenUnreachable,
    pub local_release: LocalRelease,
}

/// Why there is no new order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// The cause joined a hold that lives already. It would hold by itself until then, where that is longer.
    Joined {
        until: Option<Timestamp>,
    },
    /// The event is about something that no longer stands.
    Nothing,
    /// A person holds the host as well.
    NotAlone,
    TooManyHolds,
    /// Nothing isolates the host.
    NotIsolated,
    /// No hold may last as long as is asked for.
    TooLong,
}

/// The next order of a host. `prev` is left for the log to fill in.
pub fn next(standing: Option<&Order>, event: &Event<'_>, making: Making<'_>) -> Result<Order, Stays> {
    let mut order = of_event(standing, event, making)?;
    let was = standing.filter(|order| order.posture == Posture::Isolated);
    if let (Some(was), Posture::Open) = (was, order.posture) {
        let (by, who) = match event {
            Event::Opened { by, .. } => (*by, None),
            Event::Due => (ReleasedBy::Deadline, None),
            Event::Retract { .. } => (ReleasedBy::Retraction, None),
            _ => (ReleasedBy::Operator, Some(making.input.token.clone())),
        };
        let mut rules: Vec<String> = was.holds.iter().filter_map(|hold| hold.rule.clone()).collect();
        rules.sort();
        rules.dedup();
        order.last_release = Some(LastRelease { at: making.at, by, who, rules });
    }
    Ok(order)
}

fn of_event(standing: Option<&Order>, event: &Event<'_>, making: Making<'_>) -> Result<Order, Stays> {
    let isolated = standing.filter(|order| order.posture == Posture::Isolated);
    match (isolated, event) {
        (Some(order), Event::Hold(asked)) => join(order, asked, making),
        (None, Event::Hold(asked)) => Ok(first(standing, asked, making)),

        // On an open host a release is recorded too: a detection stored before it may still be on its way.
        (_, Event::Release) => {
            let holds = standing.map(|order| holds::after(order, making.at, making.joins)).unwrap_or_default();
            let mut order = with_holds(standing, holds, making);
            order.released_at = order.released_at.max(Some(making.at));
            Ok(order)
        }

        (Some(order), Event::Due) => {
            let ended = next_end(order);
            let holds = living(standing, |hold| hold.until.is_none_or(|until| Some(until) > ended));
            Ok(with_holds(standing, holds, making))
        }
        (None, Event::Due) => Err(Stays::Nothing),

        (Some(order), Event::Opened { opened, .. }) => {
            if order.holds.iter().all(|hold| hold.generation > *opened) {
                return Err(Stays::Nothing);
            }
            let holds = living(standing, |hold| hold.generation > *opened);
            let mut next = with_holds(standing, holds, making);
            next.released_at = next.released_at.max(Some(making.at));
            Ok(next)
        }
        (None, Event::Opened { .. }) => Err(Stays::Nothing),

        (Some(order), Event::Extend(extension)) => extend(order, extension, making),
        (None, Event::Extend(_)) => Err(Stays::NotIsolated),

        (Some(order), Event::Exclude { change, default }) => {
            let mut next = with_holds(standing, order.holds.clone(), making);
            next.exclusions = exclusions::changed(&order.exclusions, default, change, making.at);
            Ok(next)
        }
        (None, Event::Exclude { .. }) => Err(Stays::NotIsolated),

        (Some(order), Event::Retract { hash, cause_at }) => retract(order, hash, *cause_at, making),
        (None, Event::Retract { hash, .. }) if standing.is_some_and(|order| settled::knows(order, hash)) => Err(Stays::Nothing),
        (None, Event::Retract { hash, cause_at }) => {
            let mut order = with_holds(standing, Vec::new(), making);
            settled::add(&mut order, (*hash).to_owned(), *cause_at, None);
            Ok(order)
        }

        (_, Event::Reissue) => {
            let holds = living(standing, |_| true);
            let mut order = with_holds(standing, holds, making);
            if let Some(standing) = standing {
                order.exclusions.clone_from(&standing.exclusions);
            }
            Ok(order)
        }

        (Some(_), Event::Recover { .. }) => Err(Stays::Nothing),
        (None, Event::Recover { until }) => {
            let hold = Hold {
                rule: None,
                origin: Origin::Automatic,
                causes: vec![making.input.clone()],
                more: None,
                generation: making.generation,
                since: making.at,
                until: *until,
                reason: None,
                ticket: None,
                incident: None,
            };
            Ok(with_holds(standing, vec![hold], making))
        }

        (_, Event::Restore { claim, ordered, longest }) => Ok(restore(standing, claim, (*ordered, *longest), making)),
    }
}

/// Of holds up to `ordered` the log tells whether they live, of later ones the host: what it says ends none that the log knows, and changes
/// nothing of an isolation that the log knows but to make it longer.
fn restore(
    standing: Option<&Order>,
    claim: &LastOrder,
    (ordered, longest): (u64, Option<TimeDelta>),
    making: Making<'_>,
) -> Order {
    let is_known = standing.is_some_and(|order| order.posture == Posture::Isolated);
    let bounded = |until: Option<Timestamp>| match (until, longest.map(|longest| making.at + longest)) {
        (Some(until), Some(most)) => Some(until.min(most)),
        (until, most) => until.or(most),
    };
    let lives = |hold: &&Hold| hold.until.is_none_or(|until| until > making.at);
    let mut holds = living(standing, |_| true);
    for hold in claim.holds.iter().filter(lives) {
        let same = |known: &&mut Hold| {
            let id = |hold: &Hold| (hold.generation, hold.origin, hold.since, hold.rule.clone());
            id(known) == id(hold)
        };
        if let Some(known) = holds.iter_mut().find(same) {
            known.until = known.until.zip(bounded(hold.until)).map(|(one, other)| one.max(other));
        } else if hold.generation > ordered && holds.len() < MAX_HOLDS {
            holds.push(Hold { until: bounded(hold.until), ..hold.clone() });
        }
    }
    let mut order = with_holds(standing, holds, making);
    if is_known {
        order.exclusions = standing.map(|order| order.exclusions.clone()).unwrap_or_default();
    } else if order.posture == Posture::Isolated {
        order.exclusions = claim.exclusions.clone().unwrap_or(order.exclusions);
        (order.when_unreachable, order.local_release) = (claim.when_unreachable, claim.local_release);
        order.incident.clone_from(&claim.incident);
        order.ticket.clone_from(&claim.ticket);
        order.reason.clone_from(&claim.reason);
    }
    order
}

fn first(standing: Option<&Order>, asked: &HoldRequest<'_>, making: Making<'_>) -> Order {
    let hold = Hold { incident: None, ..holds::new(asked, making) };
    let mut order = with_holds(standing, vec![hold], making);
    order.incident = asked.incident.map_or_else(|| making.input.id.clone(), str::to_owned);
    order.ticket = asked.ticket.map(str::to_owned);
    if let Some(exclusions) = asked.exclusions {
        order.exclusions = exclusions.to_vec();
    }
    order
}

/// A rule has one hold, which each of its causes joins. What a person asks for is a hold of its own.
fn join(order: &Order, asked: &HoldRequest<'_>, making: Making<'_>) -> Result<Order, Stays> {
    let mut holds = order.holds.clone();
    let lives = |hold: &Hold| holds::lives(hold, making.at);
    let is_same = |hold: &Hold| hold.origin == Origin::Automatic && hold.rule.as_deref() == asked.rule && lives(hold);
    let same = holds.iter().position(is_same).filter(|_| asked.origin == Origin::Automatic);
    let mut merged = None;
    match same {
        Some(at) => {
            let stood = holds[at].until;
            holds::join(&mut holds[at], asked, making.input);
            let moved = match (order.release_at, holds::release_at(&holds)) {
                (Some(was), Some(is)) => is - was > TimeDelta::zero() && is - was >= JOIN_PACE,
                (was, is) => was != is,
            };
            if !moved {
                return Err(Stays::Joined { until: holds[at].until.filter(|_| holds[at].until != stood) });
            }
        }
        None => {
            holds.retain(lives);
            if holds.len() >= MAX_HOLDS {
                match asked.origin {
                    Origin::Automatic => return Err(Stays::TooManyHolds),
                    Origin::Manual => merged = holds::merge_two(&mut holds),
                }
            }
            let new = holds::new(asked, making);
            holds.push(Hold { incident: new.incident.filter(|incident| *incident != order.incident), ..new });
        }
    }
    let mut next = with_holds(Some(order), holds, making);
    next.ticket = next.ticket.or_else(|| asked.ticket.map(str::to_owned));
    if let Some(exclusions) = asked.exclusions {
        next.exclusions = exclusions.to_vec();
    }
    if let Some(merged) = merged {
        next.reason = format!("{}; {merged}", next.reason);
    }
    Ok(next)
}

/// All holds that live end at the same time then: what a person asked for is when the host opens.
fn extend(order: &Order, extension: &Extension<'_>, making: Making<'_>) -> Result<Order, Stays> {
    let mut holds = living(Some(order), |hold| holds::lives(hold, making.at));
    let most = |hold: &Hold| extension.longest.map(|longest| hold.since + longest);
    for hold in &mut holds {
        hold.until = match (extension.until, most(hold)) {
            (Some(until), Some(most)) => Some(until.min(most)),
            (until, most) => until.or(most),
        };
    }
    if holds.is_empty() {
        return Err(Stays::NotIsolated);
    }
    if holds::release_at(&holds) != extension.until {
        return Err(Stays::TooLong);
    }
    let mut next = with_holds(Some(order), holds, making);
    next.ticket = extension.ticket.map(str::to_owned).or(next.ticket);
    Ok(next)
}

/// The hold of a cause, by its hash: one that the order names, or one that joined without an order.
pub fn held_by<'o>(order: &'o Order, joins: Option<&OfHost>, hash: &str) -> Option<&'o Hold> {
    let is_it = |cause: &InputRef| cause.hash() == hash;
    let has = |hold: &&Hold| hold.causes.iter().any(is_it) || joined::of_hold(joins, hold).0.iter().any(|join| join.hash == hash);
    order.holds.iter().find(has)
}

/// A hold that has other causes lives on without this one; one that has none ends.
fn retract(order: &Order, hash: &str, cause_at: Timestamp, making: Making<'_>) -> Result<Order, Stays> {
    let is_it = |cause: &InputRef| cause.hash() == hash;
    let of_hold = |hold: &Hold| joined::of_hold(making.joins, hold);
    let Some(named) = held_by(order, making.joins, hash) else {
        if settled::knows(order, hash) {
            return Err(Stays::Nothing);
        }
        // Unseen so far: the host stays as it is, and the cause will find itself settled when it comes.
        let mut next = with_holds(Some(order), order.holds.clone(), making);
        next.exclusions.clone_from(&order.exclusions);
        settled::add(&mut next, hash.to_owned(), cause_at, None);
        return Ok(next);
    };
    if order.holds.iter().any(|hold| hold.origin == Origin::Manual) {
        return Err(Stays::NotAlone);
    }
    let mut holds = Vec::new();
    for hold in &order.holds {
        let (joins, forgot) = of_hold(hold);
        let mut left = hold.clone();
        holds::take_in(&mut left, joins.into_iter().filter(|join| join.hash != hash));
        left.causes.retain(|cause| !is_it(cause));
        if hold != named || !left.causes.is_empty() || left.more.is_some() || forgot {
            holds.push(left);
        }
    }
    let mut next = with_holds(Some(order), holds, making);
    // It may have joined without an order, and a copy of it may come late.
    if !settled::knows(&next, hash) {
        settled::add(&mut next, hash.to_owned(), cause_at, None);
    }
    Ok(next)
}

fn living(standing: Option<&Order>, keep: impl Fn(&Hold) -> bool) -> Vec<Hold> {
    standing.map(|order| order.holds.iter().filter(|hold| keep(hold)).cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
