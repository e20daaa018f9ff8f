//! The broker's store is lost: what hosts still hold is ordered again as what it was.

use std::time::Duration;

use anyhow::{Context, ensure};
use portcullis_schemas::events::{Order, Origin, Posture};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

/// Seen before: the manual isolation of 30 minutes became an automatic one of 8 hours with other exclusions, and `release` knew no such host.
#[tokio::test]
async fn an_isolation_outlives_the_brokers_store_as_what_it_was() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    let words = ["--for", "30m", "--reason", "beaconing", "--incident", "INC-7", "--ticket", "T-7"];
    said(&world.verb(&[&["isolate", "h1"][..], &words].concat())?, 0)?;
    let before = last(&world).await?;
    world.nats.kill9()?;
    world.nats.lose()?;
    world.nats.start_again().await?;
    // What it knows is of streams that are no more: it ends, and its supervisor starts it again.
    let orchestrator = world.orchestrator.as_mut().context("it runs")?;
    until("the orchestrator ends", Duration::from_secs(60), || {
        let ended = orchestrator.process.ended();
        async move { ended }
    })
    .await?;
    ensure!(orchestrator.process.said().contains("has lost the stream"), "{}", orchestrator.process.said());
    world.orchestrate(&[]).await?;
    let after = until("the log knows the isolation again", Duration::from_secs(60), || async {
        Ok(world.bus.orders("h1").await?.pop().map(|found| found.event.data))
    })
    .await?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    ensure!(after.generation == before.generation + 1 && after.posture == Posture::Isolated, "{after:?}");
    ensure!(after.holds.len() == 1 && after.holds[0].origin == Origin::Manual, "{after:?}");
    let whole = |order: &Order| {
        let Order { holds, release_at, exclusions, incident, ticket, reason, .. } = order.clone();
        (holds, release_at, exclusions, incident, ticket, reason)
    };
    ensure!(whole(&after) == whole(&before), "{after:?}\n{before:?}");
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

async fn last(world: &World) -> anyhow::Result<Order> {
    until("an order", Duration::from_secs(20), || async { Ok(world.bus.orders("h1").await?.pop().map(|found| found.event.data)) })
        .await
}
