//! `sources`: what a sender of detections may do, and how often.

use super::error::{Errors, Mention, Mentioned, quoted};
use super::mentions::no_source;
use super::pattern::{LONGEST, Pattern};
use super::rate::Rate;
use super::read::{entries, fields, truth};
use super::yaml::Node;

const MOST: usize = 1000;

/// What the policy says of one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceTerms {
    /// Where not, a person is asked about what it would isolate.
    pub may_isolate: bool,
    /// So many isolations on the word of this sender alone; beyond it a person is asked. Each sender is counted for itself.
    pub rate: Option<Rate>,
}

/// The entries of `sources`: names, and then patterns, in the order of the text.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    entries: Vec<(Pattern, SourceTerms)>,
}

impl Sources {
    pub fn parse(node: &Node, errors: &mut Errors) -> Self {
        let written = entries(node, "sources", errors).unwrap_or_default();
        if written.len() > MOST {
            errors.push(node.at, format!("sources has {} entries; at most {MOST} are taken", written.len()));
            return Self::default();
        }
        let mut found = Vec::new();
        for (key, node) in written {
            if key.name.is_empty() || key.name.len() > LONGEST {
                errors.push(key.at, format!("{} is no name of a source; write its token in the subject", quoted(&key.name)));
                continue;
            }
            let pattern = Pattern::new(&key.name);
            match no_source(&key.name) {
                Some(warning) => errors.warn(key.at, warning),
                None => errors.mention(Mention { at: key.at, what: Mentioned::Source, pattern: pattern.clone() }),
            }
            let Some(fields) = fields(node, "a source", &["may_isolate", "rate"], errors) else { continue };
            if fields.get("may_isolate").is_none() && fields.get("rate").is_none() {
                let message = format!(
                    "source {} says nothing; write may_isolate: false, or rate: {{ count: 10, per: 1m }}",
                    quoted(&key.name)
                );
                errors.push(fields.at, message);
            }
            let may_isolate = fields.get("may_isolate").and_then(|node| truth(node, "may_isolate", errors)).unwrap_or(true);
            let rate = fields.get("rate").and_then(|node| Rate::parse(node, "rate", errors));
            found.push((pattern, SourceTerms { may_isolate, rate }));
        }
        found.sort_by_key(|(pattern, _)| pattern.has_star());
        Self { entries: found }
    }

    /// A name comes before a pattern, an earlier pattern before a later one.
    pub fn terms(&self, token: &str) -> SourceTerms {
        let found = self.entries.iter().find(|(pattern, _)| pattern.matches(token));
        found.map_or(SourceTerms { may_isolate: true, rate: None }, |(_, terms)| *terms)
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Pattern, SourceTerms)> {
        self.entries.iter()
    }
}
