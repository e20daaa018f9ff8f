//! Pages of decisions, terms and policies on a real nats-server, as the orchestrator writes them.

use std::time::Instant;

use async_nats::jetstream::Context;
use portcullis_cli::Exit;
use portcullis_cli::broker::Broker;
use portcullis_cli::{Screen, verbs};
use serde_json::{Value, json};

use super::{Server, cloud, decision, inventory, kinds, parse, play, said, state, store, streams, until};

#[tokio::test]
async fn pages_are_listed_shown_and_followed() {
    let server = Server::start();
    let js = streams(&server).await;
    for (host, ip) in [("web1", "10.0.0.5"), ("db1", "10.0.0.6")] {
        store(&js, "inventory", inventory(host, host, ip)).await;
    }
    for sequence in 1..=4 {
        detect(&js, &format!("d-{sequence}")).await;
    }
    put(&js, "decision._term", term()).await;
    put(&js, "order._term", term()).await;
    put(&js, "decision._policy", cloud("policy-activated", json!({ "hash": "f00d", "activated_by": "file", "term": 1 }))).await;
    let plain =
        |sequences: Value| [json!({ "count": 3, "host": "web1", "rule": "rest", "verdict": "observe", "sequences": sequences })];
    put(&js, "decision._pages", page(1, 4, &plain(json!([[1, 2], [4, 4]])), &[whole(3, "db1", "d-3")])).await;
    put(&js, "decision._pages", page(5, 5, &[], &[whole(5, "db1", "d-5")])).await;

    let (_, out, err) = said(&server, "decisions --host web1 --json").await;
    let document: Value = serde_json::from_str(&out).expect(&err);
    let decisions = document["decisions"].as_array().expect("a list");
    let keys: Vec<&Value> = decisions.iter().map(|line| &line["data"]["input"]["id"]).collect();
    assert_eq!(keys, ["d-1", "d-2", "d-4"], "{out}");
    assert_eq!(decisions[0]["data"]["input"]["token"], "elastic");
    let (_, out, _) = said(&server, "decisions").await;
    assert_eq!((out.lines().count(), out.contains("db1   isolate")), (4, true), "a head, a group and two decisions: {out}");
    let (_, out, _) = said(&server, "decisions --limit 2").await;
    assert!(!out.contains("rest") && out.contains("detection d-3 by elastic"), "{out}");
    let (_, out, _) = said(&server, "show web1").await;
    assert!(out.contains("rule rest: observe; 3 detections, sequences 1 to 4"), "{out}");
    for (named, answer) in
        [("d-2", "rule rest: observe; detection d-2 by elastic"), ("seq:3", "rule c2: isolate, order no. 7; detection d-3")]
    {
        let (exit, out, err) = said(&server, &format!("show {named}")).await;
        assert_eq!((exit, out.contains(answer)), (Exit::Done, true), "{named}: {out}{err}");
    }
    assert_eq!(said(&server, "show d-9").await.0, Exit::NotFound);
    assert_eq!(said(&server, "hosts").await.0, Exit::Done, "a term among the orders is no host's");

    let line = parse(&server, "tail --since 1h");
    let broker = Broker::connect(&line.global).await.expect("connected");
    let (mut screen, out, _) = Screen::kept(false);
    let follow = verbs::run(line.verb, &broker, &mut screen);
    tokio::pin!(follow);
    let decided = ["decision", "decision", "decision"];
    let stored = [&["detection"; 4][..], &["term", "policy"], &decided].concat();
    until(&mut follow, || kinds(&out.text()) == stored).await;
    put(&js, "decision._pages", page(6, 9, &plain(json!([[6, 8]])), &[whole(9, "db1", "d-9")])).await;
    until(&mut follow, || kinds(&out.text()).len() == stored.len() + 2).await;
}

/// A request may be decided together with others.
#[tokio::test]
async fn a_request_finds_its_answer_in_a_page() {
    let server = Server::start();
    let js = streams(&server).await;
    store(&js, "inventory", inventory("web1", "web1", "10.0.0.5")).await;
    let (_, (exit, out, err)) = tokio::join!(
        play(&js, async |request| {
            let mut answer = decision(request, "isolate", json!({ "kind": "operator" }), Some(1))["data"].clone();
            answer["sequence"] = json!(1);
            put(&js, "decision._pages", page(1, 2, &[], &[whole(2, "db1", "d-2"), answer])).await;
            store(&js, "state", state(1, "isolated", None)).await;
        }),
        said(&server, "isolate web1 --operator alice --wait 10s --json")
    );
    assert_eq!((exit, out.contains("confirmed")), (Exit::Done, true), "{out}{err}");
}

/// Not a test but a measurement: `cargo test --release -p portcullis-cli --test broker pages::measure -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement of 100,000 pages"]
async fn measure_decisions_of_one_host_in_a_hundred_thousand_pages() {
    const PAGES: u64 = 100_000;
    let server = Server::start();
    let js = streams(&server).await;
    for host in ["rare", "never"] {
        store(&js, "inventory", inventory(host, host, "10.0.0.5")).await;
    }
    let mut bytes = 0;
    let mut acks = Vec::new();
    for number in 0..PAGES {
        let first = number * 32;
        let group = |n: u64| {
            let host = format!("host-{:05}", (number * 7 + n * 131) % 10_000);
            json!({ "count": 4, "host": host, "rule": "rest", "verdict": "observe", "sequences": [[first + n * 4, first + n * 4 + 3]] })
        };
        let groups: Vec<Value> = (0..8).map(group).collect();
        let others = if number == 100 { vec![whole(first, "rare", "d-rare")] } else { Vec::new() };
        let body = page(first, first + 31, &groups, &others).to_string();
        bytes += body.len();
        acks.push(js.publish("portcullis.decision._pages", body.into()).await.expect("sent"));
        if acks.len() == 512 {
            for ack in acks.drain(..) {
                ack.await.expect("stored");
            }
        }
    }
    for ack in acks {
        ack.await.expect("stored");
    }
    println!("{PAGES} pages, {} MiB", bytes >> 20);
    for line in ["decisions --host rare", "decisions --host never", "decisions", "show rare", "show never"] {
        let begin = Instant::now();
        let (exit, out, err) = said(&server, line).await;
        println!("{line}: {:?}, {exit:?}, {} lines {err}", begin.elapsed(), out.lines().count());
    }
}

async fn put(js: &Context, tail: &str, event: Value) {
    js.publish(format!("portcullis.{tail}"), event.to_string().into()).await.expect("sent").await.expect("stored");
}

async fn detect(js: &Context, id: &str) {
    let mut event = cloud(
        "detection",
        json!({ "host": { "id": "web1" }, "severity": "low", "rule": { "id": "1", "name": "Beacon" }, "techniques": [],
                "product": "elastic", "observed_at": "2026-11-22T12:00:00Z" }),
    );
    event["id"] = json!(id);
    put(js, "detection.elastic", event).await;
}

fn term() -> Value {
    cloud(
        "term",
        json!({ "term": 1, "who": "c01f", "since": "2026-11-22T12:00:00Z", "config": { "prefix": "portcullis", "version": "0.1.0" } }),
    )
}

fn page(first: u64, last: u64, plain: &[Value], decisions: &[Value]) -> Value {
    cloud(
        "decisions",
        json!({ "stream": "PORTCULLIS_DETECTIONS", "first": first, "last": last, "policy": "f00d", "plain": plain, "decisions": decisions,
                "seen": { "term": 1, "orders": 0, "decisions": 1, "inventory": 2, "states": 0 } }),
    )
}

fn whole(sequence: u64, host: &str, id: &str) -> Value {
    json!({ "input": { "type": "detection", "token": "elastic", "source": "/test", "id": id }, "sequence": sequence, "host": host,
            "verdict": "isolate", "reason": { "kind": "rule" }, "rule": "c2", "generation": 7, "incident": "inc-1",
            "facts": { "counts": { "hosts": 1, "isolated": 0 } } })
}
