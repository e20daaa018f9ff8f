//! `portcullis doctor` against real faults; those of logs are in `lost_log.rs`.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::stream::Config;
use portcullis_schemas::Stream;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub struct Finding {
    pub check: String,
    pub grade: String,
    pub says: String,
    pub remedy: Option<String>,
}

/// Exit code and findings.
pub fn doctor(world: &World) -> anyhow::Result<(Option<i32>, Vec<Finding>)> {
    let output = world.verb(&["doctor", "--json"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let document: serde_json::Value =
        serde_json::from_str(&text).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), serde_json::from_value(document["findings"].clone())?))
}

/// Something wrong is named with these words, and with what to do.
pub fn named(findings: &[Finding], check: &str, words: &str) -> anyhow::Result<()> {
    let found = findings.iter().find(|one| one.check == check && one.grade != "ok" && one.says.contains(words));
    ensure!(found.is_some_and(|one| one.remedy.is_some()), "{check}: {words:?} is not named: {findings:#?}");
    Ok(())
}

#[tokio::test]
async fn a_site_that_is_well_is_told_from_one_with_faults() -> anyhow::Result<()> {
    let mut world = World::start(1, Some(POLICY)).await?;
    world.is_not_replayed("somebody else writes in ORDERS");
    let mut second = world.another(&[])?;
    second.ready().await?;
    until("all is well", Duration::from_secs(30), || async {
        let (code, findings) = doctor(&world)?;
        let follower = findings.iter().any(|one| one.check == "followers" && one.says.starts_with("1 follower, up to date"));
        ensure!(code == Some(0) && follower, "{findings:#?}");
        Ok(Some(()))
    })
    .await?;
    let text = world.verb(&["doctor"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(text.lines().all(|line| line.starts_with("ok    ")) && text.contains("ok    chain "), "{text}");

    // A sender that is not understood.
    world.bus.publish_raw(world.bus.prefix.of(Stream::Detections, "siem"), b"nonsense".to_vec()).await?;
    until("it is named", Duration::from_secs(30), || async {
        named(&doctor(&world)?.1, "rejected", "by source: siem (1)").map(Some)
    })
    .await?;
    // Nobody leads, and nobody follows.
    world.orchestrator().process.kill9()?;
    second.process.kill9()?;
    until("it is named", Duration::from_secs(30), || async {
        named(&doctor(&world)?.1, "leader", "no orchestrator leads").map(Some)
    })
    .await?;
    // A flood beside another sender.
    let subject = world.bus.prefix.of(Stream::Detections, "edr");
    for _ in 0..101 {
        let mut acks = Vec::new();
        for _ in 0..100 {
            acks.push(world.bus.context.publish(subject.clone(), "x".into()).await?);
        }
        for ack in acks {
            ack.await?;
        }
    }
    // Another writer in ORDERS; a stream without a limit; one whose beginning is gone; one that is nearly full.
    world.bus.publish_raw(world.bus.prefix.of(Stream::Orders, "h9"), b"no order".to_vec()).await?;
    let config = async |stream: Stream| {
        let name = world.bus.prefix.stream(stream);
        anyhow::Ok(world.bus.context.get_stream(name).await?.cached_info().config.clone())
    };
    let states = config(Stream::States).await?;
    world.bus.context.update_stream(&Config { max_bytes: -1, ..states }).await?;
    let inventory = config(Stream::Inventory).await?;
    world.bus.know("h2").await?;
    world.bus.context.update_stream(&Config { max_messages: 1, ..inventory.clone() }).await?;
    world.bus.context.update_stream(&inventory).await?;
    let orders = config(Stream::Orders).await?;
    let bytes = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Orders)).await?.cached_info().state.bytes;
    world.bus.context.update_stream(&Config { max_bytes: i64::try_from(bytes)? + 20, ..orders }).await?;
    let (code, findings) = doctor(&world)?;
    ensure!(code == Some(1));
    for (check, words) in [
        ("sources", "flooding: edr (10100 detections, 99 % of all)"),
        ("chain", "ORDERS holds what is no order, at "),
        ("streams", "PORTCULLIS_STATES lacks max_bytes"),
        ("streams", "PORTCULLIS_INVENTORY has lost messages 1 to "),
        ("streams", "full, it takes no order any more"),
    ] {
        named(&findings, check, words)?;
    }
    // A setting on which correctness rests.
    let decisions = config(Stream::Decisions).await?;
    world.bus.context.update_stream(&Config { allow_atomic_publish: false, ..decisions }).await?;
    named(&doctor(&world)?.1, "streams", "PORTCULLIS_DECISIONS has allow_atomic off")?;
    world.nats.kill9()?;
    ensure!(world.verb(&["doctor"])?.status.code() == Some(5), "a broker that is away is said like by every verb");
    Ok(())
}
