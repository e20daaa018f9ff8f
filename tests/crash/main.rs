//! kill -9 of orchestrator, agent and broker after each numbered step of the way: then the isolation is there, once, until its deadline.
//!
//! `PORTCULLIS_STOP_AT` makes a debug build stop itself at a step; the test sees it stopped and kills exactly there.

use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_schemas::events::{InputKind, Posture, Verdict};
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::process;
use portcullis_tests::until::until;
use portcullis_tests::world::World;
use rustix::process::Signal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Orchestrator,
    Agent,
    Broker,
}

macro_rules! table {
    ($($name:ident: $step:literal, $victim:ident;)*) => {
        $(#[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            survives($step, Victim::$victim).await
        })*
    };
}

table! {
    orchestrator_killed_when_received: "orchestrator.received", Orchestrator;
    orchestrator_killed_when_decided: "orchestrator.decided", Orchestrator;
    orchestrator_killed_when_ordered: "orchestrator.ordered", Orchestrator;
    orchestrator_killed_when_recorded: "orchestrator.recorded", Orchestrator;
    orchestrator_killed_when_acked: "orchestrator.acked", Orchestrator;
    orchestrator_killed_when_release_is_due: "scheduler.due", Orchestrator;
    orchestrator_killed_when_release_is_said: "scheduler.said", Orchestrator;
    broker_killed_when_received: "orchestrator.received", Broker;
    broker_killed_when_decided: "orchestrator.decided", Broker;
    broker_killed_when_ordered: "orchestrator.ordered", Broker;
    broker_killed_when_recorded: "orchestrator.recorded", Broker;
    broker_killed_when_acked: "orchestrator.acked", Broker;
    broker_killed_when_release_is_due: "scheduler.due", Broker;
    broker_killed_when_release_is_said: "scheduler.said", Broker;
    agent_killed_when_received: "agent.received", Agent;
    agent_killed_when_persisted: "agent.persisted", Agent;
    agent_killed_when_prepared: "agent.prepared", Agent;
    agent_killed_when_enforced: "agent.enforced", Agent;
    agent_killed_when_severed: "agent.severed", Agent;
    agent_killed_when_published: "agent.published", Agent;
    broker_killed_when_agent_received: "agent.received", Broker;
    broker_killed_when_agent_persisted: "agent.persisted", Broker;
    broker_killed_when_agent_enforced: "agent.enforced", Broker;
    broker_killed_when_agent_severed: "agent.severed", Broker;
    broker_killed_when_agent_published: "agent.published", Broker;
}

const POLICY: &str = "\
version: 1
rules:
  - name: ransomware
    match: { severity: \">= high\", technique: [T1486] }
    then: isolate
    release_after: 8s
  - name: rest
    then: observe
";

/// A detection, a kill at `step`, and then all that must hold.
async fn survives(step: &str, victim: Victim) -> anyhow::Result<()> {
    let stop_at = [("PORTCULLIS_STOP_AT", step)];
    let mut world = World::start(1, Some(POLICY)).await?;
    let stopped = if step.starts_with("agent.") {
        let agent = world.lab().agent(1);
        agent.stop().await?;
        agent.start(&stop_at)?;
        agent.pid().context("the agent runs")?
    } else {
        world.orchestrator().process.stop().await?;
        world.orchestrate(&stop_at).await?;
        world.orchestrator().process.pid()
    };

    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    process::stopped(stopped).await?;
    match victim {
        Victim::Orchestrator => {
            world.orchestrator().process.kill9()?;
            world.orchestrate(&[]).await?;
        }
        Victim::Agent => {
            world.lab().agent(1).kill9()?;
            world.lab().agent(1).start(&[])?;
        }
        Victim::Broker => {
            world.nats.kill9()?;
            world.nats.start_again().await?;
            process::signal(stopped, Signal::CONT)?;
        }
    }
    let after_deadline = step.starts_with("scheduler.");
    if !after_deadline {
        isolated(&world).await?;
    }
    let open = world.bus.state("h1", 2, Posture::Open).await?;
    until("the kernel of h1 is open", Duration::from_secs(5), || async {
        Ok((world.enforced(1)? == Posture::Open).then_some(()))
    })
    .await?;
    ensure!(open.event.data.generation == 2, "opened under {}", open.event.data.generation);
    nothing_more(&world, &id).await
}

/// The agent writes its event into a connection whose other end is gone, and an acknowledgement never comes.
#[tokio::test]
async fn a_state_event_that_the_brokers_end_cut_off_is_stored_once_it_is_back() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(&POLICY.replace("8s", "1h"))).await?;
    let agent = world.lab().agent(1);
    agent.stop().await?;
    agent.start(&[("PORTCULLIS_STOP_AT", "agent.severed")])?;
    let agent = agent.pid().context("the agent runs")?;
    world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    process::stopped(agent).await?;
    world.nats.kill9()?;
    world.nats.start_again().await?;
    process::signal(agent, Signal::CONT)?;
    let resumed = chrono::Utc::now();
    let state = world.bus.state("h1", 1, Posture::Isolated).await?;
    // Below the 5 s that an acknowledgement is waited for on a connection that stands.
    let after = state.at - resumed;
    ensure!(after < chrono::TimeDelta::seconds(4), "stored {after} after the broker was back");
    Ok(())
}

/// No isolation is lost: by the kernel's own word and by the host's.
async fn isolated(world: &World) -> anyhow::Result<()> {
    until("the kernel of h1 isolates", Duration::from_secs(15), || async {
        Ok((world.enforced(1)? == Posture::Isolated).then_some(()))
    })
    .await?;
    until("h1 says that it is isolated", Duration::from_secs(15), || async {
        let states = world.bus.states("h1").await?;
        let found = states.into_iter().find(|found| {
            let state = &found.event.data;
            state.generation == 1 && state.posture == Posture::Isolated && state.evidence.readback_ok && state.error.is_none()
        });
        Ok(found.map(|_| ()))
    })
    .await
}

/// No double order, no early release, no decision missing.
async fn nothing_more(world: &World, id: &str) -> anyhow::Result<()> {
    // A release-due that was said twice is answered before this is asked: both of its decisions carry its key.
    let orders = world.bus.orders("h1").await?;
    let postures: Vec<Posture> = orders.iter().map(|found| found.event.data.posture).collect();
    ensure!(postures == [Posture::Isolated, Posture::Open], "orders: {postures:?}");
    let release_at = orders[0].event.data.release_at.context("a deadline")?;
    ensure!(orders[1].at >= release_at, "released at {}, due at {release_at}", orders[1].at);
    let decision = world.bus.decision(id).await?;
    ensure!(decision.verdict == Verdict::Isolate && decision.generation == Some(1), "{decision:?}");
    until("the release is decided", Duration::from_secs(10), || async {
        let decisions = world.bus.decisions().await?;
        let first = decisions.iter().find(|found| found.event.data.input.kind == InputKind::ReleaseDue);
        Ok(first
            .filter(|found| found.event.data.verdict == Verdict::Release && found.event.data.generation == Some(2))
            .map(|_| ()))
    })
    .await
}
