//! A large fleet: how long the orchestrator takes to start on it, what it holds, and how soon a detection by name is answered; then a burst of hellos.
//! `just bench fleet`; it prints, and judges nothing.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_nats::HeaderMap;
use chrono::{TimeDelta, Utc};
use portcullis_schemas::envelope;
use portcullis_schemas::events::{
    Cause, Claim, Hello, Hold, HostClaim, InputKind, InputRef, Inventory, LocalRelease, Order, Origin, Posture, Settled,
    WhenUnreachable,
};
use portcullis_schemas::subjects::TERM;
use portcullis_schemas::{Stream, ids};
use portcullis_tests::bus::{Bus, event, hello, hello_message, ransomware};
use portcullis_tests::http;
use portcullis_tests::place::unique;
use portcullis_tests::until::until;
use portcullis_tests::world::{POLICY, World};

/// Members of an atomic batch.
const BATCH: usize = 512;
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

fn name(n: usize) -> String {
    format!("Web-{n}.DC{}.corp.example.com", n % 7)
}

/// Stores the inventory of each host, and the orders of some; how many orders.
async fn store(bus: &Bus, hosts: usize) -> anyhow::Result<usize> {
    let (mut inventories, mut orders) = (Vec::new(), Vec::new());
    // Orders follow from the record of a term.
    let terms = bus.raw(Stream::Orders, &bus.prefix.of(Stream::Orders, TERM)).await?;
    let (mut prev, mut isolated) = (ids::sha256(&terms.last().context("a term was begun")?.payload), 0);
    for n in 1..=hosts {
        inventories.push((bus.prefix.of(Stream::Inventory, &format!("h{n}")), inventory(n)?));
        if n % ISOLATED == 0 {
            let body = order(n, prev)?;
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

fn inventory(n: usize) -> anyhow::Result<Vec<u8>> {
    let (name, id) = (name(n), format!("h{n}"));
    let ips = vec![format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256), format!("2001:db8::{n:x}")];
    let labels = [("role", "web"), ("tier", "frontend"), ("site", "frankfurt-3")];
    let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let hello = Hello { labels, roles: vec!["container-host".into()], ..hello(&id, &name, &ips)? };
    let since = Utc::now() - TimeDelta::days(30);
    let values = ips.into_iter().chain([name.to_lowercase()]);
    let claims = values.map(|value| Claim { value, since, internal: false, left_at: None }).collect();
    Ok(envelope::encode(&event(
        format!("v{n}"),
        "/bench",
        Inventory { hello, claims, silent_since: None, roles_since: Default::default(), operator: None },
    ))?)
}

fn order(n: usize, prev: String) -> anyhow::Result<Vec<u8>> {
    let (now, input) = (Utc::now(), format!("d{n}"));
    let issued_by = InputRef { kind: InputKind::Detection, token: "siem".into(), source: "/bench".into(), id: input };
    let until = now + TimeDelta::hours(8);
    let cause = Cause::from(issued_by.clone());
    let hold = Hold {
        rule: Some("ransomware".into()),
        origin: Origin::Automatic,
        causes: vec![cause],
        more: None,
        generation: 1,
        since: now,
        until: Some(until),
        reason: None,
        ticket: None,
        incident: None,
    };
    let order = Order {
        host: format!("h{n}").parse()?,
        generation: 1,
        posture: Posture::Isolated,
        holds: vec![hold],
        release_at: Some(until),
        exclusions: portcullis_policy::default_exclusions(),
        when_unreachable: WhenUnreachable::Release,
        local_release: LocalRelease::Root,
        incident: format!("incident {n}"),
        ticket: None,
        issued_at: now,
        issued_by: issued_by.clone(),
        reason: "rule ransomware on a detection by siem".into(),
        expires_at: Some(until),
        min_agent: None,
        settled: vec![Settled { hash: issued_by.hash(), at_ms: now.timestamp_millis(), generation: Some(1) }],
        settled_floor: None,
        released_at: None,
        last_release: None,
        last_isolation: None,
        asked_at_deadline: false,
        prev,
    };
    Ok(envelope::encode(&event(format!("o{n}"), "/bench", order))?)
}

/// One atomic batch (ADR-50).
async fn store_batch(bus: &Bus, batch: Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    let (id, count) = (unique(), batch.len());
    for (number, (subject, body)) in (1..).zip(batch) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Batch-Id", id.as_str());
        headers.insert("Nats-Batch-Sequence", number.to_string());
        if number < count {
            bus.client.publish_with_headers(subject, headers, body.into()).await?;
        } else {
            headers.insert("Nats-Batch-Commit", "1");
            bus.context.publish_with_headers(subject, headers, body.into()).await?.await?;
        }
    }
    Ok(())
}

/// What a process has taken of the processors, in seconds (proc(5): utime and stime, in hundredths).
fn processor(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let [user, system] = [11, 12].map(|at| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(f64::NAN));
    Ok((user + system) / 100.0)
}

/// Of a process, in MiB (proc(5)).
fn memory(pid: u32, what: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
