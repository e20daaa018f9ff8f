//! The floor: what any way with these promises costs. Two durable publishes with their deliveries, one posture file as the agent
//! writes it, the same ruleset by the same means, and nothing decided.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, Republish};
use futures_util::StreamExt;
use nftables::schema::Nftables;
use portcullis_agent::firewall::{Firewall, Kernel};
use portcullis_dev::{Netns, in_netns};
use portcullis_schemas::events::Posture;
use portcullis_tests::bus::Bus;

use crate::refused::{Layer, Refusals};

const IN: &str = "bench.in";
const OUT: &str = "bench.out";
const LIVE: &str = "bench.live";

pub struct Floor {
    bus: Bus,
    refusals: Refusals,
    turns: mpsc::Sender<Turn>,
    applied: tokio::sync::mpsc::UnboundedReceiver<io::Result<Applied>>,
}

/// One change, step by step.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    pub delivered: Duration,
    pub written: Duration,
    pub in_force: Duration,
}

struct Applied {
    delivered: Instant,
    written: Instant,
}

/// What the end of the chain does at the next order.
pub struct Turn {
    /// The content of the posture file.
    pub file: Vec<u8>,
    pub batch: Nftables<'static>,
    pub posture: Posture,
}

impl Floor {
    /// Three connections, as sender, orchestrator and agent have.
    pub async fn new(url: &str, netns: &Netns, folder: &Path, order: Vec<u8>) -> anyhow::Result<Self> {
        let bus = Bus::connect(url).await?;
        let middle = Bus::connect(url).await?;
        let end = Bus::connect(url).await?;
        let input = stream(&middle, IN, None).await?;
        stream(&middle, OUT, Some(LIVE)).await?;
        let config = pull::Config { durable_name: Some("bench".into()), ..pull::Config::default() };
        let mut inputs = input.create_consumer(config).await?.messages().await?;
        tokio::spawn(async move {
            while let Some(Ok(message)) = inputs.next().await {
                let stored = middle.context.publish(OUT, order.clone().into()).await;
                let Ok(stored) = stored else { return };
                if stored.await.is_err() || message.double_ack().await.is_err() {
                    return;
                }
            }
        });
        let mut orders = end.client.subscribe(LIVE).await?;
        end.client.flush().await?;
        let (turns, next) = mpsc::channel();
        let (go, went) = mpsc::channel();
        let (done, applied) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move { while orders.next().await.is_some() && go.send(Instant::now()).is_ok() {} });
        let (inside, file) = (netns.clone(), folder.join("floor"));
        let work = move || {
            let Ok(kernel) = Kernel::open() else { return };
            while let (Ok(turn), Ok(delivered)) = (next.recv(), went.recv()) {
                if done.send(apply(&kernel, &file, &turn, delivered)).is_err() {
                    return;
                }
            }
        };
        std::thread::spawn(move || in_netns(&inside, work));
        Ok(Self { bus, refusals: Refusals::of(netns)?, turns, applied })
    }

    /// The whole way.
    pub async fn publish(&mut self, event: Vec<u8>, turn: Turn) -> anyhow::Result<Steps> {
        let context = self.bus.context.clone();
        self.once(turn, async { context.publish(IN, event.into()).await?.await.map(drop).map_err(Into::into) }).await
    }

    /// Its end alone.
    pub async fn hear(&mut self, order: Vec<u8>, turn: Turn) -> anyhow::Result<Steps> {
        let client = self.bus.client.clone();
        let publish = async {
            client.publish(LIVE, order.into()).await?;
            Ok(client.flush().await?)
        };
        self.once(turn, publish).await
    }

    async fn once(&mut self, turn: Turn, publish: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Steps> {
        let posture = turn.posture;
        self.turns.send(turn).ok().context("the floor's end is gone")?;
        self.refusals.begin(Layer::Netdev, posture)?;
        let began = Instant::now();
        publish.await?;
        let in_force = self.refusals.met().await? - began;
        let Applied { delivered, written } = self.applied.recv().await.context("the floor's end is gone")??;
        Ok(Steps { delivered: delivered - began, written: written - began, in_force })
    }
}

async fn stream(bus: &Bus, subject: &str, live: Option<&str>) -> anyhow::Result<async_nats::jetstream::stream::Stream> {
    let republish = live.map(|live| Republish { source: subject.into(), destination: live.into(), headers_only: false });
    let config = Config { name: subject.replace('.', "_"), subjects: vec![subject.into()], republish, ..Config::default() };
    Ok(bus.context.create_stream(config).await?)
}

fn apply(kernel: &Kernel, file: &Path, turn: &Turn, delivered: Instant) -> io::Result<Applied> {
    replace(file, &turn.file)?;
    let written = Instant::now();
    kernel.apply(&turn.batch).map_err(io::Error::other)?;
    Ok(Applied { delivered, written })
}

/// As the agent does it: temporary file, fsync, rename, fsync of the directory.
fn replace(path: &Path, body: &[u8]) -> io::Result<()> {
    let new: PathBuf = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(body)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
