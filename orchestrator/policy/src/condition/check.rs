//! Types of an expression as it was written: what could fail or silently never hold is refused when the policy is read.

use cel::IdedExpr;
use cel::common::ast::operators::{
    ADD, CONDITIONAL, DIVIDE, EQUALS, GREATER, GREATER_EQUALS, IN, INDEX, LESS, LESS_EQUALS, LOGICAL_AND, LOGICAL_NOT,
    LOGICAL_OR, MODULO, MULTIPLY, NEGATE, NOT_EQUALS, SUBSTRACT,
};
use cel::common::ast::{CallExpr, Expr, ListExpr, LiteralValue, SelectExpr};

use super::types::{Type, VARIABLES};
use crate::error::{Mentioned, did_you_mean, no_group, one_of, quoted};
use crate::view::Sees;

/// Deepest tree that is walked and evaluated.
const DEEPEST: usize = 80;

const FUNCTIONS: [&str; 11] =
    ["not", "size", "contains", "startsWith", "endsWith", "lowerAscii", "exists", "all", "exists_one", "int", "string"];

/// What is wrong, each with the id of its node; nothing where the expression is a truth value.
pub(super) fn check<'g>(expression: &IdedExpr, sees: Sees<'g>) -> Check<'g> {
    let mut check = Check { sees, found: Vec::new(), mentions: Vec::new(), names_host: false, names_events: false, bound: None };
    if let Some(found) = check.of(expression, 0)
        && found != Type::Bool
    {
        check.wrong(expression, format!("the expression is {}, not a truth value; compare it with something", found.name()));
    }
    check
}

pub(super) struct Check<'g> {
    sees: Sees<'g>,
    pub found: Vec<(u64, String)>,
    /// Names of senders, roles and labels, each with the id of its node.
    pub mentions: Vec<(u64, Mentioned, String)>,
    /// Whether it looks at the host.
    pub names_host: bool,
    /// Whether it looks at anything but the host.
    pub names_events: bool,
    /// The variable of the `exists` or `all` that is being walked.
    bound: Option<(String, Type)>,
}

/// None where something is wrong and said already.
type Checked = Option<Type>;

impl Check<'_> {
    fn wrong(&mut self, node: &IdedExpr, message: impl Into<String>) -> Checked {
        self.found.push((node.id, message.into()));
        None
    }

    fn of(&mut self, node: &IdedExpr, depth: usize) -> Checked {
        if depth > DEEPEST {
            return self.wrong(node, "the expression is too deep; split the rule in two");
        }
        let depth = depth + 1;
        match &node.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Some(Type::Bool),
                LiteralValue::Int(_) => Some(Type::Int),
                LiteralValue::Double(_) => Some(Type::Double),
                LiteralValue::String(_) => Some(Type::Text),
                LiteralValue::Null => self.wrong(node, "null is not taken: nothing is ever null, absent text is \"\""),
                LiteralValue::Bytes(_) | LiteralValue::UInt(_) => {
                    self.wrong(node, "bytes and unsigned numbers are not taken; write \"text\" or 80")
                }
            },
            Expr::Ident(name) => self.variable(node, name),
            Expr::Select(select) => self.select(node, select, depth),
            Expr::List(list) => self.list(node, list, depth),
            Expr::Call(call) => self.call(node, call, depth),
            Expr::Map(_) | Expr::Struct(_) => self.wrong(node, "maps and structs are not taken"),
            Expr::Comprehension(_) | Expr::Unspecified => self.wrong(node, "this is not taken"),
        }
    }

    fn variable(&mut self, node: &IdedExpr, name: &str) -> Checked {
        if let Some((bound, found)) = &self.bound
            && bound == name
        {
            return Some(*found);
        }
        let variables = match self.sees {
            Sees::Event(_) => &VARIABLES[..],
            Sees::Host(_) => &VARIABLES[..1],
        };
        let known = || variables.iter().map(|(known, _)| *known);
        match VARIABLES.iter().find(|(known, _)| *known == name) {
            Some((_, found)) if known().any(|known| known == name) => {
                self.names_host |= name == "host";
                self.names_events |= name != "host";
                Some(*found)
            }
            Some(_) => self.wrong(node, format!("{name} is not known here, which is about hosts alone; write host.…")),
            None => {
                let hint = did_you_mean(name, known());
                self.wrong(node, format!("there is no variable {}{hint} (there are {})", quoted(name), one_of(known())))
            }
        }
    }

    fn select(&mut self, node: &IdedExpr, select: &SelectExpr, depth: usize) -> Checked {
        match self.of(&select.operand, depth)? {
            Type::Labels => {
                self.mentions.push((node.id, Mentioned::Label, select.field.clone()));
                Some(Type::Text)
            }
            Type::Object(object) => {
                let known = || object.fields.iter().map(|(known, _)| *known);
                match object.fields.iter().find(|(known, _)| *known == select.field) {
                    Some(_) if object.name == "host" && select.field == "groups" && self.sees.groups().is_none() => {
                        self.wrong(node, "a group does not name groups; write out what its hosts are")
                    }
                    Some((_, found)) => Some(*found),
                    None => {
                        let hint = did_you_mean(&select.field, known());
                        self.wrong(
                            node,
                            format!("{} has no field {}{hint} (it has {})", object.name, quoted(&select.field), one_of(known())),
                        )
                    }
                }
            }
            other => self.wrong(node, format!("{} has no fields, so no {}", other.name(), quoted(&select.field))),
        }
    }

    fn list(&mut self, node: &IdedExpr, list: &ListExpr, depth: usize) -> Checked {
        let mut items = Vec::new();
        for item in &list.elements {
            items.push(self.of(item, depth)?);
        }
        match items.first() {
            Some(first) if first.is_text() && items.iter().all(|item| item.is_text()) => Some(Type::Texts),
            Some(Type::Int) if items.iter().all(|item| *item == Type::Int) => Some(Type::Ints),
            _ => self.wrong(node, "a list holds text or whole numbers, one kind of them, and at least one"),
        }
    }

    fn call(&mut self, node: &IdedExpr, call: &CallExpr, depth: usize) -> Checked {
        let name = call.func_name.as_str();
        match (&call.target, call.args.as_slice()) {
            (Some(list), [variable, condition]) if ["exists", "all", "exists_one"].contains(&name) => {
                return self.walk(list, variable, condition, depth);
            }
            (None, [left, right]) => {
                if let Some(found) = self.binary(node, name, left, right, depth) {
                    return found;
                }
            }
            (None, [condition, yes, no]) if name == CONDITIONAL => {
                self.wants(condition, Type::Bool, "the condition of ? :", depth);
                let (yes_type, no_type) = (self.of(yes, depth), self.of(no, depth));
                return match (yes_type?, no_type?) {
                    (Type::Object(_) | Type::Labels, _) => {
                        self.wrong(node, "? : gives a value, and this has fields; write them out")
                    }
                    (yes, no) if yes == no => Some(yes),
                    (yes, no) if yes.is_text() && no.is_text() => Some(Type::Text),
                    (yes, no) => {
                        self.wrong(node, format!("? : gives {} or {}; both sides are of one kind", yes.name(), no.name()))
                    }
                };
            }
            _ => {}
        }
        self.function(node, call, depth)
    }

    fn function(&mut self, node: &IdedExpr, call: &CallExpr, depth: usize) -> Checked {
        let name = call.func_name.as_str();
        let known = FUNCTIONS.contains(&name) || [LOGICAL_NOT, NEGATE].contains(&name);
        if !known {
            return self.wrong(node, unknown_function(name));
        }
        let target = match &call.target {
            Some(target) => Some(self.of(target, depth)?),
            None => None,
        };
        let mut arguments = Vec::new();
        for argument in &call.args {
            arguments.push(self.of(argument, depth)?);
        }
        let text = |found: Option<Type>| found.is_some_and(Type::is_text);
        let sized = |found: Type| found.is_text() || found.item().is_some();
        let usage = match (name, arguments.as_slice()) {
            ("not" | LOGICAL_NOT, [Type::Bool]) if target.is_none() => return Some(Type::Bool),
            (NEGATE, [number]) if number.is_number() => return Some(*number),
            ("contains" | "startsWith" | "endsWith", [found]) if text(target) && found.is_text() => return Some(Type::Bool),
            ("lowerAscii", []) if text(target) => return Some(Type::Text),
            ("size", [found]) if target.is_none() && sized(*found) => return Some(Type::Int),
            ("size", []) if target.is_some_and(sized) => return Some(Type::Int),
            ("int", [found]) if target.is_none() && (found.is_text() || found.is_number()) => return Some(Type::Int),
            ("string", [found]) if target.is_none() && (found.is_text() || found.is_number() || *found == Type::Bool) => {
                return Some(Type::Text);
            }
            ("not" | LOGICAL_NOT, _) => "not(x) takes one truth value".to_owned(),
            (NEGATE, _) => "- takes a number".to_owned(),
            ("contains" | "startsWith" | "endsWith", _) => format!("{name} is asked of text and takes text: x.{name}(\"…\")"),
            ("lowerAscii", _) => "lowerAscii is asked of text: x.lowerAscii()".to_owned(),
            ("size", _) => "size is asked of text or a list: x.size()".to_owned(),
            ("int" | "string", _) => format!("{name}(x) takes one value"),
            _ => format!("{name} is asked of a list: x.{name}(item, condition)"),
        };
        self.wrong(node, usage)
    }

    /// `exists`, `all`, `exists_one`. One inside another would take time that grows with the square of what a sender sends.
    fn walk(&mut self, list: &IdedExpr, variable: &IdedExpr, condition: &IdedExpr, depth: usize) -> Checked {
        if self.bound.is_some() {
            return self.wrong(list, "exists and all do not stand inside each other; split the rule in two");
        }
        let found = self.of(list, depth)?;
        let Some(item) = found.item() else {
            return self.wrong(list, format!("exists and all walk a list, and this is {}", found.name()));
        };
        let name = match &variable.expr {
            Expr::Ident(name) if !VARIABLES.iter().any(|(taken, _)| taken == name) => name.clone(),
            _ => return self.wrong(variable, "the first argument is a name for one entry, as x, and no variable that is taken"),
        };
        self.bound = Some((name, item));
        let held = self.wants(condition, Type::Bool, "the second argument", depth);
        self.bound = None;
        held
    }

    /// None where `name` is no operator between two.
    fn binary(&mut self, node: &IdedExpr, name: &str, left: &IdedExpr, right: &IdedExpr, depth: usize) -> Option<Checked> {
        if [LOGICAL_AND, LOGICAL_OR].contains(&name) {
            let sign = if name == LOGICAL_AND { "&&" } else { "||" };
            let (l, r) = (self.wants(left, Type::Bool, sign, depth), self.wants(right, Type::Bool, sign, depth));
            return Some(l.and(r));
        }
        const ORDER: [&str; 4] = [LESS, LESS_EQUALS, GREATER, GREATER_EQUALS];
        const SUMS: [&str; 5] = [ADD, SUBSTRACT, MULTIPLY, DIVIDE, MODULO];
        let operator = [EQUALS, NOT_EQUALS, IN, INDEX].contains(&name) || ORDER.contains(&name) || SUMS.contains(&name);
        if !operator {
            return None;
        }
        let (l, r) = match (self.of(left, depth), self.of(right, depth)) {
            (Some(l), Some(r)) => (l, r),
            _ => return Some(None),
        };
        Some(match name {
            EQUALS | NOT_EQUALS => self.equal(node, (left, l), (right, r)),
            IN => self.within(node, (left, l), (right, r)),
            INDEX => match (l, r) {
                (Type::Labels, key) if key.is_text() => {
                    self.mention(right, Mentioned::Label);
                    Some(Type::Text)
                }
                (list, Type::Int) if list.item().is_some() => list.item(),
                _ => self.wrong(node, format!("{} in [ ] does not fit {}", r.name(), l.name())),
            },
            _ if ORDER.contains(&name) => match (l, r) {
                (Type::Word(words), _) | (_, Type::Word(words)) => {
                    let hint =
                        if words.contains(&"critical") { "detection.severity_rank >= 4 (0 unknown to 5 critical)" } else { "==" };
                    self.wrong(node, format!("these words would be compared by the alphabet; write {hint}"))
                }
                _ if (l.is_number() && r.is_number()) || (l == Type::Text && r == Type::Text) => Some(Type::Bool),
                _ => self.wrong(node, format!("{} cannot be compared with {}", l.name(), r.name())),
            },
            _ => match (l, r) {
                _ if name == ADD && l.is_text() && r.is_text() => Some(Type::Text),
                (Type::Double, Type::Double) if name != MODULO => Some(Type::Double),
                (Type::Int, Type::Int) => Some(Type::Int),
                _ => self.wrong(node, format!("{} and {} cannot be reckoned together", l.name(), r.name())),
            },
        })
    }

    fn equal(&mut self, node: &IdedExpr, left: (&IdedExpr, Type), right: (&IdedExpr, Type)) -> Checked {
        if !left.1.compares_with(right.1) {
            return self.wrong(node, format!("{} never equals {}", left.1.name(), right.1.name()));
        }
        for (word, literal) in [(left.1, right.0), (right.1, left.0)] {
            self.known_word(word, literal)?;
        }
        for (sender, literal) in [(left.0, right.0), (right.0, left.0)] {
            self.compared(sender, literal);
        }
        Some(Type::Bool)
    }

    fn within(&mut self, node: &IdedExpr, left: (&IdedExpr, Type), right: (&IdedExpr, Type)) -> Checked {
        let fits = match right.1 {
            Type::Labels => left.1.is_text(),
            list => list.item().is_some_and(|item| item.compares_with(left.1)),
        };
        if !fits {
            return self.wrong(node, format!("{} is never in {}", left.1.name(), right.1.name()));
        }
        if let Expr::List(list) = &right.0.expr {
            for item in &list.elements {
                self.known_word(left.1, item)?;
                self.compared(left.0, item);
            }
        }
        match (right.1, &right.0.expr) {
            (Type::Labels, _) => self.mention(left.0, Mentioned::Label),
            (_, Expr::Select(select)) if select.field == "roles" => self.mention(left.0, Mentioned::Role),
            (_, Expr::Select(select)) if select.field == "groups" => self.group(left.0)?,
            _ => {}
        }
        Some(Type::Bool)
    }

    /// A text with which `source` is compared.
    fn compared(&mut self, sender: &IdedExpr, literal: &IdedExpr) {
        if matches!(&sender.expr, Expr::Ident(name) if name == "source") {
            self.mention(literal, Mentioned::Source);
        }
    }

    /// A name with which groups are compared, and that is none, would never be found.
    fn group(&mut self, literal: &IdedExpr) -> Option<()> {
        if let (Expr::Literal(LiteralValue::String(written)), Some(known)) = (&literal.expr, self.sees.groups())
            && !known.iter().any(|known| known == written.inner())
        {
            self.wrong(literal, no_group(written.inner(), known))?;
        }
        Some(())
    }

    fn mention(&mut self, literal: &IdedExpr, what: Mentioned) {
        if let Expr::Literal(LiteralValue::String(written)) = &literal.expr {
            self.mentions.push((literal.id, what, written.inner().to_owned()));
        }
    }

    /// A word that is none of the vocabulary would never be found.
    fn known_word(&mut self, word: Type, literal: &IdedExpr) -> Checked {
        if let (Type::Word(words), Expr::Literal(LiteralValue::String(written))) = (word, &literal.expr)
            && !words.contains(&written.inner())
        {
            let hint = did_you_mean(written.inner(), words.iter().copied());
            return self
                .wrong(literal, format!("{} is none of {}{hint}", quoted(written.inner()), one_of(words.iter().copied())));
        }
        Some(Type::Bool)
    }

    fn wants(&mut self, node: &IdedExpr, wanted: Type, what: &str, depth: usize) -> Checked {
        match self.of(node, depth)? {
            found if found == wanted => Some(found),
            found => self.wrong(node, format!("{what} wants {}, and this is {}", wanted.name(), found.name())),
        }
    }
}

fn unknown_function(name: &str) -> String {
    match name {
        "has" => "has() is not needed: absent text is \"\", absent confidence is 0 with has_confidence false; for labels write \"x\" in host.label".into(),
        "matches" => "regular expressions are not taken; write startsWith, endsWith, contains, or a match with *".into(),
        "map" | "filter" => format!("{name} is not taken; write exists or all"),
        _ => {
            let hint = did_you_mean(name, FUNCTIONS);
            format!("there is no function {}{hint} (there are {})", quoted(name), one_of(FUNCTIONS))
        }
    }
}
