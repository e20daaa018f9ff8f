//! Starts an agent: what stands is enforced first, then come the local socket and the broker.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use portcullis_agent_core::deadline::Now;
use portcullis_agent_core::machine::{Machine, Settings};
use portcullis_agent_core::record::{Record, StoredRecord};
use portcullis_schemas::events::{Level, Posture};
use portcullis_schemas::{HostId, Prefix};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::broker::heartbeat::{self, Identity, Snapshot};
use crate::broker::link;
use crate::broker::outbox::Outbox;
use crate::broker::pending_orders::PendingOrders;
use crate::broker::servers::{self, Server};
use crate::broker::session::Session;
use crate::control::input::{Input, Inputs};
use crate::control::names::Question;
use crate::control::{Agent, Upkeep};
use crate::disk::brokers::recall;
use crate::disk::posture_file::PostureFile;
use crate::disk::writer::Writer;
use crate::failpoint::hang;
use crate::firewall::enforce::Enforcer;
use crate::firewall::worker::{ActualState, Worker};
use crate::host::clock::Clock;
use crate::host::{dns, facts, groups, places};
use crate::local::socket;
use crate::local::status::UNSIGNED;
use crate::parallel::Thread;
use crate::watch::Monitor;
use crate::watch::probes::Probes;

/// Inputs that wait while rules are applied.
const QUEUE: usize = 64;

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
    link::quiet_client_panics();
    let (sender, own) = mpsc::channel(QUEUE);
    let (events, broker) = mpsc::channel(QUEUE);
    let (exchanges, local) = mpsc::channel(QUEUE);
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
    let (stored, faults) = file.read(&host);
    let remembered = recall(&file, &stored);
    let identity = Identity {
        host: host.clone(),
        labels,
        boot_id: clock.boot_id().to_owned(),
        instance: heartbeat::random_id(),
        agent_version: crate::VERSION.to_owned(),
    };
    let monitor = match Monitor::new() {
        Ok(monitor) => Some(monitor),
        Err(error) => {
            tracing::error!(%error, "rules and devices not watched: they are compared every 30 s only");
            None
        }
    };
    let mut enforcer = Enforcer::new(level, locks);
    enforcer.watch = monitor.as_ref().map(Monitor::watch);
    if let Some(error) = &enforcer.error {
        tracing::error!("{error}");
    }
    look_back(&mut enforcer, &stored, &clock);
    let outbox = Outbox::open(&state_dir);
    let publisher = outbox.publisher();
    let actual = ActualState::of(&enforcer);
    let (snapshot, seen) = watch::channel(Snapshot { generation: 0, posture: actual.posture, level: actual.level });
    let (done, results) = mpsc::unbounded_channel();
    let worker = Worker::start(enforcer, {
        let done = done.clone();
        move |result| drop(done.send(Input::Kernel(Box::new(result))))
    });
    let names = Thread::start("names", {
        let done = done.clone();
        move |Question { number, names, servers }| {
            hang("PORTCULLIS_HANG_DNS");
            let found = dns::resolve(&names, &servers, places::BEFORE_THE_GATE);
            let _ = done.send(Input::Located { number, found });
        }
    });
    let writer = Writer::start(file.clone(), move |result| drop(done.send(Input::Disk(result))));
    let machine = Machine::new(Settings {
        me: host.clone(),
        agent_version: crate::VERSION.to_owned(),
        grace,
        stored,
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
        actual,
        worker,
        writer,
        names,
        results,
        outbox,
        faults: faults.iter().map(ToString::to_string).collect(),
        snapshot,
        inputs: sender,
        allow_tunnel,
        allow_relay,
        probes,
        upkeep: Upkeep::default(),
    };
    agent.start().await;

    match socket::open(&state_dir) {
        Ok(listener) => drop(tokio::spawn(socket::serve(listener, exchanges))),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "local socket not opened: status and release cannot reach this agent")
        }
    }
    let known = agent.machine.brokers().to_vec();
    let next_broker = agent.next_broker();
    let orders = PendingOrders::default();
    let session = Session {
        next_broker,
        servers,
        credentials,
        resolv_conf,
        prefix,
        identity,
        seen,
        publisher,
        orders: orders.clone(),
        events,
    };
    tokio::spawn(session.run(known));
    agent.run(Inputs { own, broker, local }, orders, monitor).await;
    let _ = fs::remove_file(socket::path(&state_dir));
    Ok(())
}

/// What somebody did to rules that were whole when they were last read back, while no agent lived. Asked before they are put in force again.
fn look_back(enforcer: &mut Enforcer, stored: &StoredRecord, clock: &Clock) {
    let now = clock.now();
    let of_this_boot = |record: &&Record| record.posture == Posture::Isolated && record.mark.boot_id == now.boot_id;
    let Some(mut record) = stored.record().filter(of_this_boot).cloned() else { return };
    let Some(frozen) = record.frozen.as_mut().filter(|frozen| frozen.whole_by.as_deref() == Some(crate::VERSION)) else { return };
    frozen.groups = groups::named(record.order.as_ref().map_or(&[], |order| &order.exclusions));
    let then = Now { boot_ms: record.mark.boot_ms, ..now.clone() };
    let gates = [then, now].map(|at| record.gate(&at).0);
    enforcer.look_back(&gates);
}
