//! Typed values out of the YAML tree: each reader says what it wanted, where it did not get it.

use std::fmt::Display;
use std::str::FromStr;

use portcullis_schemas::events::For;
use portcullis_schemas::terminal::is_hostile;
use portcullis_schemas::time::Span;

use super::error::{At, Errors, did_you_mean, one_of, quoted};
use super::yaml::{Key, Node, Style, Value, taken_otherwise};

/// The entries of a mapping whose keys are known.
pub(super) struct Fields<'n> {
    pub at: At,
    entries: &'n [(Key, Node)],
}

impl<'n> Fields<'n> {
    pub fn get(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// Where the key stands.
    pub fn key_at(&self, name: &str) -> At {
        self.entries.iter().find(|(key, _)| key.name == name).map_or(self.at, |(key, _)| key.at)
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Text(text) if text.text.is_empty() => "nothing",
        Value::Text(_) => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
        Value::Refused => "something refused",
    }
}

fn wanted(node: &Node, what: &str, wanted: &str, errors: &mut Errors) {
    if !matches!(node.value, Value::Refused) {
        errors.push(node.at, format!("{what} is {}; write {wanted}", kind(&node.value)));
    }
}

pub(super) fn entries<'n>(node: &'n Node, what: &str, errors: &mut Errors) -> Option<&'n [(Key, Node)]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        _ => {
            wanted(node, what, "a mapping (key: value)", errors);
            None
        }
    }
}

/// A mapping that has keys of `known` only.
pub(super) fn fields<'n>(node: &'n Node, what: &str, known: &[&str], errors: &mut Errors) -> Option<Fields<'n>> {
    let entries = entries(node, what, errors)?;
    for (key, _) in entries {
        if known.contains(&key.name.as_str()) {
            continue;
        }
        let message = if key.name == "until" {
            "until belongs to a temporary exclusion, which comes with a request and never with the policy; remove it".to_owned()
        } else {
            let hint = did_you_mean(&key.name, known.iter().copied());
            format!("{} is no key of {what}{hint} (it takes {})", quoted(&key.name), one_of(known.iter().copied()))
        };
        errors.push(key.at, message);
    }
    Some(Fields { at: node.at, entries })
}

/// As `fields`, where one value is written in its place now and then: `wants` shows what to write.
pub(super) fn fields_as<'n>(node: &'n Node, what: &str, known: &[&str], wants: &str, errors: &mut Errors) -> Option<Fields<'n>> {
    if let Value::Text(_) | Value::List(_) = node.value {
        wanted(node, what, wants, errors);
        return None;
    }
    fields(node, what, known, errors)
}

pub(super) fn list<'n>(node: &'n Node, what: &str, errors: &mut Errors) -> Option<&'n [Node]> {
    match &node.value {
        Value::List(items) => Some(items),
        _ => {
            wanted(node, what, "a list, [a, b]", errors);
            None
        }
    }
}

/// A list, or a single value as a list of one.
pub(super) fn one_or_many(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// As `one_or_many`, and at least one.
pub(super) fn one_or_many_of<'n>(node: &'n Node, what: &str, errors: &mut Errors) -> Option<&'n [Node]> {
    let items = one_or_many(node);
    if items.is_empty() {
        errors.push(node.at, format!("{what} is an empty list; name something or leave {what} out"));
        return None;
    }
    Some(items)
}

/// Text as it stands, for values with a grammar of their own.
pub(super) fn raw<'n>(node: &'n Node, what: &str, wants: &str, errors: &mut Errors) -> Option<&'n str> {
    match &node.value {
        Value::Text(text) if text.style != Style::Plain || !text.text.is_empty() => Some(&text.text),
        _ => {
            wanted(node, what, wants, errors);
            None
        }
    }
}

/// Free text. Unquoted, it must be the same text to every reader of YAML.
pub(super) fn text<'n>(node: &'n Node, what: &str, errors: &mut Errors) -> Option<&'n str> {
    if let Value::Text(text) = &node.value
        && text.style == Style::Plain
        && let Some(otherwise) = taken_otherwise(&text.text)
    {
        let message = match text.text.as_str() {
            "" => format!("{what} is nothing; write a value, or \"\" for empty text"),
            written => {
                format!("{what} is {written} unquoted, which other readers of YAML take for {otherwise}; write \"{written}\"")
            }
        };
        errors.push(node.at, message);
        return None;
    }
    raw(node, what, "text", errors)
}

/// One of a few words.
pub(super) fn word<T: Copy>(node: &Node, what: &str, words: &[(&str, T)], errors: &mut Errors) -> Option<T> {
    let known = one_of(words.iter().map(|(word, _)| *word));
    let written = raw(node, what, &known, errors)?;
    let found = words.iter().find(|(word, _)| *word == written);
    if found.is_none() {
        let hint = did_you_mean(written, words.iter().map(|(word, _)| *word));
        errors.push(node.at, format!("{what} is {}; write {known}{hint}", quoted(written)));
    }
    found.map(|(_, value)| *value)
}

pub(super) fn truth(node: &Node, what: &str, errors: &mut Errors) -> Option<bool> {
    word(node, what, &[("true", true), ("false", false)], errors)
}

/// A value with a grammar of its own.
pub(super) fn parsed<T: FromStr<Err: Display>>(node: &Node, what: &str, wants: &str, errors: &mut Errors) -> Option<T> {
    let written = raw(node, what, wants, errors)?;
    match written.parse() {
        Ok(value) => Some(value),
        Err(_) => {
            errors.push(node.at, format!("{what} is {}; write {wants}", quoted(written)));
            None
        }
    }
}

/// A span longer than nothing.
pub(super) fn span(node: &Node, what: &str, errors: &mut Errors) -> Option<Span> {
    let span: Span = parsed(node, what, "a duration: 30m, 8h, 7d", errors)?;
    if span.as_secs() == 0 {
        errors.push(node.at, format!("{what} is zero; write a duration: 30m, 8h, 7d"));
        return None;
    }
    Some(span)
}

/// A span longer than nothing and at most `most`.
pub(super) fn span_within(node: &Node, what: &str, most: Span, errors: &mut Errors) -> Option<Span> {
    let span = span(node, what, errors)?;
    if span > most {
        errors.push(node.at, format!("{what} {span} is too long; write at most {most}"));
        return None;
    }
    Some(span)
}

/// A span of at most `most`; 0s turns off what it is for.
pub(super) fn span_or_off(node: &Node, what: &str, most: Span, errors: &mut Errors) -> Option<Span> {
    let span: Span = parsed(node, what, "a duration (30m, 8h, 7d), or 0s for none", errors)?;
    if span > most {
        errors.push(node.at, format!("{what} {span} is too long; write at most {most}"));
        return None;
    }
    Some(span)
}

/// A whole number from `least` to `most`.
pub(super) fn number(node: &Node, what: &str, least: u64, most: u64, errors: &mut Errors) -> Option<u64> {
    let wants = format!("a number from {least} to {most}");
    let written = raw(node, what, &wants, errors)?;
    let digits = !written.is_empty() && written.bytes().all(|b| b.is_ascii_digit());
    let found = written.parse().ok().filter(|found| digits && (least..=most).contains(found));
    if found.is_none() {
        errors.push(node.at, format!("{what} is {}; write {wants}", quoted(written)));
    }
    found
}

/// A span longer than nothing, or `never`.
pub(super) fn lasting(node: &Node, what: &str, errors: &mut Errors) -> Option<For> {
    let lasting: For = parsed(node, what, "a duration (30m, 8h, 7d) or never", errors)?;
    if lasting.span().is_some_and(|span| span.as_secs() == 0) {
        errors.push(node.at, format!("{what} is zero; write a duration (30m, 8h, 7d) or never"));
        return None;
    }
    Some(lasting)
}

/// Whether a key can be named elsewhere in the policy without being quoted.
pub(super) fn plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// A name that people and reports see: short, and nothing in it that a terminal would obey or hide.
pub(super) fn name<'n>(node: &'n Node, what: &str, errors: &mut Errors) -> Option<&'n str> {
    const LONGEST: usize = 64;
    let name = text(node, what, errors)?;
    let wrong = if name.trim().is_empty() {
        "is empty"
    } else if name.trim() != name {
        "starts or ends with a space"
    } else if name.chars().count() > LONGEST {
        "is longer than 64 characters"
    } else if name.chars().any(is_hostile) {
        "has characters that do not print"
    } else {
        return Some(name);
    };
    errors.push(node.at, format!("{what} {} {wrong}; write a short printable name", quoted(name)));
    None
}
