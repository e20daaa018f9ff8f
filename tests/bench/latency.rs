//! How long it takes from a published event until a program on the host is refused, beside the least that it could take and beside a script;
//! and what the programs cost while nothing happens. `just bench latency`; it prints, and judges nothing.

mod deadlines;
mod figures;
mod floor;
mod idle;
mod orders;
mod peer;
mod portcullis;
mod refused;
mod rules;
mod series;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use figures::{Report, Times};
use floor::{Floor, Turn};
use peer::Peer;
use portcullis::Portcullis;
use portcullis_dev::{Lab, LabConfig};
use portcullis_schemas::envelope;
use portcullis_schemas::events::Posture;
use portcullis_tests::bus::{by_id, event, ransomware};
use portcullis_tests::place::unique;
use portcullis_tests::world::{POLICY, World};
use rules::Rules;
use series::Series;

const WARM_UP: usize = 10;
const IDLE: Duration = Duration::from_secs(20);
/// Between two changes: by then the agent has written its second copy, and nft has closed its socket.
const BREATH: Duration = Duration::from_millis(60);

struct Options {
    json: bool,
    rounds: usize,
    idle: Duration,
    deadlines: bool,
}

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let options = options()?;
        let report = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bench(&options))?;
        if options.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            report.print();
        }
        Ok(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latency: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options { json: false, rounds: 100, idle: IDLE, deadlines: true };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo says it to every bench.
            "--bench" => {}
            "--json" => options.json = true,
            "--rounds" => options.rounds = arguments.next().context("--rounds N")?.parse().context("--rounds N")?,
            "--ways" => (options.idle, options.deadlines) = (Duration::ZERO, false),
            other => bail!("{other:?} is not known; it takes --json, --rounds N, and --ways for the comparison alone"),
        }
    }
    Ok(options)
}

async fn bench(options: &Options) -> anyhow::Result<Report> {
    let mut world = World::start(1, Some(POLICY)).await?;
    world.is_not_replayed("a bench measures, and stores by the ten thousand");
    let mut portcullis = Portcullis::new(&world).await?;
    portcullis.isolate(&world.bus).await?;

    let host = world.lab().host(1);
    let order = world.bus.all_orders().await?;
    let order = order.first().context("an order")?.payload.to_vec();
    let order_file = world.folder.path().join("order.json");
    std::fs::write(&order_file, &order)?;
    let detection = envelope::encode(&event("bench".into(), "/bench", ransomware(by_id("h1"))))?;
    let posture = host.state_dir.join("posture.a");

    // Two hosts like the first, without agents.
    let broker = Some(format!("127.0.0.1:{}", world.nats.port).parse()?);
    let config = LabConfig { broker, ..LabConfig::new(format!("b{}", unique()), 2, world.folder.path().join("bare")) };
    let bare = Lab::start(config).await?;
    let rules = Rules::of(&order_file, &host.state_dir.join("resolv.conf"), &bare.host(1).netns)?;
    let url = world.nats.url();
    let mut floor = Floor::new(&url, &bare.host(1).netns, world.folder.path(), order).await?;
    let mut peer = Peer::new(&url, &bare.host(2).netns, world.folder.path(), &rules).await?;
    portcullis.release(&world.bus).await?;

    let mut times: [[Series; 2]; 4] = Default::default();
    let mut steps: [[Series; 2]; 2] = Default::default();
    for round in 0..WARM_UP + options.rounds {
        // The file grows as the order does.
        let file = std::fs::read(&posture)?;
        let turn = |posture| Turn { file: file.clone(), batch: rules.batch(posture), posture };
        let breath = || tokio::time::sleep(BREATH);
        breath().await;
        let a = floor.publish(detection.clone(), turn(Posture::Isolated)).await?;
        breath().await;
        let b = portcullis.isolate(&world.bus).await?;
        breath().await;
        let c = peer.isolate().await?;
        breath().await;
        let d = floor.publish(detection.clone(), turn(Posture::Open)).await?;
        breath().await;
        let e = portcullis.release(&world.bus).await?;
        breath().await;
        let f = peer.release().await?;
        if round >= WARM_UP {
            add(&mut times, [[a.in_force, d.in_force], [b.in_force, e.in_force], [b.inet, e.inet], [c, f]]);
            add(&mut steps, [[a.delivered, d.delivered], [a.written, d.written]]);
        }
    }
    let ways = named(["floor", "Portcullis", "Portcullis: inet layer", "script on core NATS: inet layer"], times);
    let steps = named(["floor: order delivered", "floor: posture file written"], steps);
    let stages = portcullis.stages(&world.bus, 2 * (WARM_UP + 1)).await?.into_iter().chain(steps).collect();

    portcullis.isolate(&world.bus).await?;
    let agent = world.lab().agent(1).pid().context("the agent has ended")?;
    let orchestrator = world.orchestrator().process.pid();
    let idle = idle::watch(&[("agent", agent), ("orchestrator", orchestrator)], options.idle).await?;

    let turn = Turn { file: std::fs::read(&posture)?, batch: rules.batch(Posture::Isolated), posture: Posture::Isolated };
    floor.publish(detection, turn).await?;
    world.orchestrator = None;
    let ends = (&mut floor, &mut portcullis, &rules);
    let orders = orders::measure((&world.bus, &posture, BREATH), ends, (WARM_UP, options.rounds)).await?;
    let orders = named(["floor: posture file, one transaction", "Portcullis"], orders);
    drop((floor, peer, bare, world));
    let deadlines = if options.deadlines { deadlines::measure().await? } else { Vec::new() };
    Ok(Report { rounds: options.rounds, ways, orders, stages, idle_s: options.idle.as_secs_f64(), idle, deadlines })
}

fn add<const N: usize>(series: &mut [[Series; 2]; N], round: [[Duration; 2]; N]) {
    series.iter_mut().flatten().zip(round.into_iter().flatten()).for_each(|(series, took)| series.add(took));
}

fn named<const N: usize>(names: [&'static str; N], series: [[Series; 2]; N]) -> Vec<Times> {
    let times =
        |(name, [isolate, release]): (_, [Series; 2])| Times { name, isolate: isolate.summary(), release: release.summary() };
    names.into_iter().zip(series).map(times).collect()
}
