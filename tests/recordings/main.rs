//! Recorded streams and posture files of each version, which later versions read to the same values.
//!
//! `PORTCULLIS_RECORD=1 cargo test -p portcullis-tests --test recordings` plays the flow in `record.rs` with real programs and writes
//! `tests/recordings/<version>/` anew. Record once when a version is released; a recording of a released version is never changed.

// A test may panic: that is how it fails.
#![allow(clippy::unwrap_used)]

mod record;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use portcullis_agent_core::record as posture;
use portcullis_schemas::envelope;
use portcullis_schemas::events::{
    Decision, Detection, Hello, Inventory, Notice, Order, Page, Payload, PolicyActivated, Posture, ReleaseDue, Request, Rollcall,
    State, Term,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One message as the broker had it.
#[derive(Serialize, Deserialize)]
pub struct Message {
    pub subject: String,
    pub headers: Vec<(String, String)>,
    /// The raw body, which is text.
    pub body: String,
}

/// Reads a body as its type, and gives its data as this version writes it.
type Read = fn(&Message) -> Result<Value, String>;

/// Every type on the wire.
const TYPES: [(&str, Read); 14] = [
    (Decision::TYPE, data::<Decision>),
    (Detection::TYPE, data::<Detection>),
    (Hello::TYPE, data::<Hello>),
    (Inventory::TYPE, data::<Inventory>),
    (Notice::TYPE, data::<Notice>),
    (Order::TYPE, data::<Order>),
    (Page::TYPE, data::<Page>),
    (PolicyActivated::TYPE, data::<PolicyActivated>),
    (ReleaseDue::TYPE, data::<ReleaseDue>),
    (Request::TYPE, data::<Request>),
    (Rollcall::TYPE, data::<Rollcall>),
    (State::TYPE, data::<State>),
    (Term::TYPE, data::<Term>),
    // Rejected messages are no events: their body is what came.
    (REJECTED, |_| Ok(Value::Null)),
];
const REJECTED: &str = "rejected";
/// Posture files of every version.
const POSTURES: [&str; 3] = ["isolated", "open", "opened"];

fn data<T: Payload>(message: &Message) -> Result<Value, String> {
    let headers = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let event = envelope::decode::<T>(headers, message.body.as_bytes()).map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(&event.data).unwrap())
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings")
}

/// Of a recorded message: its event type.
pub fn type_of(message: &Message) -> String {
    let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
    match message.subject.split('.').nth(1) {
        Some("rejected") => REJECTED.to_owned(),
        _ => body["type"].as_str().unwrap_or_default().to_owned(),
    }
}

#[test]
fn each_version_has_every_type_and_posture() {
    let versions = versions();
    assert!(versions.iter().any(|version| version.ends_with(env!("CARGO_PKG_VERSION"))), "record this version");
    for version in versions {
        let found: BTreeSet<String> = messages(&version).iter().map(|(_, message)| type_of(message)).collect();
        // A type that came later is not in what was recorded before.
        if version.ends_with(env!("CARGO_PKG_VERSION")) {
            let missing: Vec<&str> = TYPES.iter().map(|(ty, _)| *ty).filter(|ty| !found.contains(*ty)).collect();
            assert!(missing.is_empty(), "{}: no {missing:?}", version.display());
        }
        for posture in POSTURES {
            assert!(version.join(format!("{posture}.posture")).exists(), "{}: no {posture}.posture", version.display());
        }
    }
}

#[test]
fn recorded_events_are_read_to_the_values_that_were_written() {
    for version in versions() {
        for (file, message) in messages(&version) {
            let ty = type_of(&message);
            let (_, read) = TYPES.iter().find(|(known, _)| *known == ty).unwrap_or_else(|| panic!("{}: {ty}", file.display()));
            let read = read(&message).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let written: Value = serde_json::from_str(&message.body).unwrap_or_default();
            let lost = if ty == REJECTED { Vec::new() } else { lost(&written["data"], &read, "") };
            assert!(lost.is_empty(), "{}: {lost:?} read otherwise than written", file.display());
        }
    }
}

#[test]
fn recorded_posture_files_are_read_to_the_values_that_were_written() {
    for version in versions() {
        for name in POSTURES {
            let file = std::fs::read(version.join(format!("{name}.posture"))).unwrap();
            let record = posture::decode(&file).unwrap_or_else(|error| panic!("{}: {name}: {error}", version.display()));
            let body = file.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let written: Value = serde_json::from_slice(&file[body..]).unwrap();
            let lost = lost(&written, &serde_json::to_value(&record).unwrap(), "");
            assert!(lost.is_empty(), "{}: {name}: {lost:?} read otherwise than written", version.display());
            let expected = if name == "isolated" { Posture::Isolated } else { Posture::Open };
            assert_eq!((record.posture, record.opened.is_some()), (expected, name == "opened"), "{name}");
        }
    }
}

#[test]
fn what_is_lost_or_changed_is_found() {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let written = json(r#"{"a":1,"b":{"c":[1,{"d":2}]},"e":null}"#);
    assert_eq!(lost(&written, &json(r#"{"a":1,"b":{"c":[1,{"d":2,"new":3}]},"later":4}"#), ""), Vec::<String>::new());
    assert_eq!(lost(&written, &json(r#"{"a":2,"b":{"c":[1,{}]}}"#), ""), [".a", ".b.c.1.d"]);
    assert_eq!(lost(&written, &json(r#"{"a":1,"b":{"c":[1]}}"#), ""), [".b.c"]);
}

/// Paths of what was written and is not read, or otherwise. What only a later version has is nothing lost; absent and null are the same.
fn lost(written: &Value, read: &Value, path: &str) -> Vec<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written
            .iter()
            .flat_map(|(name, value)| lost(value, read.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}")))
            .collect(),
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => written
            .iter()
            .zip(read)
            .enumerate()
            .flat_map(|(place, (written, read))| lost(written, read, &format!("{path}.{place}")))
            .collect(),
        _ if written == read => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

/// The folders of the recorded versions.
fn versions() -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.is_dir()).collect()
}

fn messages(version: &Path) -> Vec<(PathBuf, Message)> {
    let files = std::fs::read_dir(version).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let message = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            (path, message)
        })
        .collect()
}
