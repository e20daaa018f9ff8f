//! `portcullis serve`: the orchestrator on an existing NATS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use portcullis_bus::{
    Attempts, Backoff, Broker, Follower, From, Heart, Patience, Servers, Stored, quiet_client_panics, stored, streams,
};
use portcullis_core::Config;
use portcullis_core::machine::{Event, Machine};
use portcullis_schemas::{HostId, Prefix, Stream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::commit::Tools;
use crate::engine::{Engine, Sources};
use crate::http::{self, Readiness};
use crate::intake::Intake;
use crate::policy_file::PolicyFile;
use crate::{metrics, schedule};

/// How many decisions are read back at the start.
const TAIL: u64 = 8_192;

/// One server takes a connection within 5 s and answers in as long; a publish that is not acknowledged in 2 s is unclear.
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(5), answer: Duration::from_secs(5), ack: Duration::from_secs(2) };

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The policy, YAML. Read again on SIGHUP; an invalid one is never taken. Without one, detections are recorded and wait for a person.
    #[arg(long, env = "PORTCULLIS_POLICY", value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Serve /healthz, /readyz and /metrics here.
    #[arg(long, env = "PORTCULLIS_HTTP", value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Copies of each stream in a cluster: 1, 3 or 5.
    #[arg(long, env = "PORTCULLIS_REPLICAS", default_value = "1", value_name = "N", value_parser = replicas)]
    pub replicas: usize,
    /// Host id of a broker: never isolated automatically. May be given several times.
    #[arg(long, env = "PORTCULLIS_BROKER_HOST", value_name = "HOST", value_delimiter = ',')]
    pub broker_host: Vec<HostId>,
    /// Host id of an orchestrator: never isolated automatically. May be given several times.
    #[arg(long, env = "PORTCULLIS_ORCHESTRATOR_HOST", value_name = "HOST", value_delimiter = ',')]
    pub orchestrator_host: Vec<HostId>,
}

fn replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(copies @ (1 | 3 | 5)) => Ok(copies),
        _ => Err("write 1, 3 or 5".to_owned()),
    }
}

/// Where the broker is, and under which prefix.
#[derive(Clone, Debug)]
pub struct Site {
    pub nats: String,
    pub credentials: Option<PathBuf>,
    pub prefix: Prefix,
}

/// Runs the orchestrator until SIGTERM or SIGINT.
pub async fn run(args: ServeArgs, site: Site) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        stop.send_replace(true);
    });
    run_until(args, site, stopped, || {}).await
}

/// Runs the orchestrator until `stop` turns true. `up` is called once it takes inputs.
pub async fn run_until(args: ServeArgs, site: Site, stop: watch::Receiver<bool>, up: impl FnOnce()) -> anyhow::Result<()> {
    let mut stopping = stop.clone();
    tokio::select! {
        result = start(args, site, stop, up) => result,
        // While the broker is waited for at the start there is nothing to finish.
        _ = stopping.wait_for(|stop| *stop) => Ok(()),
    }
}

async fn start(args: ServeArgs, site: Site, stop: watch::Receiver<bool>, up: impl FnOnce()) -> anyhow::Result<()> {
    quiet_client_panics();
    let render = metrics::install()?;
    let policy = PolicyFile::open(args.policy);
    let servers = Servers::parse(&site.nats, site.credentials.clone(), "portcullis-orchestrator", PATIENCE)?;
    let broker = Broker::connect(servers).await?;
    let (ready, readiness) = watch::channel(Readiness::Starting);
    if let Some(address) = args.http {
        http::spawn(address, render, readiness, broker.link(), policy.state()).await?;
    }
    streams::check_server(&broker)?;
    streams_ready(&broker, &site.prefix, args.replicas).await?;

    let mut named = BTreeMap::new();
    named.extend(args.broker_host.into_iter().map(|host| (host, "broker".to_owned())));
    named.extend(args.orchestrator_host.into_iter().map(|host| (host, "orchestrator".to_owned())));
    let config = Config { protected: named };
    let clock = Clock::new(stored::now(&broker, &site.prefix.stream(Stream::Orders)).await?);
    let (mut machine, followed) = read_back(&broker, &site.prefix, config, &clock).await?;
    if let Some(policy) = &policy.policy {
        machine.handle(Event::Policy(Arc::clone(policy)), clock.now());
    }
    let tools =
        Tools { broker: broker.clone(), prefix: site.prefix.clone(), attempts: Attempts::open(&broker, &site.prefix).await? };
    let heart = Heart::open(&broker, &site.prefix).await?;
    let engine = Engine::new(machine, clock, tools, policy, heart);

    let (reload_to, reload) = mpsc::channel(1);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move { while hangup.recv().await.is_some() && reload_to.send(()).await.is_ok() {} });

    let (_tick, tick) = schedule::spawn().await?;
    let sources =
        Sources { intake: Intake::open(&broker, &site.prefix).await?, followed, reload, connected: broker.link(), tick, stop };
    ready.send_replace(Readiness::Ready);
    let counts = engine.machine().fleet().counts();
    tracing::info!(hosts = counts.hosts, isolated = counts.isolated, "orchestrator ready");
    up();
    tokio::select! {
        () = engine.run(sources) => Ok(()),
        error = broker.gone() => Err(error),
        lost = streams::lost(&broker, &site.prefix) => lost.map(|never| match never {}),
    }
}

/// Makes and checks the streams. What passes by itself is tried again for a minute, and then an error: it may be a lack of storage, which the
/// server names.
async fn streams_ready(broker: &Broker, prefix: &Prefix, replicas: usize) -> anyhow::Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        match streams::ensure(broker, prefix, replicas).await {
            Err(error) if error.passes() && tokio::time::Instant::now() < end => {
                tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "streams not ready: will retry");
                backoff.pause().await;
            }
            done => return Ok(done?),
        }
    }
}

/// Hands the logs to a new machine, and follows them from there.
async fn read_back(
    broker: &Broker,
    prefix: &Prefix,
    config: Config,
    clock: &Clock,
) -> anyhow::Result<(Machine, mpsc::Receiver<Stored>)> {
    let (to, followed) = mpsc::channel(64);
    let (orders, orders_follower) = Follower::open(broker, prefix, Stream::Orders, From::LastOfEach).await?;
    let (inventories, inventory_follower) = Follower::open(broker, prefix, Stream::Inventory, From::LastOfEach).await?;
    let (states, state_follower) = Follower::open(broker, prefix, Stream::States, From::LastOfEach).await?;
    let decided = stored::last_sequence(broker, &prefix.stream(Stream::Decisions)).await?;
    let (tail, _) =
        Follower::open(broker, prefix, Stream::Decisions, From::Sequence((decided + 1).saturating_sub(TAIL).max(1))).await?;
    let standing = stored::last_sequence(broker, &prefix.stream(Stream::Orders)).await?;
    // What was stored while this was read comes by the follower, or by the first append that is overtaken.
    let ordered = if orders.is_empty() { standing } else { 0 };
    let decided = if tail.is_empty() { decided } else { 0 };
    let mut machine = Machine::new(prefix.clone(), config);
    for Stored { stream, message } in inventories.into_iter().chain(orders).chain(tail) {
        machine.handle(Event::Logged(stream, message), clock.now());
    }
    machine.begin(ordered, decided, clock.now());
    // These are answered, where a host acted by itself.
    for Stored { stream, message } in states {
        machine.handle(Event::Logged(stream, message), clock.now());
    }
    orders_follower.spawn(to.clone());
    inventory_follower.spawn(to.clone());
    state_follower.spawn(to);
    Ok((machine, followed))
}
