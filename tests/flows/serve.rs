//! `portcullis serve`: what it checks, what it says, and the policy's file.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use async_nats::jetstream::stream::Config;
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Reason, Verdict};
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::http;
use portcullis_tests::place::program;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use rustix::process::Signal;

#[tokio::test]
async fn a_stream_that_breaks_a_promise_is_refused_by_name() -> anyhow::Result<()> {
    let world = World::bare().await?;
    let config = Config {
        name: "PORTCULLIS_ORDERS".into(),
        subjects: vec!["portcullis.order.*".into()],
        allow_direct: true,
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
    // A start with an invalid one is refused with a line and a column.
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
    ensure!(world.bus.raw(Stream::Orders, &world.bus.prefix.all(Stream::Orders)).await?.is_empty());
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
