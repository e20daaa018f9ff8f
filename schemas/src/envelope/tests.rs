mod mutated;

use std::path::Path;

use serde_json::{Value, json};

use super::{Envelope, Event, decode, encode};
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
        read(case["event"].to_string().as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", case["id"]));
    }
    let invalid = cases(&std::fs::read(folder.join("invalid-events.json")).expect("the invalid half of the suite"));
    for case in &invalid {
        assert!(read(case["event"].to_string().as_bytes()).is_err(), "{} was taken", case["id"]);
    }
    assert!(valid.len() >= 10 && invalid.len() >= 25, "{} valid and {} invalid cases", valid.len(), invalid.len());
}

fn read(body: &[u8]) -> Result<(), Malformed> {
    Envelope::read(NONE.into_iter(), body)?.sound()
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
    let error = decode::<ReleaseDue>(NONE.into_iter(), body.as_bytes()).expect_err("generation appears twice");
    assert!(matches!(&error, Malformed::Data { problem, .. } if problem.contains("appears twice")), "{error:?}");
}

#[test]
fn the_content_type_decides_the_mode_before_any_header_does() {
    let body = encode(&release_due()).expect("encodes");
    let other = [("Content-Type", "application/cloudevents+json; charset=utf-8"), ("ce-specversion", "1.0"), ("ce-id", "other")];
    let event = decode::<ReleaseDue>(other.into_iter(), &body).expect("structured");
    assert_eq!(event, release_due(), "what the headers repeat is not read");
    // Data that looks like an event is data where the headers hold the event.
    let headers = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "s"),
        ("ce-type", ReleaseDue::TYPE),
    ];
    let error = decode::<ReleaseDue>(headers.into_iter(), &body).expect_err("the data has no host");
    assert_eq!(error.code(), "bad_data", "{error}");
    let batch = [("Content-Type", "application/cloudevents-batch+json"), ("ce-specversion", "1.0")];
    assert_eq!(decode::<ReleaseDue>(batch.into_iter(), b"[]").expect_err("a batch").code(), "not_cloudevent");
}

#[test]
fn a_mark_of_utf_8_is_passed_over_and_another_encoding_is_named() {
    let body = encode(&release_due()).expect("encodes");
    let text = String::from_utf8(body.clone()).expect("JSON");
    let marked = [b"\xef\xbb\xbf", body.as_slice()].concat();
    let terminated = [body.as_slice(), b"\0"].concat();
    for read in [marked, terminated] {
        assert_eq!(decode::<ReleaseDue>(NONE.into_iter(), &read).expect("decodes"), release_due());
    }
    let wide = |mark: &[u16], order: fn(u16) -> [u8; 2]| -> Vec<u8> {
        mark.iter().copied().chain(text.encode_utf16()).flat_map(order).collect()
    };
    for (body, named) in [
        (wide(&[0xfeff], u16::to_le_bytes), "UTF-16"),
        (wide(&[0xfeff], u16::to_be_bytes), "UTF-16"),
        (wide(&[], u16::to_le_bytes), "UTF-16"),
        (wide(&[], u16::to_be_bytes), "UTF-16"),
        (wide(&[0xfeff, 0], u16::to_le_bytes), "UTF-32"),
        (b"\x1f\x8b\x08\0".to_vec(), "gzip"),
        (b"\x28\xb5\x2f\xfd\0".to_vec(), "zstd"),
    ] {
        let error = decode::<ReleaseDue>(NONE.into_iter(), &body).expect_err(named);
        assert!(error.code() == "not_json" && error.to_string().contains(named), "{error}");
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }
}
