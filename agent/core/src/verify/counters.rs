//! What each exclusion has let pass, from the counters of its elements.

use std::collections::BTreeMap;

use super::objects::{Listing, Passed};
use super::spelling;
use crate::gate::Gate;
use crate::ruleset::{self, TABLE};

/// For each pass of `gate`, in its order, from nft's listing of our tables. None where nothing counts (rules that nft itself has loaded).
pub fn passed(listing: &Listing, gate: &Gate) -> Vec<Option<Passed>> {
    let is_ours = |kind: &str, family: &str, table: &str| (kind, family, table) == ("set", "inet", TABLE);
    let sets = listing.objects.iter().filter(|set| is_ours(&set.kind, set.word("family"), set.word("table")));
    let counted = sets.flat_map(|set| {
        set.elements.iter().filter_map(|element| Some(((set.word("name"), element.key.as_str()), element.passed?)))
    });
    let found: BTreeMap<(&str, &str), Passed> = counted.collect();
    let mut all: Vec<Option<Passed>> = vec![None; gate.passes.len()];
    for set in ruleset::inet_sets(gate).iter().filter(|set| set.counts) {
        for (key, owners) in &set.elements {
            let key = serde_json::to_value(key).map(|key| spelling::key(&key)).unwrap_or_default();
            let Some(passed) = found.get(&(set.name.as_str(), key.as_str())) else { continue };
            for owner in owners {
                let sum = all[*owner].get_or_insert_default();
                sum.packets += passed.packets;
                sum.bytes += passed.bytes;
            }
        }
    }
    all
}
