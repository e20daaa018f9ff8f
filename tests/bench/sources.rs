//! How long a critical detection takes while alerts of another source wait by the hundred thousand, and how long many sources take to begin with.
//! `just bench sources`; it prints, and judges nothing.

mod waiting;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chrono::Utc;
use futures_util::StreamExt;
use portcullis_schemas::events::{Detection, Posture, Severity, State};
use portcullis_schemas::{Stream, envelope};
use portcullis_tests::bus::{Bus, by_id, ransomware};
use portcullis_tests::until::until;
use portcullis_tests::world::World;

const LONGEST: Duration = Duration::from_secs(300);
const FLOOD: &str = "flood";

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let (mut flood, mut rounds) = (100_000, 8);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || -> anyhow::Result<usize> { Ok(arguments.next().context("a number is missing")?.parse()?) };
            match argument.as_str() {
                // Cargo says it to every bench.
                "--bench" => {}
                "--flood" => flood = number()?,
                "--rounds" => rounds = number()?,
                other => bail!("{other:?} is not known; it takes --flood N and --rounds N"),
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            beside_a_flood(flood, rounds).await?;
            for sources in [1, 256, 1_000] {
                begin_with(sources).await?;
            }
            Ok(())
        })
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sources: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn low() -> Detection {
    Detection { severity: Severity::Low, ..ransomware(by_id("h1")) }
}

/// From the publish until the host's packets are refused, by the host's own word.
async fn beside_a_flood(flood: usize, rounds: usize) -> anyhow::Result<()> {
    let mut world = waiting::ready(1).await?;
    let mut stream = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Detections)).await?;
    let mut config = stream.info().await?.config.clone();
    (config.max_messages_per_subject, config.max_bytes) = (-1, -1);
    world.bus.context.update_stream(&config).await?;
    waiting::store_detections(&world.bus, flood, |_| (FLOOD.into(), low())).await?;
    // Hosts and sources that are known before.
    waiting::store_detections(&world.bus, rounds, |n| (format!("known{n}"), low())).await?;
    world.host(2 * rounds + 1).await?;
    world.orchestrate(&[]).await?;
    let hosts: Vec<String> = (2..2 * rounds + 2).map(|n| format!("h{n}")).collect();
    world.bus.known(&hosts.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    println!("critical detections while {} of {flood} alerts of another source wait, ms until enforced", left(&world).await?);
    for (name, hosts) in [("known", &hosts[..rounds]), ("new", &hosts[rounds..])] {
        let mut took = Vec::new();
        for (n, host) in hosts.iter().enumerate() {
            took.push(enforced(&world.bus, &format!("{name}{n}"), host).await?);
        }
        took.sort_by(f64::total_cmp);
        let (least, middle, most) = (took[0], took[took.len() / 2], took[took.len() - 1]);
        println!("  of a {name:5} source: {least:.1} to {most:.1}, p50 {middle:.1}; {} of the alerts wait", left(&world).await?);
    }
    Ok(())
}

/// Alerts of the flood that the broker has not delivered yet.
async fn left(world: &World) -> anyhow::Result<u64> {
    let consumers = world.bus.consumers(Stream::Detections).await?;
    let flood = world.bus.prefix.of(Stream::Detections, FLOOD);
    Ok(consumers.iter().find(|info| info.config.filter_subject == flood).map_or(0, |info| info.num_pending))
}

async fn enforced(bus: &Bus, source: &str, host: &str) -> anyhow::Result<f64> {
    let mut states = bus.client.subscribe(bus.prefix.of(Stream::States, host)).await?;
    bus.client.flush().await?;
    let begin = Utc::now();
    bus.detect(source, ransomware(by_id(host))).await?;
    loop {
        let message = tokio::time::timeout(LONGEST, states.next()).await?.context("the states ended")?;
        let state = envelope::decode::<State>(std::iter::empty(), &message.payload)?.data;
        if state.posture == Posture::Isolated {
            return Ok((state.enforced_at - begin).as_seconds_f64() * 1e3);
        }
    }
}

/// From the start of the orchestrator until a detection of each source is answered, and what that asks of the broker.
async fn begin_with(sources: usize) -> anyhow::Result<()> {
    let mut world = waiting::ready(1).await?;
    waiting::store_detections(&world.bus, sources, |n| (format!("s{n}"), low())).await?;
    let begin = Instant::now();
    world.orchestrate(&[]).await?;
    let led = begin.elapsed();
    until("every detection is acknowledged", LONGEST, || async {
        let (last, floor) = world.bus.floor(Stream::Detections).await?;
        ensure!(last == sources as u64, "{last} are stored");
        Ok((floor == last).then_some(()))
    })
    .await?;
    let all = begin.elapsed();
    println!("{sources} sources: ready after {:.2} s, all answered after {:.2} s", led.as_secs_f64(), all.as_secs_f64());
    Ok(())
}
