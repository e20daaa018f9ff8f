//! A `match` as it is written: its keys, and what each takes.

use portcullis_schemas::events::{Level, Severity};

use super::{Comparison, Condition, FIELDS, Field, GROUP, LABEL, OPERATORS, Operator};
use crate::error::{At, Errors, Mention, Mentioned, did_you_mean, no_group, one_of, quoted};
use crate::lists::Lists;
use crate::mentions::no_source;
use crate::pattern::{LONGEST, Pattern};
use crate::read::{entries, one_or_many, raw, text};
use crate::view::Sees;
use crate::yaml::{Node, Value};

const LEVELS: [Level; 4] = [Level::None, Level::Inet, Level::Partial, Level::Full];

/// The conditions of a `match`, in the order of the text.
pub(crate) fn parse(node: &Node, sees: Sees<'_>, lists: &Lists, errors: &mut Errors) -> Vec<Condition> {
    let Some(entries) = entries(node, "match", errors) else { return Vec::new() };
    if entries.is_empty() {
        errors.push(node.at, "match is empty; leave it out for a rule that takes everything");
    }
    let mut conditions = Vec::new();
    for (key, value) in entries {
        let name = key.name.as_str();
        let field = FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| field.clone());
        let field =
            field.or_else(|| name.strip_prefix(LABEL).filter(|label| !label.is_empty()).map(|l| Field::HostLabel(l.to_owned())));
        let of_events = matches!(sees, Sees::Event(_));
        conditions.extend(match (name, field) {
            ("severity", _) if of_events => ordered(value, name, severity, errors).map(Condition::Severity),
            ("confidence", _) if of_events => ordered(value, name, confidence, errors).map(Condition::Confidence),
            (GROUP, _) => groups(value, key.at, sees, errors),
            (_, Some(field)) if of_events || field.is_of_host() => {
                if let Field::HostLabel(label) = &field {
                    errors.mention(Mention { at: key.at, what: Mentioned::Label, pattern: Pattern::new(label) });
                }
                patterns(value, name, &field, lists, errors).map(|any| Condition::Text(field, any))
            }
            (name, found) => {
                let known: Vec<&str> = known(sees).collect();
                let message = if found.is_some() || ["severity", "confidence"].contains(&name) {
                    format!("{name} is of a detection, and this is about hosts alone; write {}", one_of(known))
                } else {
                    let hint = did_you_mean(name, known.iter().copied());
                    format!("{} is no key of match{hint} (it takes {})", quoted(name), one_of(known))
                };
                errors.push(key.at, message);
                None
            }
        });
    }
    conditions
}

fn known(sees: Sees<'_>) -> impl Iterator<Item = &'static str> {
    let of_events = matches!(sees, Sees::Event(_));
    let fields = FIELDS.iter().filter(move |(_, field)| of_events || field.is_of_host()).map(|(known, _)| *known);
    let first = if of_events { &["severity", "confidence"][..] } else { &[] };
    let group = sees.groups().map(|_| GROUP);
    first.iter().copied().chain(fields).chain(group).chain(["host.label.NAME"])
}

/// Groups by name; a name that is none is a slip.
fn groups(node: &Node, key: At, sees: Sees<'_>, errors: &mut Errors) -> Option<Condition> {
    let Some(known) = sees.groups() else {
        errors.push(key, "a group does not name groups; write out what its hosts are");
        return None;
    };
    let (mut places, mut names) = (Vec::new(), Vec::new());
    for item in not_empty(node, GROUP, errors)? {
        let Some(written) = text(item, GROUP, errors) else { continue };
        match known.iter().position(|known| known == written) {
            Some(place) => {
                places.push(place);
                names.push(written.to_owned());
            }
            None => errors.push(item.at, no_group(written, known)),
        }
    }
    Some(Condition::Group(places, names))
}

/// Where a `match` names severities by bare words alone, and the lowest of them: `high` means exactly high.
pub(crate) fn bare_severity(node: &Node) -> Option<(At, Severity)> {
    let Value::Map(entries) = &node.value else { return None };
    let (_, value) = entries.iter().find(|(key, _)| key.name == "severity")?;
    let word = |item: &Node| match &item.value {
        Value::Text(text) => severity(text.text.trim()).ok().map(|(severity, ..)| severity),
        _ => None,
    };
    let words: Option<Vec<Severity>> = one_or_many(value).iter().map(word).collect();
    words?.into_iter().min().map(|lowest| (value.at, lowest))
}

fn not_empty<'n>(node: &'n Node, name: &str, errors: &mut Errors) -> Option<&'n [Node]> {
    let items = one_or_many(node);
    if items.is_empty() {
        errors.push(node.at, format!("{name} is an empty list, which nothing matches; name a value or leave the key out"));
        return None;
    }
    Some(items)
}

/// Reads a value, or says what to write.
type Reader<T> = fn(&str) -> Result<(T, bool, bool), String>;

fn ordered<T>(node: &Node, name: &str, read: Reader<T>, errors: &mut Errors) -> Option<Vec<Comparison<T>>> {
    let mut any = Vec::new();
    for item in not_empty(node, name, errors)? {
        let Some(written) = raw(item, name, "a value or a comparison, \">= …\"", errors) else { continue };
        let found = OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, written.trim().strip_prefix(sign)?)));
        let (operator, value) = found.unwrap_or((Operator::Equal, written));
        match read(value.trim()) {
            Ok((_, true, _)) if operator == Operator::Below => never(item, name, written, errors),
            Ok((_, _, true)) if operator == Operator::Above => never(item, name, written, errors),
            Ok((value, ..)) => any.push(Comparison { operator, value }),
            Err(wants) => errors.push(item.at, format!("{name} is {}; write {wants}", quoted(written))),
        }
    }
    Some(any)
}

fn never(node: &Node, name: &str, written: &str, errors: &mut Errors) {
    errors.push(node.at, format!("{name} is {}, which never holds; turn it round or leave it out", quoted(written)));
}

/// With whether it is the lowest and the highest.
fn severity(written: &str) -> Result<(Severity, bool, bool), String> {
    let found = Severity::ALL.into_iter().find(|severity| severity.as_str() == written);
    let wants = || {
        let known = || Severity::ALL.into_iter().map(Severity::as_str);
        format!("{}, or a comparison as \">= high\"{}", one_of(known()), did_you_mean(written, known()))
    };
    found.map(|found| (found, found == Severity::Unknown, found == Severity::Critical)).ok_or_else(wants)
}

fn confidence(written: &str) -> Result<(u8, bool, bool), String> {
    let digits = written.bytes().all(|b| b.is_ascii_digit());
    let found = written.parse().ok().filter(|found| digits && *found <= 100);
    found
        .map(|found| (found, found == 0, found == 100))
        .ok_or_else(|| "a number from 0 to 100, or a comparison as \">= 80\"".to_owned())
}

fn patterns(node: &Node, name: &str, field: &Field, lists: &Lists, errors: &mut Errors) -> Option<Vec<Pattern>> {
    let mut any = Vec::new();
    for item in not_empty(node, name, errors)? {
        if matches!(item.value, Value::List(_)) {
            errors.push(item.at, format!("{name} has a list inside a list; write one list"));
            continue;
        }
        let Some(written) = text(item, name, errors) else { continue };
        match written.strip_prefix('$') {
            Some(list) => {
                for word in lists.words(list, name, item.at, errors) {
                    pattern(word, name, field, item.at, &mut any, errors);
                }
            }
            None => pattern(written, name, field, item.at, &mut any, errors),
        }
    }
    Some(any)
}

fn pattern(written: &str, name: &str, field: &Field, at: At, any: &mut Vec<Pattern>, errors: &mut Errors) {
    let pattern = Pattern::new(written);
    let wrong = if written.len() > LONGEST {
        Some(format!("has more than {LONGEST} bytes; write a shorter one"))
    } else if *field == Field::Technique && !pattern.has_star() && !is_technique(written) {
        Some("is no ATT&CK technique; write T1486, T1059.001, or T1059* for one with its sub-techniques".to_owned())
    } else if *field == Field::HostLevel && !LEVELS.into_iter().any(|level| pattern.matches(level.as_str())) {
        Some(format!("is no enforcement level; write {}", one_of(LEVELS.into_iter().rev().map(Level::as_str))))
    } else {
        None
    };
    if let Some(wrong) = wrong {
        errors.push(at, format!("{name} {} {wrong}", quoted(written)));
        return;
    }
    let what = match field {
        Field::Source => Some(Mentioned::Source),
        Field::HostRole => Some(Mentioned::Role),
        Field::HostLabel(label) => Some(Mentioned::Value(label.clone())),
        _ => None,
    };
    match no_source(written).filter(|_| *field == Field::Source) {
        Some(warning) => errors.warn(at, warning),
        None => what.into_iter().for_each(|what| errors.mention(Mention { at, what, pattern: pattern.clone() })),
    }
    any.push(pattern);
}

/// `T` and four digits; a sub-technique has a point and three more.
fn is_technique(written: &str) -> bool {
    let digits = |part: &str, count| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
    let Some(rest) = written.strip_prefix(['T', 't']) else { return false };
    match rest.split_once('.') {
        Some((technique, sub)) => digits(technique, 4) && digits(sub, 3),
        None => digits(rest, 4),
    }
}
