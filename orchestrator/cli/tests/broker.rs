//! The verbs against a real nats-server; the test plays the orchestrator and the agent.

#[path = "broker/pages.rs"]
mod pages;
#[path = "broker/server.rs"]
mod server;

use std::process::ExitCode;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::{self, Context, stream};
use async_nats::{HeaderMap, ServerAddr};
use clap::Parser;
use futures_util::StreamExt;
use portcullis_cli::broker::Broker;
use portcullis_cli::{Exit, Global, Screen, Verb, verbs};
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Action, Request};
use portcullis_schemas::{Prefix, Stream};
use serde_json::{Value, json};
use server::Server;
use tokio::time::timeout;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

const ISOLATE: &str = "isolate web1 --operator alice --wait 1s --json";

#[tokio::test]
async fn each_outcome_has_its_exit_code() {
    let server = Server::start();
    let js = streams(&server).await;
    store(&js, "inventory", inventory("web1", "web1.example.org", "10.0.0.5")).await;

    // Confirmed. A decision that loses its compare-and-set is no decision, though a plain subscriber hears it.
    let (request, (exit, out, err)) = tokio::join!(
        play(&js, async |request| {
            lose(&js, &decision(request, "refuse", json!({ "kind": "no_policy" }), None)).await;
            store(&js, "decision", decision(request, "isolate", json!({ "kind": "operator" }), Some(1))).await;
            store(&js, "order", order(1, "isolated")).await;
            store(&js, "state", state(1, "isolated", None)).await;
        }),
        said(&server, "isolate web1.example.org --operator alice --for 8h --reason beacon --wait 10s --json")
    );
    let document: Value = serde_json::from_str(&out).expect(&err);
    assert_eq!((exit, &document["outcome"]), (Exit::Done, &json!("confirmed")), "{out}{err}");
    assert_eq!(document["request"]["id"], json!(request.id));
    assert_eq!(document["generation"], 1);
    assert_eq!(document["sockets_killed"], 4);
    assert_eq!(document["release_at"], "2026-11-22T20:00:00Z");
    let (ordered, enforced) = (document["ordered_ms"].as_f64(), document["enforced_ms"].as_f64());
    assert!(ordered > Some(0.0) && enforced >= ordered, "{out}");
    assert_eq!((request.data.action, request.data.operator.as_str()), (Action::Isolate, "alice"));
    assert_eq!((request.source.as_str(), request.data.reason.as_deref()), ("/portcullis/cli", Some("beacon")));

    // A further cause joins; the host has said its word before.
    let (_, (exit, ..)) = tokio::join!(
        play(&js, async |request| {
            store(&js, "decision", decision(request, "isolate", json!({ "kind": "joined", "generation": 1 }), None)).await;
        }),
        said(&server, ISOLATE)
    );
    assert_eq!(exit, Exit::Done);

    // The host cannot.
    let (_, (exit, out, _)) = tokio::join!(
        play(&js, async |request| {
            store(&js, "decision", decision(request, "isolate", json!({ "kind": "operator" }), Some(2))).await;
            store(&js, "state", state(2, "isolated", Some("nft: no memory"))).await;
        }),
        said(&server, ISOLATE)
    );
    assert_eq!(exit, Exit::Failed);
    assert!(out.contains("nft: no memory"), "{out}");

    // Refused, and asked.
    for (verdict, reason) in
        [("refuse", json!({ "kind": "protected", "as_what": "broker" })), ("ask", json!({ "kind": "no_policy" }))]
    {
        let (_, (exit, ..)) = tokio::join!(
            play(&js, async |request| store(&js, "decision", decision(request, verdict, reason.clone(), None)).await),
            said(&server, ISOLATE)
        );
        assert_eq!(exit, Exit::Refused);
    }

    // Open already.
    let (_, (exit, out, _)) = tokio::join!(
        play(&js, async |request| {
            store(&js, "decision", decision(request, "ignore", json!({ "kind": "already_open" }), None)).await;
        }),
        said(&server, "release 10.0.0.5 --operator alice --wait 10s")
    );
    assert_eq!(
        (exit, out.as_str()),
        (Exit::Done, "web1: already open; what was detected before now does not isolate it any more\n")
    );

    // Ordered, and no word of the host; then not even a decision.
    let (_, (exit, out, _)) = tokio::join!(
        play(&js, async |request| {
            store(&js, "decision", decision(request, "isolate", json!({ "kind": "operator" }), Some(3))).await;
        }),
        said(&server, ISOLATE)
    );
    assert_eq!(exit, Exit::Unconfirmed);
    assert!(out.contains("\"unconfirmed\""), "{out}");
    let (exit, out, _) = said(&server, ISOLATE).await;
    assert_eq!(exit, Exit::Unconfirmed);
    assert!(out.contains("\"unanswered\""), "{out}");

    let (exit, ..) = said(&server, "isolate web1 --no-wait").await;
    assert_eq!(exit, Exit::Done);
    let (exit, _, err) = said(&server, "isolate web9 --json").await;
    assert_eq!(exit, Exit::NotFound);
    assert!(err.contains("\"candidates\":[{\"host\":\"web1\""), "{err}");
}

#[tokio::test]
async fn what_is_stored_is_listed_shown_and_followed() {
    let server = Server::start();
    let js = streams(&server).await;
    let (exit, out, _) = said(&server, "hosts").await;
    assert_eq!((exit, out.contains("No host is known yet")), (Exit::Done, true), "empty streams are no error: {out}");
    assert_eq!(said(&server, "decisions").await.0, Exit::Done);

    store(&js, "inventory", inventory("web1", "web1.example.org", "10.0.0.5")).await;
    store(&js, "inventory", inventory("db1", "db1.example.org", "10.0.0.6")).await;
    store(&js, "order", order(1, "isolated")).await;
    store(&js, "order", order(2, "isolated")).await;
    store(&js, "state", state(1, "isolated", None)).await;
    store(&js, "state", state(2, "isolated", None)).await;
    let asked = request("r-1");
    store(&js, "decision", decision(&asked, "isolate", json!({ "kind": "operator" }), Some(2))).await;

    let (_, out, err) = said(&server, "hosts --json").await;
    let fleet: Value = serde_json::from_str(&out).expect(&err);
    assert_eq!(fleet["hosts"][0]["host"], "db1");
    assert_eq!(fleet["hosts"][1]["status"], "isolated");
    assert_eq!(fleet["hosts"][1]["generation"], 2);
    assert_eq!(fleet["hosts"].as_array().map(Vec::len), Some(2));

    let (_, out, _) = said(&server, "show 10.0.0.5").await;
    assert!(out.contains("isolated, order no. 2") && out.contains("isolate: an operator asked"), "{out}");
    let (_, out, _) = said(&server, "decisions --host web1 --json").await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(document["decisions"][0]["data"]["generation"], 2);
    let (_, out, _) = said(&server, "decisions --host db1 --json").await;
    assert_eq!(serde_json::from_str::<Value>(&out).expect("one document")["decisions"], json!([]));

    // History in the order of storing, then what comes.
    let line = parse(&server, "tail --since 1h");
    let broker = Broker::connect(&line.global).await.expect("connected");
    let (mut screen, out, _) = Screen::kept(false);
    let follow = verbs::run(line.verb, &broker, &mut screen);
    tokio::pin!(follow);
    let expected = ["order", "order", "state", "state", "decision"];
    until(&mut follow, || kinds(&out.text()) == expected).await;
    store(&js, "state", state(3, "open", None)).await;
    until(&mut follow, || kinds(&out.text()).len() == 6).await;
    assert!(out.text().lines().last().is_some_and(|last| last.contains("open, order no. 3")), "{}", out.text());
}

#[tokio::test]
async fn a_policy_shows_which_hosts_it_takes() {
    let server = Server::start();
    let js = streams(&server).await;
    for (host, ip) in [("web1", "10.0.0.5"), ("web2", "10.0.0.6"), ("db1", "10.0.0.7")] {
        store(&js, "inventory", inventory(host, &format!("{host}.example.org"), ip)).await;
    }
    let file = std::env::temp_dir().join(format!("portcullis-fleet-{}.yaml", std::process::id()));
    let text = "version: 1
groups: { web: { match: { host.name: 'web*' } }, dc: { match: { host.label.role: dc } } }
limits: [{ name: fleet, isolated: 50% }]
rules: [{ name: rest, then: observe }]
";
    std::fs::write(&file, text).expect("written");
    let (exit, out, err) = said(&server, &format!("policy check {} --fleet", file.display())).await;
    assert_eq!(exit, Exit::Done, "{err}");
    for line in ["group web 2 web1.example.org, web2.example.org", "group dc 0", "limit fleet 3"] {
        let squeezed = out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(squeezed.into_iter().any(|found| found.starts_with(line)), "{line}\n{out}");
    }
    assert!(err.contains("group dc takes no known host") && err.contains("no known host has a label \"role\""), "{err}");
    let line = parse(&server, &format!("policy check {} --fleet", file.display()));
    drop(server);
    let code = portcullis_cli::run(line.verb, &line.global).await;
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(5)), "what was asked for is not left out");
    std::fs::remove_file(&file).expect("removed");
}

#[tokio::test]
async fn without_streams_or_broker_it_says_so() {
    let server = Server::start();
    for line in ["hosts", "show web1", "isolate web1", "decisions", "tail"] {
        let (exit, _, err) = said(&server, line).await;
        assert_eq!(exit, Exit::Unreachable, "{line}");
        assert!(err.contains("has no stream PORTCULLIS_") && err.contains("portcullis serve"), "{err}");
    }
    let line = parse(&server, "hosts");
    let url = server.url.clone();
    drop(server);
    let failure = Broker::connect(&line.global).await.err().expect("nobody listens there");
    assert_eq!(failure.exit(), Exit::Unreachable);
    assert!(failure.to_string().contains(&url), "{failure}");
    let code = portcullis_cli::run(line.verb, &line.global).await;
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(5)));
}

/// Reads the next stored request and does what `answer` says.
async fn play(js: &Context, answer: impl AsyncFnOnce(&Event<Request>)) -> Event<Request> {
    let stream = js.get_stream(Prefix::default().stream(Stream::Requests)).await.expect("made");
    let start_sequence = stream.cached_info().state.last_sequence + 1;
    let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence };
    let consumer =
        stream.create_consumer(OrderedConfig { deliver_policy, ..OrderedConfig::default() }).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("opened");
    let message = timeout(Duration::from_secs(10), messages.next()).await.expect("no request came");
    let message = message.expect("a request").expect("readable");
    assert_eq!(message.subject.as_str(), "portcullis.request.alice.web1");
    let headers = message.headers.as_ref().expect("headers");
    assert_eq!(headers.get("Content-Type").map(|value| value.as_str()), Some(envelope::CONTENT_TYPE));
    let headers = headers.iter().flat_map(|(name, values)| values.iter().map(|value| (name.as_ref(), value.as_str())));
    let request = envelope::decode::<Request>(headers, &message.payload).expect("a request");
    answer(&request).await;
    request
}

async fn streams(server: &Server) -> Context {
    let js = jetstream::new(async_nats::connect(server.url.parse::<ServerAddr>().expect("an address")).await.expect("connected"));
    let prefix = Prefix::default();
    for kind in Stream::ALL {
        let config = stream::Config { name: prefix.stream(kind), subjects: vec![prefix.all(kind)], ..stream::Config::default() };
        js.create_stream(config).await.expect("a stream");
    }
    js
}

async fn store(js: &Context, kind: &str, event: Value) {
    let subject = format!("portcullis.{kind}.{}", event["data"]["host"].as_str().expect("a host"));
    js.publish(subject, event.to_string().into()).await.expect("sent").await.expect("stored");
}

async fn lose(js: &Context, event: &Value) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Sequence", "999999");
    let sent = js.publish_with_headers("portcullis.decision.web1", headers, event.to_string().into()).await.expect("sent");
    sent.await.expect_err("it is not stored");
}

fn parse(server: &Server, line: &str) -> Line {
    let words = ["portcullis", "--nats", &server.url].into_iter().chain(line.split(' '));
    Line::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"))
}

async fn said(server: &Server, line: &str) -> (Exit, String, String) {
    let line = parse(server, line);
    let (mut screen, out, err) = Screen::kept(line.global.json);
    let exit = match Broker::connect(&line.global).await {
        Ok(broker) => verbs::run(line.verb, &broker, &mut screen).await,
        Err(failure) => Err(failure),
    };
    let exit = exit.unwrap_or_else(|failure| screen.failure(&failure));
    (exit, out.text(), err.text())
}

/// Drives a verb that does not end until `is_so`.
async fn until<T: std::fmt::Debug>(verb: &mut (impl Future<Output = T> + Unpin), mut is_so: impl FnMut() -> bool) {
    let wait = std::future::poll_fn(|context| match std::pin::Pin::new(&mut *verb).poll(context) {
        std::task::Poll::Ready(ended) => panic!("it ended: {ended:?}"),
        std::task::Poll::Pending if is_so() => std::task::Poll::Ready(()),
        std::task::Poll::Pending => std::task::Poll::Pending,
    });
    timeout(Duration::from_secs(10), wait).await.expect("it did not come");
}

fn kinds(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect()
}

fn cloud(kind: &str, data: Value) -> Value {
    json!({ "specversion": "1.0", "id": "e-1", "source": "/test", "type": format!("io.portcullis.{kind}.v1"),
            "datacontenttype": "application/json", "data": data })
}

fn request(id: &str) -> Event<Request> {
    let data = json!({ "action": "isolate", "host": "web1", "operator": "alice" });
    let mut event = cloud("request", data);
    event["id"] = json!(id);
    envelope::decode(std::iter::empty(), event.to_string().as_bytes()).expect("a request")
}

fn decision(request: &Event<Request>, verdict: &str, reason: Value, generation: Option<u64>) -> Value {
    cloud(
        "decision",
        json!({ "input": { "type": "request", "token": "alice", "source": request.source, "id": request.id },
                "host": "web1", "verdict": verdict, "reason": reason, "generation": generation,
                "facts": { "counts": { "hosts": 1, "isolated": 0 } } }),
    )
}

fn order(generation: u64, posture: &str) -> Value {
    let cause = json!({ "type": "request", "token": "alice", "source": "/portcullis/cli", "id": "r-1" });
    let hold = json!({ "origin": "manual", "causes": [cause], "generation": generation,
                        "since": "2026-11-22T12:00:00Z", "until": "2026-11-22T20:00:00Z" });
    cloud(
        "order",
        json!({ "host": "web1", "generation": generation, "posture": posture, "holds": [hold],
                "release_at": "2026-11-22T20:00:00Z", "exclusions": [], "when_unreachable": "release", "local_release": "root",
                "incident": "inc-1", "issued_at": "2026-11-22T12:00:00Z", "issued_by": cause, "reason": "beacon",
                "settled": [], "prev": "0".repeat(64) }),
    )
}

fn state(generation: u64, posture: &str, error: Option<&str>) -> Value {
    cloud(
        "state",
        json!({ "host": "web1", "generation": generation, "posture": posture, "level": "full", "cause": "order",
                "enforced_at": "2026-11-22T12:00:01Z", "error": error, "boot_id": "b", "agent_version": "0.1.0",
                "evidence": { "readback_ok": true, "table_locked": true, "sockets_killed": 4, "flows_flushed": 1 } }),
    )
}

fn inventory(host: &str, hostname: &str, ip: &str) -> Value {
    cloud(
        "inventory",
        json!({ "host": host, "hostname": hostname, "ips": [ip], "os": "Debian 12", "kernel": "6.18", "agent_version": "0.1.0",
                "boot_id": "b", "instance": "i", "level": "full", "generation": 0, "posture": "open",
                "claims": [{ "value": ip, "since": "2026-11-22T11:00:00Z" }, { "value": hostname, "since": "2026-11-22T11:00:00Z" }] }),
    )
}
