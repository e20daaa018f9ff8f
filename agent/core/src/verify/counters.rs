//! What each exclusion has let pass, from the counters of its elements.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::listing;
use crate::gate::Gate;
use crate::ruleset;

/// Since the rules were last written, both ways. A packet that two exclusions let pass counts for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    pub packets: u64,
    pub bytes: u64,
}

/// For each pass of `gate`, in its order, from nft's listing of our tables. None where nothing counts (rules that nft itself has loaded).
pub fn passed(listing: &Value, gate: &Gate) -> Vec<Option<Passed>> {
    let found: BTreeMap<(String, String), Passed> = listing::counted(listing);
    let mut all: Vec<Option<Passed>> = vec![None; gate.passes.len()];
    for set in ruleset::inet_sets(gate).iter().filter(|set| set.counts) {
        for (key, owners) in &set.elements {
            let key = serde_json::to_value(key).map(|key| listing::key(&key)).unwrap_or_default();
            let Some(passed) = found.get(&(set.name.clone(), key)) else { continue };
            for owner in owners {
                let sum = all[*owner].get_or_insert_default();
                sum.packets += passed.packets;
                sum.bytes += passed.bytes;
            }
        }
    }
    all
}
