//! YAML read into a tree that knows its lines and columns; what changes or hides the meaning of a text is refused.

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput};

use super::error::{At, Errors, quoted};

/// Longest key, in characters: messages name keys.
const LONGEST_KEY: usize = 128;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub at: At,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(Text),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// Refused already; whoever reads it has nothing to add.
    Refused,
}

#[derive(Clone, Debug)]
pub(super) struct Text {
    pub text: String,
    pub style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Quoted,
    /// `|`
    Literal,
    /// `>`
    Folded,
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub at: At,
    pub name: String,
}

/// The tree of `text`; none where it is no YAML at all. Errors go to `errors`.
pub(super) fn read(text: &str, errors: &mut Errors) -> Option<Node> {
    let options = granit_parser::options! {
        strict_indentation: true,
        disallow_directives: true,
        emit_unresolved_aliases: true,
        flow_nesting_limit: 16,
        block_nesting_limit: 24,
    };
    let options: Options = options;
    let mut reader = Reader { parser: Parser::new_from_str_with_options(text, options), text, errors, refused: false };
    let mut root = None;
    let mut documents = 0;
    while let Some((event, span)) = reader.next() {
        match event {
            Event::DocumentStart(..) => {
                documents += 1;
                if documents > 1 {
                    reader
                        .errors
                        .push(start(&span), "a second document starts here; a policy is one document, so remove the ---");
                    return root;
                }
            }
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            event => root = reader.node(event, span),
        }
    }
    if reader.refused { None } else { root }
}

struct Reader<'t, 'e> {
    parser: Parser<'t, StrInput<'t>>,
    text: &'t str,
    errors: &'e mut Errors,
    /// The parser gave up.
    refused: bool,
}

impl<'t> Reader<'t, '_> {
    fn next(&mut self) -> Option<(Event<'t>, Span)> {
        match self.parser.next()? {
            Ok(next) => Some(next),
            Err(error) => {
                self.refused = true;
                let mark = error.marker();
                if let Some(at) = tab(self.text, mark.line()) {
                    self.errors.push(at, "this is no YAML: a tab indents this line; indent with spaces");
                    return None;
                }
                let info = error.info().replace(char::is_control, " ");
                // A condition as `"web" in host.roles`.
                let hint = if info.contains("trailing content after") {
                    "a value that starts with a quote ends with that quote"
                } else {
                    "quote a value that starts with > | & * ! % @ or holds ': '"
                };
                let message = format!("this is no YAML: {info}; {hint}, and put an expression into a block (when: |)");
                self.errors.push(At { line: mark.line().max(1), column: mark.col() + 1 }, message);
                None
            }
        }
    }

    /// The node that `event` begins. The depth is bounded by the parser's nesting limits.
    fn node(&mut self, event: Event<'t>, span: Span) -> Option<Node> {
        let at = start(&span);
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(_, anchor, tag) | Event::MappingStart(_, anchor, tag) => {
                (*anchor, tag.is_some())
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.errors.push(at, "an alias (*name) is not taken; write the value out, and quote text that starts with *");
                return Some(Node { at, value: Value::Refused });
            }
            _ => return None,
        };
        if tag {
            let at = span.tag_start().map_or(at, |mark| At { line: mark.line(), column: mark.col() + 1 });
            self.errors.push(
                at,
                "a tag (!name) is not taken: YAML reads `!a && b` as `a && b`; put an expression into a block (when: |), and write not(a)",
            );
        }
        if anchor > 0 {
            self.errors.push(at, "an anchor (&name) is not taken; write the value out, and quote text that starts with &");
        }
        let value = match event {
            // The parser writes ~ for a value that is not there.
            Event::Scalar(_, ScalarStyle::Plain, ..) if span.is_empty() => {
                Value::Text(Text { text: String::new(), style: Style::Plain })
            }
            Event::Scalar(text, style, ..) => Value::Text(Text { text: text.into_owned(), style: Style::from(style) }),
            Event::SequenceStart(..) => self.list()?,
            _ => self.map()?,
        };
        Some(Node { at, value: if tag || anchor > 0 { Value::Refused } else { value } })
    }

    fn list(&mut self) -> Option<Value> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Some(Value::List(items)),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn map(&mut self) -> Option<Value> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut seen: HashMap<String, At> = HashMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Some(Value::Map(entries)),
                (event, span) => self.node(event, span)?,
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            let at = key.at;
            match key.value {
                Value::Text(Text { text, style: Style::Plain }) if text == "<<" => {
                    self.errors.push(at, "a merge key (<<) is not taken; write the keys out");
                }
                Value::Text(Text { text, .. }) if text.chars().count() > LONGEST_KEY => {
                    self.errors.push(at, format!("a key is longer than {LONGEST_KEY} characters; write a shorter one"));
                }
                Value::Text(Text { text, .. }) if text.chars().any(char::is_control) => {
                    self.errors.push(at, format!("a key has characters that do not print: {}", quoted(&text)));
                }
                Value::Text(Text { text: name, .. }) => match seen.get(&name) {
                    Some(first) => {
                        let message = format!("{} is here a second time, first on line {}; keep one", quoted(&name), first.line);
                        self.errors.push(at, message);
                    }
                    None => {
                        seen.insert(name.clone(), at);
                        entries.push((Key { at, name }, value));
                    }
                },
                Value::Refused => {}
                Value::List(_) | Value::Map(_) => self.errors.push(at, "a key is a list or a mapping; write a plain word"),
            }
        }
    }
}

impl From<ScalarStyle> for Style {
    fn from(style: ScalarStyle) -> Self {
        match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::Literal => Style::Literal,
            ScalarStyle::Folded => Style::Folded,
            _ => Style::Quoted,
        }
    }
}

/// The first tab that indents, up to the line behind `line`: the parser may stop before it.
fn tab(text: &str, line: usize) -> Option<At> {
    text.lines().take(line + 1).enumerate().find_map(|(at, line)| {
        let column = line.chars().take_while(|c| matches!(c, ' ' | '\t')).position(|c| c == '\t')?;
        Some(At { line: at + 1, column: column + 1 })
    })
}

fn start(span: &Span) -> At {
    At { line: span.start.line().max(1), column: span.start.col() + 1 }
}

/// How other readers of YAML, those of version 1.1 above all, take an unquoted `text`, where they do not take it as this text.
pub(super) fn taken_otherwise(text: &str) -> Option<&'static str> {
    const TRUTH: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];
    let lower = text.to_ascii_lowercase();
    if text.is_empty() || text == "~" || lower == "null" {
        return Some("nothing");
    }
    if TRUTH.contains(&lower.as_str()) {
        return Some("a truth value");
    }
    // A short decimal number is the same text to everybody.
    let decimal = text.bytes().all(|b| b.is_ascii_digit());
    if decimal && text.len() <= 15 && (text.len() == 1 || !text.starts_with('0')) {
        return None;
    }
    let rest = lower.strip_prefix(['-', '+']).unwrap_or(&lower);
    if decimal || number(rest) {
        return Some("a number");
    }
    date(rest).then_some("a date")
}

fn number(lower: &str) -> bool {
    if [".inf", ".nan"].contains(&lower) {
        return true;
    }
    let only = |text: &str, allowed: &str| !text.is_empty() && text.chars().all(|c| c == '_' || allowed.contains(c));
    for (prefix, digits) in [("0x", "0123456789abcdef"), ("0o", "01234567"), ("0b", "01")] {
        if lower.strip_prefix(prefix).is_some_and(|rest| only(rest, digits)) {
            return true;
        }
    }
    const DIGITS: &str = "0123456789";
    if lower.contains(':') {
        // 12:30:00 is 45000 to YAML 1.1.
        return lower.split(':').all(|part| only(part.strip_suffix(".0").unwrap_or(part), DIGITS));
    }
    let (mantissa, exponent) = match lower.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (lower, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.is_empty() || only(part, DIGITS);
    mantissa.chars().any(|c| c.is_ascii_digit())
        && digits(whole)
        && digits(fraction)
        && exponent.is_none_or(|exponent| only(exponent, DIGITS))
}

fn date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: Option<&str>, most: usize| {
        part.is_some_and(|part| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
    };
    digits(parts.next(), 4) && digits(parts.next(), 2) && {
        let day = parts.next().and_then(|rest| rest.split(['t', ' ']).next());
        digits(day, 2)
    }
}
