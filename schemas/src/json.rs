//! JSON that has one meaning: duplicate members are an error, since readers differ in which one they take.

pub mod scan;

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A list or a mapping that may be null for none: what Go writes for one that was never made.
pub fn or_null<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// Parses one JSON document. Errors name line and column; nesting beyond 128 levels is an error.
pub fn parse(body: &[u8]) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = Strict.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    /// 90.0 and 9e1 are integers, as JSON Schema has it (draft 2020-12, validation, section 6.1.1).
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // As integers, the bounds are not what they are as floats.
        const BEYOND: f64 = 18_446_744_073_709_551_616.0;
        if value.fract() == 0.0 && (0.0..BEYOND).contains(&value) {
            return Ok(Value::Number((value as u64).into()));
        }
        if value.fract() == 0.0 && (-BEYOND / 2.0..0.0).contains(&value) {
            return Ok(Value::Number((value as i64).into()));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Strict)?;
            if map.contains_key(&name) {
                return Err(de::Error::custom(format_args!("member {name:?} appears twice")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_member_that_stands_twice_is_refused_at_every_depth() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"x":[{"a":1,"b":2,"a":3}]}"#] {
            let error = parse(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains("appears twice"), "{error}");
        }
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        let value = parse(b"[9007199254740993,-9223372036854775808,18446744073709551615,1.5,null,true]").expect("valid");
        assert_eq!(value.to_string(), "[9007199254740993,-9223372036854775808,18446744073709551615,1.5,null,true]");
    }

    #[test]
    fn integers_are_integers_however_they_are_written() {
        let value = parse(b"[90.0,9e1,-3.0,-0.0,1.0e19,18446744073709551616.0,0.5,1e300]").expect("valid");
        assert_eq!(value.to_string(), "[90,90,-3,0,10000000000000000000,1.8446744073709552e+19,0.5,1e+300]");
    }

    #[test]
    fn what_follows_the_document_and_bottomless_nesting_are_refused() {
        assert!(parse(b"{} {}").is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
