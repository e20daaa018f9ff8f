//! The files in `json/` and `examples/` against the types.

mod agree;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::all;
use crate::envelope::{decode, encode};
use crate::events::{
    Decision, Detection, Hello, Inventory, Notice, Order, Page, Payload, PolicyActivated, ReleaseDue, Request, Rollcall, State,
    Term,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const REGENERATE: &str = "PORTCULLIS_UPDATE=1 cargo test -p portcullis-schemas";

#[test]
fn the_files_hold_what_the_types_say() {
    let folder = Path::new(ROOT).join("json");
    let wanted: BTreeMap<String, Value> = all().into_iter().map(|(name, schema)| (format!("{name}.v1.json"), schema)).collect();
    if std::env::var_os("PORTCULLIS_UPDATE").is_some() {
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        for (file, schema) in &wanted {
            let text = serde_json::to_string_pretty(schema).expect("a value is JSON");
            std::fs::write(folder.join(file), text + "\n").expect("the schema can be written");
        }
    }
    for (file, schema) in &wanted {
        let text = std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}; run {REGENERATE}"));
        let found: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}; run {REGENERATE}"));
        assert!(found == *schema, "json/{file} is not what the types say; run {REGENERATE}, and look at the difference");
    }
    let strays: Vec<String> =
        files(&folder).into_iter().map(|(file, _)| file).filter(|file| !wanted.contains_key(file)).collect();
    assert!(strays.is_empty(), "json/ holds schemas of no type: {strays:?}");
}

#[test]
fn every_schema_is_valid_and_named_after_its_type() {
    for (name, schema) in all() {
        jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(schema["$id"], format!("urn:portcullis:schema:{name}:v1"));
        assert_eq!(schema["title"], format!("io.portcullis.{name}.v1"));
        assert_eq!(schema["properties"]["type"]["const"], schema["title"]);
    }
}

#[test]
fn every_type_has_an_example_and_every_example_a_type() {
    let examples = examples();
    for (name, _) in all() {
        assert!(examples.iter().any(|example| example.file == format!("{name}.json")), "examples/{name}.json is missing");
    }
    for Example { file, name, .. } in &examples {
        let stem = file.strip_suffix(".json").expect("a JSON file");
        assert!(stem == name || stem.starts_with(&format!("{name}-")), "examples/{file} is a {name}");
    }
}

#[test]
fn every_example_fits_its_schema_and_survives_decoding_and_encoding() {
    let validators = validators();
    for Example { file, name, event } in examples() {
        let validator = &validators[name.as_str()];
        assert_eq!(faults(validator, &event), Vec::<String>::new(), "{file}");
        let body = event.to_string();
        let again: Value = match name.as_str() {
            "detection" => round_trip::<Detection>(&file, &body),
            "request" => round_trip::<Request>(&file, &body),
            "release-due" => round_trip::<ReleaseDue>(&file, &body),
            "order" => round_trip::<Order>(&file, &body),
            "decision" => round_trip::<Decision>(&file, &body),
            "decisions" => round_trip::<Page>(&file, &body),
            "term" => round_trip::<Term>(&file, &body),
            "policy-activated" => round_trip::<PolicyActivated>(&file, &body),
            "state" => round_trip::<State>(&file, &body),
            "hello" => round_trip::<Hello>(&file, &body),
            "inventory" => round_trip::<Inventory>(&file, &body),
            "notice" => round_trip::<Notice>(&file, &body),
            "rollcall" => round_trip::<Rollcall>(&file, &body),
            other => panic!("{file}: no type {other}"),
        };
        assert_eq!(faults(validator, &again), Vec::<String>::new(), "{file}, encoded again");
        if let Some(lost) = lost(&event, &again, "") {
            panic!("{file}: {lost} is not in the event encoded again: {again:#}");
        }
    }
}

#[test]
fn a_schema_refuses_what_its_example_must_not_become() {
    // The example, the member that is changed, and what stands there then; Null removes it.
    let cases: [(&str, &str, Value); 25] = [
        ("detection", "/specversion", json!("0.3")),
        ("detection", "/id", json!("")),
        ("detection", "/id", json!("a\u{0}b")),
        ("detection", "/source", Value::Null),
        ("detection", "/type", json!("io.portcullis.order.v1")),
        ("detection", "/time", json!("yesterday")),
        ("detection", "/Upper", json!("x")),
        ("detection", "/extension", json!([1])),
        ("detection", "/data", Value::Null),
        ("detection", "/data/host", json!({})),
        ("detection", "/data/host", json!({ "ips": [] })),
        ("detection", "/data/severity", json!("severe")),
        ("detection", "/data/confidence", json!(101)),
        ("detection", "/data/observed_at", json!(1_795_356_207)),
        ("request", "/data/action", json!("explode")),
        ("request", "/data/host", Value::Null),
        ("request", "/data/duration", json!("1h2d")),
        ("request", "/data/exclusions/0/group", json!("root")),
        ("order", "/data/generation", json!(0)),
        ("order", "/data/holds", json!([])),
        ("order", "/data/exclusions/0/remote", json!({ "cidrs": ["10.0.0.1"] })),
        ("decision", "/data/reason", json!({ "kind": "whim" })),
        ("state", "/data/host", json!("../etc")),
        ("hello", "/data/level", Value::Null),
        ("rollcall", "/data/after", json!(2)),
    ];
    let validators = validators();
    let examples = examples();
    for (name, pointer, value) in cases {
        let file = format!("{name}.json");
        let mut event = examples.iter().find(|example| example.file == file).expect("the example is there").event.clone();
        let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
        let parent = event.pointer_mut(parent).and_then(Value::as_object_mut).expect("the pointer leads into an object");
        match &value {
            Value::Null => assert!(parent.remove(member).is_some(), "{file} has no {pointer}"),
            value => drop(parent.insert(member.to_owned(), value.clone())),
        }
        assert_ne!(faults(&validators[name], &event), Vec::<String>::new(), "{file} with {value} at {pointer} was taken");
    }
}

#[test]
fn an_event_of_a_newer_version_with_unknown_members_is_taken() {
    let mut example = examples().into_iter().find(|example| example.file == "detection.json").expect("the example is there");
    example.event["futureattribute"] = json!(7);
    example.event["data"]["future"] = json!({ "a": 1 });
    assert_eq!(faults(&validators()["detection"], &example.event), Vec::<String>::new());
    assert!(decode::<Detection>(std::iter::empty(), example.event.to_string().as_bytes()).is_ok());
}

struct Example {
    file: String,
    /// The type's short name.
    name: String,
    event: Value,
}

fn examples() -> Vec<Example> {
    let read = |(file, path): (String, PathBuf)| {
        let text = std::fs::read_to_string(path).expect("the example can be read");
        let event: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("examples/{file}: {error}"));
        let name = event["type"].as_str().and_then(|ty| ty.strip_prefix("io.portcullis.")?.strip_suffix(".v1"));
        let name = name.unwrap_or_else(|| panic!("examples/{file} has no type of ours")).to_owned();
        Example { file, name, event }
    };
    files(&Path::new(ROOT).join("examples")).into_iter().map(read).collect()
}

fn files(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry of the folder"))
        .map(|entry| (entry.file_name().into_string().expect("a name in UTF-8"), entry.path()))
        .collect();
    files.sort();
    files
}

pub(crate) fn validators() -> BTreeMap<&'static str, Validator> {
    let compile = |schema: &Value| jsonschema::options().should_validate_formats(true).build(schema).expect("a valid schema");
    all().into_iter().map(|(name, schema)| (name, compile(&schema))).collect()
}

pub(crate) fn faults(validator: &Validator, event: &Value) -> Vec<String> {
    validator.iter_errors(event).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn round_trip<T: Payload + PartialEq + Debug>(file: &str, body: &str) -> Value {
    let event = decode::<T>(std::iter::empty(), body.as_bytes()).unwrap_or_else(|error| panic!("{file}: {error}"));
    let encoded = encode(&event).unwrap_or_else(|error| panic!("{file}: {error}"));
    let again = decode::<T>(std::iter::empty(), &encoded).unwrap_or_else(|error| panic!("{file}, encoded again: {error}"));
    assert_eq!(event, again, "{file}");
    serde_json::from_slice(&encoded).expect("what is encoded is JSON")
}

/// The first member of `wanted` that `found` lacks or has otherwise.
fn lost(wanted: &Value, found: &Value, path: &str) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().find_map(|(name, value)| match found.get(name) {
            Some(other) => lost(value, other, &format!("{path}.{name}")),
            None => Some(format!("{path}.{name}")),
        }),
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            wanted.iter().zip(found).enumerate().find_map(|(at, (a, b))| lost(a, b, &format!("{path}[{at}]")))
        }
        _ => (wanted != found).then(|| format!("{path} = {wanted}")),
    }
}
