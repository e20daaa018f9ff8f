mod mutated;

use std::path::Path;

use serde_json::{Value, json};

use super::{Event, decode, encode, read};
use crate::events::{Detection, Payload, ReleaseDue};
use crate::rejected::Malformed;

const NONE: [(&str, &str); 0] = [];

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let event = release_due();
    let body = encode(&event).expect("encodes");
    assert_eq!(decode::<ReleaseDue>(NONE.into_iter(), &body).expect("decodes"), event);
    assert_eq!(
        decode::<ReleaseDue>([("Content-Type", "application/CloudEvents+json")].into_iter(), &body).expect("decodes"),
        event
    );
}

#[test]
fn binary_mode_reads_headers_in_any_case_and_undoes_percent_encoding() {
    let body = serde_json::to_vec(&release_due().data).expect("json");
    let headers = [
        ("CE-SpecVersion", "1.0"),
        ("ce-id", "a%20b"),
        ("Ce-Source", "\"/scheduler\""),
        ("ce-type", ReleaseDue::TYPE),
        ("ce-datacontenttype", "application/json"),
        ("ce-traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let event = decode::<ReleaseDue>(headers.into_iter(), &body).expect("decodes");
    assert_eq!((event.id.as_str(), event.source.as_str()), ("a b", "/scheduler"));
    assert_eq!(event.data, release_due().data);
    assert!(event.traceparent.is_some());
}

#[test]
fn rubbish_is_named() {
    let cases: [(&[u8], &str); 12] = [
        (b"\xff\xfe", "not_json"),
        (b"", "not_json"),
        (b"[1,2]", "not_cloudevent"),
        (br#"{"hello":"world"}"#, "not_cloudevent"),
        (br#"{"specversion":"1.0","id":"1","source":"s","type":"t","Bad-Ext":1}"#, "bad_attribute"),
        (br#"{"specversion":"1.0","id":"","source":"s","type":"t"}"#, "bad_attribute"),
        (br#"{"specversion":"1.0","id":7,"source":"s","type":"t"}"#, "bad_attribute"),
        (br#"{"specversion":"1.0","id":"a\u0000b","source":"s","type":"t"}"#, "bad_attribute"),
        (br#"{"specversion":"1.0","id":"1","id":"2","source":"s","type":"t"}"#, "not_json"),
        (br#"{"specversion":"1.0","id":"1","source":"s","type":"other"}"#, "unknown_type"),
        (br#"{"specversion":"1.0","id":"1","source":"s","type":"io.portcullis.release-due.v1"}"#, "bad_data"),
        (
            br#"{"specversion":"1.0","id":"1","source":"s","type":"io.portcullis.release-due.v1","data":{"host":"../etc","generation":1,"due_at":"2026-01-01T00:00:00Z"}}"#,
            "bad_data",
        ),
    ];
    for (body, code) in cases {
        let error = decode::<ReleaseDue>(NONE.into_iter(), body).expect_err("rubbish");
        assert_eq!(error.code(), code, "{error}: {}", String::from_utf8_lossy(body));
    }
}

#[test]
fn a_wrong_type_names_its_member() {
    let body = json!({
        "specversion": "1.0", "id": "1", "source": "s", "type": Detection::TYPE,
        "data": { "host": { "id": "web-1", "ips": ["10.0.0.1", 7] }, "severity": "high", "rule": { "id": "1", "name": "n" },
                  "product": "p", "observed_at": "2026-01-01T00:00:00Z" }
    });
    let error = decode::<Detection>(NONE.into_iter(), body.to_string().as_bytes()).expect_err("ips[1] is a number");
    assert!(matches!(&error, Malformed::Data { path, .. } if path == ".host.ips[1]"), "{error:?}");
}

/// The CloudEvents project's own JSON format suite, read where it is at hand (`PORTCULLIS_SAMPLES` or ../shared/samples).
#[test]
fn the_cloudevents_conformance_suite_passes() {
    let samples = std::env::var("PORTCULLIS_SAMPLES")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/samples").into());
    let folder = Path::new(&samples).join("cloudevents/conformance/format/json");
    let Ok(valid) = std::fs::read(folder.join("valid-events.json")) else {
        eprintln!("skipped: no CloudEvents conformance suite at {}", folder.display());
        return;
    };
    let cases = |body: &[u8]| -> Vec<Value> {
        let suite: Value = serde_json::from_slice(body).expect("a suite");
        suite["tests"].as_array().expect("tests").clone()
    };
    let valid = cases(&valid);
    for case in &valid {
        read(NONE.into_iter(), case["event"].to_string().as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", case["id"]));
    }
    let invalid = cases(&std::fs::read(folder.join("invalid-events.json")).expect("the invalid half of the suite"));
    for case in &invalid {
        assert!(read(NONE.into_iter(), case["event"].to_string().as_bytes()).is_err(), "{} was taken", case["id"]);
    }
    assert!(valid.len() >= 10 && invalid.len() >= 25, "{} valid and {} invalid cases", valid.len(), invalid.len());
}

fn release_due() -> Event<ReleaseDue> {
    Event {
        id: "0123456789abcdef".into(),
        source: "/portcullis/scheduler".into(),
        subject: Some("web-1".into()),
        time: Some("2026-11-22T08:00:00.123456789Z".parse().expect("a time")),
        traceparent: None,
        correlation: Some("incident-1".into()),
        causation: None,
        data: ReleaseDue {
            host: "web-1".parse().expect("an id"),
            generation: 3,
            due_at: "2026-11-22T08:00:00Z".parse().expect("a time"),
        },
    }
}

#[test]
fn the_same_event_is_the_same_bytes() {
    let mut event = release_due();
    event.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    event.causation = Some("cause".into());
    let first = encode(&event).expect("encodes");
    assert!((0..200).all(|_| encode(&event).expect("encodes") == first));
}

#[test]
fn a_member_that_stands_twice_is_refused_in_base64_too() {
    // {"host":"web-1","generation":1,"generation":2,"due_at":"2026-01-01T00:00:00Z"}
    let body = r#"{"specversion":"1.0","id":"1","source":"s","type":"io.portcullis.release-due.v1","data_base64":"eyJob3N0Ijoid2ViLTEiLCJnZW5lcmF0aW9uIjoxLCJnZW5lcmF0aW9uIjoyLCJkdWVfYXQiOiIyMDI2LTAxLTAxVDAwOjAwOjAwWiJ9"}"#;
    let error = decode::<ReleaseDue>(NONE.into_iter(), body.as_bytes()).expect_err("generation stands twice");
    assert!(matches!(&error, Malformed::Data { problem, .. } if problem.contains("stands twice")), "{error:?}");
}
