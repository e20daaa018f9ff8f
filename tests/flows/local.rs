//! On the host itself: status, and a release with the broker away.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Notice, NoticeKind, Posture, Reason, State, StateCause};
use portcullis_tests::bus::Found;
use portcullis_tests::process::signal;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use rustix::process::Signal;

#[tokio::test]
async fn root_releases_on_the_host_with_the_broker_away_and_the_log_follows() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let status = said(&world.agent_verb(1, "status", &[])?, 0)?;
    ensure!(status.contains("isolated"), "{status}");
    world.lab().cut_broker(true).await?;
    said(&world.agent_verb(1, "release", &["--reason", "locked out"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    // The order that still stands in the log is answered by the release, also for an agent that starts anew.
    world.lab().agent(1).kill9()?;
    world.lab().agent(1).start(&[])?;
    world.lab().cut_broker(false).await?;
    until("the log follows the host", Duration::from_secs(30), || async {
        let last = world.bus.orders("h1").await?.pop();
        Ok(last.filter(|order| order.event.data.generation == 2 && order.event.data.posture == Posture::Open))
    })
    .await?;
    world.bus.state("h1", 2, Posture::Open).await?;
    ensure!(world.enforced(1)? == Posture::Open);
    let states = world.bus.states("h1").await?;
    let local = states.iter().map(|found| &found.event.data).find(|state| state.cause == StateCause::Local);
    ensure!(local.and_then(|state| state.by.as_ref()).is_some_and(|by| by.uid == 0), "{local:?}");
    world.bus.decided("its opening is decided", |found| found.reason == Reason::OpenedByHost { generation: 1 }).await?;
    let notices = world.bus.all::<Notice>(Stream::Notices, &world.bus.prefix.of(Stream::Notices, "h1")).await?;
    ensure!(notices.iter().any(|found| found.event.data.kind == NoticeKind::LocalRelease), "{notices:?}");
    Ok(())
}

#[tokio::test]
async fn a_host_stays_isolated_whatever_becomes_of_agent_and_broker() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    world.lab().agent(1).kill9()?;
    ensure!(world.enforced(1)? == Posture::Isolated, "opened by the death of its agent");
    world.nats.kill9()?;
    world.lab().agent(1).start(&[])?;
    until("the agent is back, without a broker", Duration::from_secs(10), || async {
        Ok((world.agent_verb(1, "status", &[])?.status.code() == Some(0)).then_some(()))
    })
    .await?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    world.nats.start_again().await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn a_release_that_was_given_up_before_it_was_heard_opens_nothing() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let pid = world.lab().agent(1).pid().context("it runs")?;
    let door = world.lab().host(1).state_dir.join("agent.sock");
    let ask = || UnixStream::connect(&door)?.write_all(b"{\"verb\":\"release\"}\n");
    signal(pid, Signal::STOP)?;
    ask()?;
    signal(pid, Signal::CONT)?;
    said(&world.agent_verb(1, "status", &[])?, 0)?;
    let locally = |found: &Found<State>| found.event.data.cause == StateCause::Local;
    ensure!(world.enforced(1)? == Posture::Isolated && !world.bus.states("h1").await?.iter().any(locally));
    // Whoever waits is heard.
    said(&world.agent_verb(1, "release", &[])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

#[tokio::test]
async fn both_copies_of_the_posture_file_lost_isolate_until_the_orchestrator_says_otherwise() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    world.lab().agent(1).kill9()?;
    world.lab().cut_broker(true).await?;
    for copy in ["posture.a", "posture.b"] {
        std::fs::write(world.lab().host(1).state_dir.join(copy), b"rubbish")?;
    }
    world.lab().agent(1).start(&[])?;
    until("the host isolates itself", Duration::from_secs(10), || async {
        Ok((world.enforced(1)? == Posture::Isolated).then_some(()))
    })
    .await?;
    world.lab().cut_broker(false).await?;
    // The wanted posture, which is open, is ordered one generation up.
    world.bus.state("h1", 3, Posture::Open).await?;
    ensure!(world.enforced(1)? == Posture::Open);
    world.bus.decided("the loss is decided", |found| matches!(found.reason, Reason::PostureLost { .. })).await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_that_finds_no_broker_says_so_once() -> anyhow::Result<()> {
    let world = World::start(1, None).await?;
    world.lab().agent(1).stop().await?;
    world.lab().cut_broker(true).await?;
    let log = &world.lab().host(1).log;
    let before = std::fs::read_to_string(log)?.len();
    let later = || -> anyhow::Result<String> { Ok(std::fs::read_to_string(log)?[before..].to_owned()) };
    world.lab().agent(1).start(&[])?;
    until("it is said", Duration::from_secs(20), || async {
        Ok(later()?.contains("broker unreachable: retrying").then_some(()))
    })
    .await?;
    world.lab().cut_broker(false).await?;
    until("it connects", Duration::from_secs(20), || async { Ok(later()?.contains("connected to the broker").then_some(())) })
        .await?;
    let said = later()?;
    ensure!(said.matches("broker unreachable: retrying").count() == 1 && said.contains("10.213.0.1:4222"), "{said}");
    Ok(())
}
