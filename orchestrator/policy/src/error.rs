//! What is wrong with a policy, where, and what to do about it.

use std::fmt;

use super::pattern::Pattern;

/// Errors kept of one policy: more help nobody.
const MOST: usize = 100;

/// A place in the policy's text, both counted from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub line: usize,
    pub column: usize,
}

impl At {
    pub const START: At = At { line: 1, column: 1 };
}

/// One thing that is wrong with a policy, or hardly meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct PolicyError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// One name in a policy.
#[derive(Clone, Debug)]
pub(super) struct Mention {
    pub at: At,
    pub what: Mentioned,
    pub pattern: Pattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mentioned {
    Source,
    Role,
    /// The name of a label.
    Label,
    /// A value of the label of this name.
    Value(String),
}

/// All errors found so far, and what is remarked beside them.
#[derive(Default)]
pub(super) struct Errors {
    found: Vec<PolicyError>,
    more: usize,
    /// What is valid, and hardly meant.
    warnings: Vec<PolicyError>,
    mentions: Vec<Mention>,
}

impl Errors {
    pub fn push(&mut self, at: At, message: impl Into<String>) {
        if self.found.len() < MOST {
            self.found.push(PolicyError { line: at.line, column: at.column, message: message.into() });
        } else {
            self.more += 1;
        }
    }

    pub fn warn(&mut self, at: At, message: impl Into<String>) {
        if self.warnings.len() < MOST {
            self.warnings.push(PolicyError { line: at.line, column: at.column, message: message.into() });
        }
    }

    pub fn mention(&mut self, mention: Mention) {
        self.mentions.push(mention);
    }

    /// The name of a label.
    pub fn mention_label(&mut self, at: At, label: &str) {
        self.mention(Mention { at, what: Mentioned::Label, pattern: Pattern::new(label) });
    }

    /// Warnings in the order of the text, and what the policy names.
    pub fn remarks(&mut self) -> (Vec<PolicyError>, Vec<Mention>) {
        self.warnings.sort();
        self.warnings.dedup();
        (std::mem::take(&mut self.warnings), std::mem::take(&mut self.mentions))
    }

    pub fn count(&self) -> usize {
        self.found.len() + self.more
    }

    /// In the order of the text.
    pub fn finish(mut self) -> Vec<PolicyError> {
        self.found.sort();
        self.found.dedup();
        if let (more @ 1.., Some(last)) = (self.more, self.found.last()) {
            let message = format!("and {more} more errors; correct these first");
            self.found.push(PolicyError { line: last.line, column: last.column, message });
        }
        self.found
    }
}

/// What was written, quoted and cut, so that no control character and no long text reaches a terminal.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

/// `; did you mean X?` where one of `known` is close to `written`, else nothing.
pub(super) fn did_you_mean<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    const LONGEST: usize = 64;
    if written.len() > LONGEST {
        return String::new();
    }
    let allowed = 1 + written.chars().count() / 4;
    let closest = known.into_iter().map(|known| (distance(written, known), known)).min();
    match closest {
        Some((distance, known)) if distance <= allowed => format!("; did you mean {known}?"),
        _ => String::new(),
    }
}

/// The message for a group that there is not.
pub(super) fn no_group(written: &str, known: &[String]) -> String {
    let hint = did_you_mean(written, known.iter().map(String::as_str));
    let all = match known {
        [] => "; define it in groups".to_owned(),
        known => format!(" (there are {})", all_of(known.iter().map(String::as_str))),
    };
    format!("there is no group {}{hint}{all}", quoted(written))
}

/// Slips between two words: two letters in each other's place are one, a capital letter is none.
fn distance(written: &str, known: &str) -> usize {
    strsim::osa_distance(&written.to_ascii_lowercase(), &known.to_ascii_lowercase())
}

/// `a, b or c`.
pub(super) fn one_of<'k>(known: impl IntoIterator<Item = &'k str>) -> String {
    joined(known, "or")
}

/// `a, b and c`.
pub(super) fn all_of<'k>(known: impl IntoIterator<Item = &'k str>) -> String {
    joined(known, "and")
}

fn joined<'k>(known: impl IntoIterator<Item = &'k str>, word: &str) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match known.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
        None => String::new(),
    }
}
