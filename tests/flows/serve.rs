//! `portcullis serve`: what it checks, what it says, and the policy's file.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use async_nats::HeaderMap;
use async_nats::jetstream::stream::Config;
use chrono::{TimeDelta, Utc};
use portcullis_schemas::envelope::{self, CONTENT_TYPE};
use portcullis_schemas::events::{Hello, Notice, NoticeKind, Posture, Reason, Verdict};
use portcullis_schemas::{HostId, Stream};
use portcullis_tests::bus::{by_id, event, ransomware};
use portcullis_tests::http;
use portcullis_tests::place::program;
use portcullis_tests::until::until;
use portcullis_tests::world::{Orchestrator, POLICY, World, said};
use rustix::process::Signal;

#[tokio::test]
async fn a_stream_that_breaks_a_promise_is_refused_by_name() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    world.is_not_replayed("there are no streams");
    let config = Config {
        name: "PORTCULLIS_ORDERS".into(),
        subjects: vec!["portcullis.order.*".into()],
        allow_direct: true,
        allow_atomic_publish: true,
        ..Config::default()
    };
    world.bus.context.create_stream(config).await?;
    let mut orchestrator = world.another(&[])?;
    let status = until("the orchestrator refuses", Duration::from_secs(20), || {
        let ended = orchestrator.process.ended();
        async move { ended }
    })
    .await?;
    ensure!(!status.success());
    let said = orchestrator.process.said();
    ensure!(said.contains("PORTCULLIS_ORDERS") && said.contains("republish"), "{said}");
    Ok(())
}

/// The answer is there at once, and says what to do.
#[tokio::test]
async fn more_replicas_than_servers_are_refused() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    world.is_not_replayed("there are no streams");
    let refused = async |mut orchestrator: Orchestrator, name: &str, words: &str| {
        let status = until("the orchestrator refuses", Duration::from_secs(20), || {
            let ended = orchestrator.process.ended();
            async move { ended }
        })
        .await?;
        let said = orchestrator.process.said();
        ensure!(!status.success() && said.contains(name) && said.contains(words) && said.contains("--replicas"), "{said}");
        anyhow::Ok(())
    };
    let three = [("PORTCULLIS_REPLICAS", "3")];
    refused(world.another(&three)?, "PORTCULLIS_ORDERS", "cannot have 3 replicas").await?;
    // Streams that were made with fewer are not what --replicas promises.
    world.orchestrate(&[]).await?;
    world.orchestrator().process.stop().await?;
    refused(world.another(&three)?, "PORTCULLIS_ORDERS", "has 1 replicas; 3").await
}

#[tokio::test]
async fn an_invalid_policy_is_never_taken() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(&POLICY.replace("then: isolate", "then: observe"))).await?;
    let verdict = async |world: &World| -> anyhow::Result<(Verdict, Option<String>)> {
        let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
        let decision = world.bus.decision(&id).await?;
        Ok((decision.verdict, decision.facts.policy))
    };
    let (before, hash) = verdict(&world).await?;
    ensure!(before == Verdict::Observe);
    std::fs::write(world.policy(), "version: 1\nrules:\n  - name: rest\n    then: isolat\n")?;
    world.orchestrator().process.signal(Signal::HUP)?;
    until("it says what is wrong", Duration::from_secs(10), || async {
        let said = world.orchestrator.as_ref().map(|orchestrator| orchestrator.process.said()).unwrap_or_default();
        Ok(said.contains("isolat").then_some(()))
    })
    .await?;
    ensure!(verdict(&world).await? == (Verdict::Observe, hash), "an invalid policy was taken");
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrator().process.signal(Signal::HUP)?;
    until("the new policy decides", Duration::from_secs(10), || async {
        Ok((verdict(&world).await?.0 == Verdict::Isolate).then_some(()))
    })
    .await?;
    // The check names line and column.
    std::fs::write(world.policy(), "version: 1\nrules: []\nwhen: !a\n")?;
    let output = world.verb(&["policy", "check", world.policy().to_str().unwrap_or_default()])?;
    said(&output, 1)?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("line 3"), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn hosts_that_the_configuration_names_are_protected() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrate(&[("PORTCULLIS_BROKER_HOST", "h1")]).await?;
    world.host(1).await?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    let decision = world.bus.decision(&id).await?;
    ensure!(decision.verdict == Verdict::Ask && matches!(decision.reason, Reason::Protected { .. }), "{decision:?}");
    said(&world.verb(&["isolate", "h1"])?, 4)?;
    ensure!(world.bus.all_orders().await?.is_empty());
    said(&world.verb(&["isolate", "h1", "--override-protected"])?, 0)?;
    Ok(())
}

#[tokio::test]
async fn health_readiness_and_figures_can_be_asked_for() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    let port = world.orchestrator().http;
    ensure!(http::get(port, "/healthz").await?.0 == 200 && http::get(port, "/readyz").await?.0 == 200);
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.decision(&id).await?;
    until("the figures tell of it", Duration::from_secs(20), || async {
        let text = http::get(port, "/metrics").await?.1;
        let all = [
            "portcullis_inputs_total{kind=\"detection\"} 1",
            "portcullis_verdicts_total{verdict=\"isolate\"} 1",
            "portcullis_orders_total{posture=\"isolated\"} 1",
            "portcullis_order_latency_seconds_bucket",
            "portcullis_pending_deadlines 1",
            "portcullis_tick_age_seconds",
            "portcullis_hosts{status=\"isolated\"} 1",
        ];
        Ok(all.iter().all(|line| text.contains(line)).then_some(()))
    })
    .await?;
    world.nats.kill9()?;
    until("it is not ready without its broker", Duration::from_secs(20), || async {
        Ok((http::get(port, "/readyz").await?.0 == 503).then_some(()))
    })
    .await?;
    ensure!(http::get(port, "/healthz").await?.0 == 200);
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_without_its_password() -> anyhow::Result<()> {
    let output = Command::new(program("portcullis")?).args(["serve", "--nats", "nats://me:secret@127.0.0.1:x"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("--nats") && !said.contains("secret"), "{said}");
    let output = Command::new(program("portcullis")?).args(["serve", "--replicas", "2"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2) && said.contains("write 1, 3 or 5"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named_once_and_waited_for() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    world.nats.kill9()?;
    let orchestrator = world.another(&[])?;
    until("it is said", Duration::from_secs(20), || async {
        Ok(orchestrator.process.said().contains("the broker is not reached").then_some(()))
    })
    .await?;
    world.nats.start_again().await?;
    orchestrator.ready().await?;
    let said = orchestrator.process.said();
    ensure!(said.matches("is not reached").count() == 1 && said.contains(&world.nats.url()), "{said}");
    Ok(())
}

#[tokio::test]
async fn without_a_valid_policy_detections_wait_for_a_person_and_nobody_is_kept_from_releasing_a_host() -> anyhow::Result<()> {
    let mut world = World::start(1, Some("version: 1\nrules:\n  - name: rest\n    then: isolat\n")).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let (port, log) = (world.orchestrator().http, world.orchestrator().process.said());
    ensure!(log.contains("ERROR") && log.contains("policy file refused: no policy is loaded") && log.contains("isolat"), "{log}");
    let (status, ready) = http::get(port, "/readyz").await?;
    ensure!(status == 200 && ready.contains("NO POLICY") && ready.contains("policy.yaml"), "{ready}");
    let metrics = http::get(port, "/metrics").await?.1;
    ensure!(metrics.contains("portcullis_policy_loaded 0") && metrics.contains("portcullis_policy_refused_total 1"), "{metrics}");
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    ensure!(world.bus.decision(&id).await?.reason == Reason::NoPolicy);
    let warned = async |world: &World, verb: &[&str], words: &str| {
        until(&format!("{verb:?} warns: {words:?}"), Duration::from_secs(20), || async {
            let output = world.verb(verb)?;
            said(&output, 0)?;
            let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
            Ok((warnings.contains(words) && (!words.is_empty() || warnings.is_empty())).then_some(()))
        })
        .await
    };
    for verb in [&["hosts"][..], &["show", "h1"], &["decisions"], &["release", "h1"]] {
        warned(&world, verb, "policy.yaml refused at ").await?;
    }
    ensure!(world.enforced(1)? == Posture::Open);
    // Mended, it is taken without a restart; broken again, the one before stays, and both are said.
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrator().process.signal(Signal::HUP)?;
    warned(&world, &["hosts"], "").await?;
    std::fs::write(world.policy(), "version: 2\n")?;
    world.orchestrator().process.signal(Signal::HUP)?;
    warned(&world, &["hosts"], "the policy before it stays active").await?;
    let metrics = http::get(port, "/metrics").await?.1;
    ensure!(metrics.contains("portcullis_policy_loaded 1") && metrics.contains("portcullis_policy_refused_total 2"), "{metrics}");
    // Neither does a restart undo what is active.
    world.orchestrator().process.stop().await?;
    world.orchestrate(&[]).await?;
    let ready = http::get(world.orchestrator().http, "/readyz").await?.1;
    ensure!(ready.contains("refused, the policy before it stays active"), "{ready}");
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    ensure!(world.bus.decision(&id).await?.verdict == Verdict::Isolate);
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_away_for_a_moment_is_one_warning() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    let before = world.orchestrator().process.said().len();
    world.nats.kill9()?;
    world.nats.start_again().await?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    world.bus.decision(&id).await?;
    let log = world.orchestrator().process.said().split_off(before);
    let of = |level: &str| log.lines().filter(|line| line.contains(&format!(" {level} "))).count();
    ensure!((of("ERROR"), of("WARN")) == (0, 1) && log.contains("broker unreachable: reconnecting"), "{log}");
    ensure!(log.matches("broker connected").count() == 1, "{log}");
    Ok(())
}

#[tokio::test]
async fn a_host_that_falls_silent_is_seen_at_once_and_said_when_it_is_unreachable() -> anyhow::Result<()> {
    let mut world = World::start(0, Some(POLICY)).await?;
    let hello: Hello = serde_json::from_value(serde_json::json!({
        "host": "h1", "hostname": "h1", "ips": [], "os": "Linux", "kernel": "6", "agent_version": "0", "boot_id": "b", "instance": "i",
        "level": "full", "generation": 0, "posture": "open",
    }))?;
    let body = envelope::encode(&event("hello-1".into(), "/test", hello))?;
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    let (hello, inventory) = (world.bus.prefix.hello(&HostId::new("h1")?), world.bus.prefix.of(Stream::Inventory, "h1"));
    // A hello is no stored event: one that is said before the orchestrator listens is said again.
    until("the host is known", Duration::from_secs(30), || async {
        world.bus.client.publish_with_headers(hello.clone(), headers.clone(), body.clone().into()).await?;
        Ok((!world.bus.raw(Stream::Inventory, &inventory).await?.is_empty()).then_some(()))
    })
    .await?;
    let hosts = |world: &World| -> anyhow::Result<(serde_json::Value, String)> {
        let output = world.verb(&["hosts", "--json"])?;
        Ok((serde_json::from_str(&said(&output, 0)?)?, String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let heard = Utc::now();
    until("it is late", Duration::from_secs(60), || async {
        Ok((!hosts(&world)?.0["hosts"][0]["heard_at"].is_null()).then_some(()))
    })
    .await?;
    ensure!(Utc::now() - heard < TimeDelta::seconds(50) && hosts(&world)?.0["hosts"][0]["status"] == "open");
    let notices = world.bus.prefix.of(Stream::Notices, "h1");
    let notice = until("a notice says that it is unreachable", Duration::from_secs(120), || async {
        let notices = world.bus.all::<Notice>(Stream::Notices, &notices).await?;
        Ok(notices.into_iter().map(|found| found.event.data).find(|notice| notice.kind == NoticeKind::Silent))
    })
    .await?;
    ensure!(notice.text.contains("h1 is unreachable: no heartbeat since"), "{notice:?}");
    ensure!(hosts(&world)?.0["hosts"][0]["status"] == "unreachable");
    // With the orchestrator away the same picture is an old one.
    ensure!(hosts(&world)?.1.is_empty());
    world.orchestrator().process.stop().await?;
    until("it says since when it is old", Duration::from_secs(60), || async {
        Ok(hosts(&world)?.1.contains("no heartbeat from an orchestrator since").then_some(()))
    })
    .await?;
    Ok(())
}
