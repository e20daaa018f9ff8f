//! `when`: a CEL expression, checked whole when the policy is read, so that little is left that can fail.

mod check;
mod compile;
mod fields;
#[cfg(test)]
mod oracle;
mod print;
mod program;
mod scan;
mod types;
mod value;
#[cfg(test)]
mod values;

use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::Env;

use fields::List;
use program::Node;

use super::error::{At, Errors, Mention, Mentioned};
use super::mentions::no_source;
use super::pattern::Pattern;
use super::view::{Held, Sees, View};

/// Longest expression, in bytes.
const LONGEST: usize = 4096;
/// The parser's own count of what nests; the scan comes first and is the one that speaks.
const DEEPEST: u16 = 2 * scan::MOST_NESTED as u16;
/// Longest message of an evaluation, in characters: it may quote what a sender wrote.
const LONGEST_MESSAGE: usize = 300;

/// Without macros, so that an expression is checked and printed as it was written.
static BARE: LazyLock<Env> = LazyLock::new(|| Env::default().with_optional_support(false));

/// An expression that was checked.
#[derive(Clone)]
pub(super) struct Condition {
    program: Arc<Node>,
    /// Lists of a subject that it looks at.
    lists: Vec<List>,
    understood: String,
    is_of_host: bool,
    /// The same for the interpreter of the cel crate, its macros expanded.
    #[cfg(test)]
    interpreted: Arc<cel::IdedExpr>,
}

impl Condition {
    /// Compiles and checks `text`; `place` says where a character of it (line from 0, column from 0) stands in the policy.
    pub fn parse(text: &str, sees: Sees<'_>, place: &dyn Fn(usize, usize) -> At, errors: &mut Errors) -> Option<Self> {
        // From an offset in bytes, which is how the parser counts.
        let at = |offset: usize| {
            let before = text.get(..offset).unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or_default();
            place(before.matches('\n').count(), line.chars().count())
        };
        if text.len() > LONGEST {
            errors
                .push(place(0, 0), format!("when has {} bytes; at most {LONGEST} are taken: split the rule in two", text.len()));
            return None;
        }
        // Before the parser: it recurses, and a stack that is used up cannot be caught.
        if let Err((offset, message)) = scan::scan(text) {
            errors.push(at(offset), message);
            return None;
        }
        let parse = |env: &Env| env.parser().max_recursion_depth(DEEPEST).error_recovery_limit(4).parse_with_source_info(text);
        let (written, source) = match parse(&BARE) {
            Ok(parsed) => parsed,
            Err(wrong) => {
                for error in wrong.errors.iter().take(3) {
                    let (line, column) = (usize::try_from(error.pos.0).unwrap_or(0), usize::try_from(error.pos.1).unwrap_or(0));
                    let message =
                        one_line(error.msg.replace("Syntax error: ", "").split(" expecting {").next().unwrap_or_default());
                    let hint = "; write CEL, as detection.confidence >= 80 && not(host.label.tier == \"test\")";
                    errors.push(place(line.saturating_sub(1), column.saturating_sub(1)), format!("when: {message}{hint}"));
                }
                return None;
            }
        };
        let checked = check::check(&written, sees);
        let of = |id: u64| at(source.offset_for(id).map_or(0, |(start, _)| start as usize));
        for (id, message) in &checked.found {
            errors.push(of(*id), format!("when: {message}"));
        }
        if !checked.found.is_empty() {
            return None;
        }
        for (id, what, written) in checked.mentions {
            match no_source(&written).filter(|_| what == Mentioned::Source) {
                Some(warning) => errors.warn(of(id), format!("when: {warning}")),
                // A star is no pattern here.
                None if written.contains('*') => {}
                None => errors.mention(Mention { at: of(id), what, pattern: Pattern::new(&written) }),
            }
        }
        let Some(program) = compile::compile(&written) else {
            errors.push(place(0, 0), "when: this is not taken; write the condition with fewer parts");
            return None;
        };
        let mut lists = Vec::new();
        program::lists(&program, &mut lists);
        Some(Self {
            program: Arc::new(program),
            lists,
            understood: print::print(&written),
            is_of_host: checked.names_host && !checked.names_events,
            #[cfg(test)]
            interpreted: Arc::new(parse(&oracle::FULL).ok()?.0),
        })
    }

    /// Whether it is about the host alone.
    pub fn is_of_host(&self) -> bool {
        self.is_of_host
    }

    pub fn holds(&self, view: &View<'_>) -> Held {
        // An attacker may give a host as many addresses as he likes.
        let longer = |list: &List| list.count(view).filter(|count| *count > MOST_ITEMS).map(|count| (list.name(), count));
        if let Some((list, count)) = self.lists.iter().find_map(longer) {
            return Err(format!("{list} has {count} entries; at most {MOST_ITEMS} are looked at"));
        }
        let held = self.program.holds(view).map_err(|message| one_line(&message));
        #[cfg(test)]
        oracle::compare(self, view, &held);
        held
    }
}

/// The expression as it was understood: every bracket written, every negation as `not(…)`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.understood)
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Condition({})", self.understood)
    }
}

/// Longest list that an expression walks: the sender chose its length, and every rule pays for it.
const MOST_ITEMS: usize = 1000;

fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(LONGEST_MESSAGE) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
