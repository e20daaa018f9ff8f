//! The sender's own record, which is carried and not read.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// JSON as its sender wrote it: members twice, numbers of any size, nesting of any depth. What is no JSON is kept as text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Raw(Box<RawValue>);

impl Raw {
    /// Takes the bytes of a value. Bytes that are not UTF-8 become U+FFFD, since no JSON can hold them.
    pub fn new(value: &[u8]) -> Self {
        let text = String::from_utf8_lossy(value);
        let raw = RawValue::from_string(text.clone().into_owned()).or_else(|_| to_raw_value(&text));
        Self(raw.unwrap_or_default())
    }

    /// The JSON text.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl JsonSchema for Raw {
    fn schema_name() -> Cow<'static, str> {
        "Raw".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::default()
    }
}
