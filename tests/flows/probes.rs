//! Probes: an isolated host tries what should be shut and what should pass, and says what it found.

use std::time::Duration;

use anyhow::ensure;
use portcullis_dev::{BROKER_PORT, ECHO_PORT, HUB_V4, OUTSIDE_V4, OUTSIDE_V6};
use portcullis_schemas::events::{Posture, State, StateCause};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

#[tokio::test]
async fn what_is_shut_and_what_passes_is_tried_as_nobody_and_told() -> anyhow::Result<()> {
    let (four, six) = echoes();
    let world =
        world(&[("PORTCULLIS_PROBE_CLOSED", &format!("{six},{HUB_V4}:{BROKER_PORT}")), ("PORTCULLIS_PROBE_OPEN", &four)]).await?;
    ensure!(
        world.bus.states("h1").await?.iter().all(|state| state.event.data.evidence.probes.is_empty()),
        "an open host is not probed"
    );
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let state = probed(&world, 3).await?;
    ensure!(state.cause == StateCause::Check && state.posture == Posture::Isolated && state.error.is_none(), "{state:?}");
    let found: Vec<_> = state.evidence.probes.iter().map(|probe| (probe.target.clone(), probe.found.as_str())).collect();
    // The broker's address is the agent's alone: nobody does not reach it.
    let expected = [(six, "closed"), (format!("{HUB_V4}:{BROKER_PORT}"), "closed"), (four, "open")];
    ensure!(found == expected.map(|(target, found)| (format!("tcp {target}"), found)), "{found:?}");
    // The next change is probed as well.
    said(&world.verb(&["isolate", "h1", "--for", "9h"])?, 0)?;
    until("the second generation is probed", Duration::from_secs(20), || async {
        let state = last(&world).await?;
        Ok(state.filter(|state| state.generation == 2 && state.evidence.probes.len() == 3).map(|_| ()))
    })
    .await?;
    said(&world.verb(&["release", "h1"])?, 0)?;
    ensure!(last(&world).await?.is_some_and(|state| state.evidence.probes.is_empty()));
    Ok(())
}

#[tokio::test]
async fn a_failed_probe_is_said_again_when_it_changes_and_opens_nothing() -> anyhow::Result<()> {
    let (four, six) = echoes();
    let world = world(&[("PORTCULLIS_PROBE_CLOSED", &four), ("PORTCULLIS_PROBE_OPEN", &six)]).await?;
    said(&world.verb(&["isolate", "h1", "--no-wait"])?, 0)?;
    let state = probed(&world, 2).await?;
    let before = world.rules(1)?;
    let error = state.error.clone().unwrap_or_default();
    ensure!(state.posture == Posture::Isolated && state.evidence.readback_ok, "{state:?}");
    ensure!(error.contains(&format!("{four} found it open")) && error.contains(&format!("{six} found it closed")), "{error}");
    let status = said(&world.agent_verb(1, "status", &[])?, 0)?;
    ensure!(status.contains("found it open"), "{status}");
    ensure!(world.rules(1)? == before && world.enforced(1)? == Posture::Isolated);
    // Somebody's own firewall shuts what an exclusion lets pass: seen at the next regular look.
    let shut =
        format!("nft 'table ip own {{ chain out {{ type filter hook output priority 0; ip daddr {OUTSIDE_V4} drop; }}; }}'");
    ensure!(world.in_host(1, &shut)?.status.success());
    let state = until("the change is told", Duration::from_secs(60), || async {
        let state = last(&world).await?;
        Ok(state.filter(|state| !state.error.as_ref().is_some_and(|error| error.contains("found it open"))))
    })
    .await?;
    ensure!(state.error.is_some_and(|error| error.contains("found it closed")) && state.cause == StateCause::Check);
    ensure!(world.enforced(1)? == Posture::Isolated);
    Ok(())
}

#[tokio::test]
async fn an_agent_of_its_own_user_leaves_out_what_it_alone_may_reach() -> anyhow::Result<()> {
    let (_, six) = echoes();
    let closed = format!("{HUB_V4}:{BROKER_PORT},{six}");
    let world = world(&[("PORTCULLIS_PROBE_CLOSED", &closed), ("PORTCULLIS_USER", "64990")]).await?;
    said(&world.verb(&["isolate", "h1"])?, 0)?;
    let state = probed(&world, 1).await?;
    ensure!(state.error.is_none() && state.evidence.probes[0].target == format!("tcp {six}"), "{state:?}");
    ensure!(state.evidence.probes[0].found == "closed", "{state:?}");
    Ok(())
}

/// A host from which the echo outside is excluded for IPv4 alone.
async fn world(env: &[(&str, &str)]) -> anyhow::Result<World> {
    let echo = format!("[{{ name: echo, direction: out, protocol: tcp, remote: [{OUTSIDE_V4}/32], remote_ports: {ECHO_PORT} }}]");
    let world = World::start(1, Some(&format!("{POLICY}exclusions:\n  manual_default: {echo}\n"))).await?;
    world.lab().agent(1).kill9()?;
    world.lab().agent(1).start(env)?;
    Ok(world)
}

fn echoes() -> (String, String) {
    (format!("{OUTSIDE_V4}:{ECHO_PORT}"), format!("[{OUTSIDE_V6}]:{ECHO_PORT}"))
}

async fn probed(world: &World, count: usize) -> anyhow::Result<State> {
    until("the probes are told", Duration::from_secs(20), || async {
        Ok(last(world).await?.filter(|state| state.evidence.probes.len() == count))
    })
    .await
}

async fn last(world: &World) -> anyhow::Result<Option<State>> {
    Ok(world.bus.states("h1").await?.pop().map(|state| state.event.data))
}
