//! The broker's store is lost, or a part of it, or is an old copy: what hosts still hold is ordered again as what it was.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::stream::Config;
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Order, Origin, Posture};
use portcullis_tests::bus::{by_id, ransomware};
use portcullis_tests::standby::one_line;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};

use crate::doctor::{doctor, named};

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
    ends(&mut world, "has lost the stream").await?;
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

#[tokio::test]
async fn an_old_copy_of_orders_is_noticed_and_hosts_ahead_of_it_are_ordered_above_what_they_report() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    world.is_not_replayed("its logs are no longer of one history");
    let orders = world.bus.prefix.stream(Stream::Orders);
    said(&world.verb(&["isolate", "h1", "--for", "1h"])?, 0)?;
    world.nats.kill9()?;
    world.nats.copy_stream(&orders)?;
    world.nats.start_again().await?;
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    said(&world.verb(&["isolate", "h1", "--for", "30m", "--reason", "beaconing", "--incident", "INC-7", "--wait", "60s"])?, 0)?;
    let before = last(&world).await?;
    // Where the log ends is noted every 2 s.
    let noted = world.bus.all_orders().await?.len();
    ensure!(before.generation == 3 && noted == 3);
    noted_twice(&world).await?;
    world.nats.kill9()?;
    world.nats.restore_stream(&orders)?;
    world.nats.start_again().await?;
    ends(&mut world, "has an older copy of the stream PORTCULLIS_ORDERS").await?;
    let (code, findings) = doctor(&world)?;
    ensure!(code == Some(1), "{findings:?}");
    named(&findings, "orders", "ORDERS is behind 1 host: h1 (reports order no. 3, ORDERS has no. 1)")?;
    until("that nobody leads is named", Duration::from_secs(20), || async {
        named(&doctor(&world)?.1, "leader", "no orchestrator leads").map(Some)
    })
    .await?;
    world.orchestrate(&[]).await?;
    let after = until("it is ordered again", Duration::from_secs(60), || async {
        let last = world.bus.orders("h1").await?.pop().map(|found| found.event.data);
        Ok(last.filter(|order| order.generation > before.generation))
    })
    .await?;
    ensure!(after.generation == 4 && after.posture == Posture::Isolated && world.enforced(1)? == Posture::Isolated, "{after:?}");
    // What the copy has forgotten of a release cannot be known: its hold counts beside the one that the host reports.
    let holds: Vec<u64> = after.holds.iter().map(|hold| hold.generation).collect();
    ensure!(
        holds == [1, 3] && after.holds[1] == before.holds[0] && after.release_at >= before.release_at,
        "{after:?}\n{before:?}"
    );
    until("the doctor finds no host ahead", Duration::from_secs(60), || async {
        let (_, findings) = doctor(&world)?;
        Ok(findings.iter().all(|finding| finding.check != "orders" || finding.grade == "ok").then_some(()))
    })
    .await?;
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// What was decided stays decided: by acknowledgements, and by the orders themselves.
#[tokio::test]
async fn decisions_that_are_trimmed_or_lost_change_no_order() -> anyhow::Result<()> {
    let mut world = World::start(2, Some(POLICY)).await?;
    world.is_not_replayed("DECISIONS is lost");
    let decisions = world.bus.prefix.stream(Stream::Decisions);
    for host in ["h1", "h2", "h1"] {
        let id = world.bus.detect("siem", ransomware(by_id(host))).await?;
        world.bus.decision(&id).await?;
    }
    // Its beginning is removed, while it is read.
    let mut stream = world.bus.context.get_stream(&decisions).await?;
    let config = stream.info().await?.config.clone();
    world.bus.context.update_stream(&Config { max_messages: 1, ..config.clone() }).await?;
    world.bus.context.update_stream(&config).await?;
    named(&doctor(&world)?.1, "streams", "PORTCULLIS_DECISIONS has lost messages 1 to ")?;
    goes_on(&world, 0).await?;
    // With its beginning removed another one starts.
    world.orchestrator().process.stop().await?;
    world.orchestrate(&[]).await?;
    goes_on(&world, 1).await?;
    // And with all of it.
    world.nats.kill9()?;
    world.nats.lose_stream(&decisions)?;
    world.nats.start_again().await?;
    ends(&mut world, "has lost the stream PORTCULLIS_DECISIONS").await?;
    named(&doctor(&world)?.1, "streams", "no stream PORTCULLIS_DECISIONS")?;
    world.orchestrate(&[]).await?;
    goes_on(&world, 2).await?;
    // Those of this sender were decided before anything was lost; the others moved a deadline, or joined.
    let again = world.bus.orders("*").await?.iter().filter(|found| found.event.data.issued_by.token == "siem").count();
    ensure!(again == 2, "an input that was decided made another order");
    one_line(&world.bus).await?;
    ensure!((world.enforced(1)?, world.enforced(2)?) == (Posture::Isolated, Posture::Isolated));
    said(&world.verb(&["release", "h1", "--wait", "60s"])?, 0)?;
    ensure!(world.enforced(1)? == Posture::Open);
    Ok(())
}

/// A new detection on an isolated host is decided.
async fn goes_on(world: &World, n: u32) -> anyhow::Result<()> {
    let id = world.bus.detect(&format!("edr{n}"), ransomware(by_id("h2"))).await?;
    world.bus.decision(&id).await.map(drop)
}

/// Two heartbeats, which come every 5 s, have been stored since.
async fn noted_twice(world: &World) -> anyhow::Result<()> {
    let bucket = world.bus.context.get_key_value(world.bus.prefix.bucket()).await?;
    let mut last = 0;
    for _ in 0..3 {
        last = until("another heartbeat", Duration::from_secs(30), || async {
            Ok(bucket.entry("orchestrator").await?.map(|entry| entry.revision).filter(|revision| *revision > last))
        })
        .await?;
    }
    Ok(())
}

/// What it knows is of a stream that is no more: it ends, and its supervisor starts it again.
async fn ends(world: &mut World, why: &str) -> anyhow::Result<()> {
    let orchestrator = world.orchestrator.as_mut().context("it runs")?;
    until("the orchestrator ends", Duration::from_secs(60), || {
        let ended = orchestrator.process.ended();
        async move { ended }
    })
    .await?;
    ensure!(orchestrator.process.said().contains(why), "{}", orchestrator.process.said());
    Ok(())
}

async fn last(world: &World) -> anyhow::Result<Order> {
    until("an order", Duration::from_secs(20), || async { Ok(world.bus.orders("h1").await?.pop().map(|found| found.event.data)) })
        .await
}
