//! A hundred thousand open deadlines and as many hosts: what they take, how long a follower takes to lead with them, and how late ten thousand releases
//! are said that fall due within a second, beside the bare publish of as many messages. `just bench standby`; it prints, and judges nothing.

mod stored;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use async_nats::jetstream::stream::Config;
use chrono::{TimeDelta, Utc};
use portcullis_schemas::events::ReleaseDue;
use portcullis_schemas::{Stream, Timestamp, ids};
use portcullis_tests::http;
use portcullis_tests::standby::last_term;
use portcullis_tests::until::until;
use portcullis_tests::world::{Orchestrator, POLICY, World};

use stored::{BATCH, inventory, last_link, memory, name, order, processor, store_batch};

const LONGEST: Duration = Duration::from_secs(300);

#[derive(Clone, Copy)]
struct Sizes {
    deadlines: usize,
    due: usize,
    /// From the storing of what falls due until it does: for two orchestrators to start, and one to be killed.
    lead: i64,
}

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let mut sizes = Sizes { deadlines: 100_000, due: 10_000, lead: 60 };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || -> anyhow::Result<usize> { Ok(arguments.next().context("a number is missing")?.parse()?) };
            match argument.as_str() {
                // Cargo says it to every bench.
                "--bench" => {}
                "--deadlines" => sizes.deadlines = number()?,
                "--due" => sizes.due = number()?,
                "--lead" => sizes.lead = i64::try_from(number()?)?,
                other => bail!("{other:?} is not known; it takes --deadlines N, --due N and --lead SECONDS"),
            }
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(sizes))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("standby: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(sizes: Sizes) -> anyhow::Result<()> {
    let Sizes { deadlines, due, lead } = sizes;
    ensure!(due < deadlines, "--due is to be less than --deadlines");
    let mut world = World::bare().await?;
    world.is_not_replayed("a bench measures, and its orders have no inputs");
    std::fs::write(world.policy(), POLICY)?;
    // Makes the streams.
    world.orchestrate(&[]).await?;
    let empty = memory(world.orchestrator().process.pid(), "VmHWM:")?;
    world.orchestrator().process.stop().await?;
    let mut prev = last_link(&world.bus).await?;
    let first = Instant::now();
    let far = Utc::now() + TimeDelta::hours(8);
    prev = orders(&world, 1..=deadlines - due, |_| far, prev).await?;
    let began = Utc::now() + TimeDelta::seconds(lead);
    let spread = |n: usize| TimeDelta::microseconds(i64::try_from((n - (deadlines - due)) * 1_000_000 / due).unwrap_or(0));
    orders(&world, deadlines - due + 1..=deadlines, |n| began + spread(n), prev).await?;
    println!(
        "{deadlines} orders with deadlines are stored, after {:.0} s; {due} of them fall due within a second",
        first.elapsed().as_secs_f64()
    );

    world.orchestrate(&[]).await?;
    let alone = memory(world.orchestrator().process.pid(), "VmHWM:")?;
    line("most memory with these deadlines", alone, "MiB");
    line("of it without any", empty, "MiB");
    line("for one deadline and its order", (alone - empty) * 1024.0 / deadlines as f64, "KiB");
    hosts(&world, deadlines).await?;
    let mut second = world.another(&[])?;
    second.ready().await?;
    line("processor time of a follower's start", processor(second.process.pid())?, "s");
    line("most memory of a follower, the hosts known", memory(second.process.pid(), "VmHWM:")?, "MiB");
    take_over(&mut world, &second, deadlines).await?;
    ensure!(Utc::now() < began, "the deadlines fell due before they were waited for: give more --lead");

    until("all that fell due is said", LONGEST, || async { Ok((said(&world).await? >= due as u64).then_some(())) }).await?;
    let mut late: Vec<f64> = Vec::new();
    for found in world.bus.all::<ReleaseDue>(Stream::Releases, &world.bus.prefix.all(Stream::Releases)).await? {
        late.push((found.at - found.event.data.due_at).as_seconds_f64() * 1_000.0);
    }
    late.sort_by(f64::total_cmp);
    let early = late.iter().filter(|late| **late < 0.0).count();
    let at = |share: usize| late[(late.len() - 1) * share / 100];
    let p99 = at(99);
    line("release said after its deadline, p50", at(50), "ms");
    line("the same, p99", p99, "ms");
    line("said before its deadline", early as f64, "");
    until("all of them are ordered open", LONGEST, || async { Ok((pending(&second).await? == deadlines - due).then_some(())) })
        .await?;
    let bare = bare(&world, due).await?;
    line("bare publish of as many, all of them", bare, "ms");
    line("p99 of lateness, beside it", p99 / bare, "x");
    second.process.stop().await?;
    Ok(())
}

fn line(what: &str, value: f64, unit: &str) {
    println!("{what:44} {value:>10.2} {unit}");
}

async fn orders(
    world: &World,
    numbers: std::ops::RangeInclusive<usize>,
    until: impl Fn(usize) -> Timestamp,
    mut prev: String,
) -> anyhow::Result<String> {
    let mut batch = Vec::new();
    for n in numbers {
        let body = order(n, until(n), prev)?;
        prev = ids::sha256(&body);
        batch.push((world.bus.prefix.of(Stream::Orders, &format!("h{n}")), body));
        if batch.len() == BATCH {
            store_batch(&world.bus, std::mem::take(&mut batch)).await?;
        }
    }
    if !batch.is_empty() {
        store_batch(&world.bus, batch).await?;
    }
    Ok(prev)
}

/// Makes as many hosts known.
async fn hosts(world: &World, hosts: usize) -> anyhow::Result<()> {
    let all: Vec<usize> = (1..=hosts).collect();
    for some in all.chunks(BATCH) {
        let inventories = some.iter().map(|n| Ok((world.bus.prefix.of(Stream::Inventory, &format!("h{n}")), inventory(*n)?)));
        store_batch(&world.bus, inventories.collect::<anyhow::Result<_>>()?).await?;
    }
    println!("{hosts} hosts are known, as {} is", name(1));
    Ok(())
}

/// The leader is killed; the other one leads, and knows of every deadline.
async fn take_over(world: &mut World, second: &Orchestrator, deadlines: usize) -> anyhow::Result<()> {
    until("it follows", LONGEST, || async { Ok(second.readyz().await?.starts_with("standby").then_some(())) }).await?;
    let at = Utc::now();
    world.orchestrator().process.kill9()?;
    until("the other one leads", LONGEST, || async { Ok(second.readyz().await?.starts_with("ready").then_some(())) }).await?;
    let ready = Utc::now();
    let (_, began) = last_term(&world.bus).await?;
    line("from the kill until the next term", (began - at).as_seconds_f64(), "s");
    line("from the kill until inputs are taken", (ready - at).as_seconds_f64(), "s");
    let known = pending(second).await?;
    ensure!(known == deadlines, "{known} of {deadlines} deadlines are known");
    Ok(())
}

/// Deadlines to come, by the leader's metrics.
async fn pending(leader: &Orchestrator) -> anyhow::Result<usize> {
    let (_, metrics) = http::get(leader.http, "/metrics").await?;
    let line = metrics.lines().find(|line| line.starts_with("portcullis_pending_deadlines ")).context("no such metric")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()? as usize)
}

async fn said(world: &World) -> anyhow::Result<u64> {
    let mut stream = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Releases)).await?;
    Ok(stream.info().await?.state.messages)
}

/// As many messages as those, one by one and each acknowledged, and nothing else, in milliseconds.
async fn bare(world: &World, count: usize) -> anyhow::Result<f64> {
    let stream = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Releases)).await?;
    let body = stream.get_raw_message(stream.cached_info().state.first_sequence).await?.payload;
    world
        .bus
        .context
        .create_stream(Config { name: "bench".into(), subjects: vec!["bench.due".into()], ..Config::default() })
        .await?;
    let start = Instant::now();
    let mut acks = Vec::new();
    for _ in 0..count {
        acks.push(world.bus.context.publish("bench.due", body.clone()).await?);
    }
    for ack in acks {
        ack.await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1_000.0)
}
