//! A list of exclusions: profiles by name and connections written out, resolved to what an order carries.

use portcullis_schemas::exclusion::{Exclusion, measure};

use super::entry::{MOST, Place, one};
use super::error::Errors;
use super::lists::Lists;
use super::profiles::Profiles;
use super::read::{list, text};
use super::yaml::{Node, Value};

/// Exclusions for a user or unit: more an agent does not enforce, as each is a rule on the way of every packet.
const MOST_BOUND: usize = 64;
/// All exclusions of one origin, in bytes of JSON: what an order has room for beside its holds and memory.
const LARGEST: usize = 192 * 1024;

/// The entries of `automatic` or `manual_default`.
pub(super) fn parse(node: &Node, what: &str, profiles: &Profiles, lists: &Lists, errors: &mut Errors) -> Vec<Exclusion> {
    let mut exclusions: Vec<Exclusion> = Vec::new();
    let entries = list(node, what, errors).unwrap_or_default();
    if entries.len() > MOST {
        errors.push(node.at, format!("{what} has {} entries; at most {MOST} are taken", entries.len()));
        return exclusions;
    }
    for entry in entries {
        let found = match &entry.value {
            Value::Map(_) => one(entry, Place::List, lists, errors).into_iter().collect(),
            Value::Text(_) => match text(entry, "a profile", errors) {
                Some(name) => profiles.named(name, entry.at, lists, errors),
                None => Vec::new(),
            },
            Value::List(_) => {
                errors.push(entry.at, format!("{what} has a list inside a list; write one list"));
                Vec::new()
            }
            Value::Refused => Vec::new(),
        };
        if let Some(again) = found.first().filter(|found| exclusions.iter().any(|earlier| earlier.name == found.name)) {
            errors.push(entry.at, format!("{what} has {:?} twice; keep one, or give the other another name", again.name));
            continue;
        }
        exclusions.extend(found);
    }
    if let Some(reason) = too_much(&exclusions) {
        errors.push(node.at, format!("{what}, all together: {reason}"));
    }
    exclusions
}

/// Why these cannot be one order's.
pub(super) fn too_much(exclusions: &[Exclusion]) -> Option<String> {
    let bound = exclusions.iter().filter(|exclusion| exclusion.user.is_some() || exclusion.unit.is_some()).count();
    if bound > MOST_BOUND {
        return Some(format!("{bound} exclusions are for a user or unit, and a host enforces {MOST_BOUND} of them"));
    }
    if let Err(reason) = measure::check(exclusions) {
        return Some(reason.to_string());
    }
    let bytes = serde_json::to_vec(exclusions).map_or(0, |text| text.len());
    (bytes > LARGEST).then(|| format!("{bytes} bytes of exclusions, and an order has room for {LARGEST}; name larger networks"))
}
