//! `exclusions`: what passes during an isolation, by its origin, its rules and its host.

use std::sync::Arc;

use portcullis_schemas::events::Origin;
use portcullis_schemas::exclusion::Exclusion;

use super::HostView;
use super::error::Errors;
use super::exclusions::{parse, too_much};
use super::groups::Groups;
use super::hosts::Hosts;
use super::lists::Lists;
use super::profiles::Profiles;
use super::read::{Fields, fields, list};
use super::view::{Membership, Sees, View};
use super::when::Whens;
use super::yaml::Node;

const MOST: usize = 100;

/// The exclusions of one isolation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Passing {
    /// Without duplicates, and small enough for an order.
    pub exclusions: Vec<Exclusion>,
    /// Entries of `by_host`, by their numbers from 1, that are left out, since a host does not take so much together; with the reason.
    pub left_out: Vec<(usize, String)>,
}

/// `exclusions.by_host`: what hosts have beside the lists that are for all.
#[derive(Clone, Debug, Default)]
pub(super) struct ByHost {
    pub entries: Vec<Entry>,
    /// Whether even a host that all entries take would not have too much, whatever list it adds to.
    fits: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub hosts: Hosts,
    pub automatic: Vec<Exclusion>,
    pub manual: Vec<Exclusion>,
}

impl ByHost {
    pub fn parse(
        node: &Node,
        groups: &[String],
        profiles: &Profiles,
        lists: &Lists,
        whens: &Whens<'_>,
        errors: &mut Errors,
    ) -> Self {
        let nodes = list(node, "by_host", errors).unwrap_or_default();
        if nodes.len() > MOST {
            errors.push(node.at, format!("by_host has {} entries; at most {MOST} are taken", nodes.len()));
            return Self::default();
        }
        let entry = |node: &Node| {
            let fields = fields(node, "an entry of by_host", &["match", "when", "automatic", "manual"], errors)?;
            let hosts = Hosts::parse(&fields, Sees::Host(Some(groups)), lists, whens, errors);
            if hosts.is_all() && fields.get("match").is_none() && fields.get("when").is_none() {
                let message = "an entry of by_host says nothing of its hosts; write match, or use automatic and manual_default";
                errors.push(fields.at, message);
            }
            if fields.get("automatic").is_none() && fields.get("manual").is_none() {
                errors
                    .push(fields.at, "an entry of by_host adds nothing; write automatic: [PROFILE], manual: [PROFILE], or both");
            }
            let mut exclusions = |fields: &Fields<'_>, key| {
                fields.get(key).map(|node| parse(node, key, profiles, lists, errors)).unwrap_or_default()
            };
            let (automatic, manual) = (exclusions(&fields, "automatic"), exclusions(&fields, "manual"));
            Some(Entry { hosts, automatic, manual })
        };
        Self { entries: nodes.iter().filter_map(entry).collect(), fits: false }
    }

    /// Looks at the worst case, once all lists are known; says where that is too much.
    pub fn measure(&mut self, node: &Node, lists: &[&[Exclusion]], manual: &[Exclusion], errors: &mut Errors) {
        let all = |origin| self.entries.iter().flat_map(move |entry: &Entry| entry.of(origin));
        let worst = |list: &[Exclusion], origin| {
            let mut together = list.to_vec();
            all(origin).for_each(|one| add(&mut together, one));
            too_much(&together)
        };
        let automatic = lists.iter().find_map(|list| worst(list, Origin::Automatic));
        let reason = automatic.or_else(|| worst(manual, Origin::Manual));
        self.fits = reason.is_none();
        if let Some(reason) = reason {
            let message = format!(
                "a host that all of by_host takes would have too much: {reason}; for such a host later entries are left out"
            );
            errors.warn(node.at, message);
        }
    }

    /// `list` with what the entries that take the host add. An entry of which that cannot be told adds nothing: what passes is rather less.
    pub fn add_to(&self, list: &[Exclusion], host: &HostView<'_>, origin: Origin, groups: &Arc<Groups>) -> Passing {
        let mut passing = Passing { exclusions: list.to_vec(), left_out: Vec::new() };
        if self.entries.is_empty() {
            return passing;
        }
        let groups: &dyn Membership = &**groups;
        let view = View::of_host(*host, Some(groups));
        for (at, entry) in self.entries.iter().enumerate() {
            match entry.hosts.take(&view) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(message) => {
                    passing.left_out.push((at + 1, message));
                    continue;
                }
            }
            let mut together = passing.exclusions.clone();
            entry.of(origin).iter().for_each(|one| add(&mut together, one));
            let reason = if self.fits { None } else { too_much(&together) };
            match reason {
                None => passing.exclusions = together,
                Some(reason) => passing.left_out.push((at + 1, reason)),
            }
        }
        passing
    }
}

impl Entry {
    fn of(&self, origin: Origin) -> &[Exclusion] {
        match origin {
            Origin::Automatic => &self.automatic,
            Origin::Manual => &self.manual,
        }
    }
}

fn add(together: &mut Vec<Exclusion>, one: &Exclusion) {
    if !together.contains(one) {
        together.push(one.clone());
    }
}
