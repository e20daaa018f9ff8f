//! The peer to beat: a ten-line script on core NATS that forks nft, keeps nothing and proves nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use portcullis_dev::{BROKER_PORT, HUB_V4, Netns};
use portcullis_schemas::events::Posture;
use portcullis_tests::bus::Bus;
use portcullis_tests::process::Process;

use crate::refused::{Layer, Refusals};
use crate::rules::Rules;

const SUBJECT: &str = "bench.peer";

pub struct Peer {
    bus: Bus,
    refusals: Refusals,
    _script: Process,
}

impl Peer {
    pub async fn new(url: &str, netns: &Netns, folder: &Path, rules: &Rules) -> anyhow::Result<Self> {
        let script = folder.join("peer.py");
        std::fs::write(&script, include_str!("peer.py"))?;
        std::fs::write(folder.join("isolate.nft"), &rules.text)?;
        std::fs::write(folder.join("release.nft"), "delete table inet portcullis\n")?;
        let mut command = netns.command("python3");
        command.arg(&script).args([HUB_V4.to_string(), BROKER_PORT.to_string()]).arg(folder);
        let script = Process::start(&mut command, &folder.join("peer.log"))?;
        let mut peer = Self { bus: Bus::connect(url).await?, refusals: Refusals::of(netns)?, _script: script };
        peer.wait().await?;
        Ok(peer)
    }

    pub async fn isolate(&mut self) -> anyhow::Result<Duration> {
        self.once("isolate", Posture::Isolated).await
    }

    pub async fn release(&mut self) -> anyhow::Result<Duration> {
        self.once("release", Posture::Open).await
    }

    /// It says nothing, so it is asked until the kernel says that it listens.
    async fn wait(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            self.refusals.begin_for(Layer::Inet, Posture::Isolated, Duration::from_millis(300))?;
            self.bus.client.publish(SUBJECT, "isolate".into()).await?;
            if self.refusals.met().await.is_ok() {
                break;
            }
            ensure!(Instant::now() < end, "the script does not listen");
        }
        self.release().await.map(drop)
    }

    async fn once(&mut self, word: &'static str, posture: Posture) -> anyhow::Result<Duration> {
        self.refusals.begin(Layer::Inet, posture)?;
        let began = Instant::now();
        self.bus.client.publish(SUBJECT, word.into()).await?;
        self.bus.client.flush().await?;
        Ok(self.refusals.met().await? - began)
    }
}
