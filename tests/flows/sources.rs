//! Detections of many sources: each source waits for itself alone, and each detection is answered once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use portcullis_schemas::events::{Detection, Severity};
use portcullis_schemas::{Stream, Timestamp, envelope};
use portcullis_tests::bus::{Bus, by_id, event, ransomware};
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World};

const FLOOD: usize = 30_000;
/// What of the flood may be decided before another source's detection is: some batches.
const AHEAD: usize = 6 * 512;
const SOON: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_critical_detection_is_decided_while_a_flood_of_another_source_waits() -> anyhow::Result<()> {
    let mut world = without_orchestrator(3).await?;
    store(&world.bus, (0..FLOOD).map(|n| ("flood".into(), low(n)))).await?;
    let waiting = critical(&world.bus, "edr", "h2").await?;
    world.orchestrate(&[]).await?;
    ordered(&world.bus, "h2").await?;
    // One that waited like the flood: before more than some batches of it, though it came last.
    let before = answered_before(&world.bus, waiting, Timestamp::default()).await?;
    ensure!(before <= AHEAD, "{before} of the flood were decided before the detection of another source that waited");

    // One of a source that appears while the flood is decided: its consumer is made first.
    let between = decided_after(&world.bus, "ndr", "h3").await?;
    ensure!(between <= 4 * AHEAD, "{between} of the flood were decided between the detection of a new source and its decision");
    // And one of a source that is known.
    let between = decided_after(&world.bus, "edr", "h1").await?;
    ensure!(between <= AHEAD, "{between} of the flood were decided between the detection of another source and its decision");
    let answered: usize = world.bus.answered().await?.iter().map(|(_, sequences)| sequences.len()).sum();
    ensure!(answered < FLOOD, "the flood was over before the others were decided");
    Ok(())
}

#[tokio::test]
async fn detections_of_three_hundred_sources_are_each_answered_once_across_a_takeover() -> anyhow::Result<()> {
    let mut world = without_orchestrator(1).await?;
    let bus = Bus::connect(&world.nats.url()).await?;
    // Tokens that no name of a consumer can hold, and some that no filter can.
    let odd = ["a.b.c".to_owned(), "*".to_owned(), "ä/\\ü".to_owned(), "x".repeat(600)];
    let sources: Vec<String> = (0..296).map(|n| format!("s{n}")).chain(odd).collect();
    let wave = |wave: usize| {
        let of = move |(n, source): (usize, &String)| [0, 1, 2].map(|m| (source.clone(), low(wave * 10_000 + n * 10 + m)));
        sources.iter().enumerate().flat_map(of).collect::<Vec<_>>()
    };
    store(&bus, wave(0)).await?;
    world.orchestrate(&[]).await?;
    let mut second = world.another(&[])?;
    second.ready().await?;
    store(&bus, wave(1)).await?;
    until("some are answered", SOON, || async { Ok((!bus.answered().await?.is_empty()).then_some(())) }).await?;
    world.orchestrator().process.kill9()?;
    store(&bus, wave(2)).await?;
    all_once(&bus, 9 * sources.len()).await?;
    let own = |consumers: &[async_nats::jetstream::consumer::Info]| {
        consumers.iter().filter(|info| !info.config.filter_subject.is_empty()).count()
    };
    let consumers = bus.consumers(Stream::Detections).await?;
    ensure!((own(&consumers), consumers.len()) == (256, 257), "{} of {}", own(&consumers), consumers.len());

    world.is_not_replayed("inputs are removed");
    // Most of the sources leave the stream: every one that is left has a consumer of its own, and nothing is answered again.
    second.process.stop().await?;
    let mut stream = bus.context.get_stream(bus.prefix.stream(Stream::Detections)).await?;
    let mut config = stream.info().await?.config.clone();
    config.max_messages = 60;
    bus.context.update_stream(&config).await?;
    config.max_messages = -1;
    bus.context.update_stream(&config).await?;
    world.orchestrate(&[]).await?;
    until("no source shares a consumer but those that no filter can name", SOON, || async {
        let consumers = bus.consumers(Stream::Detections).await?;
        let of_gone = consumers.iter().filter(|info| info.config.filter_subject.ends_with(".s0")).count();
        Ok((of_gone == 0).then_some(()))
    })
    .await?;
    store(&bus, wave(3)).await?;
    all_once(&bus, 12 * sources.len()).await
}

#[tokio::test]
async fn a_consumer_that_sources_share_ends_once_each_has_one_of_its_own() -> anyhow::Result<()> {
    let mut world = without_orchestrator(1).await?;
    let bus = Bus::connect(&world.nats.url()).await?;
    store(&bus, (0..257).map(|n| (format!("s{n}"), low(n)))).await?;
    world.orchestrate(&[]).await?;
    all_once(&bus, 257).await?;
    world.is_not_replayed("inputs are removed");
    world.orchestrator().process.stop().await?;
    let mut stream = bus.context.get_stream(bus.prefix.stream(Stream::Detections)).await?;
    let mut config = stream.info().await?.config.clone();
    config.max_messages = 200;
    bus.context.update_stream(&config).await?;
    world.orchestrate(&[]).await?;
    until("no consumer is shared", SOON, || async {
        let consumers = bus.consumers(Stream::Detections).await?;
        Ok(consumers.iter().all(|info| !info.config.filter_subject.is_empty()).then_some(()))
    })
    .await?;
    store(&bus, (0..20).map(|n| (format!("s{n}"), low(1_000 + n)))).await?;
    all_once(&bus, 277).await
}

/// A broker with all streams and known hosts, and no orchestrator.
async fn without_orchestrator(hosts: usize) -> anyhow::Result<World> {
    let mut world = World::bare().await?;
    std::fs::write(world.policy(), POLICY)?;
    // Makes the streams.
    world.orchestrate(&[]).await?;
    world.orchestrator().process.stop().await?;
    for n in 1..=hosts {
        world.bus.know(&format!("h{n}")).await?;
    }
    Ok(world)
}

/// A detection that isolates nothing.
fn low(n: usize) -> Detection {
    Detection { severity: Severity::Low, incident: Some(format!("i{n}")), ..ransomware(by_id("h1")) }
}

async fn critical(bus: &Bus, source: &str, host: &str) -> anyhow::Result<u64> {
    let body = envelope::encode(&event(format!("critical-{host}"), "/test", ransomware(by_id(host))))?;
    bus.publish_raw(bus.prefix.of(Stream::Detections, source), body).await
}

async fn store(bus: &Bus, detections: impl IntoIterator<Item = (String, Detection)>) -> anyhow::Result<()> {
    // To write an event anew is slow in a debug build: one is written, and its id is changed.
    let template = String::from_utf8(envelope::encode(&event("one-of-many".into(), "/test", low(0)))?)?;
    let mut acks = Vec::new();
    for (source, detection) in detections {
        let incident = detection.incident.context("an incident")?;
        let body = template.replace("one-of-many", &format!("many-{incident}"));
        acks.push(bus.context.publish(bus.prefix.of(Stream::Detections, &source), Bytes::from(body)).await?);
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

async fn ordered(bus: &Bus, host: &str) -> anyhow::Result<()> {
    until("the host is ordered to isolate", SOON, || async { Ok((!bus.orders(host).await?.is_empty()).then_some(())) }).await
}

async fn stored_at(bus: &Bus, sequence: u64) -> anyhow::Result<Timestamp> {
    let stream = bus.context.get_stream(bus.prefix.stream(Stream::Detections)).await?;
    Ok(stream.get_raw_message(sequence).await?.time)
}

/// How many detections were answered between a critical one of this source and its own answer.
async fn decided_after(bus: &Bus, source: &str, host: &str) -> anyhow::Result<usize> {
    let sequence = critical(bus, source, host).await?;
    let at = stored_at(bus, sequence).await?;
    ordered(bus, host).await?;
    answered_before(bus, sequence, at).await
}

/// How many detections were answered from `since` on before this one was.
async fn answered_before(bus: &Bus, sequence: u64, since: Timestamp) -> anyhow::Result<usize> {
    until("it is answered", SOON, || async {
        let answered = bus.answered().await?;
        let Some(place) = answered.iter().position(|(_, sequences)| sequences.contains(&sequence)) else { return Ok(None) };
        Ok(Some(answered[..place].iter().filter(|(at, _)| *at >= since).map(|(_, sequences)| sequences.len()).sum()))
    })
    .await
}

/// Waits until so many detections are answered, and each is once.
async fn all_once(bus: &Bus, count: usize) -> anyhow::Result<()> {
    let times = until("each is answered", SOON, || async {
        let mut times = BTreeMap::<u64, usize>::new();
        for (_, sequences) in bus.answered().await? {
            sequences.into_iter().for_each(|sequence| *times.entry(sequence).or_default() += 1);
        }
        Ok((times.len() >= count).then_some(times))
    })
    .await?;
    let twice: Vec<&u64> = times.iter().filter(|(_, times)| **times > 1).map(|(sequence, _)| sequence).collect();
    ensure!(times.len() == count && twice.is_empty(), "{} of {count}, more than once: {twice:?}", times.len());
    until("all is acknowledged", SOON, || async {
        let (last, floor) = bus.floor(Stream::Detections).await?;
        Ok((last == floor).then_some(()))
    })
    .await
}
