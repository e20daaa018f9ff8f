//! What operators name outside a policy: its profiles and lists beside the standard ones, and exclusions written with them.

use portcullis_schemas::exclusion::Exclusion;

use super::entry::{Place, one};
use super::error::{At, Errors, PolicyError};
use super::exclusions::too_much;
use super::lists::Lists;
use super::profiles::{ProfileView, Profiles};
use super::yaml::{self, Node, Value};

/// The words of one policy, or the standard ones.
#[derive(Default)]
pub struct Vocabulary {
    lists: Lists,
    profiles: Profiles,
}

impl Vocabulary {
    /// The words of the policy `text`. What else stands in it is not looked at.
    ///
    /// # Errors
    ///
    /// What is wrong with its lists and profiles.
    pub fn of(text: &str) -> Result<Self, Vec<PolicyError>> {
        let mut errors = Errors::default();
        let root = yaml::read(text, &mut errors);
        let member = |name: &str| match root.as_ref().map(|root| &root.value) {
            Some(Value::Map(keys)) => keys.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        };
        let lists = member("lists").map(|node| Lists::parse(node, &mut errors)).unwrap_or_default();
        let profiles = member("profiles").map(|node| Profiles::parse(node, &lists, &mut errors)).unwrap_or_default();
        finished(errors, Self { lists, profiles })
    }

    /// Resolves one entry: the name of a profile, an exclusion written out, or `{ extends: PROFILE, PARAMETER: value }`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, by its line and column.
    pub fn resolve(&self, entry: &str) -> Result<Vec<Exclusion>, Vec<PolicyError>> {
        let mut errors = Errors::default();
        let exclusions = match yaml::read(entry, &mut errors) {
            Some(node) => self.entry(&node, &mut errors),
            None => Vec::new(),
        };
        if let Some(reason) = too_much(&exclusions) {
            errors.push(At::START, reason);
        }
        finished(errors, exclusions)
    }

    fn entry(&self, node: &Node, errors: &mut Errors) -> Vec<Exclusion> {
        match &node.value {
            Value::Text(text) => self.profiles.named(&text.text, node.at, &self.lists, errors),
            Value::Map(keys) => match keys.iter().find(|(key, _)| key.name == "extends").map(|(_, node)| &node.value) {
                Some(Value::Text(name)) => {
                    let values = keys.iter().filter(|(key, _)| key.name != "extends");
                    self.profiles.given(&name.text, node.at, values, &self.lists, errors)
                }
                _ => one(node, Place::List, &self.lists, errors).into_iter().collect(),
            },
            _ => {
                errors.push(node.at, "name a profile, or write an exclusion out");
                Vec::new()
            }
        }
    }

    /// All profiles, those of the policy first.
    pub fn profiles(&self) -> Vec<ProfileView> {
        self.profiles.views(&self.lists)
    }
}

fn finished<T>(errors: Errors, done: T) -> Result<T, Vec<PolicyError>> {
    let errors = errors.finish();
    if errors.is_empty() { Ok(done) } else { Err(errors) }
}
