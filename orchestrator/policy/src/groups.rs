//! `groups`: hosts put together under a name, by what is known of them.

use std::collections::BTreeMap;

use super::error::{At, Errors, quoted};
use super::hosts::Hosts;
use super::read::{entries, plain};
use super::view::{Held, Membership, View};
use super::when::Whens;
use super::yaml::Node;
use super::{HostView, lists::Lists};

const MOST: usize = 200;

/// The groups of a policy, in the order of the text.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    names: Vec<String>,
    hosts: Vec<Hosts>,
}

impl Groups {
    pub fn parse(node: &Node, lists: &Lists, whens: &Whens<'_>, errors: &mut Errors) -> Self {
        let mut groups = Self::default();
        let written = entries(node, "groups", errors).unwrap_or_default();
        if written.len() > MOST {
            errors.push(node.at, format!("groups has {} entries; at most {MOST} are taken", written.len()));
            return groups;
        }
        let mut places: BTreeMap<String, At> = BTreeMap::new();
        for (key, node) in written {
            let name = &key.name;
            if !plain(name) || name.len() > 64 {
                let message = format!("{} is no name of a group; write letters, digits, _ and -, at most 64", quoted(name));
                errors.push(key.at, message);
                continue;
            }
            if let Some(first) = places.insert(name.to_ascii_lowercase(), key.at) {
                let message = format!("{} differs from the group on line {} in case only; rename one", quoted(name), first.line);
                errors.push(key.at, message);
                continue;
            }
            // A group that is wrong has its name all the same: whoever names it is told nothing further.
            groups.names.push(name.clone());
            groups.hosts.push(Hosts::of_group(node, name, lists, whens, errors).unwrap_or_default());
        }
        groups
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Hosts)> {
        self.names.iter().map(String::as_str).zip(&self.hosts)
    }
}

impl Membership for Groups {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn takes(&self, group: usize, host: HostView<'_>) -> Held {
        self.hosts.get(group).map_or(Ok(false), |hosts| hosts.take(&View::of_host(host, None)))
    }
}
