//! How many inputs a second the orchestrator answers when thousands wait, beside a bare client on the same broker. `just bench storm`; it prints, and
//! judges nothing.

mod waiting;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::Config;
use chrono::Utc;
use futures_util::StreamExt;
use portcullis_schemas::events::{Detection, Severity};
use portcullis_schemas::subjects::PAGES;
use portcullis_schemas::{Stream, Timestamp};
use portcullis_tests::bus::{Bus, by_id, ransomware};
use portcullis_tests::place::unique;
use portcullis_tests::until::until;
use portcullis_tests::world::World;

/// Members of an atomic batch, as the orchestrator has them at most.
const BATCH: usize = 512;
/// An order of one automatic hold is about this long.
const ORDER: usize = 1_400;
/// A page of whole decisions is about this long.
const PAGE: usize = 96 * 1024;
const DECISIONS_IN_A_PAGE: usize = 140;
const SOURCE: &str = "siem";
const LONGEST: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let (mut plain, mut isolating) = (20_000, 5_000);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || -> anyhow::Result<usize> { Ok(arguments.next().context("a number is missing")?.parse()?) };
            match argument.as_str() {
                // Cargo says it to every bench.
                "--bench" => {}
                "--plain" => plain = number()?,
                "--isolating" => isolating = number()?,
                other => bail!("{other:?} is not known; it takes --plain N and --isolating N"),
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            println!("{:44} {:>12} {:>12} {:>8}", "inputs that wait", "a second", "bare client", "ratio");
            print("detections that isolate nothing, 1 KiB", plain_storm(plain).await?);
            print("detections that isolate a host each", isolating_storm(isolating).await?);
            Ok(())
        })
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(name: &str, (ours, floor): (f64, f64)) {
    println!("{name:44} {ours:>12.0} {floor:>12.0} {:>8.2}", ours / floor);
}

/// Ours and the floor, in inputs a second: reading and acknowledging alone.
async fn plain_storm(count: usize) -> anyhow::Result<(f64, f64)> {
    let mut world = waiting::ready(1).await?;
    let detection = Detection { severity: Severity::Low, product: "x".repeat(500), ..ransomware(by_id("h1")) };
    waiting::store_detections(&world.bus, count, |_| (SOURCE.into(), detection.clone())).await?;
    let floor = read_and_acknowledge(&world.bus, count).await?;
    world.orchestrate(&[]).await?;
    answered(&world, count).await?;
    // From the first page to the last one: its own inputs were decided before the first was stored.
    let pages = times(&world.bus, Stream::Decisions, &world.bus.prefix.of(Stream::Decisions, PAGES)).await?;
    Ok((rate(&pages, count, count.min(BATCH)), floor))
}

/// Ours and the floor, in isolations a second: storing the same in atomic batches, orders first, then pages.
async fn isolating_storm(count: usize) -> anyhow::Result<(f64, f64)> {
    let mut world = waiting::ready(count).await?;
    waiting::store_detections(&world.bus, count, |n| (SOURCE.into(), ransomware(by_id(&format!("h{}", n + 1))))).await?;
    let floor = store_batches(&world.bus, count).await?;
    world.orchestrate(&[]).await?;
    answered(&world, count).await?;
    let orders = times(&world.bus, Stream::Orders, &world.bus.prefix.of(Stream::Orders, "*")).await?;
    ensure!(orders.len() > count, "{} of {count} hosts were isolated", orders.len());
    // The records of terms come first.
    let first = orders.len() - count;
    Ok((rate(&orders[first..], count, count.min(BATCH)), floor))
}

async fn read_and_acknowledge(bus: &Bus, count: usize) -> anyhow::Result<f64> {
    let stream = bus.context.get_stream(bus.prefix.stream(Stream::Detections)).await?;
    let config =
        pull::Config { durable_name: Some("floor".into()), max_ack_pending: 4 * BATCH as i64, ..pull::Config::default() };
    let consumer = stream.create_consumer(config).await?;
    let start = Instant::now();
    let mut messages = consumer.stream().max_messages_per_batch(BATCH).messages().await?;
    for n in 1..=count {
        let message = messages.next().await.context("the messages ended")??;
        match n == count {
            true => message.double_ack().await,
            false => message.ack_with(AckKind::Ack).await,
        }
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

async fn store_batches(bus: &Bus, count: usize) -> anyhow::Result<f64> {
    for name in ["FLOOR_ORDERS", "FLOOR_PAGES"] {
        let subjects = vec![format!("floor.{name}.*")];
        bus.context
            .create_stream(Config { name: name.into(), subjects, allow_atomic_publish: true, ..Config::default() })
            .await?;
    }
    let start = Instant::now();
    let mut left = count;
    while left > 0 {
        let now = left.min(BATCH);
        store_batch(bus, "FLOOR_ORDERS", now, ORDER).await?;
        store_batch(bus, "FLOOR_PAGES", now.div_ceil(DECISIONS_IN_A_PAGE), PAGE).await?;
        left -= now;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// One atomic batch (ADR-50).
async fn store_batch(bus: &Bus, stream: &str, count: usize, bytes: usize) -> anyhow::Result<()> {
    let (id, body) = (unique().to_string(), bytes::Bytes::from(vec![b'x'; bytes]));
    for n in 1..=count {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Batch-Id", id.as_str());
        headers.insert("Nats-Batch-Sequence", n.to_string());
        let subject = format!("floor.{stream}.h{n}");
        if n < count {
            bus.client.publish_with_headers(subject, headers, body.clone()).await?;
        } else {
            headers.insert("Nats-Batch-Commit", "1");
            bus.context.publish_with_headers(subject, headers, body.clone()).await?.await?;
        }
    }
    Ok(())
}

async fn answered(world: &World, count: usize) -> anyhow::Result<()> {
    until("every detection is acknowledged", LONGEST, || async {
        let (last, floor) = world.bus.floor(Stream::Detections).await?;
        Ok((last >= count as u64 && floor >= last).then_some(()))
    })
    .await
}

/// When each message was stored, in order.
async fn times(bus: &Bus, stream: Stream, subject: &str) -> anyhow::Result<Vec<Timestamp>> {
    let messages = bus.raw(stream, subject).await?;
    let at = |message: &async_nats::jetstream::Message| {
        message.info().map(|info| info.published).map_err(|error| anyhow::anyhow!("{error}"))
    };
    messages.iter().map(at).collect()
}

/// Those of the first batch are not counted: they were decided before it was stored.
fn rate(stored: &[Timestamp], count: usize, first: usize) -> f64 {
    let (Some(begin), Some(end)) = (stored.first(), stored.last()) else { return 0.0 };
    let took = (*end - *begin).as_seconds_f64().max(f64::EPSILON);
    println!("  stored from {} on, in {took:.3} s", begin.with_timezone(&Utc).format("%H:%M:%S%.3f"));
    count.saturating_sub(first) as f64 / took
}
