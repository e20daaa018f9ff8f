//! What senders send, and what an attacker makes them send.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{Detection, Doubtful, Payload, Severity, Sighting};
use crate::envelope::{decode, detection, encode};
use crate::rejected::Malformed;

const DATA: &str = r#"{"host":{"id":"h1"},"severity":"critical","confidence":90,"rule":{"id":"r1","name":"n"},"techniques":["T1486"],"indicator":{"type":"file","value":"v"},"product":"p","observed_at":"2026-11-22T14:03:26Z"}"#;

#[test]
fn text_that_an_attacker_chooses_keeps_no_detection_from_being_read() {
    let deep = format!(r#","raw":{}1{}"#, "[".repeat(100_000), "]".repeat(100_000));
    // What is added to the data, and how many faults are named.
    let cases: [(&[u8], usize); 22] = [
        (br#","process":"/tmp/kworker\udcff""#, 1),
        (br#","user":"\ud800\udbff","url":"\udfff""#, 2),
        (b",\"process\":\"/tmp/\xff\xc0\xaf\xed\xa0\x80\"", 1),
        (b",\"process\":\"a\x00b\nc\"", 1),
        (br#","process":"a\u0000b\u202e""#, 0),
        (br#","process":"\q""#, 1),
        (br#","process":["a"],"url":{"a":1},"user":0,"incident":true"#, 4),
        (br#","process":"a","process":"b""#, 1),
        (br#","raw":{"a":1,"a":2}"#, 0),
        (br#","raw":1e400"#, 0),
        (br#","raw":[NaN,-Infinity,undefined,0x7f,'a']"#, 0),
        (br#","raw":"\udcff""#, 0),
        (b",\"raw\":\"\xff\"", 0),
        (br#","raw":{"a":1},"raw":2"#, 1),
        (deep.as_bytes(), 0),
        (br#","future":{"a":1,"a":[1e999,"\udcff"]},"future":1"#, 0),
        (b",\"f\xff\":\"\xff\"", 0),
        (br#","product":"\udcff""#, 1),
        (br#","product":null"#, 1),
        (br#","url":null,"user":null,"process":null,"incident":null,"retracts":null,"raw":null"#, 0),
        (br#","incident":7"#, 1),
        (br#","incident":{}"#, 1),
    ];
    for (more, faults) in cases {
        let data = added(more);
        let shown = String::from_utf8_lossy(&more[..more.len().min(80)]).into_owned();
        for (mode, read) in both(&data) {
            let (sighting, found) = read.unwrap_or_else(|error| panic!("{mode}: {shown}: {error}"));
            let Sighting::Sound(read) = sighting else { panic!("{mode}: {shown}: {sighting:?}") };
            assert_eq!(found.len(), faults, "{mode}: {shown}: {found:?}");
            assert_eq!((read.severity, read.confidence, read.rule.id.as_str()), (Severity::Critical, Some(90), "r1"));
        }
    }
}

#[test]
fn what_is_text_of_a_text_is_kept_and_a_number_is_what_is_written() {
    let data = added(br#","process":"/tmp/kworker\udcff","user":1000,"url":"x","url":"y""#);
    let (Sighting::Sound(read), faults) = structured(&data).expect("reads") else { panic!("it is sound") };
    assert_eq!(
        (read.process.as_deref(), read.user.as_deref(), read.url.as_deref()),
        (Some("/tmp/kworker\u{fffd}"), Some("1000"), Some("x"))
    );
    assert_eq!(
        faults,
        [
            ".url appears twice; the first one counts",
            ".user is no text; taken as it is written",
            ".process is not all text; what is none is U+FFFD"
        ]
    );
}

#[test]
fn raw_is_carried_as_it_is_written() {
    for raw in [r#"{"a":1,"a":2}"#, "1e400", r#"["\udcff"]"#, r#"{ "b" : 1.50 }"#, r#""text""#, "true"] {
        let data = added(format!(r#","raw":{raw}"#).as_bytes());
        let event = decode::<Detection>(std::iter::empty(), &event(&data)).expect(raw);
        assert_eq!(event.data.raw.as_ref().map(|raw| raw.text()), Some(raw));
        let again = encode(&event).expect(raw);
        assert!(String::from_utf8_lossy(&again).contains(&format!("\"raw\":{raw}")), "{}", String::from_utf8_lossy(&again));
        assert_eq!(decode::<Detection>(std::iter::empty(), &again).expect(raw), event);
    }
    // What no JSON can hold is text of it.
    let data = added(b",\"raw\":[NaN,\"\xff\"]");
    let read = decode::<Detection>(std::iter::empty(), &event(&data)).expect("reads");
    assert_eq!(read.data.raw.as_ref().map(|raw| raw.text()), Some("\"[NaN,\\\"\u{fffd}\\\"]\""));
    assert!(encode(&read).is_ok());
}

#[test]
fn a_member_that_decides_and_is_wrong_is_named_and_the_host_is_still_known() {
    // The member as it is, as it comes, the member that is named, and a piece of what is said of it.
    let cases = [
        (r#""severity":"critical""#, r#""severity":"severe""#, ".severity", "\"severe\"; it is one of unknown"),
        (r#""severity":"critical""#, r#""severity":"CRITICAL""#, ".severity", "it is one of"),
        (r#""severity":"critical""#, r#""severity":5"#, ".severity", "integer"),
        (r#""severity":"critical""#, r#""severity":null"#, ".severity", "is missing"),
        (r#""severity":"critical","#, "", ".severity", "is missing"),
        (r#""severity":"critical""#, r#""severity":"low","severity":"critical""#, ".severity", "appears twice"),
        (r#""severity":"critical""#, r#""severity":"low","\u0073everity":"critical""#, ".severity", "appears twice"),
        (r#""severity":"critical""#, r#""severity":"\udcff""#, ".severity", "surrogate"),
        (r#""confidence":90"#, r#""confidence":101"#, ".confidence", "0 to 100"),
        (r#""confidence":90"#, r#""confidence":-1"#, ".confidence", "-1"),
        (r#""confidence":90"#, r#""confidence":90.5"#, ".confidence", "90.5"),
        (r#""confidence":90"#, r#""confidence":"90""#, ".confidence", "string"),
        (r#""confidence":90"#, r#""confidence":1e400"#, ".confidence", "out of range"),
        (r#""confidence":90"#, r#""confidence":90,"confidence":90"#, ".confidence", "appears twice"),
        (r#""rule":{"id":"r1","name":"n"},"#, "", ".rule", "is missing"),
        (r#""rule":{"id":"r1","name":"n"}"#, r#""rule":"r1""#, ".rule", "expected an object"),
        (r#""rule":{"id":"r1","name":"n"}"#, r#""rule":{"name":"n"}"#, ".rule.id", "is missing"),
        (r#""id":"r1""#, r#""id":7"#, ".rule.id", "integer"),
        (r#""id":"r1""#, r#""id":"r\ud83d""#, ".rule.id", "line 1"),
        (r#""techniques":["T1486"]"#, r#""techniques":"T1486""#, ".techniques", "expected a list"),
        (r#""techniques":["T1486"]"#, r#""techniques":["T1486",1490]"#, ".techniques[1]", "integer"),
        (r#""indicator":{"type":"file","value":"v"}"#, r#""indicator":"v""#, ".indicator", "expected an object"),
        (r#""indicator":{"type":"file","value":"v"}"#, r#""indicator":{"value":"v"}"#, ".indicator.type", "is missing"),
        (r#""indicator":{"type":"file","value":"v"}"#, r#""indicator":{"type":"file"}"#, ".indicator.value", "is no text"),
        (r#""observed_at":"2026-11-22T14:03:26Z""#, r#""observed_at":null"#, ".observed_at", "is missing"),
        (r#""observed_at":"2026-11-22T14:03:26Z""#, r#""observed_at":1795356206"#, ".observed_at", "integer"),
        (r#""observed_at":"2026-11-22T14:03:26Z""#, r#""observed_at":"yesterday""#, ".observed_at", "invalid"),
        (r#""observed_at":"2026-11-22T14:03:26Z""#, r#""observed_at":"+99999-01-01T00:00:00Z""#, ".observed_at", "year"),
        (r#""host":{"id":"h1"}"#, r#""host":{"id":"h1","hostname":7}"#, ".host.hostname", "integer"),
        (r#""host":{"id":"h1"}"#, r#""host":{"id":"h1","hostname":"\udcff"}"#, ".host.hostname", "line 1"),
        (r#""host":{"id":"h1"}"#, r#""host":{"id":"h1","hostname":"a","hostname":"b"}"#, ".host.hostname", "appears twice"),
        (r#""host":{"id":"h1"}"#, r#""host":{"id":"h1","ips":"10.0.0.1"}"#, ".host.ips", "expected a list"),
        (r#""host":{"id":"h1"}"#, r#""host":{"id":"h1","ips":["10.0.0.1",7,"10.0.0.2"]}"#, ".host.ips[1]", "integer"),
        (r#""product":"p""#, r#""product":"p","retracts":7"#, ".retracts", "integer"),
        (r#""product":"p""#, r#""product":"p","retracts":"a","retracts":"b""#, ".retracts", "appears twice"),
    ];
    for (was, is, member, problem) in cases {
        let data = DATA.replacen(was, is, 1);
        assert_ne!(data, DATA, "{was} stands in the data");
        for (mode, read) in both(data.as_bytes()) {
            let (sighting, _) = read.unwrap_or_else(|error| panic!("{mode}: {is}: {error}"));
            let Sighting::Doubtful(Doubtful { host, member: found, problem: said, .. }) = sighting else {
                panic!("{mode}: {is} was taken: {sighting:?}")
            };
            assert_eq!((host.id.as_deref(), found.as_str()), (Some("h1"), member), "{mode}: {is}");
            assert!(said.contains(problem) && said.len() <= 800, "{mode}: {is}: {said}");
        }
        let error = decode::<Detection>(std::iter::empty(), &event(data.as_bytes())).expect_err(is);
        assert!(matches!(&error, Malformed::Data { path, .. } if path == member), "{error}");
    }
}

#[test]
fn a_detection_of_no_host_that_can_be_read_is_refused() {
    for (host, problem) in [
        ("{}", "names no host"),
        ("null", "is missing"),
        ("\"h1\"", "expected an object"),
        (r#"{"id":7}"#, ".host.id: invalid type"),
        (r#"{"ips":["\udcff"]}"#, ".host.ips[0]"),
        (r#"{"id":"h1","id":"h2"}"#, ".host.id: appears twice"),
        (r#"{"id":"h1"},"host":{"id":"h2"}"#, ".host: appears twice"),
    ] {
        let data = DATA.replace(r#"{"id":"h1"}"#, host);
        for (mode, read) in both(data.as_bytes()) {
            let error = read.expect_err(host);
            assert!(error.code() == "bad_data" && error.to_string().contains(problem), "{mode}: {host}: {error}");
        }
    }
}

#[test]
fn ten_thousand_addresses_are_read() {
    let ips: Vec<String> = (0..10_000).map(|n| format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256)).collect();
    let data = DATA.replace(r#"{"id":"h1"}"#, &serde_json::json!({ "id": "h1", "ips": ips }).to_string());
    let (Sighting::Sound(read), faults) = structured(data.as_bytes()).expect("reads") else { panic!("it is sound") };
    assert_eq!((read.host.ips.len(), faults.len()), (10_000, 0));
}

#[test]
fn attributes_that_identify_nothing_keep_no_detection_from_being_read() {
    let long = "x".repeat(5_000);
    for more in [
        r#""subject":"a\udcff","#,
        r#""subject":7,"#,
        r#""subject":"","#,
        r#""time":"lunchtime","#,
        r#""Bad_Ext":{"a":1,"a":2},"#,
        r#""ext":[1e400],"#,
        r#""ext":1.5,"ext":2,"#,
        r#""traceparent":"\u0000","#,
        r#""datacontenttype":"xyz","#,
        r#""dataschema":"no scheme","#,
        &format!(r#""correlationid":"{long}","#),
    ] {
        let body = String::from_utf8(event(DATA.as_bytes())).expect("text").replacen('{', &format!("{{{more}"), 1);
        let (read, faults) = detection(std::iter::empty(), body.as_bytes()).unwrap_or_else(|error| panic!("{more:.60}: {error}"));
        assert!(matches!(read.data, Sighting::Sound(_)) && !faults.is_empty(), "{more:.60}: {faults:?}");
        // What is left of them can be an attribute of what follows.
        let Sighting::Sound(data) = read.data.clone() else { panic!("{more:.60}") };
        let event = crate::envelope::Event {
            id: read.id,
            source: read.source,
            subject: read.subject,
            time: read.time,
            traceparent: read.traceparent,
            correlation: read.correlation,
            causation: read.causation,
            data: *data,
        };
        encode(&event).unwrap_or_else(|error| panic!("{more:.60}: {error}"));
    }
    let name = "X".repeat(100_000);
    let body = format!("{{\"{name}\":1,{}", &String::from_utf8(event(DATA.as_bytes())).expect("text")[1..]);
    let (_, faults) = detection(std::iter::empty(), body.as_bytes()).expect("reads");
    assert!(matches!(faults.as_slice(), [fault] if fault.len() == 200), "a fault is named in short");
    for header in [("ce-ext", "%zz"), ("ce-subject", "%ff"), ("ce-time", "x"), ("ce-Bad_Ext", "a"), ("ce-ext", "\u{1}")] {
        let headers = headers().chain([header]);
        let (read, faults) = detection(headers, DATA.as_bytes()).unwrap_or_else(|error| panic!("{header:?}: {error}"));
        assert!(matches!(read.data, Sighting::Sound(_)) && faults.len() == 1, "{header:?}: {faults:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, rng_seed: RngSeed::Fixed(0x9e37_79b9), ..ProptestConfig::default() })]

    /// Whatever bytes a message holds: an event or an error, in bounded stack, and the same each time.
    #[test]
    fn no_bytes_make_reading_fail(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just(DATA.as_bytes().to_vec()),
                Just(b"{\"host\":{\"id\":\"h1\"},".to_vec()),
                proptest::sample::select(TOKENS.map(<[u8]>::to_vec).to_vec()),
                proptest::collection::vec(any::<u8>(), 0..6),
                (proptest::sample::select(vec![b'[', b'{', b'"', b'\\', b' ']), 0usize..3_000).prop_map(|(byte, many)| vec![byte; many]),
            ],
            0..8,
        ),
        at in any::<prop::sample::Index>(),
    ) {
        let data: Vec<u8> = pieces.concat();
        let mut damaged = DATA.as_bytes().to_vec();
        let at = at.index(damaged.len());
        drop(damaged.splice(at..at, data.iter().copied()));
        for text in [data, damaged] {
            let (one, two) = on_a_small_stack(move || (structured(&text), binary(&text)));
            for read in [one, two].into_iter().flatten() {
                if let (Sighting::Sound(detection), _) = read {
                    prop_assert!(detection.check().is_ok());
                }
            }
        }
    }
}

const TOKENS: [&[u8]; 14] = [
    b"\"host\":",
    b"\"ips\":[",
    b"\"severity\":\"high\",",
    b"\"raw\":",
    b"null",
    b"1e999",
    b"\\ud800",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"}",
    b"]",
    b",",
    b":",
    b"\"\\u0000\"",
];

/// Threads of the programs have more; what recurses without a bound has never enough.
fn on_a_small_stack<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(512 * 1024).spawn(read).expect("a thread");
    thread.join().expect("reading ends")
}

type Read = Result<(Sighting, Vec<String>), Malformed>;

fn added(more: &[u8]) -> Vec<u8> {
    let end = DATA.len() - 1;
    let mut data = DATA.as_bytes()[..end].to_vec();
    // A member that is there already is replaced by what is added.
    if more.starts_with(b",\"product\"") {
        data = DATA[..end].replace(r#""product":"p","#, "").into_bytes();
    }
    [data.as_slice(), more, b"}"].concat()
}

fn event(data: &[u8]) -> Vec<u8> {
    let head = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"{}","data":"#, Detection::TYPE);
    [head.as_bytes(), data, b"}"].concat()
}

fn headers() -> impl Iterator<Item = (&'static str, &'static str)> {
    [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "s"), ("ce-type", Detection::TYPE)].into_iter()
}

fn structured(data: &[u8]) -> Read {
    detection(std::iter::empty(), &event(data)).map(|(event, faults)| (event.data, faults))
}

fn binary(data: &[u8]) -> Read {
    detection(headers(), data).map(|(event, faults)| (event.data, faults))
}

fn both(data: &[u8]) -> [(&'static str, Read); 2] {
    [("structured", structured(data)), ("binary", binary(data))]
}

/// What products really send as their own record, where samples are at hand (`PORTCULLIS_SAMPLES` or ../shared/samples).
#[test]
fn what_products_send_is_carried_whole() {
    let samples = std::env::var("PORTCULLIS_SAMPLES")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/samples").into());
    let mut folders = vec![std::path::PathBuf::from(&samples)];
    let (mut carried, mut read) = (0, 0);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            read += 1;
            let record = std::fs::read(&path).expect("a sample can be read");
            let Ok(Some(text)) = serde_json::from_slice::<serde_json::Value>(&record).map(|_| std::str::from_utf8(&record).ok())
            else {
                continue;
            };
            let data = added(format!(",\"raw\":{text}").as_bytes());
            let event =
                decode::<Detection>(std::iter::empty(), &event(&data)).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert_eq!(event.data.raw.as_ref().map(|raw| raw.text()), Some(text.trim()), "{path:?}");
            carried += 1;
        }
    }
    match read {
        0 => eprintln!("skipped: no samples at {samples}"),
        _ => assert!(carried > read / 4, "only {carried} of {read} samples are JSON"),
    }
}
