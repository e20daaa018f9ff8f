//! A large fleet: how long the orchestrator takes to start on it, what it holds, and how soon a detection by name is answered; then a burst of hellos.
//! `just bench fleet`; it prints, and judges nothing.

mod stored;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::{TimeDelta, Utc};
use portcullis_schemas::events::HostClaim;
use portcullis_schemas::{Stream, ids};
use portcullis_tests::bus::{Bus, hello_message, ransomware};
use portcullis_tests::http;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World};

use stored::{BATCH, inventory, last_link, memory, name, order, processor, store_batch};

/// One host of so many is isolated.
const ISOLATED: usize = 20;
const HELLOS: usize = 10_000;
const LONGEST: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let mut hosts = 100_000;
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // Cargo says it to every bench.
                "--bench" => {}
                "--hosts" => hosts = arguments.next().context("a number is missing")?.parse()?,
                other => bail!("{other:?} is not known; it takes --hosts N"),
            }
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(fleet(hosts))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn fleet(hosts: usize) -> anyhow::Result<()> {
    let mut world = World::bare().await?;
    world.is_not_replayed("a bench measures, and its orders have no inputs");
    std::fs::write(world.policy(), POLICY)?;
    // Makes the streams.
    world.orchestrate(&[]).await?;
    world.orchestrator().process.stop().await?;
    let stored = store(&world.bus, hosts).await?;
    println!("{hosts} inventories and {stored} orders are stored");

    let start = Instant::now();
    world.orchestrate(&[]).await?;
    println!("{:44} {:>10.2} s", "from its start until it is ready", start.elapsed().as_secs_f64());
    println!("{:44} {:>10.2} s", "processor time of that", processor(world.orchestrator().process.pid())?);
    println!("{:44} {:>10.0} MiB", "most memory until then", memory(world.orchestrator().process.pid(), "VmHWM:")?);
    let mut times = Vec::new();
    for n in (1..hosts).step_by(hosts / 20).filter(|n| n % ISOLATED != 0) {
        let host = format!("h{n}");
        times.push(answered(&world.bus, &host, &name(n)).await?);
    }
    times.sort_by(f64::total_cmp);
    let (middle, last) = (times.len() / 2, times.len() - 1);
    println!("{:44} {:>10.1} ms", "detection by name to order, p50", times[middle]);
    println!("{:44} {:>10.1} ms", "the longest of them", times[last]);
    burst(&mut world, hosts).await?;
    println!("{:44} {:>10.0} MiB", "most memory at the end", memory(world.orchestrator().process.pid(), "VmHWM:")?);
    Ok(())
}

/// Hellos of hosts that are new, all at once, and a detection of a known one behind them.
async fn burst(world: &mut World, hosts: usize) -> anyhow::Result<()> {
    let prefix = world.bus.prefix.clone();
    let new: Vec<(String, Vec<u8>)> =
        (0..HELLOS).map(|n| hello_message(&prefix, &format!("new{n}"), &format!("new{n}.example"))).collect::<Result<_, _>>()?;
    let start = Instant::now();
    for (subject, body) in new {
        world.bus.client.publish(subject, body.into()).await?;
    }
    world.bus.client.flush().await?;
    let took = answered(&world.bus, "h2", &name(2)).await?;
    println!("{:44} {took:>10.1} ms", format!("the same behind {HELLOS} hellos at once"));
    until("every host has its inventory", LONGEST, || async {
        let mut stream = world.bus.context.get_stream(world.bus.prefix.stream(Stream::Inventory)).await?;
        Ok((stream.info().await?.state.subjects_count >= (hosts + HELLOS) as u64).then_some(()))
    })
    .await?;
    println!("{:44} {:>10.2} s", "until the last of them has its inventory", start.elapsed().as_secs_f64());
    let (_, metrics) = http::get(world.orchestrator().http, "/metrics").await?;
    let dropped = metrics.lines().find(|line| line.starts_with("portcullis_hellos_dropped_total")).context("no such metric")?;
    println!("{:44} {:>10}", "hellos dropped", dropped.rsplit(' ').next().unwrap_or("?"));
    Ok(())
}

/// Milliseconds from a detection by name to its order, both as the broker stored them.
async fn answered(bus: &Bus, host: &str, name: &str) -> anyhow::Result<f64> {
    let claim = HostClaim { hostname: Some(name.to_owned()), ..HostClaim::default() };
    bus.detect("siem", ransomware(claim)).await?;
    let order = until("it is ordered", LONGEST, || async { Ok(bus.orders(host).await?.pop()) }).await?;
    // An order's time is that of its input.
    Ok((order.at - order.event.data.issued_at).as_seconds_f64() * 1_000.0)
}

/// Stores the inventory of each host, and the orders of some; how many orders.
async fn store(bus: &Bus, hosts: usize) -> anyhow::Result<usize> {
    let (mut inventories, mut orders) = (Vec::new(), Vec::new());
    let (mut prev, mut isolated) = (last_link(bus).await?, 0);
    for n in 1..=hosts {
        inventories.push((bus.prefix.of(Stream::Inventory, &format!("h{n}")), inventory(n)?));
        if n % ISOLATED == 0 {
            let body = order(n, Utc::now() + TimeDelta::hours(8), prev)?;
            prev = ids::sha256(&body);
            orders.push((bus.prefix.of(Stream::Orders, &format!("h{n}")), body));
            isolated += 1;
        }
        for batch in [&mut inventories, &mut orders] {
            if batch.len() == BATCH || n == hosts && !batch.is_empty() {
                store_batch(bus, std::mem::take(batch)).await?;
            }
        }
    }
    Ok(isolated)
}
