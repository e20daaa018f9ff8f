//! Pages, terms and activated policies: what the verbs print of them.

use chrono::{TimeDelta, Utc};
use portcullis_schemas::Stream;
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{
    Action, Decision, Detection, Page, Plain, PolicyActivated, Reason, Request, Seen, Term, TermConfig, Verdict,
};
use serde_json::{Value, json};

use super::said;
use crate::client::{Record, What};
use crate::failure::Exit;
use crate::fake::{DETECTIONS, Fake, at, decision, event, host, id};
use crate::pages;

#[tokio::test]
async fn a_pages_groups_are_one_line_each_and_its_decisions_as_ever() {
    let client = with_page();
    let (exit, out, _) = said(&client, "tail --since 1h").await;
    let decided: Vec<&str> = out.lines().filter(|line| line.contains("  decision  ")).collect();
    assert_eq!((exit, decided.len()), (Exit::Done, 3), "{out}");
    assert!(
        decided[0].contains("  web1  ") && decided[0].contains("rule rest: observe; 3 detections, sequences 81 to 84"),
        "{out}"
    );
    assert!(decided[1].contains("  db1  ") && decided[1].contains("rule noise: ignore; 1 detection, sequence 83"), "{out}");
    assert!(decided[2].contains("isolate: an operator asked, order no. 7; request r-9 by alice"), "{out}");

    let (_, out, _) = said(&client, "decisions").await;
    let rows: Vec<String> =
        out.lines().skip(1).map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")).collect();
    let whole = "web1 isolate inc-1 an operator asked, order no. 7; request r-9 by alice";
    assert_eq!(
        rows,
        [
            "web1 observe - rule rest; 3 detections, sequences 81 to 84",
            "db1 ignore - rule noise; 1 detection, sequence 83",
            whole
        ]
    );
    let (_, out, _) = said(&client, "decisions --host db1").await;
    assert_eq!(out.lines().count(), 2, "{out}");
    let (_, out, _) = said(&client, "show web1").await;
    assert!(out.contains("rule rest: observe; 3 detections, sequences 81 to 84") && !out.contains("noise"), "{out}");
}

#[tokio::test]
async fn programs_get_each_plain_input_as_a_decision() {
    let client = with_page();
    let (_, out, _) = said(&client, "decisions --json").await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    let decisions = document["decisions"].as_array().expect("a list");
    let sequences: Vec<u64> = decisions.iter().filter_map(|line| line["data"]["sequence"].as_u64()).collect();
    assert_eq!(sequences, [81, 82, 84, 83, 85]);
    let plain = &decisions[0]["data"];
    let seen = json!({ "term": 4, "orders": 9, "decisions": 8, "inventory": 2, "states": 7 });
    assert_eq!(
        *plain,
        json!({ "input": { "type": "detection", "token": "elastic", "source": "/test", "id": "d-81" }, "sequence": 81, "host": "web1",
                "verdict": "observe", "reason": { "kind": "rule" }, "facts": { "seen": seen, "policy": "f00d" }, "rule": "rest" })
    );
    assert_eq!(decisions[0]["text"], "rule rest: observe; detection d-81 by elastic");
    // Removed meanwhile: its sequence is all that is left of it.
    assert_eq!(decisions[1]["data"]["input"], json!({ "type": "detection" }));
    assert_eq!(decisions[1]["text"], "rule rest: observe; detection 82 of PORTCULLIS_DETECTIONS");
    assert_eq!(decisions[4]["data"]["facts"]["seen"], seen, "what a page says once is in each of its decisions");
    assert_eq!(decisions[4]["kind"], "decision");

    let (_, out, _) = said(&client, "decisions --json --limit 2").await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    let sequences: Vec<&Value> =
        document["decisions"].as_array().expect("a list").iter().map(|line| &line["data"]["sequence"]).collect();
    assert_eq!(sequences, [83, 85]);
    let (_, out, _) = said(&client, "tail --since 1h --json --host web1").await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON in each line")).collect();
    let sequences: Vec<u64> = lines.iter().filter_map(|line| line["data"]["sequence"].as_u64()).collect();
    assert_eq!(sequences, [81, 82, 84, 85]);
}

#[tokio::test]
async fn terms_and_activated_policies_are_a_line_of_their_own() {
    let client = with_page();
    let (_, out, _) = said(&client, "tail --since 1h").await;
    let of = |kind: &str| out.lines().filter(|line| line.contains(&format!("  {kind} "))).collect::<Vec<_>>();
    let led = "orchestrator c01f (version 0.1.0) leads in term 4 since 2026-11-22 12:00:00 UTC";
    assert!(matches!(of("term")[..], [line] if line.contains(led)), "{out}");
    let active = "policy 823412d1eacb… is active, by file: read again on SIGHUP";
    assert!(matches!(of("policy")[..], [line] if line.contains(active)), "{out}");
    let (_, out, _) = said(&client, "tail --since 1h --host web1").await;
    assert!(!out.contains("leads") && !out.contains("is active"), "{out}");
}

#[tokio::test]
async fn the_answer_to_a_plain_detection_is_found_by_id_and_sequence() {
    let client = with_page();
    for named in ["d-81", "seq:81"] {
        let (exit, out, _) = said(&client, &format!("show {named}")).await;
        assert_eq!(exit, Exit::Done);
        assert!(out.starts_with("detection d-81, sequence 81\n"), "{out}");
        assert!(out.contains("decisions\n") && out.contains("rule rest: observe; detection d-81 by elastic"), "{out}");
    }
    let (_, out, _) = said(&client, "show d-81 --json").await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(document["detection"]["data"]["rule"]["id"], "1");
    assert_eq!(document["decisions"].as_array().map(Vec::len), Some(1));
    assert_eq!(document["decisions"][0]["data"]["sequence"], 81);
    let (_, out, _) = said(&client, "show d-90").await;
    assert!(out.ends_with("decisions\n  none so far\n"), "{out}");
    let (exit, _, err) = said(&client, "show seq:82").await;
    assert_eq!((exit, err.contains("no detection has the sequence 82")), (Exit::NotFound, true), "{err}");
    assert_eq!(said(&client, "show d-99").await.0, Exit::NotFound);
}

fn with_page() -> Fake {
    let time = Utc::now() - TimeDelta::minutes(5);
    let stored = |token: &'static str| {
        move |what| Record { sequence: 9, stored_at: time, subject: format!("portcullis.decision.{token}"), what }
    };
    let mut client = Fake::new(vec![host("web1", "web1", &[]), host("db1", "db1", &[])], |_| Vec::new());
    for sequence in [81, 83, 90] {
        let what = What::Detection(Box::new(Event { id: format!("d-{sequence}"), ..event(beacon()) }));
        let subject = "portcullis.detection.elastic".into();
        client.records.push((Stream::Detections, Record { sequence, stored_at: time, subject, what }));
    }
    let group = |host: &str, rule: &str, verdict, sequences: Vec<(u64, u64)>| Plain {
        count: sequences.iter().map(|(first, last)| last - first + 1).sum(),
        host: id(host),
        rule: rule.into(),
        verdict,
        sequences,
    };
    let page = Page {
        stream: DETECTIONS.into(),
        first: 81,
        last: 85,
        policy: Some("f00d".into()),
        seen: Seen { term: 4, orders: 9, decisions: 8, inventory: 2, states: 7, waiting: None },
        plain: vec![
            group("db1", "noise", Verdict::Ignore, vec![(83, 83)]),
            group("web1", "rest", Verdict::Observe, vec![(81, 82), (84, 84)]),
        ],
        decisions: vec![isolated(85)],
    };
    let records = pages::records(event(page), None, stored("_pages"));
    client.records.extend(records.into_iter().map(|record| (Stream::Decisions, record)));
    let config = TermConfig { prefix: "portcullis".into(), version: "0.1.0".into(), ..TermConfig::default() };
    let term = Term { term: 4, who: "c01f".into(), since: at(0), config, prev: None };
    client.records.push((Stream::Decisions, stored("_term")(What::Term(Box::new(event(term))))));
    let policy = PolicyActivated {
        hash: Some("823412d1eacb67956220e532959f0104".into()),
        activated_by: "file".into(),
        reason: Some("read again on SIGHUP".into()),
        term: 4,
    };
    client.records.push((Stream::Decisions, stored("_policy")(What::PolicyActivated(Box::new(event(policy))))));
    client
}

fn isolated(sequence: u64) -> Decision {
    let request = Request { host: Some(id("web1")), ..Request::new(Action::Isolate, "alice") };
    match decision(&Event { id: "r-9".into(), ..event(request) }, Verdict::Isolate, Reason::Operator, Some(7)) {
        What::Decision(event) => Decision { sequence: Some(sequence), ..event.data },
        other => panic!("{other:?}"),
    }
}

fn beacon() -> Detection {
    let data = json!({ "host": { "id": "web1" }, "severity": "low", "rule": { "id": "1", "name": "Beacon" }, "techniques": [],
                       "product": "elastic", "observed_at": "2026-11-22T12:00:00Z" });
    serde_json::from_value(data).expect("a detection")
}
