//! Schema and reader agree: what fits is read. The other direction stands with the damaged examples in `envelope/tests/mutated.rs`.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::string::string_regex;
use proptest::test_runner::RngSeed;
use serde_json::{Map, Number, Value, json};

use super::{faults, validators};
use crate::envelope::{decode, detection};
use crate::events::{
    Decision, Detection, Hello, Inventory, Notice, Order, Payload, ReleaseDue, Request, Rollcall, Sighting, State,
};
use crate::schema::of;

/// What JSON Schema has no words for, the only grounds on which an event that fits may be refused: the vocabulary of exclusions (names of
/// protocols, which members go together; an effect is told as a whole, without the member in it), the length of a span, the time that an offset leads to.
const NO_WORDS_FOR: [&str; 5] = ["exclusions[", "effects[", "is no duration", "duration is zero", "is in the year"];

#[test]
fn numbers_and_nulls_that_the_schema_takes_are_read() {
    let example: Value = serde_json::from_str(include_str!("../../../examples/detection.json")).expect("an example");
    let text = example.to_string();
    for (was, is) in [
        ("\"confidence\":90", "\"confidence\":90.0"),
        ("\"confidence\":90", "\"confidence\":9e1"),
        ("\"confidence\":90", "\"confidence\":0.9E2"),
        ("\"confidence\":90", "\"confidence\":null"),
        ("\"techniques\":[\"T1486\",\"T1490\"]", "\"techniques\":null"),
        ("\"ips\":[\"10.0.3.17\",\"2001:db8:3::17\"]", "\"ips\":null"),
        ("\"time\":", "\"dataschema\":null,\"time\":"),
    ] {
        let body = text.replace(was, is);
        assert_ne!(body, text, "{was} stands in the example");
        let value: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(faults(&validators()["detection"], &value), Vec::<String>::new(), "{is}");
        let (event, faults) = detection(std::iter::empty(), body.as_bytes()).unwrap_or_else(|error| panic!("{is}: {error}"));
        assert!(matches!(&event.data, Sighting::Sound(_)) && faults.is_empty(), "{is}: {event:?} {faults:?}");
        if let Sighting::Sound(data) = event.data
            && was.contains("confidence")
        {
            assert_eq!(data.confidence, (!is.ends_with("null")).then_some(90), "{is}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, rng_seed: RngSeed::Fixed(0x9e37_79b9), ..ProptestConfig::default() })]

    #[test]
    fn every_detection_that_fits_is_read_without_a_fault((event, spelling) in (fitting::<Detection>(), any::<u64>())) {
        let body = spelt(&event, spelling);
        let (read, faults) = detection(std::iter::empty(), body.as_bytes())
            .map_err(|error| TestCaseError::fail(format!("{error}: {body}")))?;
        let data = match &read.data {
            Sighting::Sound(data) => data,
            // A year beyond 9999 in UTC has no words.
            Sighting::Doubtful(doubtful) if doubtful.problem.contains("is in the year") => return Ok(()),
            Sighting::Doubtful(doubtful) => return Err(TestCaseError::fail(format!("{doubtful:?}: {body}"))),
        };
        prop_assert!(faults.is_empty(), "{faults:?}: {body}");
        prop_assert_eq!(data.confidence.map(u64::from), event["data"]["confidence"].as_u64());
        prop_assert_eq!(data.severity.as_str(), event["data"]["severity"].as_str().unwrap_or_default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, rng_seed: RngSeed::Fixed(0x9e37_79b9), ..ProptestConfig::default() })]

    #[test]
    fn every_other_event_that_fits_is_read(
        request in fitting::<Request>(),
        due in fitting::<ReleaseDue>(),
        order in fitting::<Order>(),
        decision in fitting::<Decision>(),
        state in fitting::<State>(),
        hello in fitting::<Hello>(),
        inventory in fitting::<Inventory>(),
        notice in fitting::<Notice>(),
        rollcall in fitting::<Rollcall>(),
        spelling in any::<u64>(),
    ) {
        read::<Request>(&request, spelling)?;
        read::<ReleaseDue>(&due, spelling)?;
        read::<Order>(&order, spelling)?;
        read::<Decision>(&decision, spelling)?;
        read::<State>(&state, spelling)?;
        read::<Hello>(&hello, spelling)?;
        read::<Inventory>(&inventory, spelling)?;
        read::<Notice>(&notice, spelling)?;
        read::<Rollcall>(&rollcall, spelling)?;
    }
}

fn read<T: Payload>(event: &Value, spelling: u64) -> Result<(), TestCaseError> {
    let body = spelt(event, spelling);
    match decode::<T>(std::iter::empty(), body.as_bytes()) {
        Ok(_) => Ok(()),
        Err(error) if NO_WORDS_FOR.iter().any(|words| error.to_string().contains(words)) => Ok(()),
        Err(error) => Err(TestCaseError::fail(format!("{error}: {body}"))),
    }
}

/// Events that fit the schema of their type.
fn fitting<T: Payload>() -> BoxedStrategy<Value> {
    let schema = of::<T>();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).expect("a valid schema");
    shaped(&schema, &schema).prop_filter("fits its schema", move |event| validator.is_valid(event)).boxed()
}

/// Values of a schema's shape; what they must be together is not looked at.
fn shaped(schema: &Value, root: &Value) -> BoxedStrategy<Value> {
    let inner = |schema: &Value| shaped(schema, root);
    if let Some(path) = schema.get("$ref").and_then(Value::as_str) {
        return inner(root.pointer(path.trim_start_matches('#')).expect("a reference leads somewhere"));
    }
    if let Some(value) = schema.get("const") {
        return Just(value.clone()).boxed();
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return select(values.clone()).boxed();
    }
    if schema.get("properties").is_none()
        && let Some(choices) = schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array)
    {
        return proptest::strategy::Union::new(choices.iter().map(inner)).boxed();
    }
    match schema.get("type") {
        Some(Value::Array(types)) => {
            let one = |kind: &Value| {
                let mut schema = schema.clone();
                schema["type"] = kind.clone();
                inner(&schema)
            };
            proptest::strategy::Union::new(types.iter().map(one)).boxed()
        }
        Some(Value::String(kind)) => match kind.as_str() {
            "null" => Just(Value::Null).boxed(),
            "boolean" => any::<bool>().prop_map(Value::from).boxed(),
            "integer" => integer(schema),
            "string" => text(schema),
            "array" => {
                let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
                let most = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(3).min(3) as usize;
                proptest::collection::vec(inner(&schema["items"]), least..=most.max(least)).prop_map(Value::from).boxed()
            }
            "object" => object(schema, root),
            other => panic!("a schema has the type {other}"),
        },
        _ => anything(),
    }
}

fn object(schema: &Value, root: &Value) -> BoxedStrategy<Value> {
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut members: BoxedStrategy<Map<String, Value>> = Just(Map::new()).boxed();
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let value = shaped(property, root).prop_map(Some).boxed();
        let value = if required.contains(&json!(name)) { value } else { prop_oneof![Just(None), value].boxed() };
        let name = name.clone();
        members = (members, value)
            .prop_map(move |(mut members, value)| {
                members.extend(value.map(|value| (name.clone(), value)));
                members
            })
            .boxed();
    }
    if let Some(more @ Value::Object(_)) = schema.get("additionalProperties") {
        let more = proptest::collection::btree_map("[a-z0-9]{11,14}", shaped(more, root), 0..3);
        members = (members, more)
            .prop_map(|(mut members, more)| {
                members.extend(more);
                members
            })
            .boxed();
    }
    members.prop_map(Value::Object).boxed()
}

fn integer(schema: &Value) -> BoxedStrategy<Value> {
    let bound = |name: &str, otherwise: i128| {
        schema.get(name).map_or(otherwise, |value| value.as_u64().map_or(i128::from(value.as_i64().unwrap_or(0)), i128::from))
    };
    let (least, most) = (bound("minimum", -1_000), bound("maximum", 1_000));
    let value = |value: i128| match u64::try_from(value) {
        Ok(value) => Value::from(value),
        Err(_) => Value::from(i64::try_from(value).expect("an integer of JSON")),
    };
    prop_oneof![Just(least), Just(most), least..=most, Just(0.clamp(least, most))].prop_map(value).boxed()
}

fn text(schema: &Value) -> BoxedStrategy<Value> {
    if schema.get("format").and_then(Value::as_str) == Some("date-time") {
        return times().prop_map(Value::from).boxed();
    }
    let texts = match schema.get("pattern").and_then(Value::as_str) {
        Some(pattern) => {
            let bare = pattern.trim_start_matches('^').trim_end_matches('$');
            // A star is at most 32 repetitions here; lengths are the schema's own matter, and looked at afterwards.
            string_regex(bare).unwrap_or_else(|error| panic!("{pattern}: {error}")).boxed()
        }
        None => "\\PC{0,20}".boxed(),
    };
    texts.prop_map(Value::from).boxed()
}

fn times() -> BoxedStrategy<String> {
    let offset = prop_oneof![Just("Z".to_owned()), Just("z".to_owned()), "[+-](0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]"];
    let date = (1i32..=9_998, 1u32..=12, 1u32..=28).prop_map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}"));
    (date, "[Tt]", "(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,12})?", offset)
        .prop_map(|(date, t, time, offset)| format!("{date}{t}{time}{offset}"))
        .boxed()
}

fn anything() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("\\PC{0,5}", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
    .boxed()
}

/// The event as JSON, with its integers now so and now so: 90, 90.0, 9e1, 900E-1.
fn spelt(event: &Value, spelling: u64) -> String {
    let mut state = spelling;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    write(event, &mut next)
}

fn write(value: &Value, next: &mut impl FnMut() -> u64) -> String {
    match value {
        Value::Number(number) => integer_spelt(number, next()),
        Value::Array(items) => format!("[{}]", items.iter().map(|item| write(item, next)).collect::<Vec<_>>().join(",")),
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("{}: {}", json!(name), write(value, next))).collect();
            format!("{{{}}}", members.join(" ,"))
        }
        other => other.to_string(),
    }
}

fn integer_spelt(number: &Number, how: u64) -> String {
    // Beyond this a float has not every integer.
    let exact = number.as_i64().is_some_and(|n| n.unsigned_abs() < 1 << 53);
    match (exact, how % 4) {
        (true, 1) => format!("{number}.0"),
        (true, 2) if number.as_i64() != Some(0) => format!("{number}0e-1"),
        (true, 3) => format!("{number}E+0"),
        _ => number.to_string(),
    }
}
