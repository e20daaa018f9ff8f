//! Where the users, units and names of exclusions are on this host and in the network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use portcullis_agent_core::exclusions;
use portcullis_agent_core::record::FrozenFacts;
use portcullis_schemas::exclusion::Exclusion;

use crate::host::{groups, users};

/// How long the gate waits for names that nobody has answered for yet, so that connections to them are not cut for a moment.
pub const BEFORE_THE_GATE: Duration = Duration::from_millis(250);
/// Addresses of one name that pass: a name that turns over its addresses cuts no connection that is under way.
const MOST_ADDRESSES: usize = 16;

/// Fills in the users that are not known yet, and looks for the units. Names are another matter: asking for them takes its time.
pub fn locate(frozen: &mut FrozenFacts, exclusions: &[Exclusion]) {
    frozen.users.extend(users::named(exclusions));
    frozen.groups = groups::named(exclusions);
}

/// The names that nobody has answered for yet.
pub fn unknown_names(frozen: &FrozenFacts, exclusions: &[Exclusion]) -> BTreeSet<String> {
    exclusions::names(exclusions).into_iter().filter(|name| !frozen.names.contains_key(name)).collect()
}

/// The newest addresses stand first; the oldest go where there are too many.
pub fn merge(known: &mut BTreeMap<String, Vec<IpAddr>>, found: BTreeMap<String, Vec<IpAddr>>) {
    for (name, addresses) in found {
        let before = known.entry(name).or_default();
        let older: Vec<IpAddr> = before.iter().filter(|address| !addresses.contains(address)).copied().collect();
        *before = addresses.into_iter().chain(older).take(MOST_ADDRESSES).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_last_addresses_and_not_all_that_it_ever_had() {
        let of = |n: u32| IpAddr::from(n.to_be_bytes());
        let mut known = BTreeMap::from([("a".to_owned(), vec![of(1), of(2)]), ("b".to_owned(), vec![of(9)])]);
        merge(&mut known, [("a".to_owned(), vec![of(2), of(3)])].into());
        assert_eq!(known, [("a".to_owned(), vec![of(2), of(3), of(1)]), ("b".to_owned(), vec![of(9)])].into());
        merge(&mut known, [("a".to_owned(), (10..40).map(of).collect())].into());
        assert_eq!(known["a"].len(), MOST_ADDRESSES);
    }
}
