//! One column of the decision table: what the policy tells apart by one key.

use portcullis_schemas::events::Severity;

use crate::Policy;
use crate::matching::{Condition, Field};
use crate::pattern::Pattern;

/// Values of one column.
const MOST_VALUES: usize = 24;

/// Columns for labels.
const MOST_LABELS: usize = 2;

/// A key that rules name, with what they tell apart by it, and the rest.
pub(super) struct Axis {
    pub name: String,
    key: Key,
    pub values: Vec<Cell>,
}

#[derive(Clone, PartialEq)]
enum Key {
    Severity,
    Group,
    Text(Field),
}

#[derive(Clone, PartialEq)]
pub(super) enum Cell {
    Severity(Severity),
    /// By its place, with its name.
    Group(usize, String),
    Pattern(Pattern),
    /// What is none of the others.
    Other,
}

/// What a row tells of a condition.
pub(super) enum Told {
    Holds,
    Fails,
    /// Nothing: it is about something else.
    Open,
}

impl Axis {
    /// What the policy names, the most telling first.
    pub fn all(policy: &Policy) -> Vec<Axis> {
        let rules = policy.rules.iter().flat_map(|rule| &rule.matching);
        let conditions: Vec<&Condition> = rules.chain(policy.protected.iter().flat_map(|entry| &entry.hosts.matching)).collect();
        let mut axes = Vec::new();
        if conditions.iter().any(|condition| matches!(condition, Condition::Severity(_))) {
            let values = Severity::ALL.into_iter().rev().map(Cell::Severity).collect();
            axes.push(Axis { name: "severity".into(), key: Key::Severity, values });
        }
        axes.extend(text(&conditions, &Field::Technique, Vec::new()));
        let sources = policy.sources.iter().filter(|(_, terms)| !terms.may_isolate).map(|(pattern, _)| pattern.clone());
        axes.extend(text(&conditions, &Field::Source, sources.collect()));
        axes.extend(text(&conditions, &Field::HostRole, Vec::new()));
        axes.extend(group(policy, &conditions));
        let mut labels: Vec<&Field> = Vec::new();
        for condition in &conditions {
            if let Condition::Text(field @ Field::HostLabel(_), _) = condition
                && labels.len() < MOST_LABELS
                && !labels.contains(&field)
            {
                labels.push(field);
            }
        }
        axes.extend(labels.into_iter().filter_map(|field| text(&conditions, field, Vec::new())));
        axes.retain(|axis| axis.values.len() <= MOST_VALUES);
        axes
    }

    /// Some of its values in words.
    pub fn words(&self, values: &[usize]) -> String {
        if values.len() == self.values.len() && values.len() > 1 {
            return "any".to_owned();
        }
        let words: Vec<String> = values.iter().filter_map(|at| self.values.get(*at)).map(|cell| self.word(cell)).collect();
        words.join(", ")
    }

    fn word(&self, cell: &Cell) -> String {
        match (cell, &self.key) {
            (Cell::Severity(severity), _) => severity.as_str().to_owned(),
            (Cell::Pattern(pattern), _) => pattern.written().to_owned(),
            (Cell::Group(_, name), _) => name.clone(),
            (Cell::Other, Key::Group) => "none".to_owned(),
            (Cell::Other, _) => "other".to_owned(),
        }
    }
}

fn group(policy: &Policy, conditions: &[&Condition]) -> Option<Axis> {
    let named = |group: &usize| {
        conditions.iter().any(|condition| matches!(condition, Condition::Group(groups, _) if groups.contains(group)))
    };
    let values: Vec<Cell> = (0..policy.groups().len())
        .filter(named)
        .map(|at| Cell::Group(at, policy.groups()[at].clone()))
        .chain([Cell::Other])
        .collect();
    (values.len() > 1).then(|| Axis { name: "host.group".into(), key: Key::Group, values })
}

/// None where no condition names the key.
fn text(conditions: &[&Condition], field: &Field, further: Vec<Pattern>) -> Option<Axis> {
    let mut patterns: Vec<Pattern> = Vec::new();
    let named = conditions.iter().filter_map(|condition| match condition {
        Condition::Text(of, any) if of == field => Some(any),
        _ => None,
    });
    for pattern in named.flatten().cloned().chain(further) {
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    if patterns.is_empty() {
        return None;
    }
    let values = patterns.into_iter().map(Cell::Pattern).chain([Cell::Other]).collect();
    Some(Axis { name: field.to_string(), key: Key::Text(field.clone()), values })
}

pub(super) fn told(condition: &Condition, chosen: &[(&Axis, &Cell)]) -> Told {
    let cell = |key: &Key| chosen.iter().find(|(axis, _)| axis.key == *key).map(|(_, cell)| *cell);
    let holds = match condition {
        Condition::Severity(_) => match cell(&Key::Severity) {
            Some(Cell::Severity(severity)) => condition.takes(*severity),
            _ => None,
        },
        Condition::Group(groups, _) => match cell(&Key::Group) {
            Some(Cell::Group(group, _)) => Some(groups.contains(group)),
            Some(_) => Some(false),
            None => None,
        },
        Condition::Text(field, any) => match cell(&Key::Text(field.clone())) {
            Some(Cell::Pattern(value)) => Some(any.iter().any(|pattern| pattern.covers(value))),
            Some(_) => Some(any.iter().any(|pattern| pattern.written() == "*")),
            None => None,
        },
        Condition::Confidence(_) => None,
    };
    match holds {
        Some(true) => Told::Holds,
        Some(false) => Told::Fails,
        None => Told::Open,
    }
}

pub(super) fn is_severity(chosen: &[(&Axis, &Cell)], severity: Severity) -> bool {
    chosen.iter().any(|(_, cell)| **cell == Cell::Severity(severity))
}

/// The source of the row, where it is a name.
pub(super) fn source<'a>(chosen: &[(&'a Axis, &'a Cell)]) -> Option<&'a str> {
    chosen.iter().find_map(|(axis, cell)| match (&axis.key, cell) {
        (Key::Text(Field::Source), Cell::Pattern(pattern)) => Some(pattern.written()),
        _ => None,
    })
}
