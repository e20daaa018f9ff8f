//! What exclusions cost: an excluded flow beside ten and beside ten thousand of them, and beside none at all; the transaction that brings them to the
//! kernel; and the memory of an agent that holds them. `just bench exclusions`; it prints, and judges nothing.

mod idle;
mod series;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portcullis_agent::firewall::{Kernel, Layers, drop_gate, lift_gate};
use portcullis_agent_core::gate::{Gate, Local, Pass};
use portcullis_dev::{Lab, LabConfig, Netns, OUTSIDE_V4, in_netns};
use portcullis_schemas::events::Level;
use portcullis_schemas::exclusion::{Direction, PortRange, Protocol};
use portcullis_tests::place::{Folder, unique};
use portcullis_tests::world::{World, said};
use series::Series;

const PORT: u16 = 8000;
const FEW: u32 = 10;
const MANY: u32 = 10_000;
const ROUNDS: usize = 7;
const TURN: Duration = Duration::from_millis(700);
const IDLE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(flows())?;
        runtime.block_on(memory())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exclusions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The same flow in turns, so that the machine's moods fall on all alike.
async fn flows() -> anyhow::Result<()> {
    let folder = Folder::new("exclusions")?;
    let lab = Lab::start(LabConfig::new(format!("x{}", unique()), 1, folder.path().join("lab"))).await?;
    let (host, outside) = (lab.host(1).netns.clone(), lab.outside().clone());
    let listener = outside.tcp_listener((OUTSIDE_V4, PORT))?;
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
        }
    });
    let names = ["open", "10 exclusions", "10,000 exclusions", "open again"];
    let mut rates: [Vec<f64>; 4] = Default::default();
    let (mut few, mut many) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        for (place, count) in [(0, None), (1, Some(FEW)), (2, Some(MANY)), (3, None)] {
            if let Some(count) = count {
                let took = isolate(&host, count)?;
                if count == FEW { few.add(took) } else { many.add(took) }
            }
            rates[place].push(rate(&host)?);
            in_netns(&host, || {
                let kernel = Kernel::open()?;
                lift_gate(&kernel, Layers::probe(&kernel, Level::Full))
            })??;
        }
    }
    println!("an excluded TCP flow, {ROUNDS} turns of {TURN:?} each, Gbit/s (× the open host)");
    let medians = rates.map(median);
    for (name, rate) in names.into_iter().zip(medians) {
        println!("{name:34} {rate:>8.2} ({:.2}×)", rate / medians[0]);
    }
    println!("{:34} {:>8.2}×", "10,000 beside 10", medians[2] / medians[1]);
    println!("\nfrom the wish to isolate until the rules are in force, ms");
    for (name, series) in [("10 exclusions", few), ("10,000 exclusions", many)] {
        let found = series.summary();
        println!("{name:34} {:>8.2} p50 {:>8.2} max", found.p50, found.max);
    }
    Ok(())
}

/// Until the rules were in force.
fn isolate(host: &Netns, count: u32) -> anyhow::Result<Duration> {
    let gate = gate(count);
    let dropped = in_netns(host, || {
        let kernel = Kernel::open()?;
        let netdev = Layers::probe(&kernel, Level::Full).netdev().map_err(portcullis_agent::firewall::FirewallError::Io)?;
        drop_gate(&kernel, &Gate { netdev, ..gate }, None)
    })??;
    let check = dropped.check.context("the rules cannot be read back")?;
    ensure!(check.differences.is_empty(), "{:?}", check.differences.first());
    Ok(dropped.timing.enforced)
}

/// The flow's peer among so many hosts, each with a port of its own.
fn gate(count: u32) -> Gate {
    let pass = |n: u32| {
        let (remote, port) = match n {
            0 => (OUTSIDE_V4, PORT),
            _ => (Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + n), 1_000 + (n % 7) as u16),
        };
        Pass {
            name: format!("peer {n}"),
            direction: Direction::Out,
            protocol: Protocol::Tcp,
            remotes: vec![IpAddr::from(remote).into()],
            remote_ports: vec![PortRange::one(port)],
            local_ports: Vec::new(),
            icmp_types: Vec::new(),
            local: Local::default(),
        }
    };
    Gate { passes: (0..count).map(pass).collect(), ..Gate::default() }
}

fn rate(host: &Netns) -> anyhow::Result<f64> {
    let mut stream: TcpStream = host.tcp_connect(SocketAddr::from((OUTSIDE_V4, PORT)), Duration::from_secs(5))?;
    let sent = AtomicU64::new(0);
    let block = vec![7; 256 << 10];
    let start = Instant::now();
    while start.elapsed() < TURN {
        stream.write_all(&block)?;
        sent.fetch_add(block.len() as u64, Ordering::Relaxed);
    }
    Ok(sent.into_inner() as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A real agent under an order with ten thousand networks.
async fn memory() -> anyhow::Result<()> {
    println!("\na real agent, isolated and idle for {} s", IDLE.as_secs());
    for count in [FEW, MANY] {
        let nets: Vec<String> = (0..count).map(|n| Ipv4Addr::from_bits(0x0a01_0000 + 2 * n).to_string()).collect();
        let policy = format!(
            "version: 1\nlists: {{ peers: [{}] }}\nexclusions:\n  manual_default:\n    - {{ name: peers, direction: out, protocol: tcp, remote: $peers, \
             remote_ports: 443 }}\nrules:\n  - {{ name: rest, then: observe }}\n",
            nets.join(", ")
        );
        let mut world = World::start(1, Some(&policy)).await?;
        world.is_not_replayed("a bench measures, and stores by the ten thousand");
        said(&world.verb(&["isolate", "h1"])?, 0)?;
        let agent = world.lab().agent(1).pid().context("the agent has ended")?;
        let found = idle::watch(&[("agent", agent)], IDLE).await?;
        let found = found.first().context("nothing was watched")?;
        let name = format!("{count} exclusions");
        println!(
            "{name:34} {:>8.1} MiB resident, {:.1} MiB of it anonymous, {:.1} ms of CPU",
            found.rss_mib, found.anonymous_mib, found.cpu_ms
        );
    }
    Ok(())
}
