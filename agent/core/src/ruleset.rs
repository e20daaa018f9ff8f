//! The ruleset of an isolated host, as one nftables transaction: rules are the same for every gate, sets hold what differs.

mod bound;
mod direction;
mod frames;
mod inet;
mod keys;
mod many;
mod netdev;
mod probes;
mod secmark;
mod sets;
mod terms;

use std::collections::BTreeSet;

use nftables::batch::Batch;
use nftables::schema::{
    Chain, Element, FlushObject, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetTypeValue, Table,
};
use nftables::stmt::Statement;
use nftables::types::NfFamily;

use crate::gate::{Device, Gate, Netdev};
use sets::SetOf;
use terms::rule;

#[cfg(test)]
pub(crate) use probes::example;
pub use probes::{PROBE, every_device_probe, group_probe, lock_probe, probe, probed, whole_probe};
pub use secmark::json;
pub(crate) use secmark::{KEY as SECMARK, hide};
pub(crate) use sets::{inet as inet_sets, standing as standing_sets};

/// The name of the tables that we own, the only ones that we ever touch: one of the family inet, one of the family netdev.
pub const TABLE: &str = "portcullis";

/// Stands for the name of a device in a chain for all that there are and will be. No device has such a name: it is too long.
pub const EVERY_DEVICE: &str = "every network device";

pub(crate) const NETDEV: NfFamily = NfFamily::NetDev;

/// The common parts of the netdev table: base chains only jump there.
const INGRESS: &str = "ingress";
const EGRESS: &str = "egress";

pub(crate) fn batch<'a>(layers: impl IntoIterator<Item = &'a Layer>, part: fn(&Layer, &mut Batch<'static>)) -> Nftables<'static> {
    let mut batch = Batch::new();
    layers.into_iter().for_each(|layer| part(layer, &mut batch));
    batch.to_nftables()
}

/// What one of the two tables holds.
#[derive(Debug)]
pub(crate) struct Layer {
    family: NfFamily,
    bases: Vec<Chain<'static>>,
    /// Those that the base chains lead to.
    chains: Vec<Chain<'static>>,
    sets: Vec<SetOf>,
    rules: Vec<Rule<'static>>,
}

pub(crate) fn inet_layer(gate: &Gate) -> Layer {
    #[cfg(test)]
    COMPILED.set(COMPILED.get() + 1);
    let sets = sets::inet(gate);
    let rules = rules_of(NfFamily::INet, inet::rules(gate, &names(&sets)));
    let chains = inet::names(gate).into_iter().map(|name| terms::chain(NfFamily::INet, name)).collect();
    Layer { family: NfFamily::INet, bases: inet::bases(gate), chains, sets, rules }
}

pub(crate) fn netdev_layer(gate: &Gate, netdev: &Netdev) -> Layer {
    #[cfg(test)]
    COMPILED.set(COMPILED.get() + 1);
    let sets = sets::netdev(gate);
    let mut rules = rules_of(NETDEV, netdev::rules(gate, netdev, &names(&sets)));
    let (bases, leading): (Vec<_>, Vec<_>) = netdev::chains(netdev, &netdev.devices).into_iter().unzip();
    rules.extend(leading);
    let chains = netdev::names(gate).into_iter().map(|name| terms::chain(NETDEV, name)).collect();
    Layer { family: NETDEV, bases, chains, sets, rules }
}

#[cfg(test)]
thread_local! {
    /// Layers that were compiled on this thread.
    pub(crate) static COMPILED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn rules_of(family: NfFamily, rules: Vec<(&'static str, Vec<Statement<'static>>)>) -> Vec<Rule<'static>> {
    rules.into_iter().map(|(chain, statements)| rule(family, chain, statements)).collect()
}

fn names(sets: &[SetOf]) -> BTreeSet<&str> {
    sets.iter().map(|set| set.name.as_str()).collect()
}

impl Layer {
    /// Closes first and changes then: the policies of the base chains drop, whatever the transaction does in between.
    pub(crate) fn whole(&self, batch: &mut Batch<'static>) {
        let family = self.family;
        batch.add(NfListObject::Table(table(family)));
        for chain in self.chains.iter().chain(&self.bases) {
            batch.add(NfListObject::Chain(chain.clone()));
        }
        for set in &self.sets {
            batch.add(NfListObject::Set(Box::new(declared(family, set))));
        }
        batch.add_cmd(NfCmd::Flush(FlushObject::Table(table(family))));
        for set in &self.sets {
            batch.add_cmd(NfCmd::Flush(FlushObject::Set(Box::new(declared(family, set)))));
            add_elements(batch, family, set);
        }
        self.rules.iter().for_each(|rule| batch.add(NfListObject::Rule(rule.clone())));
    }

    pub(crate) fn prepared(&self, batch: &mut Batch<'static>) {
        let family = self.family;
        batch.add(NfListObject::Table(table(family)));
        for set in &self.sets {
            batch.add(NfListObject::Set(Box::new(declared(family, set))));
            if !set.is_of_standing() {
                add_elements(batch, family, set);
            }
        }
        self.chains.iter().for_each(|chain| batch.add(NfListObject::Chain(chain.clone())));
        let rest = self.rules.iter().filter(|rule| !self.leads_on(rule));
        rest.for_each(|rule| batch.add(NfListObject::Rule(rule.clone())));
    }

    pub(crate) fn finished(&self, batch: &mut Batch<'static>) {
        for set in self.sets.iter().filter(|set| set.is_of_standing()) {
            add_elements(batch, self.family, set);
        }
        self.bases.iter().for_each(|chain| batch.add(NfListObject::Chain(chain.clone())));
        let leading = self.rules.iter().filter(|rule| self.leads_on(rule));
        leading.for_each(|rule| batch.add(NfListObject::Rule(rule.clone())));
    }

    fn leads_on(&self, rule: &Rule<'_>) -> bool {
        self.bases.iter().any(|base| base.name == rule.chain)
    }

    /// Takes the elements of sets of what stood. False where the layer has others: then its rules are others as well.
    pub(crate) fn refill(&mut self, sets: &[SetOf]) -> bool {
        let mut own: Vec<_> = self.sets.iter_mut().filter(|set| set.is_of_standing()).collect();
        if !own.iter().map(|set| &set.name).eq(sets.iter().map(|set| &set.name)) {
            return false;
        }
        own.iter_mut().zip(sets).for_each(|(own, set)| own.elements.clone_from(&set.elements));
        true
    }
}

fn add_elements(batch: &mut Batch<'static>, family: NfFamily, set: &SetOf) {
    if !set.elements.is_empty() {
        let elem = set.rendered().into();
        batch.add(NfListObject::Element(Element { family, table: TABLE.into(), name: set.name.clone().into(), elem }));
    }
}

/// Whether a chain of the batch stands on every device.
pub fn is_for_every_device(batch: &Nftables<'_>) -> bool {
    let is_for_every = |object: &NfObject<'_>| matches!(object, NfObject::CmdObject(NfCmd::Add(NfListObject::Chain(chain))) if chain.dev.as_deref() == Some(EVERY_DEVICE));
    batch.objects.iter().any(is_for_every)
}

/// Covers devices that came. What one more costs does not grow with those that are there; [`refill`] is the rest.
pub fn extend(netdev: &Netdev, new: &[Device]) -> Nftables<'static> {
    let mut batch = Batch::new();
    if !netdev.every_device {
        for (base, leading) in netdev::chains(netdev, new) {
            batch.add(NfListObject::Chain(base));
            batch.add(NfListObject::Rule(leading));
        }
    }
    batch.to_nftables()
}

/// Lets pass what devices that came may send, where all else stands as it was for the devices of `before`.
pub fn refill(before: &Netdev, after: &Gate) -> Nftables<'static> {
    let mut batch = Batch::new();
    let Some(netdev) = &after.netdev else { return batch.to_nftables() };
    let rules = |netdev: &Netdev| rules_of(NETDEV, netdev::rules(after, netdev, &names(&sets::netdev(after))));
    let (old, rules) = (rules(before), rules(netdev));
    for chain in netdev::names(after) {
        let of = |rules: &[Rule<'static>]| rules.iter().filter(|rule| rule.chain == chain).cloned().collect::<Vec<_>>();
        let rules = of(&rules);
        if rules != of(&old) {
            batch.add_cmd(NfCmd::Flush(FlushObject::Chain(terms::chain(NETDEV, chain))));
            rules.into_iter().for_each(|rule| batch.add(NfListObject::Rule(rule)));
        }
    }
    batch.to_nftables()
}

/// Takes all of it away, in the families that this kernel has; no error if there is nothing.
pub fn open(families: &[NfFamily]) -> Nftables<'static> {
    let mut batch = Batch::new();
    // The devices first: what the inet table no longer marks would not pass there.
    for family in families.iter().rev() {
        batch.add(NfListObject::Table(table(*family)));
        batch.delete(NfListObject::Table(table(*family)));
    }
    batch.to_nftables()
}

/// Chains and sets in our tables that the gate does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    pub chains: Vec<(NfFamily, String)>,
    pub sets: Vec<(NfFamily, String)>,
}

impl Strays {
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty()
    }
}

/// Takes away what stands in our tables and no gate has any more.
pub fn without(strays: &Strays) -> Nftables<'static> {
    let mut batch = Batch::new();
    let chain = |(family, name): &(NfFamily, String)| terms::chain(*family, name.clone());
    for stray in &strays.chains {
        batch.add_cmd(NfCmd::Flush(FlushObject::Chain(chain(stray))));
    }
    for stray in &strays.chains {
        batch.delete(NfListObject::Chain(chain(stray)));
    }
    for (family, name) in &strays.sets {
        let set = Set { family: *family, table: TABLE.into(), name: name.clone().into(), ..Set::default() };
        batch.delete(NfListObject::Set(Box::new(set)));
    }
    batch.to_nftables()
}

fn table(family: NfFamily) -> Table<'static> {
    Table { family, name: TABLE.into(), handle: None }
}

fn declared(family: NfFamily, set: &SetOf) -> Set<'static> {
    Set {
        family,
        table: TABLE.into(),
        name: set.name.clone().into(),
        set_type: SetTypeValue::Concatenated(set.types.clone().into()),
        flags: set.is_interval.then(|| [SetFlag::Interval].into()),
        ..Set::default()
    }
}
