//! JSON Schemas of the events as sent, envelope and data in one, made from the types.
//!
//! A schema describes the form that Portcullis sends and that senders do best to send: structured, with JSON as `data`. Binary
//! mode and `data_base64` are read too. A list that may be absent may be null, and 90.0 is an integer. An event that fits can still be refused
//! where a rule has no words in JSON Schema (a duration over ten years, a member that appears twice). A detection is read beyond its schema:
//! what decides nothing may be anything.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::envelope::{MAX_KEY, MAX_TEXT};
use crate::events::{
    Decision, Detection, Hello, Inventory, Notice, Order, Page, Payload, PolicyActivated, ReleaseDue, Request, Rollcall, State,
    Term,
};

/// The name and the JSON Schema (draft 2020-12) of every event type. `schemas/json/<name>.v1.json` holds the same.
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        (Detection::NAME, of::<Detection>()),
        (Request::NAME, of::<Request>()),
        (ReleaseDue::NAME, of::<ReleaseDue>()),
        (Order::NAME, of::<Order>()),
        (Decision::NAME, of::<Decision>()),
        (Page::NAME, of::<Page>()),
        (Term::NAME, of::<Term>()),
        (PolicyActivated::NAME, of::<PolicyActivated>()),
        (State::NAME, of::<State>()),
        (Hello::NAME, of::<Hello>()),
        (Inventory::NAME, of::<Inventory>()),
        (Notice::NAME, of::<Notice>()),
        (Rollcall::NAME, of::<Rollcall>()),
    ]
}

/// The JSON Schema of one event type as it is sent: a CloudEvent in structured mode with JSON data.
///
/// It has no web address, so that nothing fetches it: its `$id` is `urn:portcullis:schema:<name>:v1`. Sources: CloudEvents 1.0.2,
/// sections 3.1 to 3.3; the limits are those of [`crate::envelope`].
pub fn of<T: Payload>() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let data = generator.subschema_for::<T>();
    let definitions = generator.take_definitions(true);
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:portcullis:schema:{}:v1", T::NAME),
        "title": T::TYPE,
        "type": "object",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {
            "specversion": { "const": "1.0" },
            "id": text(MAX_KEY, "Unique for its source. A retry has the same one."),
            "source": text(MAX_KEY, "Who sends it, in the sender's own words: a URI reference, as /elastic/siem."),
            "type": { "const": T::TYPE },
            "subject": optional(text(MAX_TEXT, "The host that it is about. For people and filters: the data counts.")),
            "time": optional(json!({ "type": "string", "format": "date-time", "description": "When it happened, by the sender's clock." })),
            "datacontenttype": optional(json!({
                "type": "string", "maxLength": MAX_TEXT,
                "pattern": format!("^ *{TOKEN}+/{TOKEN}+ *(;[^\\u0000-\\u001f\\u007f-\\u009f]*)?$"),
                "description": "application/json, which is also what absence means.",
            })),
            "dataschema": optional(json!({
                "type": "string", "maxLength": MAX_TEXT,
                "pattern": "^[A-Za-z][A-Za-z0-9+.-]*:[^\\u0000-\\u0020\\u007f-\\u009f]*$",
            })),
            "traceparent": optional(text(MAX_TEXT, "W3C trace context of the first cause, carried to the last state event.")),
            "correlationid": optional(text(MAX_TEXT, "The incident.")),
            "causationid": optional(text(MAX_TEXT, "The id of the direct cause.")),
            "data": data,
        },
        // Extension attributes. Binary data has no place beside `data`, and its name no underscore that would let it in.
        "propertyNames": { "pattern": "^[a-z0-9]+$" },
        "additionalProperties": {
            "type": ["string", "boolean", "integer", "null"],
            "minLength": 1, "maxLength": MAX_TEXT,
            "minimum": i32::MIN, "maximum": i32::MAX,
        },
        "$defs": definitions,
    });
    bound(&mut schema);
    schema
}

/// A character of a media type's two words (RFC 2045, section 5.1).
const TOKEN: &str = "[!#$%&'*+.0-9A-Z^_`a-z{|}~-]";

/// Integers end where their types do.
fn bound(schema: &mut Value) {
    const FORMATS: [(&str, u64); 5] = [
        ("uint8", u8::MAX as u64),
        ("uint16", u16::MAX as u64),
        ("uint32", u32::MAX as u64),
        ("uint64", u64::MAX),
        ("int64", i64::MAX as u64),
    ];
    match schema {
        Value::Object(members) => {
            let format = members.get("format").and_then(Value::as_str).map(str::to_owned);
            let most = FORMATS.iter().find(|(name, _)| format.as_deref() == Some(*name));
            if let Some((_, most)) = most {
                members.entry("maximum").or_insert_with(|| (*most).into());
            }
            members.values_mut().for_each(bound);
        }
        Value::Array(items) => items.iter_mut().for_each(bound),
        _ => {}
    }
}

/// Lengths are in characters here and in bytes in the code, which is the stricter one.
fn text(most: usize, description: &str) -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": most,
        "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        "description": description,
    })
}

/// Null says the same as absent (CloudEvents JSON format 1.0.2, section 2.2).
fn optional(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

#[cfg(test)]
pub(crate) mod tests;
