//! kill -9 of orchestrator, agent and broker after each numbered step of the way: then the isolation is there, once, until its deadline.
//!
//! `PORTCULLIS_STOP_AT` makes a debug build stop itself at a step; the test sees it stopped and kills exactly there.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portcullis_schemas::events::{InputKind, Posture, Verdict};
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::until::until;
use portcullis_tests::world::World;
use portcullis_tests::{http, process};
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
    orchestrator_killed_when_release_is_published: "scheduler.published", Orchestrator;
    broker_killed_when_received: "orchestrator.received", Broker;
    broker_killed_when_decided: "orchestrator.decided", Broker;
    broker_killed_when_ordered: "orchestrator.ordered", Broker;
    broker_killed_when_recorded: "orchestrator.recorded", Broker;
    broker_killed_when_acked: "orchestrator.acked", Broker;
    broker_killed_when_release_is_due: "scheduler.due", Broker;
    broker_killed_when_release_is_published: "scheduler.published", Broker;
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

macro_rules! woken {
    ($($name:ident: $step:literal;)*) => {
        $(#[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            stores_nothing_once_it_is_woken($step).await
        })*
    };
}

woken! {
    orchestrator_stopped_when_received_and_woken: "orchestrator.received";
    orchestrator_stopped_when_decided_and_woken: "orchestrator.decided";
    orchestrator_stopped_when_ordered_and_woken: "orchestrator.ordered";
    orchestrator_stopped_when_recorded_and_woken: "orchestrator.recorded";
    orchestrator_stopped_when_acked_and_woken: "orchestrator.acked";
    orchestrator_stopped_when_release_is_due_and_woken: "scheduler.due";
    orchestrator_stopped_when_release_is_published_and_woken: "scheduler.published";
}

macro_rules! taking_over {
    ($($name:ident: $step:literal;)*) => {
        $(#[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            takes_over_after_one_that_died_at($step).await
        })*
    };
}

taking_over! {
    orchestrator_killed_when_it_begins_a_term: "orchestrator.leading";
    orchestrator_killed_between_the_two_records_of_a_term: "orchestrator.fencing";
    orchestrator_killed_when_it_activates_a_policy: "orchestrator.activating";
}

const POLICY: &str = "\
version: 1
cool_down_after_manual_release: 0s
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

/// A leader is stopped at `step`; the one on stand-by takes over, and the stopped one is woken.
async fn stores_nothing_once_it_is_woken(step: &str) -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    world.orchestrator().process.stop().await?;
    world.orchestrate(&[("PORTCULLIS_STOP_AT", step)]).await?;
    let first = (world.orchestrator().process.pid(), world.orchestrator().http);
    leads(first.1).await?;
    let second = world.another(&[])?;
    second.ready().await?;
    ensure!(readyz(second.http).await?.starts_with("standby"), "two lead");
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    process::stopped(first.0).await?;
    let stopped = Instant::now();
    leads(second.http).await?;
    println!("{step}: taken over after {:?}", stopped.elapsed());
    if !step.starts_with("scheduler.") {
        isolated(&world).await?;
    }
    process::signal(first.0, Signal::CONT)?;
    until("the woken one follows", Duration::from_secs(10), || async {
        Ok(readyz(first.1).await?.starts_with("standby").then_some(()))
    })
    .await?;
    world.bus.state("h1", 2, Posture::Open).await?;
    nothing_more(&world, &id).await?;
    let answers = world.bus.decisions().await?.iter().filter(|found| found.event.data.input.id == id).count();
    ensure!(answers == 1, "the detection has {answers} answers");
    ensure!(readyz(second.http).await?.starts_with("ready"), "the woken one leads again");
    Ok(())
}

/// What ended while it took the lead leaves nothing behind that keeps the next one from it.
async fn takes_over_after_one_that_died_at(step: &str) -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    world.orchestrator().process.stop().await?;
    // Another policy than the one that is active.
    std::fs::write(world.policy(), format!("{POLICY}# changed\n"))?;
    let mut first = world.another(&[("PORTCULLIS_STOP_AT", step)])?;
    process::stopped(first.process.pid()).await?;
    first.process.kill9()?;
    world.orchestrate(&[]).await?;
    let id = world.bus.detect("siem", ransomware(by_id("h1"))).await?;
    isolated(&world).await?;
    world.bus.state("h1", 2, Posture::Open).await?;
    nothing_more(&world, &id).await
}

async fn leads(http: u16) -> anyhow::Result<()> {
    until("it leads", Duration::from_secs(10), || async { Ok(readyz(http).await?.starts_with("ready").then_some(())) }).await
}

async fn readyz(http: u16) -> anyhow::Result<String> {
    Ok(http::get(http, "/readyz").await?.1)
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
