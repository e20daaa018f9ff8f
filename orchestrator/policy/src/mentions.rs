//! What a policy names beyond itself (senders, roles, labels), and whether anything of that name is known.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Mention, Mentioned, PolicyError, one_of, quoted};

/// Names that are in use, as the broker's streams show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Senders of detections, by their token in the subject.
    pub sources: BTreeSet<String>,
    /// Roles of all hosts.
    pub roles: BTreeSet<String>,
    /// Labels of all hosts, each with the values that it has.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// What a sender's token cannot be, with what to write. A token is what the broker's permissions fix; a CloudEvents source is the sender's own word.
pub(super) fn no_source(written: &str) -> Option<String> {
    let never = written.is_empty() || written.contains(|c: char| c.is_whitespace() || c.is_control() || c == '>');
    let doubtful = written.contains(['/', ':']);
    (never || doubtful).then(|| {
        format!(
            "source {} {} a sender's name: that is SOURCE of the subject portcullis.detection.SOURCE, and not the event's own source",
            quoted(written),
            if never { "is never" } else { "does not look like" }
        )
    })
}

/// A warning for each name that nothing has. Where no host, or no sender, is known at all, nothing is said of them.
pub(super) fn unknown(mentions: &[Mention], used: &InUse, hosts: usize) -> Vec<PolicyError> {
    let one = |mention: &Mention| {
        let Mention { at, what, pattern } = mention;
        let among = |known: &BTreeSet<String>| known.iter().any(|known| pattern.matches(known));
        let message = match what {
            Mentioned::Source if !used.sources.is_empty() && !among(&used.sources) => {
                format!("no detection came from source {pattern} yet{}", names(&used.sources, "came from"))
            }
            Mentioned::Role if hosts > 0 && !among(&used.roles) => {
                format!("no known host has the role {pattern}{}", names(&used.roles, "roles are"))
            }
            Mentioned::Label if hosts > 0 && !used.labels.keys().any(|known| pattern.matches(known)) => {
                let known = used.labels.keys().cloned().collect();
                format!("no known host has a label {pattern}{}", names(&known, "labels are"))
            }
            Mentioned::Value(name) => match used.labels.get(name) {
                Some(values) if hosts > 0 && !among(values) => {
                    format!("no known host has {pattern} as its label {name}{}", names(values, "values are"))
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(PolicyError { line: at.line, column: at.column, message })
    };
    let mut found: Vec<PolicyError> = mentions.iter().filter_map(one).collect();
    found.sort();
    found.dedup();
    found
}

fn names(known: &BTreeSet<String>, what: &str) -> String {
    const MOST: usize = 8;
    if known.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = known.iter().take(MOST).map(|name| quoted(name)).collect();
    let more = if known.len() > MOST { format!(" and {} more", known.len() - MOST) } else { String::new() };
    format!("; {what} {}{more}", one_of(shown.iter().map(String::as_str)))
}
