//! One host's isolation as a table: what stands × what happens → the next order, or why there is none.

use chrono::TimeDelta;
use portcullis_schemas::events::{
    Cause, InputRef, LastOrder, Lease, LocalRelease, MAX_CAUSES, MAX_LEASES, Order, Origin, Posture, WhenUnreachable,
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
    Hold(Hold<'a>),
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

/// A cause with the lease that it asks for.
#[derive(Clone, Debug)]
pub struct Hold<'a> {
    pub origin: Origin,
    pub rule: Option<&'a str>,
    /// None: until a person ends it.
    pub until: Option<Timestamp>,
    /// The longest that a lease may last from its `since`.
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
    /// The cause is held by a lease that stands already.
    Joined,
    /// The event is about something that no longer stands.
    Nothing,
    /// The lease has other causes, or a person holds the host as well.
    NotAlone,
    TooManyLeases,
}

/// The next order of a host. `prev` is left for the log to fill in.
pub fn next(standing: Option<&Order>, event: &Event<'_>, making: Making<'_>) -> Result<Order, Stays> {
    let isolated = standing.filter(|order| order.posture == Posture::Isolated);
    match (isolated, event) {
        (Some(order), Event::Hold(hold)) => join(order, hold, making),
        (None, Event::Hold(hold)) => Ok(first(standing, hold, making)),

        // On an open host a release is recorded too: a detection stored before it may still be on its way.
        (_, Event::Release) => {
            let leases = standing.map(|order| held_after(order, making.at)).unwrap_or_default();
            let mut order = with_leases(standing, leases, making);
            order.released_at = order.released_at.max(Some(making.at));
            Ok(order)
        }

        (Some(order), Event::Due) => {
            let ended = order.release_at;
            let leases = living(standing, |lease| lease.until.is_none_or(|until| Some(until) > ended));
            Ok(with_leases(standing, leases, making))
        }
        (None, Event::Due) => Err(Stays::Nothing),

        (Some(order), Event::Opened { opened }) => {
            if order.leases.iter().all(|lease| lease.generation > *opened) {
                return Err(Stays::Nothing);
            }
            let leases = living(standing, |lease| lease.generation > *opened);
            let mut next = with_leases(standing, leases, making);
            next.released_at = next.released_at.max(Some(making.at));
            Ok(next)
        }
        (None, Event::Opened { .. }) => Err(Stays::Nothing),

        (Some(order), Event::Retract { hash, cause_at }) => retract(order, hash, *cause_at, making),
        (None, Event::Retract { hash, .. }) if standing.is_some_and(|order| settled::knows(order, hash)) => Err(Stays::Nothing),
        (None, Event::Retract { hash, cause_at }) => {
            let mut order = with_leases(standing, Vec::new(), making);
            settled::add(&mut order, (*hash).to_owned(), *cause_at, None);
            Ok(order)
        }

        (_, Event::Reissue) => {
            let leases = living(standing, |_| true);
            let mut order = with_leases(standing, leases, making);
            if let Some(standing) = standing {
                order.exclusions.clone_from(&standing.exclusions);
            }
            Ok(order)
        }

        (Some(_), Event::Recover { .. }) => Err(Stays::Nothing),
        (None, Event::Recover { until }) => {
            let lease = Lease {
                rule: None,
                origin: Origin::Automatic,
                causes: vec![making.input.clone()],
                more: None,
                generation: making.generation,
                since: making.at,
                until: *until,
            };
            Ok(with_leases(standing, vec![lease], making))
        }

        (_, Event::Restore { claim, ordered, longest }) => Ok(restore(standing, claim, (*ordered, *longest), making)),
    }
}

/// Of leases up to `ordered` the log tells whether they hold, of later ones the host: what it says ends none that the log knows, and changes
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
    let lives = |lease: &&Lease| lease.until.is_none_or(|until| until > making.at);
    let mut leases = living(standing, |_| true);
    for lease in claim.leases.iter().filter(lives) {
        let same = |known: &&mut Lease| {
            let id = |lease: &Lease| (lease.generation, lease.origin, lease.since, lease.rule.clone());
            id(known) == id(lease)
        };
        if let Some(known) = leases.iter_mut().find(same) {
            known.until = known.until.zip(bounded(lease.until)).map(|(one, other)| one.max(other));
        } else if lease.generation > ordered && leases.len() < MAX_LEASES {
            leases.push(Lease { until: bounded(lease.until), ..lease.clone() });
        }
    }
    let mut order = with_leases(standing, leases, making);
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

fn first(standing: Option<&Order>, hold: &Hold<'_>, making: Making<'_>) -> Order {
    let mut order = with_leases(standing, vec![lease(hold, making)], making);
    order.incident = hold.incident.to_owned();
    order.ticket = hold.ticket.map(str::to_owned);
    if let Some(exclusions) = hold.exclusions {
        order.exclusions = exclusions.to_vec();
    }
    order
}

fn join(order: &Order, hold: &Hold<'_>, making: Making<'_>) -> Result<Order, Stays> {
    let mut leases = order.leases.clone();
    let lives = |lease: &Lease| lease.until.is_none_or(|until| until > making.at);
    let same = leases.iter().position(|lease| lease.origin == hold.origin && lease.rule.as_deref() == hold.rule && lives(lease));
    match same {
        Some(at) => {
            let lease = &mut leases[at];
            let ended = lease.until;
            add_cause(lease, making.input);
            lease.until = match (lease.until, hold.until) {
                (Some(stands), Some(wanted)) => {
                    let most = hold.longest.map(|longest| lease.since + longest);
                    Some(stands.max(most.map_or(wanted, |most| wanted.min(most))))
                }
                _ => None,
            };
            let own_end_moved = lease.until != ended;
            let moved = match (order.release_at, release_at(&leases)) {
                // What a person asked for is kept, also where another hold lasts longer.
                _ if hold.origin == Origin::Manual => own_end_moved,
                (Some(was), Some(is)) => is - was > TimeDelta::zero() && is - was >= JOIN_PACE,
                (was, is) => was != is,
            };
            if hold.exclusions.is_none() && !moved {
                return Err(Stays::Joined);
            }
        }
        None => {
            leases.retain(lives);
            if leases.len() >= MAX_LEASES {
                return Err(Stays::TooManyLeases);
            }
            leases.push(lease(hold, making));
        }
    }
    let mut next = with_leases(Some(order), leases, making);
    if let Some(ticket) = hold.ticket {
        next.ticket = Some(ticket.to_owned());
    }
    if let Some(exclusions) = hold.exclusions {
        next.exclusions = exclusions.to_vec();
    }
    Ok(next)
}

fn retract(order: &Order, hash: &str, cause_at: Timestamp, making: Making<'_>) -> Result<Order, Stays> {
    let holds = |lease: &Lease| lease.causes.iter().any(|cause| cause.hash() == hash);
    let Some(at) = order.leases.iter().position(holds) else {
        if settled::knows(order, hash) {
            return Err(Stays::Nothing);
        }
        // Unseen so far: the host stays as it is, and the cause will find itself settled when it comes.
        let mut next = with_leases(Some(order), order.leases.clone(), making);
        next.exclusions.clone_from(&order.exclusions);
        settled::add(&mut next, hash.to_owned(), cause_at, None);
        return Ok(next);
    };
    let alone = order.leases[at].causes.len() == 1 && order.leases[at].more.is_none();
    let by_hand = order.leases.iter().any(|lease| lease.origin == Origin::Manual);
    if !alone || by_hand {
        return Err(Stays::NotAlone);
    }
    let mut leases = order.leases.clone();
    leases.remove(at);
    Ok(with_leases(Some(order), leases, making))
}

fn lease(hold: &Hold<'_>, making: Making<'_>) -> Lease {
    Lease {
        rule: hold.rule.map(str::to_owned),
        origin: hold.origin,
        causes: vec![making.input.clone()],
        more: None,
        generation: making.generation,
        since: making.at,
        until: hold.until,
    }
}

fn add_cause(lease: &mut Lease, cause: &Cause) {
    if lease.causes.contains(cause) {
        return;
    }
    if lease.causes.len() < MAX_CAUSES {
        lease.causes.push(cause.clone());
    } else {
        lease.more = Some(lease.more.unwrap_or(0) + 1);
    }
}

/// The leases that came after `at`. Where a later cause joined an earlier lease, that cause holds on by itself.
fn held_after(order: &Order, at: Timestamp) -> Vec<Lease> {
    let later = |cause: &Cause| {
        let entry = settled::find(Some(order), cause)?;
        Timestamp::from_timestamp_millis(entry.at_ms).filter(|time| *time > at)
    };
    let rest = |lease: &Lease| {
        if lease.since > at {
            return Some(lease.clone());
        }
        let causes: Vec<Cause> = lease.causes.iter().filter(|cause| later(cause).is_some()).cloned().collect();
        let since = causes.iter().filter_map(later).min()?;
        Some(Lease { causes, since, ..lease.clone() })
    };
    order.leases.iter().filter_map(rest).collect()
}

fn living(standing: Option<&Order>, keep: impl Fn(&Lease) -> bool) -> Vec<Lease> {
    standing.map(|order| order.leases.iter().filter(|lease| keep(lease)).cloned().collect()).unwrap_or_default()
}

/// Who and what holds the host, in words: `bob and rule ransomware`.
fn holders(leases: &[Lease]) -> String {
    let name = |lease: &Lease| match (&lease.rule, lease.causes.first()) {
        (Some(rule), _) => format!("rule {rule}"),
        (None, Some(cause)) if lease.origin == Origin::Manual => cause.token.clone(),
        (None, _) => "the host's own report".to_owned(),
    };
    let (manual, automatic): (Vec<&Lease>, Vec<&Lease>) = leases.iter().partition(|lease| lease.origin == Origin::Manual);
    manual.into_iter().chain(automatic).map(name).collect::<Vec<_>>().join(" and ")
}

/// The latest end; None where a lease has none, or where there is no lease.
fn release_at(leases: &[Lease]) -> Option<Timestamp> {
    leases.iter().map(|lease| lease.until).collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// An order with these leases and all that follows from them.
fn with_leases(standing: Option<&Order>, leases: Vec<Lease>, making: Making<'_>) -> Order {
    let isolated = !leases.is_empty();
    let by_hand = leases.iter().any(|lease| lease.origin == Origin::Manual);
    let was = standing.filter(|order| order.posture == Posture::Isolated);
    // By a lease that still stands: what a request brought for one that is over does not come back with the next.
    let goes_on = |was: &Lease| was.origin == Origin::Manual && leases.iter().any(|lease| lease.generation == was.generation);
    let was_by_hand = was.is_some_and(|order| order.leases.iter().any(goes_on));
    let exclusions = match (isolated, was) {
        (false, _) => Vec::new(),
        // A request may have brought its own: they stay for as long as a person holds the host.
        (true, Some(order)) if by_hand && was_by_hand => order.exclusions.clone(),
        (true, _) if by_hand => making.manual.to_vec(),
        (true, _) => making.automatic.to_vec(),
    };
    let both = by_hand && leases.iter().any(|lease| lease.origin == Origin::Automatic);
    let reason = match both {
        true => format!("{}; held by {}; manual exclusions apply", making.reason, holders(&leases)),
        false => making.reason.to_owned(),
    };
    let release_at = release_at(&leases);
    let mut order = Order {
        host: making.host.clone(),
        generation: making.generation,
        posture: if isolated { Posture::Isolated } else { Posture::Open },
        leases,
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
        prev: NO_PREV.to_owned(),
    };
    settled::add(&mut order, making.input.hash(), making.at, Some(making.generation));
    order
}

#[cfg(test)]
mod tests;
