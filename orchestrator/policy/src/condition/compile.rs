//! From the tree of a checked expression to what is evaluated.

use cel::IdedExpr;
use cel::common::ast::operators::{
    ADD, CONDITIONAL, DIVIDE, EQUALS, GREATER, GREATER_EQUALS, IN, INDEX, LESS, LESS_EQUALS, LOGICAL_AND, LOGICAL_NOT,
    LOGICAL_OR, MODULO, MULTIPLY, NEGATE, NOT_EQUALS, SUBSTRACT,
};
use cel::common::ast::{CallExpr, Expr, LiteralValue};

use super::fields::PATHS;
use super::program::{Find, Node, Order, Walk};
use super::value::Sum;

/// None for what the check refuses.
pub(super) fn compile(expression: &IdedExpr) -> Option<Node> {
    node(expression, None)
}

/// `item` is the name of the entry that is walked.
fn node(expression: &IdedExpr, item: Option<&str>) -> Option<Node> {
    Some(match &expression.expr {
        Expr::Literal(LiteralValue::Boolean(value)) => Node::Bool(*value.inner()),
        Expr::Literal(LiteralValue::Int(value)) => Node::Int(*value.inner()),
        Expr::Literal(LiteralValue::Double(value)) => Node::Double(*value.inner()),
        Expr::Literal(LiteralValue::String(value)) => Node::Text(value.inner().to_owned()),
        Expr::Ident(name) if item == Some(name.as_str()) => Node::Item,
        Expr::Ident(name) => field(name)?,
        Expr::Select(select) => match path(&select.operand).as_deref() {
            Some("host.label") => Node::Label(Box::new(Node::Text(select.field.clone()))),
            Some(path) => field(&format!("{path}.{}", select.field))?,
            None => return None,
        },
        Expr::List(list) => Node::List(list.elements.iter().map(|element| node(element, item)).collect::<Option<_>>()?),
        Expr::Call(call) => self::call(call, item)?,
        _ => return None,
    })
}

fn field(path: &str) -> Option<Node> {
    PATHS.iter().find(|(known, _)| *known == path).map(|(_, field)| Node::Field(*field))
}

/// `detection.rule` of names with dots between them.
fn path(expression: &IdedExpr) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) => Some(format!("{}.{}", path(&select.operand)?, select.field)),
        _ => None,
    }
}

fn call(call: &CallExpr, item: Option<&str>) -> Option<Node> {
    let name = call.func_name.as_str();
    let one = |expression: &IdedExpr| node(expression, item).map(Box::new);
    let two = |left: &IdedExpr, right: &IdedExpr| Some(Box::new([node(left, item)?, node(right, item)?]));
    Some(match (name, call.target.as_deref(), call.args.as_slice()) {
        ("exists", Some(list), [variable, body]) => Node::Walk(Walk::Exists, walked(list, variable, body)?),
        ("all", Some(list), [variable, body]) => Node::Walk(Walk::All, walked(list, variable, body)?),
        ("exists_one", Some(list), [variable, body]) => Node::Walk(Walk::ExistsOne, walked(list, variable, body)?),
        (CONDITIONAL, None, [condition, yes, no]) => {
            Node::If(Box::new([node(condition, item)?, node(yes, item)?, node(no, item)?]))
        }
        (LOGICAL_AND, None, [left, right]) => Node::And(two(left, right)?),
        (LOGICAL_OR, None, [left, right]) => Node::Or(two(left, right)?),
        (EQUALS, None, [left, right]) => Node::Equal(true, two(left, right)?),
        (NOT_EQUALS, None, [left, right]) => Node::Equal(false, two(left, right)?),
        (LESS, None, [left, right]) => Node::Order(Order::Less, two(left, right)?),
        (LESS_EQUALS, None, [left, right]) => Node::Order(Order::AtMost, two(left, right)?),
        (GREATER, None, [left, right]) => Node::Order(Order::Greater, two(left, right)?),
        (GREATER_EQUALS, None, [left, right]) => Node::Order(Order::AtLeast, two(left, right)?),
        (ADD, None, [left, right]) => Node::Sum(Sum::Add, two(left, right)?),
        (SUBSTRACT, None, [left, right]) => Node::Sum(Sum::Subtract, two(left, right)?),
        (MULTIPLY, None, [left, right]) => Node::Sum(Sum::Multiply, two(left, right)?),
        (DIVIDE, None, [left, right]) => Node::Sum(Sum::Divide, two(left, right)?),
        (MODULO, None, [left, right]) => Node::Sum(Sum::Modulo, two(left, right)?),
        (IN, None, [name, labels]) if path(labels).as_deref() == Some("host.label") => Node::HasLabel(one(name)?),
        (IN, None, [left, right]) => Node::In(two(left, right)?),
        (INDEX, None, [labels, name]) if path(labels).as_deref() == Some("host.label") => Node::Label(one(name)?),
        (INDEX, None, [list, at]) => Node::Index(two(list, at)?),
        (LOGICAL_NOT | "not", None, [argument]) => Node::Not(one(argument)?),
        (NEGATE, None, [argument]) => Node::Negate(one(argument)?),
        ("contains", Some(text), [part]) => Node::Find(Find::Contains, two(text, part)?),
        ("startsWith", Some(text), [part]) => Node::Find(Find::Starts, two(text, part)?),
        ("endsWith", Some(text), [part]) => Node::Find(Find::Ends, two(text, part)?),
        ("lowerAscii", Some(text), []) => Node::Lower(one(text)?),
        ("size", Some(sized), []) | ("size", None, [sized]) => Node::Size(one(sized)?),
        ("int", None, [value]) => Node::ToInt(one(value)?),
        ("string", None, [value]) => Node::ToText(one(value)?),
        _ => return None,
    })
}

fn walked(list: &IdedExpr, variable: &IdedExpr, body: &IdedExpr) -> Option<Box<[Node; 2]>> {
    let Expr::Ident(name) = &variable.expr else { return None };
    Some(Box::new([node(list, None)?, node(body, Some(name))?]))
}
