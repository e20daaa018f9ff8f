//! The holds of one isolation: made, joined, merged where they are too many, and what of them is left after a release.

use std::cmp::Ordering;

use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Cause, Hold, InputRef, MAX_CAUSES, Order, Origin};

use super::{HoldRequest, Making};
use crate::joined::{self, Join, OfHost};
use crate::settled;

/// So much of an operator's words, of a ticket and of an incident is kept with a hold, in characters.
const NOTE: usize = 1_000;
const NAME: usize = 256;

pub(super) fn new(asked: &HoldRequest<'_>, making: Making<'_>) -> Hold {
    let cut = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    Hold {
        rule: asked.rule.map(str::to_owned),
        origin: asked.origin,
        causes: vec![making.input.clone()],
        more: None,
        generation: making.generation,
        since: making.at,
        until: asked.until,
        reason: asked.note.map(|note| cut(note, NOTE)),
        ticket: asked.ticket.map(|ticket| cut(ticket, NAME)),
        incident: asked.incident.map(|incident| cut(incident, NAME)),
    }
}

pub(super) fn lives(hold: &Hold, at: Timestamp) -> bool {
    hold.until.is_none_or(|until| until > at)
}

/// One cause more, and a later end as far as the policy allows.
pub(super) fn join(hold: &mut Hold, asked: &HoldRequest<'_>, cause: &InputRef) {
    add_cause(hold, cause);
    hold.until = match (hold.until, asked.until) {
        (Some(stands), Some(wanted)) => {
            let most = asked.longest.map(|longest| hold.since + longest);
            Some(stands.max(most.map_or(wanted, |most| wanted.min(most))))
        }
        _ => None,
    };
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

/// Makes one hold of two, so that a further one has room: of the manual ones, or else of all, the two that end first. The host opens no earlier
/// by that, and no later. Says so, in words.
pub(super) fn merge_two(holds: &mut Vec<Hold>) -> Option<String> {
    let manual = holds.iter().filter(|hold| hold.origin == Origin::Manual).count();
    let mut fitting: Vec<usize> = (0..holds.len()).filter(|at| (holds[*at].origin == Origin::Manual) == (manual > 1)).collect();
    fitting.sort_by(|one, other| by_end(&holds[*one], &holds[*other]));
    let [first, second] = *fitting.first_chunk()?;
    let gone = holds[first].clone();
    let kept = &mut holds[second];
    gone.causes.iter().for_each(|cause| add_cause(kept, cause));
    kept.more = kept.more.map(|more| more + gone.more.unwrap_or(0)).or(gone.more);
    (kept.generation, kept.since) = (kept.generation.max(gone.generation), kept.since.min(gone.since));
    let text = format!("there are too many holds: that of {} was merged into that of {}", holder(&gone), holder(kept));
    holds.remove(first);
    Some(text)
}

/// One without an end is the last.
fn by_end(one: &Hold, other: &Hold) -> Ordering {
    (one.until.is_none(), one.until).cmp(&(other.until.is_none(), other.until))
}

/// Names causes that joined without an order, as far as there is room, and lasts as long as they ask for.
pub(super) fn take_in<'j>(hold: &mut Hold, joins: impl Iterator<Item = &'j Join>) {
    for join in joins {
        if hold.causes.len() < MAX_CAUSES && !hold.causes.contains(&join.cause) {
            hold.causes.push(join.cause.clone());
        }
        hold.until = hold.until.map(|until| join.until.map_or(until, |other| until.max(other)));
    }
}

/// The holds that came after `at`. Where a later cause joined an earlier hold, that cause holds on by itself.
pub(super) fn after(order: &Order, at: Timestamp, joins: Option<&OfHost>) -> Vec<Hold> {
    let later = |cause: &Cause| {
        let entry = settled::find(Some(order), cause)?;
        Timestamp::from_timestamp_millis(entry.at_ms).filter(|time| *time > at)
    };
    let rest = |hold: &Hold| {
        if hold.since > at {
            return Some(hold.clone());
        }
        let joins: Vec<&Join> = joined::of_hold(joins, hold).0.into_iter().filter(|join| join.at > at).collect();
        let causes: Vec<Cause> = hold.causes.iter().filter(|cause| later(cause).is_some()).cloned().collect();
        let since = causes.iter().filter_map(later).chain(joins.iter().map(|join| join.at)).min()?;
        let mut rest = Hold { causes, since, ..hold.clone() };
        take_in(&mut rest, joins.into_iter());
        Some(rest)
    };
    order.holds.iter().filter_map(rest).collect()
}

/// Who and what holds the host, in words: `bob and rule ransomware`.
pub(super) fn holders(holds: &[Hold]) -> String {
    let (manual, automatic): (Vec<&Hold>, Vec<&Hold>) = holds.iter().partition(|hold| hold.origin == Origin::Manual);
    let mut names: Vec<String> = Vec::new();
    for name in manual.into_iter().chain(automatic).map(holder) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" and ")
}

fn holder(hold: &Hold) -> String {
    match (&hold.rule, hold.causes.first()) {
        (Some(rule), _) => format!("rule {rule}"),
        (None, Some(cause)) if hold.origin == Origin::Manual => cause.token.clone(),
        (None, _) => "the host's own report".to_owned(),
    }
}

/// The latest end; None where a hold has none, or where there is no hold.
pub(super) fn release_at(holds: &[Hold]) -> Option<Timestamp> {
    holds.iter().map(|hold| hold.until).collect::<Option<Vec<_>>>()?.into_iter().max()
}
