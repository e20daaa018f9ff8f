//! What operators say of one host: labels, and the exclusions of its own list.

use std::borrow::Cow;
use std::collections::BTreeMap;

use portcullis_schemas::HostId;
use portcullis_schemas::events::{Effect, ExclusionChange, Hold, OperatorWord, Origin, Posture, Reason, Request, Verdict};
use portcullis_schemas::exclusion::{Exclusion, measure};

use super::{Door, Meta, Outcome, words};
use crate::exclusions;
use crate::fleet::Host;
use crate::isolation::Event;
use crate::subject::Subject;

/// Most labels of one host by operators.
const MOST_LABELS: usize = 64;
/// In characters.
const LONGEST: usize = 256;
/// A host's own list, in bytes of JSON: it stands in decisions and inventories.
const LARGEST_LIST: usize = 32 * 1024;

pub fn label(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, request: &Request) -> Outcome {
    let refuse = |problem: String| incomplete(door, meta, id, "labels", problem);
    if host.inventory.is_none() {
        return never_heard(door, meta, id);
    }
    if request.labels.is_empty() {
        return refuse("name a label to set or to take away".into());
    }
    for (name, value) in &request.labels {
        if let Some(problem) = wrong(name, value.as_deref()) {
            return refuse(problem);
        }
    }
    let mut all: BTreeMap<&String, &Option<String>> = word(host).map(|word| word.labels.iter().collect()).unwrap_or_default();
    all.extend(&request.labels);
    if all.len() > MOST_LABELS {
        return refuse(format!("operators would have {} labels on the host; at most {MOST_LABELS} are kept", all.len()));
    }
    let mut outcome = door.answer(meta, Some(id), Verdict::Apply, Reason::Operator);
    if let Some(decision) = &mut outcome.decision {
        decision.effects.push(Effect::Labelled { labels: request.labels.clone() });
    }
    outcome
}

/// A change that passes by itself belongs to the isolation that stands; every other one to the host's own list as well. On an open host all of it
/// goes to the list.
pub fn exclude(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, request: &Request) -> Outcome {
    let refuse = |problem: String| incomplete(door, meta, id, "change", problem);
    let change = match change(meta, request) {
        Ok(change) => change,
        Err(problem) => return refuse(problem),
    };
    let standing = host.order.as_deref().filter(|order| order.posture == Posture::Isolated);
    if let Some(released_at) = words::superseded(meta, host).filter(|_| standing.is_some()) {
        return door.answer(meta, Some(id), Verdict::Ignore, Reason::SupersededByRelease { released_at });
    }
    let own = own_list(door, id, host, &[]);
    let passing = standing.map_or(&[][..], |order| &order.exclusions);
    let named = |name: &&String| own.iter().chain(passing).any(|exclusion| exclusion.name == **name);
    if let Some(unknown) = change.remove.iter().find(|name| !named(name)) {
        return refuse(format!("the host has no exclusion {unknown:?}"));
    }
    let default = defaults(door, id, host, Origin::Manual, &[]);
    let list = exclusions::changed(&own, &default, &change, meta.at);
    let bytes = serde_json::to_vec(&list).map_or(0, |text| text.len());
    if bytes > LARGEST_LIST {
        return refuse(format!("the host's own list would have {bytes} bytes; at most {LARGEST_LIST} are kept"));
    }
    if let Err(reason) = measure::check(&list) {
        return refuse(format!("the host's own list: {reason}"));
    }
    let is_kept = standing.is_none() || !exclusions::is_temporary(&change);
    if is_kept && host.inventory.is_none() {
        return never_heard(door, meta, id);
    }
    let mut outcome = match standing {
        Some(order) => {
            let is_manual = |hold: &Hold| hold.origin == Origin::Manual;
            let origin = if order.holds.iter().any(is_manual) { Origin::Manual } else { Origin::Automatic };
            let rules: Vec<&str> = order.holds.iter().filter_map(|hold| hold.rule.as_deref()).collect();
            let event = Event::Exclude { change: &change, default: &defaults(door, id, host, origin, &rules) };
            let text = words::done_by("exclusions changed", request);
            door.order(meta, id, &event, Verdict::Apply, Reason::Operator, &text)
        }
        None => door.answer(meta, Some(id), Verdict::Apply, Reason::Operator),
    };
    if let Some(order) = &outcome.order
        && let Err(reason) = measure::check(&order.exclusions)
    {
        return refuse(format!("all exclusions of the isolation together: {reason}"));
    }
    if let Some(decision) = outcome.decision.as_mut().filter(|decision| is_kept && decision.verdict == Verdict::Apply) {
        let exclusions = (!change.reset || !change.exclusions.is_empty()).then_some(list);
        decision.effects.push(Effect::OwnExclusions { exclusions });
    }
    outcome
}

/// What passes while a person isolates the host: its own list, else what the policy says.
pub fn own_list<'a>(door: Door<'a>, id: &HostId, host: &'a Host, rules: &[&str]) -> Cow<'a, [Exclusion]> {
    match word(host).and_then(|word| word.exclusions.as_deref()) {
        Some(list) => Cow::Borrowed(list),
        None => Cow::Owned(defaults(door, id, host, Origin::Manual, rules)),
    }
}

/// What the policy lets pass on this host.
pub fn defaults(door: Door<'_>, id: &HostId, host: &Host, origin: Origin, rules: &[&str]) -> Vec<Exclusion> {
    match (door.policy, origin) {
        (Some(policy), _) => policy.exclusions(&Subject::of(id, host).view(), origin, rules).exclusions,
        (None, Origin::Manual) => door.terms.manual.clone(),
        (None, Origin::Automatic) => door.terms.automatic.clone(),
    }
}

fn word(host: &Host) -> Option<&OperatorWord> {
    host.inventory.as_deref().and_then(|inventory| inventory.operator.as_ref())
}

/// The change with the ends of its temporary exclusions, or what is wrong with it.
fn change(meta: &Meta, request: &Request) -> Result<ExclusionChange, String> {
    let mut change = request.change.clone().ok_or("say what is to be added or taken away")?;
    if change == ExclusionChange::default() {
        return Err("say what is to be added or taken away".into());
    }
    let until = request.duration.and_then(|duration| duration.span()).map(|span| meta.at + span.delta());
    for exclusion in &mut change.exclusions {
        exclusion.until = exclusion.until.or(until);
        if !exclusions::lives(exclusion, meta.at) {
            return Err(format!("exclusion {:?} would end before it began", exclusion.name));
        }
    }
    Ok(change)
}

fn wrong(name: &str, value: Option<&str>) -> Option<String> {
    let plain = |text: &str| text.chars().all(|c| !c.is_control());
    let is_name = !name.is_empty() && name.chars().count() <= LONGEST && !name.contains(char::is_whitespace) && plain(name);
    if !is_name {
        return Some(format!("{name:?} is no name of a label; write up to {LONGEST} characters without white space"));
    }
    let fits = |value: &str| value.chars().count() <= LONGEST && plain(value);
    let is_wrong = value.is_some_and(|value| !fits(value));
    is_wrong.then(|| format!("the value of {name:?} has a control character, or more than {LONGEST} characters"))
}

fn never_heard(door: Door<'_>, meta: &Meta, id: &HostId) -> Outcome {
    let problem = "its agent has sent no heartbeat yet; try again when `portcullis hosts` shows its name";
    incomplete(door, meta, id, "host", problem.into())
}

fn incomplete(door: Door<'_>, meta: &Meta, id: &HostId, member: &str, problem: String) -> Outcome {
    door.answer(meta, Some(id), Verdict::Refuse, Reason::Incomplete { member: member.to_owned(), problem })
}
