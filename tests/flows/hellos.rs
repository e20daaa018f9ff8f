//! Hellos of a fleet that comes back at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portcullis_schemas::Stream;
use portcullis_schemas::events::Verdict;
use portcullis_tests::bus::{by_id, hello_message, ransomware};
use portcullis_tests::http;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World};

const HOSTS: usize = 10_000;

#[tokio::test]
async fn ten_thousand_hellos_at_once_are_taken_whole_and_delay_no_detection() -> anyhow::Result<()> {
    let mut world = World::start(0, Some(POLICY)).await?;
    let say = |host: String| {
        let (subject, body) = hello_message(&world.bus.prefix, &host, &format!("{host}.example"))?;
        anyhow::Ok((subject, body))
    };
    let (subject, body) = say("known".to_owned())?;
    // What is said before anybody listens is lost, and a host says it again.
    until("the first hello is heard", Duration::from_secs(30), || async {
        world.bus.client.publish(subject.clone(), body.clone().into()).await?;
        Ok((count(&world).await? == 1).then_some(()))
    })
    .await?;
    let burst: Vec<(String, Vec<u8>)> = (0..HOSTS).map(|n| say(format!("h{n}"))).collect::<Result<_, _>>()?;
    let start = Instant::now();
    for (subject, body) in burst {
        world.bus.client.publish(subject, body.into()).await?;
    }
    world.bus.client.flush().await?;
    let id = world.bus.detect("siem", ransomware(by_id("known"))).await?;
    let detected = world.bus.raw(Stream::Detections, &world.bus.prefix.all(Stream::Detections)).await?;
    let detected = detected[0].info().map_err(|error| anyhow::anyhow!("{error}"))?.published;
    let order = until("the known host is isolated", Duration::from_secs(60), || async {
        Ok(world.bus.orders("known").await?.into_iter().next())
    })
    .await?;
    let stored = count(&world).await?;
    println!("a detection amid {HOSTS} hellos, {stored} inventories stored by then: order after {}", order.at - detected);
    ensure!(order.event.data.issued_by.id == id);
    ensure!(stored < HOSTS, "all inventories were stored before the order");
    until("every host has its inventory", Duration::from_secs(120), || async {
        Ok((count(&world).await? > HOSTS).then_some(()))
    })
    .await?;
    println!("{HOSTS} inventories stored within {:?}", start.elapsed());
    let messages = world.bus.raw(Stream::Inventory, &world.bus.prefix.all(Stream::Inventory)).await?;
    let hosts: BTreeSet<&str> = messages.iter().map(|message| message.subject.as_str()).collect();
    ensure!(messages.len() == HOSTS + 1 && hosts.len() == HOSTS + 1, "{} inventories of {}", messages.len(), hosts.len());
    let orchestrator = world.orchestrator();
    let (_, metrics) = http::get(orchestrator.http, "/metrics").await?;
    ensure!(metrics.contains("portcullis_hellos_dropped_total 0"), "{metrics}");
    let decision = world.bus.decision(&id).await.context("the decision")?;
    ensure!(decision.verdict == Verdict::Isolate, "{decision:?}");
    Ok(())
}

async fn count(world: &World) -> anyhow::Result<usize> {
    let mut stream = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Inventory)).await?;
    Ok(usize::try_from(stream.info().await?.state.messages)?)
}
