//! Values of an expression: text is borrowed from the subject wherever it can be.

use std::borrow::Cow;
use std::cmp::Ordering;

#[derive(Clone, Debug)]
pub(super) enum Value<'e> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Cow<'e, str>),
    Items(Items<'e>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Sum {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Clone, Debug)]
pub(super) enum Items<'e> {
    /// As the subject has them.
    Texts(&'e [String]),
    Names(Vec<&'e str>),
    Values(Vec<Value<'e>>),
}

impl<'e> Value<'e> {
    pub fn text_of(text: &'e str) -> Self {
        Value::Text(Cow::Borrowed(text))
    }

    pub fn owned(text: String) -> Self {
        Value::Text(Cow::Owned(text))
    }

    pub fn text(&self) -> &str {
        if let Value::Text(text) = self { text } else { "" }
    }

    pub fn int(&self) -> Option<i64> {
        if let Value::Int(value) = self { Some(*value) } else { None }
    }

    pub fn items(&self) -> Option<&Items<'e>> {
        if let Value::Items(items) = self { Some(items) } else { None }
    }

    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Bool(left), Value::Bool(right)) => left == right,
            (Value::Items(left), Value::Items(right)) => {
                left.len() == right.len()
                    && (0..left.len()).all(|at| match (left.at(at), right.at(at)) {
                        (Some(left), Some(right)) => left.equals(&right),
                        _ => false,
                    })
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// Numbers by their size, text by its characters.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(left), Value::Int(right)) => Some(left.cmp(right)),
            (Value::Text(left), Value::Text(right)) => Some(left.cmp(right)),
            (Value::Double(left), Value::Double(right)) => left.partial_cmp(right),
            (Value::Int(left), Value::Double(right)) => (*left as f64).partial_cmp(right),
            (Value::Double(left), Value::Int(right)) => left.partial_cmp(&(*right as f64)),
            _ => None,
        }
    }

    /// As `string()` writes it.
    pub fn written(&self) -> String {
        match self {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Double(value) => value.to_string(),
            other => other.text().to_owned(),
        }
    }
}

impl<'e> Items<'e> {
    pub fn len(&self) -> usize {
        match self {
            Items::Texts(texts) => texts.len(),
            Items::Names(names) => names.len(),
            Items::Values(values) => values.len(),
        }
    }

    pub fn at(&self, at: usize) -> Option<Value<'e>> {
        match self {
            Items::Texts(texts) => texts.get(at).map(|text| Value::text_of(text)),
            Items::Names(names) => names.get(at).copied().map(Value::text_of),
            Items::Values(values) => values.get(at).cloned(),
        }
    }

    pub fn contains(&self, wanted: &Value<'_>) -> bool {
        match self {
            Items::Texts(texts) => texts.iter().any(|text| text == wanted.text()),
            Items::Names(names) => names.contains(&wanted.text()),
            Items::Values(values) => values.iter().any(|value| value.equals(wanted)),
        }
    }
}

pub(super) fn sum<'e>(sum: Sum, left: Value<'e>, right: Value<'e>) -> Result<Value<'e>, String> {
    Ok(match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            let found = match sum {
                Sum::Add => left.checked_add(right),
                Sum::Subtract => left.checked_sub(right),
                Sum::Multiply => left.checked_mul(right),
                Sum::Divide | Sum::Modulo if right == 0 => return Err("division by zero".to_owned()),
                Sum::Divide => left.checked_div(right),
                Sum::Modulo => left.checked_rem(right),
            };
            Value::Int(found.ok_or_else(overflow)?)
        }
        (Value::Double(left), Value::Double(right)) => Value::Double(match sum {
            Sum::Add => left + right,
            Sum::Subtract => left - right,
            Sum::Multiply => left * right,
            Sum::Divide => left / right,
            Sum::Modulo => left % right,
        }),
        (left, right) => Value::owned([left.text(), right.text()].concat()),
    })
}

pub(super) fn to_int<'e>(value: &Value<'_>) -> Result<Value<'e>, String> {
    let found = match value {
        Value::Int(value) => Some(*value),
        // Both bounds are outside.
        Value::Double(value) => (*value > i64::MIN as f64 && *value < i64::MAX as f64).then_some(*value as i64),
        other => {
            let text = other.text();
            return text.parse().map(Value::Int).map_err(|_| format!("int(): {text:?} is no whole number"));
        }
    };
    found.map(Value::Int).ok_or_else(overflow)
}

pub(super) fn overflow() -> String {
    "a number is out of range".to_owned()
}
