//! Floods: one sender fills the streams that it can fill, and an operator's isolation is enforced all the same.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::stream::{Config, StorageType};
use portcullis_schemas::Stream;
use portcullis_schemas::events::{Posture, Reason};
use portcullis_schemas::rejected::header;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World, said};
use rustix::process::Signal;

const MIB: i64 = 1024 * 1024;

#[tokio::test]
async fn detections_and_rejected_flooded_to_their_limits_do_not_stop_an_operator() -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    // Sizes are the operator's to choose: small ones are full soon.
    for (stream, max_bytes) in [(Stream::Detections, 8 * MIB), (Stream::Rejected, 2 * MIB)] {
        let config = Config {
            name: world.bus.prefix.stream(stream),
            subjects: vec![world.bus.prefix.all(stream)],
            storage: StorageType::File,
            allow_direct: true,
            max_bytes,
            ..Config::default()
        };
        world.bus.context.create_stream(config).await?;
    }
    std::fs::write(world.policy(), POLICY)?;
    world.orchestrate(&[]).await?;
    world.host(1).await?;

    let subject = world.bus.prefix.of(Stream::Detections, "flooder");
    let flood = async {
        let mut acks = Vec::new();
        for n in 0..2_000u32 {
            let body = [vec![b'x'; 32 * 1024], n.to_be_bytes().to_vec()].concat();
            acks.push(world.bus.context.publish(subject.clone(), body.into()).await?);
            if acks.len() == 100 {
                for ack in acks.drain(..) {
                    ack.await?;
                }
            }
        }
        anyhow::Ok(())
    };
    let operator = async {
        until("the flood is under way", Duration::from_secs(30), || async {
            let bytes = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Rejected)).await?.cached_info().state.bytes;
            Ok((bytes > MIB as u64).then_some(()))
        })
        .await?;
        let args: Vec<String> = vec!["isolate".into(), "h1".into()];
        let nats = world.nats.url();
        let output = tokio::process::Command::new(portcullis_tests::place::program("portcullis")?)
            .args(["--nats", &nats])
            .args(&args)
            .output()
            .await?;
        said(&output, 0)
    };
    let (flooded, operated) = tokio::join!(flood, operator);
    flooded?;
    operated?;
    ensure!(world.enforced(1)? == Posture::Isolated);
    let info = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Detections)).await?.cached_info().clone();
    ensure!(info.state.first_sequence > 1, "the flood was too small to fill the stream: {:?}", info.state);
    Ok(())
}

#[tokio::test]
async fn inputs_that_were_removed_unread_are_named_in_a_decision() -> anyhow::Result<()> {
    let mut world = World::start(0, Some(POLICY)).await?;
    let subject = world.bus.prefix.of(Stream::Detections, "siem");
    world.bus.publish_raw(subject.clone(), b"one".to_vec()).await?;
    let rejected = world.bus.prefix.of(Stream::Rejected, "siem");
    until("the first is taken", Duration::from_secs(20), || async {
        Ok((!world.bus.raw(Stream::Rejected, &rejected).await?.is_empty()).then_some(()))
    })
    .await?;
    world.orchestrator().process.stop().await?;
    for text in ["two", "three", "four"] {
        world.bus.publish_raw(subject.clone(), text.into()).await?;
    }
    // A limit that is narrowed removes what is above it: the same as a flood that pushes it out.
    let mut stream = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Detections)).await?;
    let mut config = stream.info().await?.config.clone();
    config.max_messages = 1;
    world.bus.context.update_stream(&config).await?;
    world.orchestrate(&[]).await?;
    let lost = until("the loss is decided", Duration::from_secs(20), || async {
        let decisions = world.bus.decisions().await?;
        Ok(decisions.into_iter().find(|found| matches!(found.event.data.reason, Reason::InputsLost { .. })))
    })
    .await?;
    ensure!(lost.event.data.reason == Reason::InputsLost { first: 2, last: 3 }, "{:?}", lost.event.data);
    Ok(())
}

#[tokio::test]
async fn inputs_of_one_source_that_were_removed_unread_are_told_from_those_of_others_that_were_read() -> anyhow::Result<()> {
    let mut world = World::start(0, Some(POLICY)).await?;
    let subject = |source: &str| world.bus.prefix.of(Stream::Detections, source);
    let (siem, edr) = (subject("siem"), subject("edr"));
    for subject in [&siem, &edr, &edr, &siem] {
        world.bus.publish_raw(subject.clone(), b"read".to_vec()).await?;
    }
    until("they are taken", Duration::from_secs(20), || async {
        Ok((world.bus.raw(Stream::Rejected, &world.bus.prefix.all(Stream::Rejected)).await?.len() == 4).then_some(()))
    })
    .await?;
    world.orchestrator().process.signal(Signal::STOP)?;
    for n in 0..40 {
        world.bus.publish_raw(if n % 3 == 0 { &siem } else { &edr }.clone(), b"unread".to_vec()).await?;
    }
    let mut stream = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Detections)).await?;
    let mut config = stream.info().await?.config.clone();
    config.max_messages = 2;
    world.bus.context.update_stream(&config).await?;
    let left = world.bus.raw(Stream::Detections, &world.bus.prefix.all(Stream::Detections)).await?.len();
    ensure!(left == 2, "{left} of them stand");
    world.orchestrator().process.signal(Signal::CONT)?;
    // The first of each were on their way when the process stopped: they are rejected, and not lost.
    let (kept, lost) = until("each is rejected or lost", Duration::from_secs(30), || async {
        let mut kept = Vec::new();
        for message in world.bus.raw(Stream::Rejected, &world.bus.prefix.all(Stream::Rejected)).await? {
            let sequence = message.headers.as_ref().and_then(|headers| headers.get(header::SEQUENCE)).context("a sequence")?;
            kept.push(sequence.as_str().parse::<u64>()?);
        }
        let mut lost = Vec::new();
        for decision in world.bus.decisions().await? {
            if let Reason::InputsLost { first, last } = decision.event.data.reason {
                lost.extend(first..=last);
            }
        }
        Ok((kept.len() + lost.len() >= 44).then_some((kept, lost)))
    })
    .await?;
    let mut all = [&kept[..], &lost].concat();
    all.sort_unstable();
    ensure!(all == (1..=44).collect::<Vec<u64>>() && lost.len() > 20, "rejected: {kept:?}, lost: {lost:?}");
    Ok(())
}
