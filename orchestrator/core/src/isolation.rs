//! One host's isolation as a table: what stands × what happens → the next order, or why there is none.

use chrono::TimeDelta;
use portcullis_schemas::events::{
    Cause, Hold, InputRef, LastOrder, LocalRelease, MAX_CAUSES, MAX_HOLDS, Order, Origin, Posture, WhenUnreachable,
};
use portcullis_schemas::exclusion::Exclusion;
use portcullis_schemas::{HostId, Timestamp};

use crate::settled;

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
    /// The deadline of the standing order has come.
    Due,
    /// The host opened itself while generation `opened` stood on it.
    Opened { opened: u64 },
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
    pub incident: &'a str,
    pub ticket: Option<&'a str>,
    /// Exclusions that the request brought along.
    pub exclusions: Option<&'a [Exclusion]>,
}

/// What every order needs beside its event.
#[derive(Clone, Copy, Debug)]
pub struct Making<'a> {
    pub host: &'a HostId,
    pub input: &'a InputRef,
    pub at: Timestamp,
    /// The next generation: above the log's and above what the host itself reported.
    pub generation: u64,
    pub reason: &'a str,
    pub automatic: &'a [Exclusion],
    pub manual: &'a [Exclusion],
    pub when_unreachable: WhenUnreachable,
    pub local_release: LocalRelease,
}

/// Why there is no new order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// The cause joined a hold that lives already.
    Joined,
    /// The event is about something that no longer stands.
    Nothing,
    /// The hold has other causes, or a person holds the host as well.
    NotAlone,
    TooManyHolds,
}

/// The next order of a host. `prev` is left for the log to fill in.
pub fn next(standing: Option<&Order>, event: &Event<'_>, making: Making<'_>) -> Result<Order, Stays> {
    let isolated = standing.filter(|order| order.posture == Posture::Isolated);
    match (isolated, event) {
        (Some(order), Event::Hold(asked)) => join(order, asked, making),
        (None, Event::Hold(asked)) => Ok(first(standing, asked, making)),

        // On an open host a release is recorded too: a detection stored before it may still be on its way.
        (_, Event::Release) => {
            let holds = standing.map(|order| held_after(order, making.at)).unwrap_or_default();
            let mut order = with_holds(standing, holds, making);
            order.released_at = order.released_at.max(Some(making.at));
            Ok(order)
        }

        (Some(order), Event::Due) => {
            let ended = order.release_at;
            let holds = living(standing, |hold| hold.until.is_none_or(|until| Some(until) > ended));
            Ok(with_holds(standing, holds, making))
        }
        (None, Event::Due) => Err(Stays::Nothing),

        (Some(order), Event::Opened { opened }) => {
            if order.holds.iter().all(|hold| hold.generation > *opened) {
                return Err(Stays::Nothing);
            }
            let holds = living(standing, |hold| hold.generation > *opened);
            let mut next = with_holds(standing, holds, making);
            next.released_at = next.released_at.max(Some(making.at));
            Ok(next)
        }
        (None, Event::Opened { .. }) => Err(Stays::Nothing),

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
    let mut order = with_holds(standing, vec![hold(asked, making)], making);
    order.incident = asked.incident.to_owned();
    order.ticket = asked.ticket.map(str::to_owned);
    if let Some(exclusions) = asked.exclusions {
        order.exclusions = exclusions.to_vec();
    }
    order
}

fn join(order: &Order, asked: &HoldRequest<'_>, making: Making<'_>) -> Result<Order, Stays> {
    let mut holds = order.holds.clone();
    let lives = |hold: &Hold| hold.until.is_none_or(|until| until > making.at);
    let same = holds.iter().position(|hold| hold.origin == asked.origin && hold.rule.as_deref() == asked.rule && lives(hold));
    match same {
        Some(at) => {
            let hold = &mut holds[at];
            let ended = hold.until;
            add_cause(hold, making.input);
            hold.until = match (hold.until, asked.until) {
                (Some(stands), Some(wanted)) => {
                    let most = asked.longest.map(|longest| hold.since + longest);
                    Some(stands.max(most.map_or(wanted, |most| wanted.min(most))))
                }
                _ => None,
            };
            let own_end_moved = hold.until != ended;
            let moved = match (order.release_at, release_at(&holds)) {
                // What a person asked for is kept, also where another hold lasts longer.
                _ if asked.origin == Origin::Manual => own_end_moved,
                (Some(was), Some(is)) => is - was > TimeDelta::zero() && is - was >= JOIN_PACE,
                (was, is) => was != is,
            };
            if asked.exclusions.is_none() && !moved {
                return Err(Stays::Joined);
            }
        }
        None => {
            holds.retain(lives);
            if holds.len() >= MAX_HOLDS {
                return Err(Stays::TooManyHolds);
            }
            holds.push(hold(asked, making));
        }
    }
    let mut next = with_holds(Some(order), holds, making);
    if let Some(ticket) = asked.ticket {
        next.ticket = Some(ticket.to_owned());
    }
    if let Some(exclusions) = asked.exclusions {
        next.exclusions = exclusions.to_vec();
    }
    Ok(next)
}

fn retract(order: &Order, hash: &str, cause_at: Timestamp, making: Making<'_>) -> Result<Order, Stays> {
    let names = |hold: &Hold| hold.causes.iter().any(|cause| cause.hash() == hash);
    let Some(at) = order.holds.iter().position(names) else {
        if settled::knows(order, hash) {
            return Err(Stays::Nothing);
        }
        // Unseen so far: the host stays as it is, and the cause will find itself settled when it comes.
        let mut next = with_holds(Some(order), order.holds.clone(), making);
        next.exclusions.clone_from(&order.exclusions);
        settled::add(&mut next, hash.to_owned(), cause_at, None);
        return Ok(next);
    };
    let alone = order.holds[at].causes.len() == 1 && order.holds[at].more.is_none();
    let by_hand = order.holds.iter().any(|hold| hold.origin == Origin::Manual);
    if !alone || by_hand {
        return Err(Stays::NotAlone);
    }
    let mut holds = order.holds.clone();
    holds.remove(at);
    Ok(with_holds(Some(order), holds, making))
}

fn hold(asked: &HoldRequest<'_>, making: Making<'_>) -> Hold {
    Hold {
        rule: asked.rule.map(str::to_owned),
        origin: asked.origin,
        causes: vec![making.input.clone()],
        more: None,
        generation: making.generation,
        since: making.at,
        until: asked.until,
        reason: None,
        ticket: None,
        incident: None,
    }
}

fn add_cause(hold: &mut Hold, cause: &Cause) {
    if hold.causes.contains(cause) {
        return;
    }
    if hold.causes.len() < MAX_CAUSES {
        hold.causes.push(cause.clone());
    } else {
        hold.more = Some(hold.more.unwrap_or(0) + 1);
    }
}

/// The holds that came after `at`. Where a later cause joined an earlier hold, that cause holds on by itself.
fn held_after(order: &Order, at: Timestamp) -> Vec<Hold> {
    let later = |cause: &Cause| {
        let entry = settled::find(Some(order), cause)?;
        Timestamp::from_timestamp_millis(entry.at_ms).filter(|time| *time > at)
    };
    let rest = |hold: &Hold| {
        if hold.since > at {
            return Some(hold.clone());
        }
        let causes: Vec<Cause> = hold.causes.iter().filter(|cause| later(cause).is_some()).cloned().collect();
        let since = causes.iter().filter_map(later).min()?;
        Some(Hold { causes, since, ..hold.clone() })
    };
    order.holds.iter().filter_map(rest).collect()
}

fn living(standing: Option<&Order>, keep: impl Fn(&Hold) -> bool) -> Vec<Hold> {
    standing.map(|order| order.holds.iter().filter(|hold| keep(hold)).cloned().collect()).unwrap_or_default()
}

/// Who and what holds the host, in words: `bob and rule ransomware`.
fn holders(holds: &[Hold]) -> String {
    let name = |hold: &Hold| match (&hold.rule, hold.causes.first()) {
        (Some(rule), _) => format!("rule {rule}"),
        (None, Some(cause)) if hold.origin == Origin::Manual => cause.token.clone(),
        (None, _) => "the host's own report".to_owned(),
    };
    let (manual, automatic): (Vec<&Hold>, Vec<&Hold>) = holds.iter().partition(|hold| hold.origin == Origin::Manual);
    manual.into_iter().chain(automatic).map(name).collect::<Vec<_>>().join(" and ")
}

/// The latest end; None where a hold has none, or where there is no hold.
fn release_at(holds: &[Hold]) -> Option<Timestamp> {
    holds.iter().map(|hold| hold.until).collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// An order with these holds and all that follows from them.
fn with_holds(standing: Option<&Order>, holds: Vec<Hold>, making: Making<'_>) -> Order {
    let isolated = !holds.is_empty();
    let by_hand = holds.iter().any(|hold| hold.origin == Origin::Manual);
    let was = standing.filter(|order| order.posture == Posture::Isolated);
    // By a hold that still stands: what a request brought for one that is over does not come back with the next.
    let goes_on = |was: &Hold| was.origin == Origin::Manual && holds.iter().any(|hold| hold.generation == was.generation);
    let was_by_hand = was.is_some_and(|order| order.holds.iter().any(goes_on));
    let exclusions = match (isolated, was) {
        (false, _) => Vec::new(),
        // A request may have brought its own: they stay for as long as a person holds the host.
        (true, Some(order)) if by_hand && was_by_hand => order.exclusions.clone(),
        (true, _) if by_hand => making.manual.to_vec(),
        (true, _) => making.automatic.to_vec(),
    };
    let both = by_hand && holds.iter().any(|hold| hold.origin == Origin::Automatic);
    let reason = match both {
        true => format!("{}; held by {}; manual exclusions apply", making.reason, holders(&holds)),
        false => making.reason.to_owned(),
    };
    let release_at = release_at(&holds);
    let mut order = Order {
        host: making.host.clone(),
        generation: making.generation,
        posture: if isolated { Posture::Isolated } else { Posture::Open },
        holds,
        release_at,
        exclusions,
        when_unreachable: making.when_unreachable,
        local_release: making.local_release,
        // A release closes them: what follows on an open host belongs to neither.
        incident: was.map_or_else(|| making.input.id.clone(), |order| order.incident.clone()),
        ticket: was.and_then(|order| order.ticket.clone()),
        issued_at: making.at,
        issued_by: making.input.clone(),
        reason,
        expires_at: release_at,
        min_agent: None,
        settled: standing.map(|order| order.settled.clone()).unwrap_or_default(),
        settled_floor: standing.and_then(|order| order.settled_floor),
        released_at: standing.and_then(|order| order.released_at),
        last_release: standing.and_then(|order| order.last_release.clone()),
        asked_at_deadline: false,
        prev: NO_PREV.to_owned(),
    };
    settled::add(&mut order, making.input.hash(), making.at, Some(making.generation));
    order
}

#[cfg(test)]
mod tests;
