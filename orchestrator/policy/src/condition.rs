//! `when`: a CEL expression, checked whole when the policy is read, so that little is left that can fail.

mod check;
mod print;
mod scan;
mod types;
mod values;

use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::types::{BOOL_TYPE, CelBool};
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError, IdedExpr, Value};

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

/// The functions of CEL and ours, and its macros.
static FULL: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(with_ours(Env::stdlib())));
/// Without macros, so that an expression is checked and printed as it was written.
static BARE: LazyLock<Env> = LazyLock::new(|| Env::default().with_optional_support(false));

#[derive(Clone)]
pub(super) struct Condition {
    /// Macros expanded.
    program: Arc<IdedExpr>,
    understood: String,
    names_groups: bool,
    is_of_host: bool,
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
        match parse(&FULL) {
            Ok((program, _)) => {
                let understood = print::print(&written);
                Some(Self {
                    program: Arc::new(program),
                    understood,
                    names_groups: checked.names_groups,
                    is_of_host: checked.names_host && !checked.names_events,
                })
            }
            Err(wrong) => {
                let message = wrong.errors.first().map_or_else(String::new, |error| one_line(&error.msg));
                errors.push(place(0, 0), format!("when: {message}"));
                None
            }
        }
    }

    /// Whether it is about the host alone.
    pub fn is_of_host(&self) -> bool {
        self.is_of_host
    }

    pub fn holds(&self, view: &View<'_>) -> Held {
        let groups = if self.names_groups { view.groups()? } else { Vec::new() };
        let facts = Facts::of(view, &groups);
        // Only where the expression names it: an attacker may give a host as many addresses as he likes.
        let longer = |(list, count): &&(&str, usize)| *count > MOST_ITEMS && self.understood.contains(*list);
        if let Some((list, count)) = facts.lists.iter().find(longer) {
            return Err(format!("{list} has {count} entries; at most {MOST_ITEMS} are looked at"));
        }
        match Value::resolve_val(&self.program, &facts.context) {
            Ok(value) => match value.downcast_ref::<CelBool>() {
                Some(value) => Ok(*value.inner()),
                None => Err(format!("the condition is no truth value but {}", value.get_type().name())),
            },
            Err(error) => Err(one_line(&error.to_string())),
        }
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

/// What the expressions of all rules see of one subject.
pub(super) struct Facts<'v> {
    context: Context<'v, 'v>,
    /// Each list that an expression can name, and how long it is.
    lists: [(&'static str, usize); 3],
}

impl<'v> Facts<'v> {
    pub fn of(view: &View<'v>, groups: &[&'v str]) -> Self {
        let mut context = Context::with_env(Arc::clone(&FULL));
        values::add(&mut context, view, groups);
        let (techniques, ips) =
            view.event.map_or((0, 0), |event| (event.detection.techniques.len(), event.detection.host.ips.len()));
        let lists = [("detection.techniques", techniques), ("detection.host.ips", ips), ("host.roles", view.host.roles.len())];
        Self { context, lists }
    }
}

fn with_ours(mut env: Env) -> Env {
    fn not<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
        match arguments.first().and_then(|argument| argument.downcast_ref::<CelBool>()) {
            Some(value) => Ok(CowVal::owned(value.negate())),
            None => Err(ExecutionError::function_error("not", "takes one truth value")),
        }
    }
    // A function that is missing makes a rule error, never a pass; a test calls each.
    let _ = env.add_overload("not", "not_bool", vec![BOOL_TYPE], not);
    let _ = env.add_extension(cel::extensions::strings);
    env
}

fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(LONGEST_MESSAGE) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
