//! What the kernel gives back against what the gate says, whole: existence alone proves nothing, a dormant table leaks.

mod counters;
mod listing;
mod objects;
mod spelling;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use nftables::types::NfFamily;
use portcullis_schemas::ids;

use crate::gate::{Device, Proof};
use crate::ruleset::Strays;

pub use counters::passed;
pub(crate) use listing::of_batch;
pub use listing::read;
pub use objects::{Listing, Object, Passed};

/// Our tables as they were listed or are expected, without what changes by itself: handles and counters. What is in the netdev table has
/// `netdev ` before its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Each table's own properties (flags, comment), as JSON.
    tables: BTreeMap<String, String>,
    chains: BTreeMap<String, Part<Vec<String>>>,
    sets: BTreeMap<String, Part<BTreeSet<String>>>,
    /// On which devices a chain stands, where the listing says it: nft's own does not before 1.0.7.
    devices: BTreeMap<String, BTreeSet<String>>,
    /// What packets are marked with and asked for: in no text of this, and so in no digest, log or event.
    proofs: BTreeSet<Proof>,
    /// Kinds of objects that we never make: maps, flowtables, named counters.
    others: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part<C> {
    /// Type, hook, priority, policy of a chain; types and flags of a set; as JSON.
    properties: String,
    content: C,
}

/// One thing in which the kernel differs from the gate, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    TableMissing { table: String },
    TableChanged { table: String, expected: String, found: String },
    Missing { what: ObjectKind, name: String },
    Unexpected { what: ObjectKind, name: String },
    Changed { what: ObjectKind, name: String, expected: String, found: String },
    ContentMissing { what: ObjectKind, name: String, content: String },
    ContentUnexpected { what: ObjectKind, name: String, content: String },
    RulesReordered { chain: String },
    Moved { chain: String, expected: String, found: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    Table,
    Chain,
    Set,
    Other,
}

/// Nothing if they are the same.
pub fn differences(expected: &Ruleset, found: &Ruleset) -> Vec<Difference> {
    let mut list = Vec::new();
    for (name, a) in &expected.tables {
        match found.tables.get(name) {
            None => list.push(Difference::TableMissing { table: name.clone() }),
            Some(b) if a != b => {
                list.push(Difference::TableChanged { table: name.clone(), expected: a.clone(), found: b.clone() })
            }
            Some(_) => {}
        }
    }
    // Naming each part of what is missing whole would say nothing more.
    if expected.tables.keys().any(|name| !found.tables.contains_key(name)) {
        return list;
    }
    compare(ObjectKind::Chain, &expected.chains, &found.chains, &mut list, |name, a, b| {
        let missing =
            without(a, b).map(|content| Difference::ContentMissing { what: ObjectKind::Chain, name: name.into(), content });
        let more =
            without(b, a).map(|content| Difference::ContentUnexpected { what: ObjectKind::Chain, name: name.into(), content });
        let list: Vec<_> = missing.chain(more).collect();
        if list.is_empty() && a != b { vec![Difference::RulesReordered { chain: name.into() }] } else { list }
    });
    compare(ObjectKind::Set, &expected.sets, &found.sets, &mut list, |name, a, b| {
        let content = |content: &String| (ObjectKind::Set, name.to_owned(), content.clone());
        let missing =
            a.difference(b).map(content).map(|(what, name, content)| Difference::ContentMissing { what, name, content });
        let more =
            b.difference(a).map(content).map(|(what, name, content)| Difference::ContentUnexpected { what, name, content });
        missing.chain(more).collect()
    });
    for (chain, found) in &found.devices {
        if let Some(expected) = expected.devices.get(chain).filter(|expected| *expected != found) {
            let names = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            list.push(Difference::Moved { chain: chain.clone(), expected: names(expected), found: names(found) });
        }
    }
    // Where a rule is missing, that is said already.
    if list.is_empty() && expected.proofs != found.proofs {
        let [expected, found] = ["the one of this host", "another"].map(str::to_owned);
        list.push(Difference::Changed {
            what: ObjectKind::Other,
            name: "the mark on packets that may leave".into(),
            expected,
            found,
        });
    }
    list.extend(found.others.iter().map(|name| Difference::Unexpected { what: ObjectKind::Other, name: name.clone() }));
    list
}

impl Ruleset {
    /// SHA-256 of the whole, in hex: the same posture has the same digest, on every host and after every change.
    pub fn digest(&self) -> String {
        let mut text = String::new();
        for (name, table) in &self.tables {
            text += &format!("table {name} {table}\n");
        }
        for (name, chain) in &self.chains {
            text += &format!("chain {name} {}\n", chain.properties);
            chain.content.iter().for_each(|rule| text += &format!("  {rule}\n"));
        }
        for (name, set) in &self.sets {
            text += &format!("set {name} {}\n", set.properties);
            set.content.iter().for_each(|element| text += &format!("  {element}\n"));
        }
        self.others.iter().for_each(|other| text += &format!("other {other}\n"));
        ids::sha256(text.as_bytes())
    }

    pub fn is_absent(&self) -> bool {
        self.tables.is_empty()
    }
}

/// What a device left behind that has gone, or an exclusion that has ended, or what somebody put into our tables.
pub fn strays(differences: &[Difference]) -> Strays {
    let mut strays = Strays::default();
    for difference in differences {
        let Difference::Unexpected { what, name } = difference else { continue };
        let stray = match name.strip_prefix(listing::NETDEV) {
            Some(name) => (NfFamily::NetDev, name.to_owned()),
            None => (NfFamily::INet, name.clone()),
        };
        match what {
            ObjectKind::Chain => strays.chains.push(stray),
            ObjectKind::Set => strays.sets.push(stray),
            ObjectKind::Table | ObjectKind::Other => {}
        }
    }
    strays
}

/// What neither devices that came or left, nor units that began anew, nor the end of a table's owner explain. The last leaves flags behind of which
/// nft's JSON makes something else (1.0.6), so whether a table is dormant is to be asked of the kernel.
pub fn unexplained(mut differences: Vec<Difference>) -> Vec<Difference> {
    // The rest of that layer names the addresses of all devices.
    let devices_differ = differences.iter().any(Difference::is_of_a_device);
    let explained = |difference: &Difference| match difference {
        Difference::TableChanged { .. } => true,
        other => other.is_of_a_group() || devices_differ && other.on_devices_layer().is_some(),
    };
    differences.retain(|difference| !explained(difference));
    differences
}

impl Difference {
    /// Whether it is about a chain of that device.
    pub fn concerns(&self, device: &Device) -> bool {
        let (Self::Missing { what: ObjectKind::Chain, name }
        | Self::Changed { what: ObjectKind::Chain, name, .. }
        | Self::Unexpected { what: ObjectKind::Chain, name }
        | Self::Moved { chain: name, .. }) = self
        else {
            return false;
        };
        ["in", "out"].iter().any(|way| *name == format!("{}{way}-{}-{}", listing::NETDEV, device.index, device.name))
    }
}

impl Difference {
    /// Whether it is about a chain that stands on one device.
    fn is_of_a_device(&self) -> bool {
        self.on_devices_layer().is_some_and(|name| name.starts_with("in-") || name.starts_with("out-"))
    }

    /// The chain or set of the layer on the devices that it is about.
    fn on_devices_layer(&self) -> Option<&str> {
        match self {
            Self::TableMissing { .. } | Self::TableChanged { .. } => None,
            Self::Missing { name, .. }
            | Self::Unexpected { name, .. }
            | Self::Changed { name, .. }
            | Self::ContentMissing { name, .. }
            | Self::ContentUnexpected { name, .. }
            | Self::RulesReordered { chain: name }
            | Self::Moved { chain: name, .. } => name.strip_prefix(listing::NETDEV),
        }
    }

    /// Whether it is about the control group of a socket.
    fn is_of_a_group(&self) -> bool {
        let (Self::ContentMissing { content, .. } | Self::ContentUnexpected { content, .. }) = self else { return false };
        content.contains("cgroupv2")
    }

    /// Whether the layer on the devices is missing whole.
    pub fn is_without_devices_layer(&self) -> bool {
        matches!(self, Self::TableMissing { table } if table.starts_with(listing::NETDEV))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableMissing { table } => write!(f, "the table {table} is missing"),
            Self::TableChanged { table, expected, found } => write!(f, "the table {table} is {found}, expected {expected}"),
            Self::Missing { what, name } => write!(f, "{what} {name} is missing"),
            Self::Unexpected { what, name } => write!(f, "{what} {name} is not ours"),
            Self::Changed { what, name, expected, found } => write!(f, "{what} {name} is {found}, expected {expected}"),
            Self::ContentMissing { what, name, content } => write!(f, "{what} {name} lacks {}", beginning(content)),
            Self::ContentUnexpected { what, name, content } => write!(f, "{what} {name} also has {}", beginning(content)),
            Self::Moved { chain, expected, found } => write!(f, "chain {chain} is on {found}, expected {expected}"),
            Self::RulesReordered { chain } => write!(f, "chain {chain} has its rules in another order"),
        }
    }
}

/// A rule may name thousands of addresses.
fn beginning(content: &str) -> String {
    const MOST: usize = 300;
    match content.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} ...", &content[..end]),
        None => content.to_owned(),
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Chain => "chain",
            Self::Set => "set",
            Self::Other => "object",
        })
    }
}

fn compare<C: PartialEq>(
    what: ObjectKind,
    expected: &BTreeMap<String, Part<C>>,
    found: &BTreeMap<String, Part<C>>,
    list: &mut Vec<Difference>,
    contents: impl Fn(&str, &C, &C) -> Vec<Difference>,
) {
    for (name, a) in expected {
        let Some(b) = found.get(name) else {
            list.push(Difference::Missing { what, name: name.clone() });
            continue;
        };
        if a.properties != b.properties {
            let (expected, found) = (a.properties.clone(), b.properties.clone());
            list.push(Difference::Changed { what, name: name.clone(), expected, found });
        }
        if a.content != b.content {
            list.extend(contents(name, &a.content, &b.content));
        }
    }
    let unknown = found.keys().filter(|name| !expected.contains_key(*name));
    list.extend(unknown.map(|name| Difference::Unexpected { what, name: name.clone() }));
}

/// The lines of `a` that `b` lacks, each as often as it lacks them.
fn without<'a>(a: &'a [String], b: &[String]) -> impl Iterator<Item = String> + use<'a> {
    let mut rest = b.to_vec();
    a.iter()
        .filter(move |line| match rest.iter().position(|other| other == *line) {
            Some(at) => {
                rest.swap_remove(at);
                false
            }
            None => true,
        })
        .cloned()
}
