//! `{ count: 20, per: 10m }`: so many within so long.

use portcullis_schemas::time::Span;

use super::error::Errors;
use super::read::{Fields, fields_as, number, span_within};
use super::yaml::Node;

/// What is counted is kept in memory for as long.
const LONGEST: Span = Span::hours(24);

/// So many within a window that moves along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u64,
    pub per: Span,
}

impl Rate {
    pub(super) fn parse(node: &Node, what: &str, errors: &mut Errors) -> Option<Self> {
        let fields = fields_as(node, what, &["count", "per"], "{ count: 20, per: 10m }", errors)?;
        Self::of(&fields, what, 1, errors)
    }

    /// `count` and `per` of a mapping.
    pub(super) fn of(fields: &Fields<'_>, what: &str, least: u64, errors: &mut Errors) -> Option<Self> {
        for key in ["count", "per"] {
            if fields.get(key).is_none() {
                errors.push(fields.at, format!("{what} has no {key}; write {{ count: 20, per: 10m }}"));
            }
        }
        let count = fields.get("count").and_then(|node| number(node, "count", least, 100_000, errors));
        let per = fields.get("per").and_then(|node| span_within(node, "per", LONGEST, errors));
        Some(Self { count: count?, per: per? })
    }
}
