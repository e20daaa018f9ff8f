//! Hosts whose clock is wrong: orders are judged by the broker's time, whatever the host's says.

use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_schemas::events::{Posture, State};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;

#[tokio::test]
async fn a_host_whose_clock_is_off_is_isolated_and_says_by_how_much() -> anyhow::Result<()> {
    let world = World::start(1, Some(POLICY)).await?;
    for ahead in [HOUR, 10 * YEAR, -HOUR, -10 * YEAR] {
        restart(&world, ahead)?;
        until("the agent is back", Duration::from_secs(20), || async {
            Ok(said(&world.agent_verb(1, "status", &[])?, 0).is_ok_and(|text| text.contains("connected")).then_some(()))
        })
        .await?;
        said(&world.verb(&["isolate", "h1", "--for", "30m", "--wait", "60s"])?, 0)?;
        ensure!(world.enforced(1)? == Posture::Isolated, "not isolated with a clock {ahead} s ahead");
        let state = last(&world).await?;
        let told = state.clock_ahead_seconds.context("the offset is said")?;
        ensure!((told - ahead).abs() < 30, "{told} instead of {ahead}");
        let shown = said(&world.verb(&["show", "h1"])?, 0)?;
        ensure!(shown.contains(if ahead > 0 { "ahead of the broker's" } else { "behind the broker's" }), "{shown}");
        said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
        ensure!(world.enforced(1)? == Posture::Open);
        let off = last(&world).await?.enforced_at_by_broker() - chrono::Utc::now();
        ensure!(off.num_seconds().abs() < 30, "opened {off} from now, by the broker's clock");
    }
    restart(&world, 0)?;
    said(&world.verb(&["isolate", "h1", "--wait", "60s"])?, 0)?;
    let state = last(&world).await?;
    ensure!(state.clock_ahead_seconds.is_none(), "{state:?}");
    Ok(())
}

/// The order was stored while no agent heard it, so its own time stamp says nothing of now.
#[tokio::test]
async fn an_order_from_the_log_expires_by_the_brokers_time() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    world.lab().agent(1).stop().await?;
    world.verb(&["isolate", "h1", "--for", "30m", "--no-wait"])?;
    world.lab().agent(1).start(&[("PORTCULLIS_CLOCK_AHEAD", &(10 * YEAR).to_string())])?;
    world.bus.state("h1", 1, Posture::Isolated).await?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    // Nobody is there to open the next one when its time is over.
    world.lab().agent(1).stop().await?;
    world.verb(&["isolate", "h1", "--for", "2s", "--no-wait"])?;
    let order = until("the order is stored", Duration::from_secs(20), || async {
        Ok(world.bus.orders("h1").await?.pop().filter(|found| found.event.data.posture == Posture::Isolated))
    })
    .await?;
    world.orchestrator().process.kill9()?;
    let expires_at = order.event.data.expires_at.context("it expires")?;
    until("it has expired", Duration::from_secs(20), || async { Ok((chrono::Utc::now() > expires_at).then_some(())) }).await?;
    world.lab().agent(1).start(&[("PORTCULLIS_CLOCK_AHEAD", &(-YEAR).to_string())])?;
    let state = until("the refusal is told", Duration::from_secs(30), || async {
        Ok(Some(last(&world).await?).filter(|state| state.generation == order.event.data.generation))
    })
    .await?;
    ensure!(state.posture == Posture::Open, "{state:?}");
    ensure!(state.error.as_ref().is_some_and(|error| error.contains("it expired at")), "{state:?}");
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

fn restart(world: &World, ahead: i64) -> anyhow::Result<()> {
    world.lab().agent(1).kill9()?;
    Ok(world.lab().agent(1).start(&[("PORTCULLIS_CLOCK_AHEAD", &ahead.to_string())])?)
}

async fn last(world: &World) -> anyhow::Result<State> {
    Ok(world.bus.states("h1").await?.pop().context("a state")?.event.data)
}
