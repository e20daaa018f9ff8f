//! `rules`: in order, the first match decides, and the last one takes everything.

use std::collections::HashMap;

use portcullis_schemas::events::{For, Severity};

use super::condition::Condition;
use super::error::{At, Errors, did_you_mean, one_of, quoted};
use super::lists::Lists;
use super::read::{Fields, fields, lasting, list, name, raw, truth};
use super::yaml::{Node, Style, Value};
use super::{Rule, Then, matching};
use crate::terms::Terms;

const MOST: usize = 1000;

/// Bytes of all expressions together: a second of parsing.
const MOST_EXPRESSIONS: usize = 128 * 1024;

const KEYS: [&str; 6] = ["name", "match", "when", "then", "release_after", "audit"];

pub(super) fn parse(node: &Node, terms: &Terms, lists: &Lists, text: &str, errors: &mut Errors) -> Vec<Rule> {
    let Some(nodes) = list(node, "rules", errors) else { return Vec::new() };
    if nodes.len() > MOST {
        errors.push(node.at, format!("there are {} rules; at most {MOST} are taken", nodes.len()));
        return Vec::new();
    }
    if nodes.is_empty() {
        errors.push(node.at, "there are no rules; the least is rules: [{ name: rest, then: observe }]");
    }
    let source: Vec<&str> = text.lines().collect();
    let mut names: HashMap<String, At> = HashMap::new();
    let mut rules: Vec<Rule> = Vec::new();
    let mut places = Vec::new();
    let mut everything: Option<&Node> = None;
    let mut expressions = 0;
    for rule_node in nodes {
        if let Some(taken) = everything {
            let message = format!(
                "this rule is never reached: the one on line {} takes everything; move that one to the end",
                taken.at.line
            );
            errors.push(rule_node.at, message);
        }
        let Some(fields) = fields(rule_node, "a rule", &KEYS, errors) else { continue };
        if fields.get("match").is_none() && fields.get("when").is_none() {
            everything = everything.or(Some(rule_node));
        }
        if let Some(Node { at, value: Value::Text(text) }) = fields.get("when") {
            expressions += text.text.len();
            if expressions > MOST_EXPRESSIONS {
                errors.push(
                    *at,
                    format!("all when together have more than {MOST_EXPRESSIONS} bytes; use match where it is enough"),
                );
                return Vec::new();
            }
        }
        if let Some(rule) = rule(&fields, terms, lists, &source, errors) {
            let at = fields.get("name").map_or(fields.at, |node| node.at);
            if let Some(first) = names.insert(rule.name.clone(), at) {
                errors.push(
                    at,
                    format!("a rule named {:?} is on line {} already; give this one another name", rule.name, first.line),
                );
            }
            places.push(fields.get("match").and_then(matching::bare_severity));
            rules.push(rule);
        }
    }
    exact_severities(&rules, &places, errors);
    if let (None, Some(last)) = (everything, nodes.last()) {
        errors.push(
            last.at,
            "the last rule does not take everything; add one without match and when: { name: rest, then: observe }",
        );
    }
    debug_assert!(errors.count() > 0 || rules.last().is_some_and(Rule::takes_everything));
    rules
}

fn rule(fields: &Fields<'_>, terms: &Terms, lists: &Lists, source: &[&str], errors: &mut Errors) -> Option<Rule> {
    let name = match fields.get("name") {
        Some(node) => name(node, "name", errors),
        None => {
            errors.push(fields.at, "a rule has no name; give it a short one, decisions show it");
            None
        }
    };
    let matching = fields.get("match").map(|node| matching::parse(node, lists, errors)).unwrap_or_default();
    let when = fields.get("when").and_then(|node| when(node, fields.key_at("when"), source, errors));
    let audit = fields.get("audit").and_then(|node| truth(node, "audit", errors)).unwrap_or(false);
    let then = then(fields, terms, errors);
    Some(Rule { name: name?.to_owned(), matching, when, then: then?, audit })
}

/// `severity: high` takes high alone: where what is worse is left to no other rule that names it, that is hardly meant.
fn exact_severities(rules: &[Rule], places: &[Option<(At, Severity)>], errors: &mut Errors) {
    let takes = |rule: &Rule, severity| rule.matching.iter().find_map(|condition| condition.takes(severity));
    for (rule, place) in rules.iter().zip(places) {
        let Some((at, lowest)) = place.filter(|_| matches!(rule.then, Then::Isolate { .. })) else { continue };
        let left_out = |severity: &Severity| !rules.iter().any(|other| takes(other, *severity) == Some(true));
        let missed: Vec<&str> =
            Severity::ALL.into_iter().filter(|severity| *severity > lowest).filter(left_out).map(Severity::as_str).collect();
        if !missed.is_empty() {
            let word = lowest.as_str();
            let message = format!(
                "severity {word} is exactly {word}: this rule does not take {}; write \">= {word}\", or \"= {word}\" if that is meant",
                one_of(missed)
            );
            errors.warn(at, message);
        }
    }
}

fn then(fields: &Fields<'_>, terms: &Terms, errors: &mut Errors) -> Option<Then> {
    const WORDS: [&str; 3] = ["isolate", "observe", "ignore"];
    let release_after = fields.get("release_after").map(|node| (node, lasting(node, "release_after", errors)));
    let Some(node) = fields.get("then") else {
        errors.push(fields.at, format!("a rule has no then; write {}", one_of(WORDS)));
        return None;
    };
    let then = match raw(node, "then", &one_of(WORDS), errors)? {
        "isolate" => {
            let mut after = terms.release_after;
            if let Some((node, Some(written))) = release_after {
                within(written, terms, node.at, errors);
                after = written;
            }
            return Some(Then::Isolate { release_after: after });
        }
        "observe" => Then::Observe,
        "ignore" => Then::Ignore,
        "ask" => {
            errors.push(node.at, "then: ask is not built yet; write observe");
            return None;
        }
        other => {
            errors.push(node.at, format!("then is {}; write {}{}", quoted(other), one_of(WORDS), did_you_mean(other, WORDS)));
            return None;
        }
    };
    if release_after.is_some() {
        errors.push(
            fields.key_at("release_after"),
            "release_after is in a rule that does not isolate; remove it, or write then: isolate",
        );
    }
    Some(then)
}

/// CEL from a block, or from a quoted or plain scalar.
fn when(node: &Node, key: At, source: &[&str], errors: &mut Errors) -> Option<Condition> {
    let written = raw(node, "when", "an expression in CEL", errors)?;
    let Value::Text(text) = &node.value else { return None };
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
    let first = source.iter().skip(key.line - 1).position(header).map_or(at.line, |skipped| key.line + skipped + 1);
    // In a block every line of the expression is the end of a line of the file; elsewhere only the first line can be told.
    let place = |line: usize, column: usize| match text.style {
        Style::Literal => {
            let Some(file_line) = source.get(first - 1 + line) else { return at };
            let written = lines.get(line).map_or(0, |written| written.chars().count());
            At { line: first + line, column: file_line.chars().count().saturating_sub(written) + column + 1 }
        }
        Style::Plain | Style::Quoted if line == 0 => {
            let column = at.column + column + usize::from(text.style == Style::Quoted);
            let written_here = source.get(at.line - 1).is_some_and(|file_line| column <= file_line.chars().count());
            if written_here { At { line: at.line, column } } else { at }
        }
        _ => at,
    };
    Condition::parse(written.trim_end(), &place, errors)
}

/// Says where `release_after` is longer than `max_isolation` allows.
pub(super) fn within(release_after: For, terms: &Terms, at: At, errors: &mut Errors) {
    match (release_after, terms.max_isolation) {
        (For::Never, For::Span(most)) => {
            errors.push(at, format!("release_after: never needs max_isolation: never in defaults (it is {most})"));
        }
        (For::Span(wanted), For::Span(most)) if wanted > most => {
            errors.push(
                at,
                format!(
                    "release_after {wanted} is longer than max_isolation {most}; shorten it, or raise max_isolation in defaults"
                ),
            );
        }
        _ => {}
    }
}
