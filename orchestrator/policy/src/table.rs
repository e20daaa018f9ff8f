//! The decision table: what a policy says by severity, source, role and what else it names.

mod axis;

use portcullis_schemas::events::Severity;
use serde::Serialize;

use super::matching::Condition;
use super::rule::{Rule, Then};
use super::{Mode, Policy};
use axis::{Axis, Cell, Told};

/// Cells before those that are the same are put together.
const MOST_CELLS: usize = 4096;
/// Rows that a person still reads.
const MOST_ROWS: usize = 60;
/// Rows that are printed without being asked for.
const SMALL: usize = 30;

/// A policy as a table. Where the columns do not say it all, a row has several answers, each with what it further takes, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// `severity`, `source`, `host.role` …
    pub axes: Vec<String>,
    pub rows: Vec<Row>,
}

/// Subjects that are answered alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// One for each axis: values, or "other".
    pub cells: Vec<String>,
    /// The first whose condition holds counts.
    pub answers: Vec<Answer>,
}

/// What a rule says to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub verdict: &'static str,
    pub rule: String,
    /// Conditions that no axis shows; all must hold.
    pub only_if: Vec<String>,
    /// Why it is no isolation, where the rule says isolate.
    pub held_by: Option<String>,
    /// Recorded, and not done.
    pub audit: bool,
}

impl Table {
    /// Whether it can be shown beside other things.
    pub fn is_small(&self) -> bool {
        self.rows.len() <= SMALL
    }
}

pub(super) fn table(policy: &Policy) -> Table {
    let mut axes = Axis::all(policy);
    loop {
        let cells = axes.iter().fold(1usize, |cells, axis| cells.saturating_mul(axis.values.len()));
        if cells <= MOST_CELLS {
            let rows = rows(policy, &axes, &mut Vec::new());
            if rows.len() <= MOST_ROWS || axes.len() <= 1 {
                return Table { axes: axes.iter().map(|axis| axis.name.clone()).collect(), rows };
            }
        }
        // The last one is the least telling.
        if axes.pop().is_none() {
            return Table { axes: Vec::new(), rows: rows(policy, &[], &mut Vec::new()) };
        }
    }
}

/// The rows below what is chosen already: values of a column that have the same rows below them are one.
fn rows<'a>(policy: &Policy, axes: &'a [Axis], chosen: &mut Vec<(&'a Axis, &'a Cell)>) -> Vec<Row> {
    let Some((axis, further)) = axes.split_first() else {
        return vec![Row { cells: Vec::new(), answers: answers(policy, chosen) }];
    };
    let mut alike: Vec<(Vec<Row>, Vec<usize>)> = Vec::new();
    for (at, value) in axis.values.iter().enumerate() {
        chosen.push((axis, value));
        let below = rows(policy, further, chosen);
        chosen.pop();
        match alike.iter_mut().find(|(earlier, _)| *earlier == below) {
            Some((_, values)) => values.push(at),
            None => alike.push((below, vec![at])),
        }
    }
    let mut found = Vec::new();
    for (below, values) in alike {
        let words = axis.words(&values);
        found.extend(below.into_iter().map(|row| Row { cells: [vec![words.clone()], row.cells].concat(), ..row }));
    }
    found
}

fn answers(policy: &Policy, chosen: &[(&Axis, &Cell)]) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for rule in &policy.rules {
        let mut only_if = Vec::new();
        let mut never = false;
        for condition in &rule.matching {
            match axis::told(condition, chosen) {
                Told::Holds => {}
                Told::Fails => never = true,
                Told::Open => only_if.push(condition.to_string()),
            }
        }
        if never {
            continue;
        }
        only_if.extend(rule.during.iter().map(ToString::to_string));
        only_if.extend(rule.when.iter().map(ToString::to_string));
        let is_last = only_if.is_empty();
        answers.push(answer(policy, rule, only_if, chosen));
        if is_last {
            break;
        }
    }
    answers
}

fn answer(policy: &Policy, rule: &Rule, only_if: Vec<String>, chosen: &[(&Axis, &Cell)]) -> Answer {
    let held_by = if matches!(rule.then, Then::Isolate { .. }) { held_by(policy, chosen) } else { None };
    let verdict = match rule.then {
        Then::Isolate { .. } if held_by.is_some() => "ask",
        Then::Isolate { .. } => "isolate",
        Then::Ask(_) => "ask",
        Then::Observe => "observe",
        Then::Ignore => "ignore",
    };
    Answer { verdict, rule: rule.name.clone(), only_if, held_by, audit: rule.audit || policy.mode == Mode::Audit }
}

/// What makes a question of an isolation, wherever the row is enough to tell.
fn held_by(policy: &Policy, chosen: &[(&Axis, &Cell)]) -> Option<String> {
    if axis::is_severity(chosen, Severity::Unknown) {
        return Some("unknown severity".to_owned());
    }
    let holds = |condition: &Condition| matches!(axis::told(condition, chosen), Told::Holds);
    let protects = |entry: &&super::protect::Protected| entry.hosts.when.is_none() && entry.hosts.matching.iter().all(holds);
    if let Some(entry) = policy.protected.iter().find(protects) {
        return Some(format!("protected, {}", entry.name));
    }
    let source = axis::source(chosen)?;
    (!policy.sources.terms(source).may_isolate).then(|| "source may not isolate".to_owned())
}
