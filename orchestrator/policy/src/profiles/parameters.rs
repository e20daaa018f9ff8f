//! Parameters of profiles: what kind of value each takes, and what it has been given.

use portcullis_schemas::exclusion::Remote;

use crate::entry::{ports, remote, unit, user};
use crate::error::Errors;
use crate::lists::Lists;
use crate::read::{entries, fields, truth, word};
use crate::yaml::{Key, Node};

#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub name: String,
    pub kind: Kind,
    pub value: Given,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NetworksOrNames,
    Ports,
    Unit,
    User,
}

#[derive(Clone, Debug)]
pub(super) enum Given {
    /// Nothing yet, and the profile does not load without.
    Required,
    /// Nothing, and the condition that takes it is left out.
    Optional,
    Value(Node),
}

const KINDS: [(&str, Kind); 4] =
    [("networks-or-names", Kind::NetworksOrNames), ("ports", Kind::Ports), ("unit", Kind::Unit), ("user", Kind::User)];

impl Parameter {
    /// The header of a data file: `NAME: { kind: KIND }`, with `default: VALUE` or `optional: true` where it is not required.
    pub fn read(header: &Node, errors: &mut Errors) -> Vec<Self> {
        let written = entries(header, "parameters", errors).unwrap_or_default();
        written.iter().filter_map(|(name, node)| Self::one(name, node, errors)).collect()
    }

    fn one(name: &Key, node: &Node, errors: &mut Errors) -> Option<Self> {
        let fields = fields(node, "a parameter", &["kind", "default", "optional"], errors)?;
        let Some(kind) = fields.get("kind") else {
            errors.push(fields.at, "a parameter has no kind");
            return None;
        };
        let kind = word(kind, "kind", &KINDS, errors)?;
        let optional = fields.get("optional").and_then(|node| truth(node, "optional", errors)).unwrap_or(false);
        let value = match fields.get("default") {
            Some(value) => Given::Value(value.clone()),
            None if optional => Given::Optional,
            None => Given::Required,
        };
        Some(Self { name: name.name.clone(), kind, value })
    }

    /// Takes `value`, if it is one of its kind; says what is wrong otherwise.
    pub fn give(&mut self, value: &Node, lists: &Lists, errors: &mut Errors) {
        self.kind.check(value, &self.name, lists, errors);
        self.value = Given::Value(value.clone());
    }
}

impl Kind {
    /// As messages name it.
    pub fn words(self) -> &'static str {
        match self {
            Kind::NetworksOrNames => "networks or names",
            Kind::Ports => "ports",
            Kind::Unit => "a unit",
            Kind::User => "a user",
        }
    }

    pub fn check(self, node: &Node, what: &str, lists: &Lists, errors: &mut Errors) {
        match self {
            Kind::NetworksOrNames => {
                if remote(node, what, false, lists, errors) == Some(Remote::Any) {
                    errors.push(node.at, format!("{what} is any; name networks or names, or write the exclusion out"));
                }
            }
            Kind::Ports => drop(ports(node, what, errors)),
            Kind::Unit => drop(unit(node, what, errors)),
            Kind::User => drop(user(node, what, errors)),
        }
    }
}
