//! Starts an agent: what stands is enforced first, then come the door and the broker.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use portcullis_agent_core::deadline::Now;
use portcullis_agent_core::jitter;
use portcullis_agent_core::machine::{Machine, Settings};
use portcullis_agent_core::record::{Broker, Record, Standing};
use portcullis_schemas::events::{Level, Posture};
use portcullis_schemas::{HostId, Prefix};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;

use crate::broker::heartbeat::{self, Identity, Snapshot};
use crate::broker::nats;
use crate::broker::outbox::{Outbox, Publisher};
use crate::broker::servers::{self, Server};
use crate::broker::waiting::Waiting;
use crate::control::input::Input;
use crate::control::{Agent, Upkeep};
use crate::disk::posture_file::PostureFile;
use crate::disk::writer::Writer;
use crate::firewall::enforce::Enforcer;
use crate::firewall::worker::{View, Worker};
use crate::host::clock::Clock;
use crate::host::{facts, groups};
use crate::local::door;
use crate::local::view::UNSIGNED;
use crate::watch::Guardian;
use crate::watch::probes::Probes;

/// Inputs that wait while rules are applied.
const QUEUE: usize = 64;
const RESOLVE_EVERY: Duration = Duration::from_secs(300);
/// While there is no connection.
const RESOLVE_AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Everything that `run` can be told, checked.
#[derive(Debug)]
pub struct Config {
    pub servers: Vec<Server>,
    pub credentials: Option<PathBuf>,
    pub host: HostId,
    pub labels: BTreeMap<String, String>,
    pub prefix: Prefix,
    pub state_dir: PathBuf,
    pub resolv_conf: Vec<PathBuf>,
    pub grace: Duration,
    /// No layer of rules above this level is used.
    pub level: Level,
    /// Tables are locked where the kernel can do that.
    pub locks: bool,
    /// A host is isolated also where its brokers are reached through tunnels only.
    pub allow_tunnel: bool,
    /// A host is isolated also where its brokers are reached by relays on it.
    pub allow_relay: bool,
    /// What is tried while isolated.
    pub probes: Probes,
}

/// Runs until SIGTERM or SIGINT. The posture stays as it is when this ends, in whatever way.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let Config {
        servers,
        credentials,
        host,
        labels,
        prefix,
        state_dir,
        resolv_conf,
        grace,
        level,
        locks,
        allow_tunnel,
        allow_relay,
        probes,
    } = config;
    nats::quiet_client_panics();
    let (sender, inputs) = mpsc::channel(QUEUE);
    for (kind, name) in [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")] {
        let mut signals = signal(kind).with_context(|| format!("cannot wait for {name}"))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            signals.recv().await;
            let _ = sender.send(Input::Stop(name)).await;
        });
    }
    let file = PostureFile::new(&state_dir);
    let _lock = file.claim()?;
    tracing::info!(%host, version = crate::VERSION, state_dir = %state_dir.display(), "starting");
    tracing::warn!("{UNSIGNED}");

    let clock = Clock::new();
    let (standing, faults) = file.read(&host);
    let remembered = recall(&file, &standing);
    let identity = Identity {
        host: host.clone(),
        labels,
        boot_id: clock.boot_id().to_owned(),
        instance: heartbeat::random_id(),
        agent_version: crate::VERSION.to_owned(),
    };
    let guardian = match Guardian::new() {
        Ok(guardian) => Some(guardian),
        Err(error) => {
            tracing::error!(%error, "rules and devices not watched: they are compared every 30 s only");
            None
        }
    };
    let mut enforcer = Enforcer::new(level, locks);
    enforcer.watch = guardian.as_ref().map(Guardian::watch);
    if let Some(error) = &enforcer.error {
        tracing::error!("{error}");
    }
    look_back(&mut enforcer, &standing, &clock);
    let outbox = Outbox::open(&state_dir);
    let publisher = outbox.publisher();
    let view = View::of(&enforcer);
    let (snapshot, seen) = watch::channel(Snapshot { generation: 0, posture: view.posture, level: view.level });
    let (done, results) = mpsc::unbounded_channel();
    let worker = Worker::start(enforcer, {
        let done = done.clone();
        move |result| drop(done.send(Input::Kernel(Box::new(result))))
    });
    let writer = Writer::start(file.clone(), move |result| drop(done.send(Input::Disk(result))));
    let machine = Machine::new(Settings {
        me: host.clone(),
        agent_version: crate::VERSION.to_owned(),
        grace,
        standing,
        brokers: servers::known(&servers, &remembered),
        agent_uid: rustix::process::geteuid().as_raw(),
        proof: facts::proof(),
    });
    let mut agent = Agent {
        identity: identity.clone(),
        prefix: prefix.clone(),
        resolv_conf: resolv_conf.clone(),
        machine,
        clock,
        file,
        view,
        worker,
        writer,
        results,
        outbox,
        faults: faults.iter().map(ToString::to_string).collect(),
        snapshot,
        inputs: sender.clone(),
        allow_tunnel,
        allow_relay,
        probes,
        upkeep: Upkeep::default(),
    };
    agent.start().await;

    match door::open(&state_dir) {
        Ok(listener) => drop(tokio::spawn(door::serve(listener, sender.clone()))),
        Err(error) => tracing::error!(error = format!("{error:#}"), "no local door: status and release cannot ask this agent"),
    }
    let known = agent.machine.brokers().to_vec();
    let next_broker = agent.next_broker();
    let orders = Waiting::default();
    let waiting = orders.clone();
    let broker = BrokerSide {
        next_broker,
        servers,
        credentials,
        resolv_conf,
        prefix,
        identity,
        seen,
        publisher,
        orders: waiting,
        inputs: sender,
    };
    tokio::spawn(broker.run(known));
    agent.run(inputs, orders, guardian).await;
    let _ = fs::remove_file(door::path(&state_dir));
    Ok(())
}

struct BrokerSide {
    next_broker: Arc<Notify>,
    servers: Vec<Server>,
    credentials: Option<PathBuf>,
    resolv_conf: Vec<PathBuf>,
    prefix: Prefix,
    identity: Identity,
    seen: watch::Receiver<Snapshot>,
    publisher: Publisher,
    orders: Waiting,
    inputs: mpsc::Sender<Input>,
}

impl BrokerSide {
    async fn run(self, mut known: Vec<Broker>) {
        let Self { next_broker, servers, credentials, resolv_conf, prefix, identity, seen, publisher, orders, inputs } = self;
        let host = identity.host.clone();
        // An order may come with the first breath of the connection: by then the control channel has to be known.
        if known.iter().any(|broker| broker.addresses.is_empty()) {
            known = servers::resolve(&servers, &known, false, &facts::name_servers(&resolv_conf)).await;
            let _ = inputs.send(Input::Brokers(known.clone())).await;
        }
        let (places, current) = watch::channel(servers::addresses(&servers, &known));
        let mut attempt = 0;
        let mut link = loop {
            let settings = nats::Settings {
                host: host.clone(),
                prefix: prefix.clone(),
                credentials: credentials.clone(),
                servers: current.clone(),
            };
            match nats::connect(settings, inputs.clone()).await {
                Ok(link) => break link,
                Err(error) => tracing::error!(error = format!("{error:#}"), "NATS client not started: retrying"),
            }
            attempt += 1;
            sleep(jitter::back_off(&host, "connect", attempt, Duration::from_secs(1), Duration::from_secs(30))).await;
        };
        tokio::spawn(nats::ingress(host.clone(), link.clone(), seen.clone(), orders, inputs.clone()));
        tokio::spawn(nats::move_on(link.clone(), next_broker));
        tokio::spawn(publisher.run(host.clone(), link.clone(), inputs.clone()));
        tokio::spawn(heartbeat::run(identity, link.clone(), seen));
        if !servers::has_names(&servers) {
            return;
        }
        let mut tries = 0;
        let mut told = places.borrow().clone();
        for count in 0u64.. {
            let now = servers::addresses(&servers, &known);
            if told != now && link.is_up() {
                match link.move_to(now.clone()).await {
                    Ok(()) => told = now,
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "the NATS client does not take the broker's new address")
                    }
                }
            }
            let pause = match link.is_up() {
                true => jitter::between(&host, "resolve", count, RESOLVE_EVERY.mul_f32(0.8), RESOLVE_EVERY),
                // A broker that is away may have moved, and its name may follow later.
                false => jitter::back_off(&host, "move", tries + 1, RESOLVE_AWAY.0, RESOLVE_AWAY.1),
            };
            tokio::select! {
                () = sleep(pause) => tries += 1,
                () = link.changed() => {
                    tries = 0;
                    continue;
                }
            }
            known = servers::resolve(&servers, &known, link.is_up(), &facts::name_servers(&resolv_conf)).await;
            places.send_replace(servers::addresses(&servers, &known));
            if inputs.send(Input::Brokers(known.clone())).await.is_err() {
                return;
            }
        }
    }
}

/// Where the brokers' names were, from a former process.
pub(crate) fn recall(file: &PostureFile, standing: &Standing) -> Vec<Broker> {
    let written = fs::read(file.beside("brokers.json")).ok().and_then(|body| serde_json::from_slice(&body).ok());
    let frozen = || standing.record().and_then(|record| record.frozen.as_ref()).map(|frozen| frozen.brokers.clone());
    written.or_else(frozen).unwrap_or_default()
}

/// What somebody did to rules that were whole when they were last read back, while no agent lived. Asked before they are put in force again.
fn look_back(enforcer: &mut Enforcer, standing: &Standing, clock: &Clock) {
    let now = clock.now();
    let of_this_boot = |record: &&Record| record.posture == Posture::Isolated && record.mark.boot_id == now.boot_id;
    let Some(mut record) = standing.record().filter(of_this_boot).cloned() else { return };
    let Some(frozen) = record.frozen.as_mut().filter(|frozen| frozen.whole_by.as_deref() == Some(crate::VERSION)) else { return };
    frozen.groups = groups::named(record.order.as_ref().map_or(&[], |order| &order.exclusions));
    let then = Now { boot_ms: record.mark.boot_ms, ..now.clone() };
    let gates = [then, now].map(|at| record.gate(&at).0);
    enforcer.look_back(&gates);
}
