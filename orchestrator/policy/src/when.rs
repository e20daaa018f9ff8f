//! `when`: an expression out of its block or quotes, with the place of each of its characters.

use std::cell::Cell;

use super::condition::Condition;
use super::error::{At, Errors};
use super::read::raw;
use super::view::Sees;
use super::yaml::{Node, Style, Value};

/// Bytes of all expressions together: a second of parsing.
const MOST: usize = 128 * 1024;

/// Reads the expressions of one policy.
pub(super) struct Whens<'t> {
    /// The policy's text.
    lines: Vec<&'t str>,
    bytes: Cell<usize>,
}

impl<'t> Whens<'t> {
    pub fn of(text: &'t str) -> Self {
        Self { lines: text.lines().collect(), bytes: Cell::new(0) }
    }

    /// CEL from a block, or from a quoted or plain scalar; `key` is where `when` stands.
    pub fn read(&self, node: &Node, key: At, sees: Sees<'_>, errors: &mut Errors) -> Option<Condition> {
        let written = raw(node, "when", "an expression in CEL", errors)?;
        let Value::Text(text) = &node.value else { return None };
        let before = self.bytes.replace(self.bytes.get() + written.len());
        if before + written.len() > MOST {
            // Once: what follows is not read.
            if before <= MOST {
                let message = format!("all when together have more than {MOST} bytes; use match where it is enough");
                errors.push(node.at, message);
            }
            return None;
        }
        let at = node.at;
        let lines: Vec<&str> = written.lines().collect();
        // The line after the `|`, which stands on the line of the key or further down.
        let header = |line: &&str| {
            line.split('#')
                .next()
                .unwrap_or_default()
                .trim_end_matches(|c: char| c.is_whitespace() || "+-0123456789".contains(c))
                .ends_with('|')
        };
        let first = self.lines.iter().skip(key.line - 1).position(header).map_or(at.line, |skipped| key.line + skipped + 1);
        // In a block every line of the expression is the end of a line of the file; elsewhere only the first line can be told.
        let place = |line: usize, column: usize| match text.style {
            Style::Literal => {
                let Some(file_line) = self.lines.get(first - 1 + line) else { return at };
                let written = lines.get(line).map_or(0, |written| written.chars().count());
                At { line: first + line, column: file_line.chars().count().saturating_sub(written) + column + 1 }
            }
            Style::Plain | Style::Quoted if line == 0 => {
                let column = at.column + column + usize::from(text.style == Style::Quoted);
                let written_here = self.lines.get(at.line - 1).is_some_and(|line| column <= line.chars().count());
                if written_here { At { line: at.line, column } } else { at }
            }
            _ => at,
        };
        Condition::parse(written.trim_end(), sees, &place, errors)
    }
}
