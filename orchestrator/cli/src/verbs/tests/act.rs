//! `isolate` and `release`: each outcome with its exit code.

use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{Action, For, Posture, Reason, Request, State, Verdict};
use serde_json::Value;

use super::said;
use crate::client::{HostView, What};
use crate::failure::{Exit, Failure};
use crate::fake::{Fake, decision, event, host, order, state};

const ISOLATE: &str = "isolate web1 --operator alice --wait 2s";
const RELEASE: &str = "release web1 --operator alice --wait 2s";

#[tokio::test(start_paused = true)]
async fn an_isolation_is_done_when_the_host_says_so() {
    let client = Fake::new(vec![isolated(5)], |request| vec![isolate(request, 5), word(state(5, Posture::Isolated))]);
    let line = "isolate web1 --operator alice --for 8h --reason beacon --ticket T-1 --incident inc-1 --override-protected";
    let (exit, out, err) = said(&client, line).await;
    assert_eq!((exit, err.as_str()), (Exit::Done, ""), "{out}");
    assert!(out.starts_with("web1: ordered ") && out.contains(" → enforced "), "{out}");
    assert!(out.contains("isolated, order no. 5, level full, 12 sockets killed, 3 flows flushed"), "{out}");
    assert!(out.contains("opens in 8h (2026-11-22 20:00:00 UTC); incident inc-1"), "{out}");

    let sent = client.sent.lock().expect("sound");
    let [(principal, event)] = sent.as_slice() else { panic!("one request, not {sent:?}") };
    assert_eq!((principal.as_str(), event.data.operator.as_str()), ("alice", "alice"));
    assert_eq!((event.source.as_str(), event.correlation.as_deref()), ("/portcullis/cli", Some("inc-1")));
    let Request { action, duration, reason, ticket, incident, override_protected, .. } = &event.data;
    assert_eq!((*action, *duration), (Action::Isolate, Some(For::Span("8h".parse().expect("valid")))));
    assert_eq!((reason.as_deref(), ticket.as_deref(), incident.as_deref()), (Some("beacon"), Some("T-1"), Some("inc-1")));
    assert!(override_protected);
    let followed = client.followed.lock().expect("sound");
    assert!(followed.iter().all(|follow| follow.since.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_release_is_done_when_the_host_says_so() {
    let client = Fake::new(vec![host("web1", "web1", &[])], |request| {
        vec![
            // The word of the generation before, and another request's decision, say nothing.
            word(state(5, Posture::Isolated)),
            decision(&Event { id: "another".into(), ..request.clone() }, Verdict::Refuse, Reason::NoPolicy, None),
            decision(request, Verdict::Release, Reason::Operator, Some(6)),
            word(state(6, Posture::Open)),
        ]
    });
    let (exit, out, _) = said(&client, &format!("{RELEASE} --json")).await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(exit, Exit::Done);
    assert_eq!(document["outcome"], "confirmed");
    assert_eq!(document["exit_code"], 0);
    assert_eq!(document["action"], "release");
    assert_eq!(document["generation"], 6);
    assert_eq!(document["request"]["token"], "alice");
    assert!(document["ordered_ms"].is_number() && document["enforced_ms"].is_number());
}

#[tokio::test(start_paused = true)]
async fn the_hosts_word_may_come_before_the_decision() {
    let client = Fake::new(vec![isolated(5)], |request| vec![word(state(5, Posture::Isolated)), isolate(request, 5)]);
    assert_eq!(said(&client, ISOLATE).await.0, Exit::Done);
}

#[tokio::test(start_paused = true)]
async fn a_later_generation_with_the_same_posture_confirms_too() {
    let client = Fake::new(vec![isolated(7)], |request| vec![isolate(request, 5), word(state(7, Posture::Isolated))]);
    assert_eq!(said(&client, ISOLATE).await.0, Exit::Done);
}

#[tokio::test(start_paused = true)]
async fn a_cause_that_joins_is_confirmed_by_what_the_host_said_before() {
    let joined =
        |request: &Event<Request>| vec![decision(request, Verdict::Isolate, Reason::Joined { generation: 5, until: None }, None)];
    let client = Fake::new(vec![HostView { state: Some(state(5, Posture::Isolated)), ..isolated(5) }], joined);
    assert_eq!(said(&client, ISOLATE).await.0, Exit::Done);
    let client = Fake::new(vec![isolated(5)], joined);
    assert_eq!(said(&client, ISOLATE).await.0, Exit::Unconfirmed);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_enforce_is_a_failure() {
    let failed = State { error: Some("nft: no \u{1b}[31mmemory".into()), ..state(5, Posture::Open) };
    let client = Fake::new(vec![isolated(5)], move |request| vec![isolate(request, 5), word(failed.clone())]);
    let (exit, out, err) = said(&client, ISOLATE).await;
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    assert!(err.contains("could not enforce it: nft: no \u{fffd}[31mmemory") && err.contains("hint: "), "{err}");
    // It is cut off all the same, and the operator is not to think otherwise.
    let partly = State { error: Some("the posture is not on the disk".into()), ..state(5, Posture::Isolated) };
    let client = Fake::new(vec![isolated(5)], move |request| vec![isolate(request, 5), word(partly.clone())]);
    let (exit, _, err) = said(&client, ISOLATE).await;
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("isolated, order no. 5, but degraded: the posture is not on the disk"), "{err}");
}

#[tokio::test(start_paused = true)]
async fn what_the_host_did_not_read_back_confirms_nothing() {
    let mut unproven = state(5, Posture::Isolated);
    unproven.evidence.readback_ok = false;
    for word_of in [unproven, state(5, Posture::Open), state(4, Posture::Isolated)] {
        let client = Fake::new(vec![isolated(5)], move |request| vec![isolate(request, 5), word(word_of.clone())]);
        let (exit, _, err) = said(&client, ISOLATE).await;
        assert_eq!(exit, Exit::Unconfirmed);
        assert!(err.contains("not isolated yet; it will be when the host is back, until 2026-11-22 20:00:00 UTC (order no. 5, no confirmation in 2s)"), "{err}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_without_an_answer_says_why_it_may_be() {
    let mut silent = isolated(5);
    silent.inventory.as_mut().expect("known").silent_since = Some(crate::fake::at(-600));
    let client = Fake::new(vec![silent], |request| vec![isolate(request, 5)]);
    let (exit, _, err) = said(&client, ISOLATE).await;
    assert_eq!(exit, Exit::Unconfirmed);
    assert!(err.contains("waiting for the host to confirm"), "{err}");
    assert!(err.contains("the host is unreachable since 2026-11-22 11:50:00 UTC"), "{err}");

    let client =
        Fake::new(vec![HostView { order: Some(order(6, Posture::Open)), ..isolated(5) }], |request| vec![isolate(request, 5)]);
    assert!(said(&client, ISOLATE).await.2.contains("order no. 6 came since: open"));
}

#[tokio::test(start_paused = true)]
async fn without_a_decision_the_hint_asks_for_the_orchestrator() {
    let client = Fake::new(vec![isolated(5)], |_| Vec::new());
    let (exit, _, err) = said(&client, ISOLATE).await;
    assert_eq!(exit, Exit::Unconfirmed);
    assert!(err.contains("no orchestrator has decided yet (no confirmation in 2s)") && err.contains("portcullis serve"), "{err}");
    let (exit, out, err) = said(&client, &format!("{ISOLATE} --json")).await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!((exit, err.as_str(), &document["outcome"]), (Exit::Unconfirmed, "", &Value::from("unanswered")));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_asked_or_ignored_says_its_reason() {
    let table = [
        (Verdict::Refuse, Reason::Protected { as_what: "broker".into() }, "refused: the host is protected: broker", "refused"),
        (Verdict::Refuse, Reason::TooLong { limit: "7d".into() }, "give --for at most 7d", "refused"),
        (Verdict::Ask, Reason::NoPolicy, "waiting for approval: no valid policy is loaded", "waiting_for_approval"),
        (Verdict::Ignore, Reason::Settled, "nothing is ordered: already applied", "not_done"),
    ];
    for (verdict, reason, part, name) in table {
        let client = Fake::new(vec![isolated(5)], move |request| vec![decision(request, verdict, reason.clone(), None)]);
        let (exit, out, err) = said(&client, ISOLATE).await;
        assert_eq!((exit, out.as_str()), (Exit::Refused, ""));
        assert!(err.contains(part), "{err}");
        let (_, out, _) = said(&client, &format!("{ISOLATE} --json")).await;
        assert_eq!(serde_json::from_str::<Value>(&out).expect("one document")["outcome"], name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_open_already_is_released() {
    let client = Fake::new(vec![isolated(5)], |request| vec![decision(request, Verdict::Ignore, Reason::AlreadyOpen, None)]);
    let (exit, out, err) = said(&client, RELEASE).await;
    assert_eq!(
        (exit, out.as_str(), err.as_str()),
        (Exit::Done, "web1: already open; what was detected before now does not isolate it any more\n", "")
    );
}

#[tokio::test(start_paused = true)]
async fn without_waiting_it_ends_when_the_request_is_stored() {
    let client = Fake::new(vec![isolated(5)], |_| Vec::new());
    let (exit, out, _) = said(&client, "isolate web1 --operator alice --no-wait").await;
    let id = client.sent.lock().expect("sound").first().map(|(_, event)| event.id.clone()).expect("one request");
    assert_eq!((exit, out), (Exit::Done, format!("web1: request {id} is stored\n")));
    let (_, out, _) = said(&client, "isolate web1 --operator alice --no-wait --json").await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_ne!(document["request"]["id"], Value::from(id), "each invocation is a request of its own");
    assert_eq!(document["outcome"], "stored");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_for_a_host_that_nobody_knows_or_by_a_name_that_is_no_token() {
    let client = Fake::new(vec![isolated(5)], |_| Vec::new());
    assert_eq!(said(&client, "isolate web9").await.0, Exit::NotFound);
    assert_eq!(said(&client, "isolate web1 --operator a.b").await.0, Exit::Usage);
    assert_eq!(said(&client, "isolate web1 --for 0s").await.0, Exit::Usage);
    assert!(client.sent.lock().expect("sound").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_not_be_stored_is_no_order() {
    let stored = || Err(Failure::Unstored("timed out".into()));
    let mut client = Fake::new(vec![isolated(5)], |_| Vec::new());
    client.stored = stored;
    let (exit, _, err) = said(&client, &format!("{ISOLATE} --json")).await;
    let error: Value = serde_json::from_str(&err).expect("an error in JSON");
    assert_eq!((exit, &error["error"]["code"]), (Exit::Unreachable, &Value::from("unstored")));
    assert_eq!(error["error"]["exit_code"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_second_isolation_that_would_change_nothing_says_so() {
    let held = Reason::AlreadyIsolated {
        until: Some(crate::fake::at(8 * 3_600)),
        by: "bob".into(),
        incident: "A".into(),
        ticket: None,
        generation: 5,
    };
    let client = Fake::new(vec![isolated(5)], move |request| vec![decision(request, Verdict::Refuse, held.clone(), None)]);
    let (exit, out, err) = said(&client, ISOLATE).await;
    assert_eq!((exit, out.as_str()), (Exit::Refused, ""));
    let words = "web1: already isolated until 2026-11-22 20:00:00 UTC by bob (incident A); your request changed nothing\n";
    assert!(err.contains(words) && err.contains("for a hold of its own; `portcullis show web1`"), "{err}");
    let (_, out, _) = said(&client, &format!("{ISOLATE} --json")).await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!((&document["reason"]["kind"], &document["exit_code"]), (&Value::from("already_isolated"), &Value::from(4)));
    assert_eq!(document["reason"]["by"], "bob");
}

#[tokio::test(start_paused = true)]
async fn an_incident_that_is_not_the_orders_is_said() {
    let client = Fake::new(vec![isolated(5)], |request| vec![isolate(request, 5), word(state(5, Posture::Isolated))]);
    let (exit, _, err) = said(&client, &format!("{ISOLATE} --incident other")).await;
    assert_eq!(exit, Exit::Done);
    assert!(err.contains("isolated already in incident inc-1: your isolation is a hold of its own in other"), "{err}");
}

#[tokio::test(start_paused = true)]
async fn no_time_to_wait_is_time_enough_to_store_the_request() {
    let client = Fake::new(vec![isolated(5)], |_| Vec::new());
    let (exit, _, err) = said(&client, "isolate web1 --operator alice --wait 0s").await;
    assert_eq!(exit, Exit::Unconfirmed, "{err}");
    assert!(err.contains("the request is stored, and no orchestrator has decided yet (no confirmation in 0s)"), "{err}");
    assert_eq!(client.sent.lock().expect("sound").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_isolation_that_ends_no_connection_does_not_count_to_zero() {
    let mut quiet = state(5, Posture::Isolated);
    (quiet.evidence.sockets_killed, quiet.evidence.flows_flushed) = (0, 0);
    let client = Fake::new(vec![isolated(5)], move |request| vec![isolate(request, 5), word(quiet.clone())]);
    assert!(said(&client, ISOLATE).await.1.contains("isolated, order no. 5, level full, no open connections"));
}

#[test]
fn a_login_name_is_made_a_token() {
    use crate::verbs::operator::{principal, sanitised};
    assert_eq!(sanitised("jane.doe@example.org"), "jane-doe@example-org");
    assert_eq!(sanitised("DOM\\jö"), "DOM\\j-");
    assert_eq!(sanitised(""), "operator");
    assert!(portcullis_schemas::subjects::is_token(&principal(None).expect("a login name")));
}

fn isolated(generation: u64) -> HostView {
    HostView { order: Some(order(generation, Posture::Isolated)), ..host("web1", "web1.example.org", &["10.0.0.5"]) }
}

fn isolate(request: &Event<Request>, generation: u64) -> What {
    decision(request, Verdict::Isolate, Reason::Operator, Some(generation))
}

fn word(state: State) -> What {
    What::State(Box::new(event(state)))
}
