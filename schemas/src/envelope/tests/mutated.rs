//! Random damage to the examples: whatever comes in, reading ends in an event or an error, never in a panic.

use std::fmt::Debug;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::envelope::{Envelope, decode, detection, encode};
use crate::events::{Decision, Detection, Hello, Inventory, Notice, Order, Payload, ReleaseDue, Request, Rollcall, State};
use crate::schema::tests::{faults, validators};

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const ROUNDS: usize = 6_000;

#[test]
fn damaged_bytes_never_panic() {
    let (examples, schemas) = (examples(), validators());
    let mut chance = Chance(SEED);
    let mut taken = 0;
    for round in 0..ROUNDS {
        let mut body = chance.pick(&examples).clone();
        for _ in 0..=chance.below(3) {
            damage(&mut chance, &mut body);
        }
        taken += usize::from(any_type(&schemas, &body, round));
    }
    assert!(taken > ROUNDS / 100, "only {taken} of {ROUNDS} were taken: the damage is too coarse to reach the types");
    assert!(taken < ROUNDS / 2, "{taken} of {ROUNDS} were taken: the damage does nothing");
}

#[test]
fn members_with_odd_values_never_panic() {
    let (examples, schemas) = (examples(), validators());
    let mut chance = Chance(SEED ^ 1);
    let mut taken = 0;
    for round in 0..ROUNDS {
        let mut event: Value = serde_json::from_slice(chance.pick::<Vec<u8>>(&examples)).expect("an example is JSON");
        let odd = odd(&mut chance);
        *node(&mut chance, &mut event) = odd;
        taken += usize::from(any_type(&schemas, event.to_string().as_bytes(), round));
    }
    assert!(taken > ROUNDS / 100 && taken < ROUNDS * 9 / 10, "{taken} of {ROUNDS} were taken");
}

#[test]
fn damaged_headers_never_panic() {
    const GOOD: [(&str, &str); 6] = [
        ("ce-specversion", "1.0"),
        ("ce-id", "a%20b"),
        ("ce-source", "\"/a\\\"b\""),
        ("ce-type", Detection::TYPE),
        ("ce-time", "2026-11-22T14:03:27.418Z"),
        ("ce-datacontenttype", "application/json"),
    ];
    let example = include_bytes!("../../../examples/detection-minimal.json");
    let data = serde_json::from_slice::<Value>(example).expect("an example is JSON")["data"].to_string();
    let mut chance = Chance(SEED ^ 2);
    let mut taken = 0;
    for _ in 0..ROUNDS {
        let mut headers: Vec<(String, String)> = GOOD.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let at = chance.below(headers.len());
        let (name, value) = &mut headers[at];
        let target = if chance.below(4) == 0 { name } else { value };
        let mut bytes = std::mem::take(target).into_bytes();
        damage(&mut chance, &mut bytes);
        *target = String::from_utf8_lossy(&bytes).into_owned();
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        taken += usize::from(decode::<Detection>(headers, data.as_bytes()).is_ok());
    }
    assert!(taken > ROUNDS / 100 && taken < ROUNDS, "{taken} of {ROUNDS} were taken");
}

type Schemas = std::collections::BTreeMap<&'static str, Validator>;

/// Reads `body` as the type that it names, or as any one. What is taken can also be sent on, and says the same then; what is taken without a
/// word of complaint fits the published schema.
fn any_type(schemas: &Schemas, body: &[u8], round: usize) -> bool {
    fn one<T: Payload + PartialEq + Debug>(schemas: &Schemas, body: &[u8], round: usize) -> bool {
        let Ok(event) = decode::<T>(std::iter::empty(), body) else { return false };
        let blameless = !T::LENIENT || detection(std::iter::empty(), body).is_ok_and(|(_, faults)| faults.is_empty());
        if blameless && let Ok(value) = crate::json::parse(body) {
            let mut found = faults(&schemas[T::NAME], &value);
            // Times are read more widely than RFC 3339 writes them: a space for the T, or before the offset.
            found.retain(|fault| !fault.ends_with("is not a \"date-time\""));
            assert!(found.is_empty(), "round {round}: {found:?}: {}", String::from_utf8_lossy(body));
        }
        let sent = encode(&event).unwrap_or_else(|error| panic!("round {round}: {error}: {event:?}"));
        let again = decode::<T>(std::iter::empty(), &sent).unwrap_or_else(|error| panic!("round {round}: {error}: {event:?}"));
        assert_eq!(event, again, "round {round}");
        true
    }
    type Reader = fn(&Schemas, &[u8], usize) -> bool;
    const READERS: [(&str, Reader); 10] = [
        (Detection::TYPE, one::<Detection>),
        (Request::TYPE, one::<Request>),
        (ReleaseDue::TYPE, one::<ReleaseDue>),
        (Order::TYPE, one::<Order>),
        (Decision::TYPE, one::<Decision>),
        (State::TYPE, one::<State>),
        (Hello::TYPE, one::<Hello>),
        (Inventory::TYPE, one::<Inventory>),
        (Notice::TYPE, one::<Notice>),
        (Rollcall::TYPE, one::<Rollcall>),
    ];
    let named = Envelope::read(std::iter::empty(), body).ok();
    let reader = READERS.iter().find(|(ty, _)| named.as_ref().is_some_and(|event| event.ty() == *ty));
    let (_, reader) = reader.unwrap_or(&READERS[round % READERS.len()]);
    reader(schemas, body, round)
}

fn examples() -> Vec<Vec<u8>> {
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).expect("the examples are there");
    let mut paths: Vec<_> = folder.map(|entry| entry.expect("an entry of the folder").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("the example can be read")).collect()
}

fn damage(chance: &mut Chance, body: &mut Vec<u8>) {
    const SPLINTERS: [&[u8]; 16] = [
        b"null",
        b"{}",
        b"[",
        b"\"",
        b"\\u0000",
        b"\\ud800",
        b"-1",
        b"1e999",
        b"18446744073709551615",
        b"\xff",
        b"%zz",
        b"%ff",
        b"\\",
        b",",
        "\u{20ac}".as_bytes(),
        b"9999999999999999999999d",
    ];
    let at = chance.below(body.len() + 1);
    let end = (at + chance.below(12)).min(body.len());
    match chance.below(6) {
        0 if at < body.len() => body[at] ^= 1 << chance.below(8),
        1 => drop(body.drain(at..end)),
        2 => body.truncate(at),
        3 => drop(body.splice(at..end, chance.pick(&SPLINTERS).iter().copied())),
        4 => {
            let piece = body[at..end].to_vec();
            let to = chance.below(body.len() + 1);
            drop(body.splice(to..to, piece));
        }
        _ => drop(body.splice(at..at, chance.pick(&SPLINTERS).iter().copied())),
    }
}

fn odd(chance: &mut Chance) -> Value {
    let values = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1.5),
        json!(""),
        json!("\u{0}"),
        json!("\u{202e}\u{1f525}"),
        json!("never"),
        json!("18446744073709551615d"),
        json!("0s"),
        json!("65536"),
        json!("0-0"),
        json!("+262142-12-31T23:59:59Z"),
        json!("-262143-01-01T00:00:00Z"),
        json!("2016-12-31T23:59:60Z"),
        json!("1970-01-01T00:00:00.000000000001+23:59"),
        json!("::/0"),
        json!("_fleet"),
        json!("x".repeat(5_000)),
        json!([]),
        json!({}),
        json!([[[[]]]]),
    ];
    chance.pick(&values).clone()
}

/// A random member or entry, at any depth.
fn node<'a>(chance: &mut Chance, value: &'a mut Value) -> &'a mut Value {
    let entries = match &*value {
        Value::Object(members) => members.len(),
        Value::Array(entries) => entries.len(),
        _ => 0,
    };
    if entries == 0 || chance.below(4) == 0 {
        return value;
    }
    let at = chance.below(entries);
    let inner = match value {
        Value::Object(members) => members.values_mut().nth(at),
        Value::Array(entries) => entries.get_mut(at),
        _ => None,
    };
    node(chance, inner.expect("counted above"))
}

/// xorshift64*: the same damage at every run, so that a round that fails can be looked at.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % most.max(1)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
