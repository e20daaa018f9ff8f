//! `hosts`, `show`, `decisions` and `tail`: what they print.

use chrono::{TimeDelta, Utc};
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Detection, HostClaim, InputKind, Posture, Reason, RuleRef, Severity, Verdict};
use portcullis_schemas::heartbeat::{Heartbeat, PolicyState};
use portcullis_schemas::rejected::Malformed;
use serde_json::Value;

use super::said;
use crate::client::{Beat, HostView, Record, What};
use crate::failure::Exit;
use crate::fake::{Fake, at, decision, event, host, id, order, record, state};

#[tokio::test]
async fn hosts_are_listed_with_their_status() {
    let now = Utc::now();
    let mut held = order(5, Posture::Isolated);
    (held.issued_at, held.release_at) = (now - TimeDelta::minutes(2), Some(now + TimeDelta::seconds(28_730)));
    held.holds[0].since = now - TimeDelta::minutes(2);
    let held = HostView {
        order: Some(held),
        state: Some(state(5, Posture::Isolated)),
        ..host("web1", "web1.example.org", &["10.0.0.5", "10.0.0.6", "10.0.0.7"])
    };
    let mut silent = host("db1", "db1\u{1b}[2J", &[]);
    silent.inventory.as_mut().expect("known").silent_since = Some(now - TimeDelta::hours(3));
    let client = Fake::new(vec![silent, held], |_| Vec::new());
    let (exit, out, _) = said(&client, "hosts").await;
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(exit, Exit::Done);
    assert_eq!(lines[0].join(" "), "HOST STATUS FOR OPENS IN HEARD NAME");
    assert_eq!(lines[1].join(" "), "db1 unreachable 3h - 3h ago db1\u{fffd}[2J");
    assert_eq!(lines[2].join(" "), "web1 isolated 2m 7h58m ? web1.example.org");
    let (_, out, _) = said(&client, "hosts --wide").await;
    let lines: Vec<String> = out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[0], "HOST STATUS SINCE OPENS IN HEARD NAME ADDRESSES LEVEL ORDER NO. HOST REPORTS AGENT");
    assert_eq!(lines[2], "web1 isolated 2m ago 7h58m ? web1.example.org 10.0.0.5, 10.0.0.6 +1 full 5 isolated 0.1.0");

    let (_, out, _) = said(&client, "hosts --json").await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(document["hosts"][1]["status"], "isolated");
    assert_eq!(document["hosts"][1]["addresses"][2], "10.0.0.7");
    assert_eq!(document["hosts"][0]["hostname"], "db1\u{1b}[2J");
    assert!(!out.contains('\u{1b}'));
}

#[tokio::test]
async fn hosts_stand_in_the_order_in_which_people_count() {
    let client = Fake::new(["h10", "h2", "h1"].map(|name| host(name, name, &[])).into(), |_| Vec::new());
    let (_, out, _) = said(&client, "hosts").await;
    let names: Vec<&str> = out.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["h1", "h2", "h10"]);
}

#[tokio::test]
async fn the_table_of_hosts_fits_80_columns() {
    let id = "4f0c8a9be1d24c6f8a9be1d24c6f8a9b";
    let mut held = HostView { order: Some(order(5, Posture::Isolated)), ..host(id, "db-primary-01.fra.corp.example.org", &[]) };
    held.inventory.as_mut().expect("known").silent_since = Some(Utc::now() - TimeDelta::minutes(23 * 60 + 59));
    let mut client = Fake::new(vec![held, host("h1", "h1", &[])], |_| Vec::new());
    client.beat = Some(beat(0));
    let (_, out, _) = said(&client, "hosts").await;
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    assert!(out.contains("db-prim") && out.contains("4f0c8a9be1d24c6f8a9"), "{out}");
    let (_, out, _) = said(&client, "hosts --wide").await;
    assert!(out.contains(id) && out.contains("db-primary-01.fra.corp.example.org"), "{out}");
}

#[tokio::test]
async fn a_host_that_is_late_shows_when_it_was_heard_last_and_an_old_picture_says_so() {
    let mut client = Fake::new(vec![host("h1", "h1", &[]), host("h2", "h2", &[])], |_| Vec::new());
    let mut late = beat(3);
    late.said.late.insert(id("h2"), Utc::now() - TimeDelta::seconds(52));
    client.beat = Some(late);
    let (_, out, err) = said(&client, "hosts").await;
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[1].contains("<40s ago") && lines[2].contains("52s ago"), "{out}");
    assert_eq!(err, "");
    client.beat = Some(beat(125));
    let (_, out, err) = said(&client, "hosts").await;
    assert!(out.lines().nth(1).is_some_and(|line| line.contains(" ? ")), "{out}");
    assert!(err.starts_with("warning: no heartbeat from an orchestrator since 2026-11-22 12:00:00 UTC (2m5s ago)"), "{err}");
    let (_, out, err) = said(&client, "hosts --json").await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(document["orchestrator"]["is_current"], false);
    assert!(err.starts_with("{\"warning\":"), "{err}");
}

fn beat(age: i64) -> Beat {
    let policy = PolicyState { hash: Some("f".into()), refused: None };
    Beat { at: at(0), age: TimeDelta::seconds(age), said: Heartbeat { policy, ..Heartbeat::default() } }
}

#[tokio::test]
async fn a_fleet_without_hosts_says_so() {
    let client = Fake::new(Vec::new(), |_| Vec::new());
    assert!(said(&client, "hosts").await.1.starts_with("No host is known yet"));
    assert_eq!(said(&client, "show web1").await.0, Exit::NotFound);
}

#[tokio::test]
async fn show_tells_the_order_the_holds_and_the_last_words() {
    let client = with_records();
    let (exit, out, _) = said(&client, "show web1.example.org").await;
    assert_eq!(exit, Exit::Done);
    for part in [
        "reason      C2 beacon",
        "ticket      T-1",
        "incident    inc-1",
        "labels      role=web",
        "manual, since ",
        "request r-1 by alice (/portcullis/cli)",
        "isolated, order no. 5, by order, level full, verified, locked, 12 sockets killed",
        "isolate: an operator asked, order no. 5; request r-9 by alice",
    ] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    let (_, out, _) = said(&client, "show web1 --json").await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(document["order"]["holds"][0]["causes"][0]["id"], "r-1");
    assert_eq!(document["states"][0]["data"]["evidence"]["sockets_killed"], 12);
    assert_eq!(document["decisions"][0]["data"]["verdict"], "isolate");
}

#[tokio::test]
async fn decisions_are_listed_by_host_time_and_number() {
    let client = with_records();
    let (exit, out, _) = said(&client, "decisions").await;
    assert_eq!((exit, out.lines().count()), (Exit::Done, 3), "{out}");
    assert!(out.contains("refuse") && out.contains("no host has web9; it was not acted on"), "{out}");
    let (_, out, _) = said(&client, "decisions --host web1 --json").await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(document["decisions"].as_array().map(Vec::len), Some(1));
    assert_eq!(document["decisions"][0]["text"], "isolate: an operator asked, order no. 5; request r-9 by alice");
    let (_, out, err) = said(&client, "decisions --limit 1").await;
    assert_eq!(out.lines().count(), 2);
    assert!(err.contains("--limit"), "{err}");
}

#[tokio::test]
async fn tail_prints_one_line_each() {
    let client = with_records();
    let (exit, out, _) = said(&client, "tail --since 1h").await;
    assert_eq!(exit, Exit::Done);
    let kinds: Vec<&str> = out.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(kinds, ["detection", "detection", "decision", "order", "state", "decision", "unreadable"], "{out}");
    assert!(out.contains("critical: Beacon\u{fffd}[31m (elastic), T1071"), "{out}");
    assert!(out.contains("isolated until 2026-11-22 20:00:00 UTC, order no. 5: C2 beacon  [inc-1]"), "{out}");

    let (_, out, _) = said(&client, "tail --since 1h --host web1 --json").await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON in each line")).collect();
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds, ["detection", "decision", "order", "state"], "only what concerns the host");
    assert_eq!(lines[0]["data"]["rule"]["name"], "Beacon\u{1b}[31m");
}

#[test]
fn a_policy_is_checked_without_a_broker() {
    use crate::verbs::policy::{PolicyArgs, PolicyCommand, run};
    let args = |file: &str| PolicyArgs { command: PolicyCommand::Check { file: file.into(), table: false, fleet: false } };
    let (mut screen, ..) = crate::Screen::kept(false);
    assert_eq!(run(&args("/nowhere/policy.yaml"), None, &mut screen).expect_err("no file").exit(), Exit::NotFound);
    let (mut screen, _, err) = crate::Screen::kept(false);
    assert_eq!(run(&args("/proc/self/status"), None, &mut screen).expect("read"), Exit::Failed);
    assert!(err.text().contains("/proc/self/status: line 1, column "), "{}", err.text());
    let (mut screen, out, _) = crate::Screen::kept(true);
    assert_eq!(run(&args("/proc/self/status"), None, &mut screen).expect("read"), Exit::Failed);
    let document: Value = serde_json::from_str(&out.text()).expect("one document");
    assert_eq!((&document["valid"], &document["errors"][0]["line"]), (&Value::from(false), &Value::from(1)));
}

#[test]
fn a_policy_shows_its_tests_its_table_and_the_hosts_that_it_takes() {
    use crate::verbs::policy::{PolicyArgs, PolicyCommand, run};
    let folder = std::env::temp_dir().join(format!("portcullis-policy-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("policy.yaml");
    let text = "version: 1
groups: { web: { match: { host.label.tier: web } }, dc: { match: { host.label.tier: dc } } }
limits: [{ name: tiers, by: host.label.tier, isolated: 50% }]
rules:
  - { name: worst, match: { severity: critical }, then: isolate }
  - { name: rest, then: observe }
tests:
  - { name: good, given: { severity: critical }, expect: { verdict: isolate } }
  - { name: bad, given: { severity: high }, expect: { verdict: isolate } }
";
    std::fs::write(&file, text).expect("written");
    let args = |fleet| PolicyArgs { command: PolicyCommand::Check { file: file.clone(), table: true, fleet } };
    let mut web = host("web1", "web1.example.org", &["10.0.0.5"]);
    let inventory = web.inventory.as_mut().expect("an inventory");
    inventory.hello.labels.insert("tier".into(), "db".into());
    // What an operator says counts.
    let labels = [("tier".to_owned(), Some("web".to_owned()))].into();
    inventory.operator = Some(portcullis_schemas::events::OperatorWord { labels, exclusions: None, decision: 1 });
    let seen = || Some(Ok((portcullis_policy::InUse::default(), vec![web.clone()])));
    let (mut screen, out, err) = crate::Screen::kept(false);
    assert_eq!(run(&args(true), seen(), &mut screen).expect("checked"), Exit::Failed, "a test fails");
    let (out, err) = (out.text(), err.text());
    assert!(
        err.contains("line 9, column 64: test \"bad\": verdict isolate was expected; it came to observe by rule rest"),
        "{err}"
    );
    assert!(err.contains("group dc takes no known host"), "{err}");
    for line in [
        "2 tests: 1 expectation not met",
        "SEVERITY                                  VERDICT  RULE   ONLY IF",
        "critical                                  isolate  worst",
        "high, medium, low, informational, unknown  observe  rest",
        "group  web    1      web1.example.org",
        "limit tiers: web 1 host, at most 1 isolated",
    ] {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed(&out).contains(&squeezed(line)), "{line}\n{out}");
    }
    let (mut screen, out, _) = crate::Screen::kept(true);
    assert_eq!(run(&args(true), seen(), &mut screen).expect("checked"), Exit::Failed);
    let document: Value = serde_json::from_str(&out.text()).expect("one document");
    assert_eq!((&document["tests"]["run"], &document["tests"]["failed"][0]["line"]), (&Value::from(2), &Value::from(9)));
    assert_eq!((&document["fleet"][0]["hosts"], &document["table"]["axes"][0]), (&Value::from(1), &Value::from("severity")));
    // Without the broker, what is asked of it is not passed over.
    let failure = || Some(Err(crate::Failure::NoFile("broker".into())));
    let (mut screen, ..) = crate::Screen::kept(false);
    assert!(run(&args(true), failure(), &mut screen).is_err());
    let (mut screen, ..) = crate::Screen::kept(false);
    assert_eq!(run(&args(false), failure(), &mut screen).expect("checked"), Exit::Failed);
    std::fs::remove_dir_all(&folder).expect("removed");
}

fn with_records() -> Fake {
    let time = Utc::now() - TimeDelta::minutes(5);
    let held = HostView {
        order: Some(order(5, Posture::Isolated)),
        state: Some(state(5, Posture::Isolated)),
        ..host("web1", "web1.example.org", &["10.0.0.5"])
    };
    let mut client = Fake::new(vec![held], |_| Vec::new());
    let mut keep = |stream, subject: &str, what| client.records.push((stream, record(subject, time, what)));
    keep(Stream::Detections, "portcullis.detection.elastic", detection("WEB1"));
    keep(Stream::Detections, "portcullis.detection.elastic", detection("db1"));
    keep(Stream::Decisions, "portcullis.decision.web1", answer("web1", Verdict::Isolate, Reason::Operator, Some(5)).what);
    keep(Stream::Orders, "portcullis.order.web1", What::Order(Box::new(event(order(5, Posture::Isolated)))));
    keep(Stream::States, "portcullis.state.web1", What::State(Box::new(event(state(5, Posture::Isolated)))));
    let unresolved = Reason::Unresolved { wanted: "web9".into(), candidates: Vec::new(), waits: None, ended: None };
    keep(Stream::Decisions, "portcullis.decision._unresolved", answer("web9", Verdict::Refuse, unresolved, None).what);
    keep(Stream::Notices, "portcullis.notice._fleet", What::Unreadable(Malformed::NotJson("at line 1".into())));
    client
}

fn detection(hostname: &str) -> What {
    What::Detection(Box::new(event(Detection {
        host: HostClaim { hostname: Some(hostname.into()), ..HostClaim::default() },
        indicator: None,
        severity: Severity::Critical,
        confidence: None,
        rule: RuleRef { id: "1".into(), name: "Beacon\u{1b}[31m".into() },
        techniques: vec!["T1071".into()],
        product: "elastic".into(),
        observed_at: at(0),
        incident: None,
        url: None,
        user: None,
        process: None,
        retracts: None,
        raw: None,
    })))
}

fn answer(host: &str, verdict: Verdict, reason: Reason, generation: Option<u64>) -> Record {
    use portcullis_schemas::events::{Action, Request};
    let request = Request { host: Some(id(host)), ..Request::new(Action::Isolate, "alice") };
    let request = portcullis_schemas::envelope::Event { id: "r-9".into(), ..event(request) };
    assert_eq!(crate::fake::input(&request).kind, InputKind::Request);
    record("portcullis.decision.web1", at(0), decision(&request, verdict, reason, generation))
}
