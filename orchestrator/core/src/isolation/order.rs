//! An order with its holds, and all that follows from them: what passes, when the host opens, what is said.

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Hold, Order, Origin, Posture};
use portcullis_schemas::exclusion::Exclusion;

use super::{Making, NO_PREV, holds};
use crate::{exclusions, settled};

/// When an order is to be followed by another one, as far as it knows itself: the host opens, or the last manual hold ends before the others, and
/// with it the manual exclusions. None while it is open, and where only a person ends it.
pub fn next_end(order: &Order) -> Option<Timestamp> {
    let (manual, automatic): (Vec<&Hold>, Vec<&Hold>) = order.holds.iter().partition(|hold| hold.origin == Origin::Manual);
    let ends: Option<Vec<Timestamp>> = manual.iter().map(|hold| hold.until).collect();
    let manual_end = ends.and_then(|ends| ends.into_iter().max());
    let is_outlived = |end: &Timestamp| automatic.iter().any(|hold| hold.until.is_none_or(|until| until > *end));
    manual_end.filter(is_outlived).or(order.release_at)
}

/// An order with these holds and all that follows from them.
pub(super) fn with_holds(standing: Option<&Order>, holds: Vec<Hold>, making: Making<'_>) -> Order {
    let isolated = !holds.is_empty();
    let by_hand = holds.iter().any(|hold| hold.origin == Origin::Manual);
    let was = standing.filter(|order| order.posture == Posture::Isolated);
    let exclusions = if isolated { passing(was, &holds, making) } else { Vec::new() };
    let both = by_hand && holds.iter().any(|hold| hold.origin == Origin::Automatic);
    let reason = match both {
        true => format!("{}; held by {}; manual exclusions apply", making.reason, holds::holders(&holds)),
        false => making.reason.to_owned(),
    };
    let release_at = holds::release_at(&holds);
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
        last_isolation: standing.and_then(|order| order.last_isolation.clone()),
        asked_at_deadline: false,
        prev: NO_PREV.to_owned(),
    };
    settled::add(&mut order, making.input.hash(), making.at, Some(making.generation));
    order
}

/// What passes while these hold the host. It is looked up where the isolation begins, and where it becomes a manual one or is none any more; in
/// between it stays, but for what has ended.
fn passing(was: Option<&Order>, holds: &[Hold], making: Making<'_>) -> Vec<Exclusion> {
    let is_manual = |hold: &Hold| hold.origin == Origin::Manual;
    let by_hand = holds.iter().any(is_manual);
    // By a hold that still stands: what a request brought for one that is over does not come back with the next.
    let goes_on = |was: &Hold| is_manual(was) && holds.iter().any(|hold| hold.generation == was.generation);
    let stays = |order: &&Order| match by_hand {
        true => order.holds.iter().any(goes_on),
        false => !order.holds.iter().any(is_manual),
    };
    let mut passing = match was.filter(stays) {
        Some(order) => order.exclusions.clone(),
        None => {
            let origin = if by_hand { Origin::Manual } else { Origin::Automatic };
            let rules: Vec<&str> = holds.iter().filter_map(|hold| hold.rule.as_deref()).collect();
            let mut list = (making.passing)(origin, &rules);
            // What a person let pass for a time passes for that time.
            let temporary = was.iter().flat_map(|order| &order.exclusions).filter(|exclusion| exclusion.until.is_some());
            list.extend(temporary.cloned());
            list
        }
    };
    passing.retain(|exclusion| exclusions::lives(exclusion, making.at));
    passing
}
