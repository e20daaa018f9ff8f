//! A checked expression made ready: names are looked up once, when the policy is read, and evaluation copies no text.

use std::cmp::Ordering;

use super::fields::{Field, List, Scalar};
use super::value::{Items, Sum, Value, overflow, sum, to_int};
use crate::view::{Held, View};

/// One node; the check has seen to it that it meets no value of another type than it takes.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    List(Vec<Node>),
    /// The entry that an `exists` or `all` is at.
    Item,
    Field(Field),
    /// A label by its name; absent ones are "".
    Label(Box<Node>),
    HasLabel(Box<Node>),
    Index(Box<[Node; 2]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// Whatever one side decides counts, also where the other one fails.
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    If(Box<[Node; 3]>),
    Equal(bool, Box<[Node; 2]>),
    Order(Order, Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    Sum(Sum, Box<[Node; 2]>),
    Find(Find, Box<[Node; 2]>),
    Lower(Box<Node>),
    Size(Box<Node>),
    ToInt(Box<Node>),
    ToText(Box<Node>),
    Walk(Walk, Box<[Node; 2]>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Find {
    Contains,
    Starts,
    Ends,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Walk {
    Exists,
    All,
    ExistsOne,
}

/// What an expression is evaluated on.
#[derive(Clone, Copy)]
struct Scope<'e> {
    view: &'e View<'e>,
    item: Option<&'e Value<'e>>,
}

impl Node {
    /// Whether the whole holds.
    pub fn holds(&self, view: &View<'_>) -> Held {
        self.truth(Scope { view, item: None })
    }

    fn truth(&self, scope: Scope<'_>) -> Held {
        match self {
            Node::Bool(value) => Ok(*value),
            Node::Not(inner) => inner.truth(scope).map(|value| !value),
            Node::And(sides) => decided(sides, false, scope),
            Node::Or(sides) => decided(sides, true, scope),
            Node::Equal(wanted, sides) => {
                let (left, right) = both(sides, scope)?;
                Ok(left.equals(&right) == *wanted)
            }
            Node::Order(order, sides) => {
                let (left, right) = both(sides, scope)?;
                let found = left.compare(&right).ok_or_else(|| "values that cannot be compared".to_owned())?;
                Ok(match order {
                    Order::Less => found == Ordering::Less,
                    Order::AtMost => found != Ordering::Greater,
                    Order::Greater => found == Ordering::Greater,
                    Order::AtLeast => found != Ordering::Less,
                })
            }
            Node::In(sides) => {
                let (item, list) = both(sides, scope)?;
                Ok(list.items().is_some_and(|items| items.contains(&item)))
            }
            Node::HasLabel(name) => Ok(scope.view.host.labels.contains_key(name.value(scope)?.text())),
            Node::Find(find, sides) => {
                let (text, part) = both(sides, scope)?;
                let (text, part) = (text.text(), part.text());
                Ok(match find {
                    Find::Contains => text.contains(part),
                    Find::Starts => text.starts_with(part),
                    Find::Ends => text.ends_with(part),
                })
            }
            Node::Walk(walk, parts) => self::walk(*walk, parts, scope),
            Node::If(parts) => {
                let [condition, yes, no] = &**parts;
                if condition.truth(scope)? { yes.truth(scope) } else { no.truth(scope) }
            }
            Node::Field(Field::Scalar(Scalar::HasConfidence)) | Node::Item => match self.value(scope)? {
                Value::Bool(value) => Ok(value),
                _ => Err(NO_TRUTH.to_owned()),
            },
            _ => Err(NO_TRUTH.to_owned()),
        }
    }

    fn value<'e>(&'e self, scope: Scope<'e>) -> Result<Value<'e>, String> {
        Ok(match self {
            Node::Int(value) => Value::Int(*value),
            Node::Double(value) => Value::Double(*value),
            Node::Text(text) => Value::text_of(text),
            Node::List(nodes) => {
                let items: Result<Vec<Value<'e>>, String> = nodes.iter().map(|node| node.value(scope)).collect();
                Value::Items(Items::Values(items?))
            }
            Node::Item => scope.item.cloned().ok_or_else(|| "no entry".to_owned())?,
            Node::Field(Field::Scalar(scalar)) => scalar.of(scope.view),
            Node::Field(Field::List(list)) => Value::Items(list.of(scope.view)?),
            Node::Label(name) => {
                let name = name.value(scope)?;
                Value::text_of(scope.view.host.labels.get(name.text()).map_or("", String::as_str))
            }
            Node::Index(sides) => {
                let (list, at) = both(sides, scope)?;
                let found = list.items().zip(at.int()).and_then(|(items, at)| items.at(usize::try_from(at).ok()?));
                found.ok_or_else(|| format!("the list has no entry {}", at.int().unwrap_or_default()))?
            }
            Node::Negate(inner) => match inner.value(scope)? {
                Value::Int(value) => Value::Int(value.checked_neg().ok_or_else(overflow)?),
                Value::Double(value) => Value::Double(-value),
                other => other,
            },
            Node::If(parts) => {
                let [condition, yes, no] = &**parts;
                if condition.truth(scope)? { yes.value(scope)? } else { no.value(scope)? }
            }
            Node::Sum(sum, sides) => {
                let (left, right) = both(sides, scope)?;
                self::sum(*sum, left, right)?
            }
            Node::Lower(text) => Value::owned(text.value(scope)?.text().to_ascii_lowercase()),
            Node::Size(inner) => {
                let value = inner.value(scope)?;
                let size = value.items().map_or_else(|| value.text().chars().count(), Items::len);
                Value::Int(i64::try_from(size).unwrap_or(i64::MAX))
            }
            Node::ToInt(inner) => to_int(&inner.value(scope)?)?,
            Node::ToText(inner) => Value::owned(inner.value(scope)?.written()),
            // The rest are truth values.
            _ => Value::Bool(self.truth(scope)?),
        })
    }
}

const NO_TRUTH: &str = "the condition is no truth value";

fn both<'e>(sides: &'e [Node; 2], scope: Scope<'e>) -> Result<(Value<'e>, Value<'e>), String> {
    Ok((sides[0].value(scope)?, sides[1].value(scope)?))
}

/// `&&` is decided by a side that is false, `||` by one that is true.
fn decided(sides: &[Node; 2], by: bool, scope: Scope<'_>) -> Held {
    let left = sides[0].truth(scope);
    if left == Ok(by) {
        return left;
    }
    match sides[1].truth(scope) {
        Ok(right) if right == by => Ok(by),
        Ok(_) => left,
        // Which of two errors is said does not matter.
        Err(message) => Err(message),
    }
}

fn walk(walk: Walk, parts: &[Node; 2], scope: Scope<'_>) -> Held {
    let list = parts[0].value(scope)?;
    let Some(items) = list.items() else { return Err(NO_TRUTH.to_owned()) };
    let mut failed = None;
    let mut count = 0;
    for at in 0..items.len() {
        let item = items.at(at);
        let held = parts[1].truth(Scope { item: item.as_ref(), ..scope });
        match (walk, held) {
            (Walk::Exists, Ok(true)) => return Ok(true),
            (Walk::All, Ok(false)) => return Ok(false),
            (Walk::ExistsOne, Ok(true)) => count += 1,
            (Walk::ExistsOne, Err(message)) => return Err(message),
            (_, Ok(_)) => {}
            (_, Err(message)) => failed = Some(message),
        }
    }
    match (failed, walk) {
        (Some(message), _) => Err(message),
        (None, Walk::Exists) => Ok(false),
        (None, Walk::All) => Ok(true),
        (None, Walk::ExistsOne) => Ok(count == 1),
    }
}

/// Lists of a subject that the expression looks at: their length is bounded before it is walked.
pub(super) fn lists(node: &Node, found: &mut Vec<List>) {
    match node {
        Node::Field(Field::List(list)) if !found.contains(list) => found.push(*list),
        Node::List(nodes) => nodes.iter().for_each(|node| lists(node, found)),
        Node::Label(inner)
        | Node::HasLabel(inner)
        | Node::Not(inner)
        | Node::Negate(inner)
        | Node::Lower(inner)
        | Node::Size(inner)
        | Node::ToInt(inner)
        | Node::ToText(inner) => lists(inner, found),
        Node::Index(both)
        | Node::And(both)
        | Node::Or(both)
        | Node::Equal(_, both)
        | Node::Order(_, both)
        | Node::In(both)
        | Node::Sum(_, both)
        | Node::Find(_, both)
        | Node::Walk(_, both) => both.iter().for_each(|node| lists(node, found)),
        Node::If(parts) => parts.iter().for_each(|node| lists(node, found)),
        Node::Bool(_) | Node::Int(_) | Node::Double(_) | Node::Text(_) | Node::Item | Node::Field(_) => {}
    }
}
