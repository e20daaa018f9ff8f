//! What `doctor` says of a site that is well, and of one wrong thing each.

use chrono::{TimeDelta, Utc};
use portcullis_bus::survey::{Following, Storage};
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Notice, NoticeKind, Posture, Severity};
use portcullis_schemas::heartbeat::{Heartbeat, PolicyState, Refused};
use serde_json::Value;

use super::{DoctorArgs, run};
use crate::client::{Beat, HostView, What};
use crate::failure::{Exit, Failure};
use crate::fake::{Fake, at, event, host, order, record, site, state};
use crate::screen::Screen;
use crate::site::{Chain, Link, Site};

fn beat(age: i64, hash: Option<&str>) -> Beat {
    let policy = PolicyState { hash: hash.map(str::to_owned), refused: None };
    Beat { at: at(0), age: TimeDelta::seconds(age), said: Heartbeat { policy, ..Heartbeat::default() } }
}

fn healthy() -> Fake {
    let mut client = Fake::new(vec![agent("web1"), agent("web2")], |_| Vec::new());
    client.beat = Some(beat(2, Some("7e3a4cbf7e1d5f92890ce76eeba82817")));
    client
}

fn agent(name: &str) -> HostView {
    let mut view = host(name, name, &[]);
    view.inventory.as_mut().expect("known").hello.agent_version = env!("CARGO_PKG_VERSION").into();
    view
}

/// Exit code and lines of stdout.
async fn said(client: &Fake, json: bool) -> (Exit, String) {
    let (mut screen, out, _) = Screen::kept(json);
    let args = DoctorArgs { quiet: false };
    let exit = run(&args, client, &mut screen, Utc::now(), client.beat.as_ref()).await.expect("a doctor always answers");
    (exit, out.text())
}

/// A site with one thing changed: the finding says so, and nothing else is wrong.
async fn finds(change: impl Fn(&mut Site) + Send + Sync + 'static, grade: &str, check: &str, words: &str) {
    let mut client = healthy();
    client.site = Box::new(move || {
        let mut site = site();
        change(&mut site);
        site
    });
    one(&client, grade, check, words).await;
}

async fn one(client: &Fake, grade: &str, check: &str, words: &str) {
    let (exit, out) = said(client, true).await;
    let document: Value = serde_json::from_str(&out).expect("one document");
    let bad: Vec<&Value> =
        document["findings"].as_array().into_iter().flatten().filter(|finding| finding["grade"] != "ok").collect();
    assert_eq!((exit, document["is_well"].as_bool(), bad.len()), (Exit::Failed, Some(false), 1), "{words}: {out}");
    let (says, remedy) = (bad[0]["says"].as_str().unwrap_or_default(), bad[0]["remedy"].as_str().unwrap_or_default());
    assert_eq!((bad[0]["check"].as_str(), bad[0]["grade"].as_str()), (Some(check), Some(grade)), "{says}");
    assert!(says.contains(words) && !remedy.is_empty(), "{says:?} holds no {words:?}; {remedy}");
}

#[tokio::test]
async fn a_site_that_is_well_has_no_finding() {
    let (exit, out) = said(&healthy(), false).await;
    assert_eq!(exit, Exit::Done, "{out}");
    let expected = [
        "ok    broker     nats-server 2.15.1 at nats://127.0.0.1:4222",
        "ok    clock      the broker's clock and that of this machine agree",
        "ok    storage    10 MiB stored, 20 MiB reserved, a limit of 100 MiB",
        "ok    streams    9 streams, as they should be",
        "ok    chain      the last 4 messages of ORDERS follow from one another",
        "ok    leader     a1, term 3 since 2026-11-22 12:00:00 UTC, version 0.1.0, heartbeat 2s ago",
        "ok    followers  1 follower, up to date",
        "ok    policy     7e3a4cbf7e1d… is active",
        "ok    hosts      2 hosts, all as ordered",
        "ok    orders     no host reports an order that ORDERS does not hold",
        &format!("ok    agents     all of version {}", env!("CARGO_PKG_VERSION")),
        "ok    sources    100 detections by 1 source, none floods",
        "ok    rejected   no message was rejected",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn each_fault_of_the_broker_and_its_streams_is_named() {
    let held = |site: &mut Site, stream: Stream, change: &dyn Fn(&mut portcullis_bus::survey::Held)| {
        let (_, held) = site.streams.iter_mut().find(|(one, _)| *one == stream).expect("each stream");
        change(held.as_mut().expect("healthy"));
    };
    finds(|site| site.server.refused = Some("nats-server 2.11.3 is too old".into()), "fail", "broker", "too old").await;
    finds(|site| site.clock_ahead = Ok(TimeDelta::seconds(-90)), "warn", "clock", "1m30s behind").await;
    let full = Storage { used: 96 << 20, reserved: 96 << 20, limit: Some(100 << 20) };
    finds(move |site| site.storage = Ok(full), "fail", "storage", "96 MiB of 100 MiB").await;
    let missing = || Failure::NoStream { servers: "nats://a".into(), stream: "PORTCULLIS_ORDERS".into() };
    finds(move |site| site.streams[0].1 = Err(missing()), "fail", "streams", "no stream PORTCULLIS_ORDERS").await;
    finds(
        move |site| held(site, Stream::Orders, &|held| held.refused = Some("allow_atomic off".into())),
        "fail",
        "streams",
        "allow_atomic",
    )
    .await;
    finds(
        move |site| held(site, Stream::States, &|held| held.lacks = vec!["deny_purge: it can be emptied".into()]),
        "warn",
        "streams",
        "STATES lacks deny_purge",
    )
    .await;
    finds(
        move |site| held(site, Stream::Orders, &|held| held.behind = vec!["n2".into()]),
        "warn",
        "streams",
        "behind or away: n2",
    )
    .await;
    finds(
        move |site| held(site, Stream::Orders, &|held| held.bytes = 95 << 20),
        "fail",
        "streams",
        "95 % full; full, it takes no order",
    )
    .await;
    finds(move |site| held(site, Stream::States, &|held| held.bytes = 89 << 20), "warn", "streams", "STATES is 89 % full").await;
    finds(
        move |site| held(site, Stream::Decisions, &|held| held.first = 41),
        "fail",
        "streams",
        "DECISIONS has lost messages 1 to 40",
    )
    .await;
    let emptied = |held: &mut portcullis_bus::survey::Held| (held.messages, held.first, held.last) = (0, 101, 100);
    finds(move |site| held(site, Stream::Decisions, &emptied), "fail", "streams", "lost all 100 messages").await;
    finds(move |site| held(site, Stream::Orders, &|held| held.removed = 3), "fail", "streams", "lost 3 messages").await;
    finds(
        |site| site.chain = Ok(Chain { checked: 9, breaks: vec![7], foreign: Vec::new() }),
        "fail",
        "chain",
        "do not follow from those before them, at 7",
    )
    .await;
    finds(|site| site.chain = Ok(Chain { checked: 9, breaks: Vec::new(), foreign: vec![5] }), "fail", "chain", "no order, at 5")
        .await;
}

/// What a limit removes is no loss.
#[tokio::test]
async fn what_limits_have_removed_is_not_named() {
    let mut client = healthy();
    client.site = Box::new(|| {
        let mut site = site();
        for (stream, held) in &mut site.streams {
            let held = held.as_mut().expect("healthy");
            match stream {
                Stream::Decisions => (held.first, held.first_at) = (41, Utc::now() - TimeDelta::days(364)),
                Stream::Detections => (held.first, held.bytes) = (41, 100 << 20),
                Stream::Orders => (held.removed, held.messages) = (900, 2_000),
                _ => {}
            }
        }
        site
    });
    let (exit, out) = said(&client, false).await;
    assert_eq!(exit, Exit::Done, "{out}");
}

#[tokio::test]
async fn a_missing_leader_a_silent_one_and_a_slow_follower_are_named() {
    finds(|site| site.leader = Ok(None), "fail", "leader", "no orchestrator leads: nothing is decided").await;
    finds(|site| site.leader = Ok(Some(("a1".into(), TimeDelta::seconds(65)))), "fail", "leader", "a1 was heard 1m5s ago").await;
    let slow = || vec![Following { who: "a1".into(), behind: 0 }, Following { who: "b2".into(), behind: 40_000 }];
    finds(move |site| site.orchestrators = Ok(slow()), "warn", "followers", "40000 decisions behind").await;
    let mut client = healthy();
    client.beat = Some(beat(65, Some("7e3a")));
    one(&client, "fail", "leader", "sends no heartbeat").await;
}

#[tokio::test]
async fn a_policy_that_is_missing_or_refused_is_named() {
    let mut client = healthy();
    client.beat = Some(beat(2, None));
    one(&client, "fail", "policy", "none is active").await;
    let refused = Some(Refused { at: at(0), file: "/p.yaml".into(), problem: "line 3".into() });
    let mut old = beat(2, Some("7e3a"));
    old.said.policy.refused = refused;
    client.beat = Some(old);
    one(&client, "warn", "policy", "/p.yaml was refused at 2026-11-22 12:00:00 UTC: line 3; the one before it stays active")
        .await;
}

#[tokio::test]
async fn hosts_that_are_away_differ_or_are_ahead_are_named() {
    let with = |change: &dyn Fn(&mut HostView)| {
        let mut client = healthy();
        change(&mut client.hosts[0]);
        client
    };
    let silent = with(&|view| view.inventory.as_mut().expect("known").silent_since = Some(at(0)));
    one(&silent, "warn", "hosts", "unreachable, 1 host: web1").await;
    let drift = with(&|view| (view.order, view.state) = (Some(order(5, Posture::Isolated)), Some(state(4, Posture::Open))));
    one(&drift, "fail", "hosts", "differ from their orders, 1 host: web1").await;
    let ahead = with(&|view| view.state = Some(state(5, Posture::Isolated)));
    one(&ahead, "fail", "orders", "ORDERS is behind 1 host: web1 (reports order no. 5, ORDERS has none)").await;
    let older = with(&|view| view.inventory.as_mut().expect("known").hello.agent_version = "0.0.9".into());
    one(&older, "warn", "agents", "0.0.9 on web1").await;
}

#[tokio::test]
async fn senders_that_flood_or_are_not_understood_are_named() {
    let flood = || Ok([("siem".to_owned(), 100u64), ("edr".to_owned(), 99_900)].into());
    finds(move |site| site.detections = flood(), "warn", "sources", "edr (99900 detections, 99 % of all)").await;
    let alone = || Ok([("edr".to_owned(), 100_000u64)].into());
    finds(move |site| site.detections = alone(), "warn", "sources", "edr (100000 detections, 100 % of all)").await;
    finds(|site| site.rejected = Ok([("edr".to_owned(), 7u64)].into()), "warn", "rejected", "by source: edr (7)").await;
    let mut client = healthy();
    let text = "two processes say that they are web1".to_owned();
    let (kind, severity) = (NoticeKind::Contested, Severity::High);
    let notice = Notice { kind, severity, host: None, incident: None, text, outputs: Vec::new() };
    let notice = record("portcullis.notice.web1", Utc::now(), What::Notice(Box::new(event(notice))));
    client.records.push((Stream::Notices, notice));
    one(&client, "warn", "ids", "two processes say that they are web1").await;
}

#[test]
fn a_chain_goes_over_what_follows_directly_and_nothing_else() {
    let link =
        |sequence, sha256: &str, prev: Option<&str>| Link { sequence, sha256: sha256.into(), prev: prev.map(str::to_owned) };
    let links = [
        link(4, "d", Some("c")),
        link(5, "e", Some("d")),
        // Between them one was removed.
        link(7, "g", Some("f")),
        link(8, "h", Some("x")),
        link(9, "i", None),
        link(10, "j", Some("i")),
    ];
    let (mut chain, mut before) = (Chain::default(), None);
    for link in &links {
        chain.take(before, link);
        before = Some(link);
    }
    assert_eq!(chain, Chain { checked: 6, breaks: vec![8], foreign: vec![9] });
}
