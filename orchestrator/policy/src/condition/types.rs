//! What an expression can name: the variables, their fields, and the types of these.

/// The type of an expression. There is none for "anything": what is checked here cannot be of another type later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Double,
    Text,
    /// Text out of a fixed vocabulary.
    Word(&'static [&'static str]),
    Texts,
    Ints,
    Labels,
    Object(&'static Object),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub name: &'static str,
    pub fields: &'static [(&'static str, Type)],
}

const SEVERITIES: [&str; 6] = ["unknown", "informational", "low", "medium", "high", "critical"];

const LEVELS: [&str; 4] = ["none", "inet", "partial", "full"];

/// The host comes first: where hosts alone are judged, there is nothing else.
pub(super) const VARIABLES: [(&str, Type); 4] =
    [("host", Type::Object(&HOST)), ("detection", Type::Object(&DETECTION)), ("source", Type::Text), ("now", Type::Text)];

static DETECTION: Object = Object {
    name: "detection",
    fields: &[
        ("severity", Type::Word(&SEVERITIES)),
        ("severity_rank", Type::Int),
        ("confidence", Type::Int),
        ("has_confidence", Type::Bool),
        ("rule", Type::Object(&RULE)),
        ("techniques", Type::Texts),
        ("product", Type::Text),
        ("indicator", Type::Object(&INDICATOR)),
        ("host", Type::Object(&CLAIM)),
        ("observed_at", Type::Text),
        // Seconds from there to the broker.
        ("age", Type::Int),
        ("incident", Type::Text),
        ("url", Type::Text),
        ("user", Type::Text),
        ("process", Type::Text),
        ("retracts", Type::Text),
    ],
};

static RULE: Object = Object { name: "detection.rule", fields: &[("id", Type::Text), ("name", Type::Text)] };

static INDICATOR: Object = Object { name: "detection.indicator", fields: &[("type", Type::Text), ("value", Type::Text)] };

static CLAIM: Object =
    Object { name: "detection.host", fields: &[("id", Type::Text), ("hostname", Type::Text), ("ips", Type::Texts)] };

static HOST: Object = Object {
    name: "host",
    fields: &[
        ("id", Type::Text),
        ("name", Type::Text),
        ("label", Type::Labels),
        ("roles", Type::Texts),
        ("groups", Type::Texts),
        ("level", Type::Word(&LEVELS)),
    ],
};

impl Type {
    pub fn is_text(self) -> bool {
        matches!(self, Type::Text | Type::Word(_))
    }

    pub fn is_number(self) -> bool {
        matches!(self, Type::Int | Type::Double)
    }

    /// Whether `==` between the two says something.
    pub fn compares_with(self, other: Type) -> bool {
        match (self, other) {
            (Type::Object(_) | Type::Labels, _) => false,
            (left, right) => left == right || (left.is_text() && right.is_text()) || (left.is_number() && right.is_number()),
        }
    }

    /// Of what a list of this type consists.
    pub fn item(self) -> Option<Type> {
        match self {
            Type::Texts => Some(Type::Text),
            Type::Ints => Some(Type::Int),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Type::Bool => "a truth value",
            Type::Int => "a whole number",
            Type::Double => "a number with a fraction",
            Type::Text | Type::Word(_) => "text",
            Type::Texts => "a list of text",
            Type::Ints => "a list of numbers",
            Type::Labels => "the labels",
            Type::Object(object) => object.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabularies_are_those_of_the_wire() {
        let read = |word: &str| serde_json::Value::String(word.to_owned());
        for severity in SEVERITIES {
            let parsed: portcullis_schemas::events::Severity = serde_json::from_value(read(severity)).unwrap();
            assert_eq!(parsed.as_str(), severity);
        }
        for level in LEVELS {
            let parsed: portcullis_schemas::events::Level = serde_json::from_value(read(level)).unwrap();
            assert_eq!(parsed.as_str(), level);
        }
    }
}
