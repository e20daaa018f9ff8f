//! `portcullis serve`: the orchestrator on an existing NATS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use portcullis_bus::{
    Attempts, Backoff, Broker, Follower, From, HeartbeatStore, LeaderKey, LiveSources, Patience, Servers, Stored, policies,
    quiet_client_panics, random_id, stored, streams,
};
use portcullis_core::Config;
use portcullis_core::machine::{Event, Machine};
use portcullis_schemas::subjects::POLICY;
use portcullis_schemas::{HostId, Prefix, Stream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::commit::Bus;
use crate::engine::{Engine, Sources};
use crate::intake::strays;
use crate::lead::Role;
use crate::policy_file::PolicyFile;
use crate::{http, lead, metrics, schedule};

/// How many messages of DECISIONS are read back at the start: more than there are inputs that may be delivered and not acknowledged.
const TAIL: u64 = 8_192;
/// Messages of the logs that wait for the engine.
const FOLLOWED: usize = 1_024;

/// One server takes a connection within 5 s and answers in as long; a publish that is not acknowledged in 2 s is unclear.
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(5), answer: Duration::from_secs(5), ack: Duration::from_secs(2) };

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The policy, YAML: activated where none is active yet, and whenever the file changes. An invalid one is never taken. What an operator activated
    /// by `policy apply` stays active over a restart.
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
    let (role, mut roles) = watch::channel(Role::Starting);
    let (pause, paused) = watch::channel(None);
    if let Some(address) = args.http {
        http::spawn(address, render, role.subscribe(), broker.link(), (policy.state(), paused)).await?;
    }
    streams::check_server(&broker)?;
    streams_ready(&broker, &site.prefix, args.replicas).await?;

    let mut named = BTreeMap::new();
    named.extend(args.broker_host.into_iter().map(|host| (host, "broker".to_owned())));
    named.extend(args.orchestrator_host.into_iter().map(|host| (host, "orchestrator".to_owned())));
    let config = Config { protected: named };
    let clock = Clock::new(stored::now(&broker, &site.prefix.stream(Stream::Orders)).await?);
    let who = random_id();
    let (mut machine, followed) = read_back(&broker, &site.prefix, config, &clock, who.clone()).await?;
    if let Some(hash) = machine.active_policy().map(str::to_owned) {
        let text = policies::read(&broker, &site.prefix, &hash).await;
        machine.handle(Event::PolicyFetched(hash, text.map_err(|error| format!("{error:#}"))), clock.now());
    }
    policy.report(machine.active_policy());
    if let Some((policy, text)) = &policy.policy {
        policies::keep(&broker, &site.prefix, policy.hash(), text.to_string()).await?;
        machine.handle(Event::Policy(Arc::clone(policy)), clock.now());
    }
    let (attempts, live) = (Attempts::open(&broker, &site.prefix).await?, LiveSources::default());
    let bus = Bus { broker: broker.clone(), prefix: site.prefix.clone(), attempts, live: live.clone() };
    let heartbeats = HeartbeatStore::open(&broker, &site.prefix).await?;
    let key = LeaderKey::open(&broker, &site.prefix, who).await?;
    let (lead_to, lead) = mpsc::channel(1);
    tokio::spawn(lead::watch(key.clone(), role.clone(), lead_to));
    tokio::spawn(strays::hear(broker.clone(), site.prefix.clone(), live));
    let engine = Engine::new(machine, clock, bus, policy, heartbeats, (key, role), pause);

    let (reload_to, reload) = mpsc::channel(1);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move { while hangup.recv().await.is_some() && reload_to.send(()).await.is_ok() {} });

    let (_tick, tick) = schedule::spawn().await?;
    let sources = Sources { followed, reload, lead, connected: broker.link(), tick, stop };
    let ready = async {
        if roles.wait_for(|role| *role != Role::Starting).await.is_ok() {
            up();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = engine.run(sources) => Ok(()),
        () = ready => Ok(()),
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
    who: String,
) -> anyhow::Result<(Machine, mpsc::Receiver<Stored>)> {
    let (to, followed) = mpsc::channel(FOLLOWED);
    let mut machine = Machine::new(prefix.clone(), config, who.clone());
    let mut read_orders = 0u64;
    let orders = Follower::open(broker, prefix, Stream::Orders, From::LastOfEach, &who, |message| {
        read_orders += 1;
        machine.handle(Event::Logged(Stream::Orders, message), clock.now());
    })
    .await?;
    let inventories = Follower::open(broker, prefix, Stream::Inventory, From::LastOfEach, &who, |message| {
        machine.handle(Event::Logged(Stream::Inventory, message), clock.now());
    })
    .await?;
    let (decided, first) = tail_of_decisions(broker, prefix, &machine).await?;
    // It may have been activated long before.
    let activated = stored::last(broker, &prefix.stream(Stream::Decisions), &prefix.of(Stream::Decisions, POLICY)).await?;
    if let Some(activated) = activated.filter(|activated| activated.sequence < first) {
        machine.handle(Event::Logged(Stream::Decisions, activated), clock.now());
    }
    let mut read_decisions = 0u64;
    let decisions = Follower::open(broker, prefix, Stream::Decisions, From::Sequence(first), &who, |message| {
        read_decisions += 1;
        machine.handle(Event::Logged(Stream::Decisions, message), clock.now());
    })
    .await?;
    // A log that holds nothing any more goes on where it ended.
    let ordered = if read_orders == 0 { stored::last_sequence(broker, &prefix.stream(Stream::Orders)).await? } else { 0 };
    machine.begin(ordered, if read_decisions == 0 { decided } else { 0 });
    let states_from = machine.states_from();
    Follower::open(broker, prefix, Stream::States, From::LastOfEach, &who, |message| {
        if message.sequence <= states_from {
            machine.handle(Event::Logged(Stream::States, message), clock.now());
        }
    })
    .await?;
    let states = Follower::open(broker, prefix, Stream::States, From::Sequence(states_from + 1), &who, |message| {
        machine.handle(Event::Logged(Stream::States, message), clock.now());
    })
    .await?;
    for follower in [orders, inventories, states, decisions] {
        follower.spawn(to.clone());
    }
    Ok((machine, followed))
}

/// The last sequence of DECISIONS, and that from which on it is read back: all that may be delivered again or waits is decided behind it.
async fn tail_of_decisions(broker: &Broker, prefix: &Prefix, machine: &Machine) -> anyhow::Result<(u64, u64)> {
    let name = prefix.stream(Stream::Decisions);
    let last = stored::last_sequence(broker, &name).await?;
    let first = (last + 1).saturating_sub(TAIL).max(1);
    // Records of terms and policies cannot tell, and are few at the end.
    for sequence in (first..=last).rev() {
        if let Some(message) = stored::next(broker, &name, sequence).await?
            && let Some(from) = machine.waits_from(&message)
        {
            return Ok((last, first.min(from)));
        }
    }
    Ok((last, first))
}
