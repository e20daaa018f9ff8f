//! Limits are exact: two orchestrators, hundreds of hosts without agents, and thousands of detections never isolate one host too many.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use portcullis_schemas::events::{Action, Order, Posture, Request};
use portcullis_schemas::{Stream, envelope};
use portcullis_tests::bus::{Bus, by_id, event, ransomware};
use portcullis_tests::until::until;
use portcullis_tests::world::World;

const HOSTS: usize = 300;
const DETECTIONS: usize = 10_000;
/// A tenth of the hosts.
const MOST: usize = 30;

const POLICY: &str = "\
version: 1
cool_down_after_manual_release: 0s
limits:
  - { name: fleet, isolated: 10%, then: ask }
rules:
  - name: ransomware
    match: { technique: [T1486] }
    then: isolate
  - name: rest
    then: observe
";

#[tokio::test]
async fn ten_thousand_detections_isolate_as_many_hosts_as_the_limit_allows_and_no_more() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), POLICY)?;
    // Makes the streams.
    world.orchestrate(&[]).await?;
    world.orchestrator().process.stop().await?;
    for n in 1..=HOSTS {
        world.bus.know(&format!("h{n}")).await?;
    }
    world.orchestrate(&[]).await?;
    let second = world.another(&[])?;
    second.ready().await?;
    let bus = Bus::connect(&world.nats.url()).await?;

    store(&bus, 0..DETECTIONS / 2).await?;
    until("some are isolated", Duration::from_secs(60), || async { Ok((!isolated(&bus).await?.0.is_empty()).then_some(())) })
        .await?;
    // The first one ends in the middle of it, and one host is released while the breaker is tripped.
    world.orchestrator().process.kill9()?;
    store(&bus, DETECTIONS / 2..DETECTIONS).await?;
    answered(&bus, DETECTIONS).await?;
    let (hosts, highest) = isolated(&bus).await?;
    ensure!((hosts.len(), highest) == (MOST, MOST), "{} hosts are isolated, {highest} at the highest", hosts.len());

    let breakers = bus.decisions().await?.into_iter().flat_map(|found| found.event.data.effects);
    let breakers = breakers.filter(|effect| matches!(effect, portcullis_schemas::events::Effect::BreakerTripped(_))).count();
    ensure!(breakers == 1, "one breaker was tripped, and not {breakers}");
    bus.request("ann", Request { host: Some(hosts[0].parse()?), ..Request::new(Action::Release, "ann") }).await?;
    until("one is released", Duration::from_secs(30), || async { Ok((isolated(&bus).await?.0.len() < MOST).then_some(())) })
        .await?;
    store(&bus, DETECTIONS..DETECTIONS + 1_000).await?;
    answered(&bus, DETECTIONS + 1_000).await?;
    let (hosts, highest) = isolated(&bus).await?;
    ensure!((hosts.len(), highest) == (MOST, MOST), "{} hosts are isolated, {highest} at the highest", hosts.len());
    Ok(())
}

/// The hosts that are isolated by ORDERS, and how many were at most.
async fn isolated(bus: &Bus) -> anyhow::Result<(Vec<String>, usize)> {
    let mut hosts = BTreeMap::new();
    let mut highest = 0;
    for found in bus.all::<Order>(Stream::Orders, &bus.prefix.all(Stream::Orders)).await? {
        let order = found.event.data;
        match order.posture {
            Posture::Isolated => hosts.insert(order.host.to_string(), ()),
            Posture::Open => hosts.remove(order.host.as_str()),
        };
        highest = highest.max(hosts.len());
    }
    Ok((hosts.into_keys().collect(), highest))
}

async fn answered(bus: &Bus, wanted: usize) -> anyhow::Result<()> {
    until(&format!("{wanted} detections are answered"), Duration::from_secs(240), || async {
        let answered: std::collections::BTreeSet<u64> =
            bus.answered().await?.into_iter().flat_map(|(_, sequences)| sequences).collect();
        Ok((answered.len() >= wanted).then_some(()))
    })
    .await
}

/// Detections of several sources, about each host in turn.
async fn store(bus: &Bus, range: std::ops::Range<usize>) -> anyhow::Result<()> {
    let template = String::from_utf8(envelope::encode(&event("one-of-many".into(), "/test", ransomware(by_id("one-host"))))?)?;
    let mut acks = Vec::new();
    for n in range {
        let body = template.replace("one-of-many", &format!("many-{n}")).replace("one-host", &format!("h{}", 1 + n * 7 % HOSTS));
        let subject = bus.prefix.of(Stream::Detections, &format!("edr{}", n % 5));
        acks.push(bus.context.publish(subject, Bytes::from(body)).await?);
        if acks.len() == 512 {
            for ack in acks.drain(..) {
                ack.await?;
            }
        }
    }
    for ack in acks {
        ack.await?;
    }
    Ok(())
}
