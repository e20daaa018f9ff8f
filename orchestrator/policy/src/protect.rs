//! `protected`: hosts that no policy isolates by itself.

use std::collections::HashMap;

use super::error::{At, Errors};
use super::hosts::Hosts;
use super::lists::Lists;
use super::read::{fields, list, name};
use super::view::{Sees, View};
use super::when::Whens;
use super::yaml::Node;

const MOST: usize = 200;

/// One entry of `protected`.
#[derive(Clone, Debug)]
pub(super) struct Protected {
    pub name: String,
    pub hosts: Hosts,
}

impl Protected {
    pub fn parse(node: &Node, groups: &[String], lists: &Lists, whens: &Whens<'_>, errors: &mut Errors) -> Vec<Self> {
        let nodes = list(node, "protected", errors).unwrap_or_default();
        if nodes.len() > MOST {
            errors.push(node.at, format!("protected has {} entries; at most {MOST} are taken", nodes.len()));
            return Vec::new();
        }
        let mut names = HashMap::new();
        nodes.iter().filter_map(|node| Self::one(node, groups, lists, whens, &mut names, errors)).collect()
    }

    fn one(
        node: &Node,
        groups: &[String],
        lists: &Lists,
        whens: &Whens<'_>,
        names: &mut HashMap<String, At>,
        errors: &mut Errors,
    ) -> Option<Self> {
        let fields = fields(node, "an entry of protected", &["name", "match", "when"], errors)?;
        let name = match fields.get("name") {
            Some(node) => unique(name(node, "name", errors)?, node.at, "an entry of protected", names, errors),
            None => {
                errors.push(fields.at, "an entry of protected has no name; give it a short one, decisions show it");
                None
            }
        };
        let hosts = Hosts::parse(&fields, Sees::Host(Some(groups)), lists, whens, errors);
        if fields.get("match").is_none() && fields.get("when").is_none() {
            let message = "an entry of protected says nothing of its hosts; write match: { host.label.NAME: VALUE }";
            errors.push(fields.at, message);
        }
        Some(Self { name: name?, hosts })
    }

    /// What cannot be told is protected.
    pub fn takes(&self, view: &View<'_>) -> bool {
        self.hosts.take_or_fail(view)
    }
}

/// A name that no earlier entry of the same list has.
pub(super) fn unique(name: &str, at: At, what: &str, names: &mut HashMap<String, At>, errors: &mut Errors) -> Option<String> {
    if let Some(first) = names.insert(name.to_owned(), at) {
        errors.push(at, format!("{what} named {name:?} is on line {} already; give this one another name", first.line));
        return None;
    }
    Some(name.to_owned())
}
