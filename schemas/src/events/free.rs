//! Data with free text in it, which may hold what an attacker chose: everything else is read strictly.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Payload;
use crate::json::{self, scan};
use crate::rejected::Malformed;

/// The data with what of its `free` members is text. A member that the type does not have may be anything; of the others none appears twice.
pub fn value<T: Payload>(data: &[u8], free: &[&str]) -> Result<Value, Malformed> {
    let broken = |path: String, problem: String| Malformed::Data { path, problem };
    let mut read = Map::new();
    let members = scan::members(data).map_err(|error| broken(String::new(), error.to_string()))?;
    let known = members_of::<T>();
    for scan::Member { name, value } in members.into_iter().filter(|member| known.contains(&member.name)) {
        let is_free = free.contains(&name.as_str());
        let path = format!(".{name}");
        let found = if is_free && value.starts_with(b"\"") {
            Value::String(scan::lossy(value).0)
        } else {
            json::parse(value).map_err(|error| broken(path.clone(), error.to_string()))?
        };
        if read.contains_key(&name) && !is_free {
            return Err(broken(path, "appears twice".to_owned()));
        }
        // The first one of free text counts.
        read.entry(name).or_insert(found);
    }
    Ok(Value::Object(read))
}

fn members_of<T: Payload>() -> BTreeSet<String> {
    let schema = schemars::schema_for!(T).to_value();
    schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Payload, Request};

    fn read(more: &str) -> Result<Request, String> {
        let data = format!(r#"{{"action":"isolate","host":"h1","operator":"soar"{more}}}"#);
        Request::read(data.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn text_that_a_pipeline_copies_keeps_no_request_from_being_read() {
        for (more, reason) in [
            (r#","reason":"seen: /tmp/kworker\udcff""#, "seen: /tmp/kworker\u{fffd}"),
            (r#","reason":"a","reason":"b""#, "a"),
            (r#","reason":"a","future":[1e400,{"x":1,"x":2}],"future":"\udcff""#, "a"),
            (r#","reason":"a","ticket":"\ud800","incident":"\udfff","detection":"\q""#, "a"),
        ] {
            let request = read(more).expect(more);
            assert_eq!((request.action, request.reason.as_deref()), (Action::Isolate, Some(reason)), "{more}");
        }
    }

    #[test]
    fn what_a_request_asks_for_is_read_strictly() {
        for (more, problem) in [
            (r#","host":"h2""#, "data.host: appears twice"),
            (r#","\u0068ost":"h2""#, "data.host: appears twice"),
            (r#","duration":"1h\udcff""#, "data.duration"),
            (r#","duration":"1h","duration":"2h""#, "data.duration: appears twice"),
            (r#","exclusions":[{"name":"a","name":"b"}]"#, "data.exclusions"),
            (r#","override_protected":"yes""#, "data.override_protected"),
            (r#","reason":7"#, "data.reason"),
        ] {
            let error = read(more).expect_err(more);
            assert!(error.starts_with(problem), "{more}: {error}");
        }
        assert!(read("").is_ok());
    }
}
