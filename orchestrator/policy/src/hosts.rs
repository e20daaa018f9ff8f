//! Hosts chosen by what is known of them: `match` and `when` over `host.*` alone.

use super::condition::Condition;
use super::error::Errors;
use super::lists::Lists;
use super::matching;
use super::read::{Fields, fields};
use super::view::{Held, Sees, View};
use super::when::Whens;
use super::yaml::Node;

/// What a host must be. Without any condition it is every host.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    pub matching: Vec<matching::Condition>,
    pub when: Option<Condition>,
}

impl Hosts {
    /// One entry of `groups`, which names no group itself.
    pub fn of_group(node: &Node, name: &str, lists: &Lists, whens: &Whens<'_>, errors: &mut Errors) -> Option<Self> {
        let fields = fields(node, &format!("group {name}"), &["match", "when"], errors)?;
        let found = Self::parse(&fields, Sees::Host(None), lists, whens, errors);
        if fields.get("match").is_none() && fields.get("when").is_none() {
            errors.push(fields.at, format!("group {name} says nothing of its hosts; write match: {{ host.label.NAME: VALUE }}"));
        }
        Some(found)
    }

    /// `match` and `when` of a mapping.
    pub fn parse(fields: &Fields<'_>, sees: Sees<'_>, lists: &Lists, whens: &Whens<'_>, errors: &mut Errors) -> Self {
        let matching = fields.get("match").map(|node| matching::parse(node, sees, lists, errors)).unwrap_or_default();
        let when = fields.get("when").and_then(|node| whens.read(node, fields.key_at("when"), sees, errors));
        Self { matching, when }
    }

    /// What does not hold counts before what cannot be told.
    pub fn take(&self, view: &View<'_>) -> Held {
        let mut failed = None;
        for condition in &self.matching {
            match condition.holds(view) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(message) => failed = failed.or(Some(message)),
            }
        }
        match self.when.as_ref().map_or(Ok(true), |when| when.holds(view)) {
            Ok(true) => failed.map_or(Ok(true), Err),
            other => other,
        }
    }

    /// For protection and limits: what cannot be told counts as taken.
    pub fn take_or_fail(&self, view: &View<'_>) -> bool {
        self.take(view).unwrap_or(true)
    }

    pub fn is_all(&self) -> bool {
        self.matching.is_empty() && self.when.is_none()
    }

    /// The conditions in words.
    pub fn words(&self) -> impl Iterator<Item = String> {
        self.matching.iter().map(ToString::to_string).chain(self.when.iter().map(ToString::to_string))
    }
}
