//! One profile: exclusions with parameters in them, and what these have been given so far.

use portcullis_schemas::exclusion::Exclusion;

use super::parameters::{Given, Parameter};
use crate::entry::{MOST, Place, one};
use crate::error::{At, Errors, all_of, did_you_mean, quoted};
use crate::lists::Lists;
use crate::metadata;
use crate::read::{fields, kind, list};
use crate::yaml::{Key, Node, Value};

#[derive(Clone, Debug)]
pub(super) struct Profile {
    /// Its exclusions are Portcullis's own.
    standard: bool,
    parameters: Vec<Parameter>,
    entries: Vec<Node>,
}

impl Profile {
    /// A data file: a list of exclusions, or parameters and exclusions that take them as `$NAME`.
    pub fn standard(root: &Node, errors: &mut Errors) -> Option<Self> {
        if let Value::List(entries) = &root.value {
            return Some(Self { standard: true, parameters: Vec::new(), entries: entries.clone() });
        }
        let fields = fields(root, "a standard profile", &["parameters", "entries"], errors)?;
        let parameters = fields.get("parameters").map(|node| Parameter::read(node, errors)).unwrap_or_default();
        let entries = list(fields.get("entries")?, "entries", errors)?.to_vec();
        Some(Self { standard: true, parameters, entries })
    }

    /// A policy's own exclusions under a name.
    pub fn written_out(name: &str, at: At, items: &[Node], errors: &mut Errors) -> Option<Self> {
        if items.is_empty() {
            errors.push(at, format!("profile {name} is an empty list; write exclusions, or remove it"));
            return None;
        }
        if items.len() > MOST {
            errors.push(at, format!("profile {name} has {} entries; at most {MOST} are taken", items.len()));
            return None;
        }
        let before = errors.count();
        for item in items.iter().filter(|item| !matches!(item.value, Value::Map(_) | Value::Refused)) {
            errors.push(
                item.at,
                format!(
                    "profile {name} has {} among its exclusions; write {{ direction, protocol, remote }}, and name other profiles in automatic or manual_default",
                    kind(&item.value)
                ),
            );
        }
        (errors.count() == before).then(|| Self { standard: false, parameters: Vec::new(), entries: items.to_vec() })
    }

    /// The same with these values for parameters, in place of those that it had. `name` is for messages.
    pub fn with<'n>(
        mut self,
        name: &str,
        values: impl Iterator<Item = &'n (Key, Node)>,
        lists: &Lists,
        errors: &mut Errors,
    ) -> Option<Self> {
        let before = errors.count();
        for (key, value) in values {
            if let Some(parameter) = self.parameters.iter_mut().find(|parameter| parameter.name == key.name) {
                parameter.give(value, lists, errors);
                continue;
            }
            let known = || self.parameters.iter().map(|parameter| parameter.name.as_str());
            let takes = if self.parameters.is_empty() { "no parameters".to_owned() } else { all_of(known()) };
            let hint = did_you_mean(&key.name, known());
            errors.push(key.at, format!("{} is no parameter of profile {name}{hint} (it takes {takes})", quoted(&key.name)));
        }
        (errors.count() == before).then_some(self)
    }

    /// The parameters that it does not load without: in words, and as they would be written. None if it is complete.
    pub fn missing(&self) -> Option<(String, String)> {
        let missing: Vec<&Parameter> =
            self.parameters.iter().filter(|parameter| matches!(parameter.value, Given::Required)).collect();
        let words: Vec<String> = missing.iter().map(|lacks| format!("{} ({})", lacks.name, lacks.kind.words())).collect();
        let written: Vec<String> = missing.iter().map(|lacks| format!("{}: …", lacks.name)).collect();
        (!missing.is_empty()).then(|| (all_of(words.iter().map(String::as_str)), written.join(", ")))
    }

    /// Its parameters: name, kind in words, and whether it does not load without.
    pub fn parameters(&self) -> Vec<(String, &'static str, bool)> {
        let is_missing = |parameter: &Parameter| matches!(parameter.value, Given::Required);
        self.parameters.iter().map(|one| (one.name.clone(), one.kind.words(), is_missing(one))).collect()
    }

    /// Its exclusions under the name `name`. It must be complete.
    pub fn exclusions(&self, name: &str, lists: &Lists, errors: &mut Errors) -> Vec<Exclusion> {
        let place = if self.standard { Place::Standard(name) } else { Place::Profile(name) };
        let mut exclusions = Vec::new();
        for entry in &self.entries {
            let Some(exclusion) = one(&self.filled(entry), place, lists, errors) else { continue };
            match (metadata::opened(&exclusion), self.given(entry, "remote")) {
                (Some(service), Some((parameter, at))) => errors.push(
                    at,
                    format!(
                        "{parameter} holds {service}, where a cloud hands out the host's credentials; only cloud-aws, cloud-azure and cloud-gcp open that, for the cloud's own agent"
                    ),
                ),
                _ => exclusions.push(exclusion),
            }
        }
        exclusions
    }

    /// `entry` with values in the places of parameters. A condition on an optional one that has none is left out.
    fn filled(&self, entry: &Node) -> Node {
        let Value::Map(conditions) = &entry.value else { return entry.clone() };
        let value = |node: &Node| match self.parameter(node).map(|parameter| &parameter.value) {
            Some(Given::Value(value)) => Some(value.clone()),
            Some(Given::Required | Given::Optional) => None,
            None => Some(node.clone()),
        };
        let filled = conditions.iter().filter_map(|(key, node)| Some((key.clone(), value(node)?))).collect();
        Node { at: entry.at, value: Value::Map(filled) }
    }

    /// The parameter that `key` of `entry` takes, and where its value stands.
    fn given(&self, entry: &Node, key: &str) -> Option<(&str, At)> {
        let Value::Map(conditions) = &entry.value else { return None };
        let parameter = self.parameter(&conditions.iter().find(|(written, _)| written.name == key)?.1)?;
        match &parameter.value {
            Given::Value(value) => Some((parameter.name.as_str(), value.at)),
            Given::Required | Given::Optional => None,
        }
    }

    fn parameter(&self, node: &Node) -> Option<&Parameter> {
        let Value::Text(text) = &node.value else { return None };
        let name = text.text.strip_prefix('$')?;
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// Says where a data file declares what it does not use, uses what it does not declare, or has a default of another kind.
    #[cfg(test)]
    pub fn check(&self, errors: &mut Errors) {
        for parameter in &self.parameters {
            if let Given::Value(value) = &parameter.value {
                parameter.kind.check(value, &parameter.name, &Lists::default(), errors);
            }
        }
        let conditions = self.entries.iter().flat_map(|entry| match &entry.value {
            Value::Map(conditions) => conditions.as_slice(),
            _ => panic!("{entry:?}"),
        });
        let mut used = std::collections::BTreeSet::new();
        for (key, node) in conditions {
            let Value::Text(text) = &node.value else { continue };
            match (self.parameter(node), text.text.starts_with('$')) {
                (Some(parameter), _) => drop(used.insert(parameter.name.as_str())),
                (None, true) => errors.push(node.at, format!("{} takes {}, which is not declared", key.name, text.text)),
                (None, false) => {}
            }
        }
        let declared: std::collections::BTreeSet<&str> =
            self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        assert_eq!(used, declared);
    }
}
