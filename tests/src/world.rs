//! A whole world: broker, orchestrator, and hosts with agents in a lab.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Context;
use portcullis_dev::{AgentConfig, Lab, LabConfig};
use portcullis_schemas::events::Posture;

use crate::bus::Bus;
use crate::http;
use crate::nats::Nats;
use crate::place::{Folder, free_port, program, unique};
use crate::process::Process;
use crate::replay;
use crate::until::until;

/// The policy that tests start from: critical isolates for 8 hours, the rest is observed.
pub const POLICY: &str = "\
version: 1
cool_down_after_manual_release: 0s
rules:
  - name: ransomware
    match: { severity: \">= high\", technique: [T1486] }
    then: isolate
  - name: rest
    then: observe
";

pub struct World {
    // Dropped in this order: hosts and orchestrator before their broker.
    pub lab: Option<Lab>,
    pub orchestrator: Option<Orchestrator>,
    pub bus: Bus,
    pub nats: Nats,
    /// The further servers of a cluster.
    pub others: Vec<Nats>,
    pub folder: Folder,
    /// Why its logs are not decided again at its end.
    unreplayed: Option<&'static str>,
}

pub struct Orchestrator {
    pub process: Process,
    pub http: u16,
}

impl World {
    /// A broker and an orchestrator with this policy, and so many hosts, all known and ready.
    pub async fn start(hosts: usize, policy: Option<&str>) -> anyhow::Result<Self> {
        let mut world = Self::bare().await?;
        if let Some(policy) = policy {
            std::fs::write(world.policy(), policy)?;
        }
        world.orchestrate(&[]).await?;
        if hosts > 0 {
            world.host(hosts).await?;
        }
        Ok(world)
    }

    /// A broker alone.
    pub async fn bare() -> anyhow::Result<Self> {
        Self::on(Nats::start().await?).await
    }

    /// The same with this broker.
    pub async fn on(nats: Nats) -> anyhow::Result<Self> {
        let bus = Bus::connect(&nats.url()).await?;
        let folder = Folder::new("world")?;
        Ok(Self { nats, others: Vec::new(), orchestrator: None, lab: None, bus, folder, unreplayed: None })
    }

    /// So many servers alone, one or a cluster.
    pub async fn with_servers(size: usize) -> anyhow::Result<Self> {
        if size == 1 {
            return Self::bare().await;
        }
        let mut servers = Nats::start_cluster(size).await?;
        let first = servers.remove(0);
        let mut world = Self::on(first).await?;
        world.others = servers;
        world.bus = Bus::connect(&world.urls()).await?;
        Ok(world)
    }

    /// All servers, as `--nats` takes them.
    pub fn urls(&self) -> String {
        let urls: Vec<String> = self.servers().map(Nats::url).collect();
        urls.join(",")
    }

    pub fn servers(&self) -> impl Iterator<Item = &Nats> {
        std::iter::once(&self.nats).chain(&self.others)
    }

    pub fn servers_mut(&mut self) -> impl Iterator<Item = &mut Nats> {
        std::iter::once(&mut self.nats).chain(&mut self.others)
    }

    /// Its logs are not decided again at its end, because of this.
    pub fn is_not_replayed(&mut self, why: &'static str) {
        self.unreplayed = Some(why);
    }

    pub fn policy(&self) -> PathBuf {
        self.folder.path().join("policy.yaml")
    }

    /// Starts the orchestrator and returns when it is ready.
    pub async fn orchestrate(&mut self, env: &[(&str, &str)]) -> anyhow::Result<()> {
        let orchestrator = self.another(env)?;
        orchestrator.ready().await?;
        self.orchestrator = Some(orchestrator);
        Ok(())
    }

    /// Starts an orchestrator, and does not wait.
    pub fn another(&self, env: &[(&str, &str)]) -> anyhow::Result<Orchestrator> {
        self.another_by(&self.urls(), env)
    }

    /// The same, by way of other addresses of the broker.
    pub fn another_by(&self, urls: &str, env: &[(&str, &str)]) -> anyhow::Result<Orchestrator> {
        let http = free_port()?;
        let mut command = Command::new(program("portcullis")?);
        command.args(["serve", "--nats", urls, "--http", &format!("127.0.0.1:{http}")]);
        if !self.others.is_empty() {
            command.args(["--replicas", "3"]);
        }
        if self.policy().exists() {
            command.arg("--policy").arg(self.policy());
        }
        command.envs(env.iter().copied());
        let log = self.folder.path().join(format!("orchestrator-{http}.log"));
        Ok(Orchestrator { process: Process::start(&mut command, &log)?, http })
    }

    /// Starts a lab with so many hosts and returns when the orchestrator knows them all.
    pub async fn host(&mut self, hosts: usize) -> anyhow::Result<()> {
        self.host_with(hosts, AgentConfig::new(program("portcullis-agent")?)).await
    }

    /// The same, with agents that are started otherwise.
    pub async fn host_with(&mut self, hosts: usize, agent: AgentConfig) -> anyhow::Result<()> {
        let broker = format!("127.0.0.1:{}", self.nats.port).parse()?;
        let name = format!("t{}", unique());
        let config =
            LabConfig { broker: Some(broker), agent: Some(agent), ..LabConfig::new(name, hosts, self.folder.path().join("lab")) };
        self.lab = Some(Lab::start(config).await?);
        if self.orchestrator.is_some() {
            let names: Vec<String> = (1..=hosts).map(|n| format!("h{n}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            self.bus.known(&names).await?;
        }
        Ok(())
    }

    pub fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("this world has a lab")
    }

    pub fn orchestrator(&mut self) -> &mut Orchestrator {
        self.orchestrator.as_mut().expect("this world has an orchestrator")
    }

    /// An operator's verb, as the program runs it.
    pub fn verb(&self, args: &[&str]) -> anyhow::Result<Output> {
        Ok(Command::new(program("portcullis")?)
            .args(["--nats", &self.urls()])
            .args(args)
            .env("PORTCULLIS_OPERATOR", "alice")
            .output()?)
    }

    /// A verb of the agent on host `n`.
    pub fn agent_verb(&self, n: usize, verb: &str, args: &[&str]) -> anyhow::Result<Output> {
        let host = self.lab().host(n);
        let mut command = Command::new(program("portcullis-agent")?);
        Ok(command.arg(verb).arg("--state-dir").arg(&host.state_dir).args(args).output()?)
    }

    /// The rules on host `n` as nft lists them, all tables, without handles and counters.
    pub fn ruleset(&self, n: usize) -> anyhow::Result<String> {
        let output = self.lab().host(n).netns.command("nft").args(["-s", "list", "ruleset"]).output().context("nft")?;
        anyhow::ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Our tables on host `n`, without handles and counters; empty where they do not stand.
    pub fn rules(&self, n: usize) -> anyhow::Result<String> {
        let output =
            self.in_host(n, "for family in inet netdev; do nft -s list table $family portcullis 2> /dev/null || :; done")?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a shell script as root on host `n`.
    pub fn in_host(&self, n: usize, script: &str) -> anyhow::Result<Output> {
        Ok(self.lab().host(n).netns.command("sh").args(["-c", script]).output()?)
    }

    /// What host `n` enforces, by the kernel's own word.
    pub fn enforced(&self, n: usize) -> anyhow::Result<Posture> {
        let isolated = self.ruleset(n)?.contains("table inet portcullis");
        Ok(if isolated { Posture::Isolated } else { Posture::Open })
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Every flow ends with the replay of its logs: the same inputs give the same orders and decisions.
impl Drop for World {
    fn drop(&mut self) {
        if self.unreplayed.is_some() || std::thread::panicking() {
            return;
        }
        match replay::check(std::iter::once(&mut self.nats).chain(&mut self.others), &self.bus.prefix) {
            Ok(done) => println!(
                "replayed: {} batches of {} inputs in {} terms made {} messages of DECISIONS, {} orders, and {} without an answer",
                done.batches, done.inputs, done.terms, done.answers, done.orders, done.unanswered_orders
            ),
            Err(error) => panic!("replay of the flow's logs: {error:#}"),
        }
    }
}

impl Orchestrator {
    /// What it says of its readiness: that it leads, or is on stand-by.
    pub async fn readyz(&self) -> anyhow::Result<String> {
        Ok(http::get(self.http, "/readyz").await?.1)
    }

    pub async fn ready(&self) -> anyhow::Result<()> {
        until("the orchestrator is ready", Duration::from_secs(30), || async {
            Ok((http::get(self.http, "/readyz").await?.0 == 200).then_some(()))
        })
        .await
        .with_context(|| self.process.said())
    }
}

/// Standard output of a verb, which must have ended with `code`.
pub fn said(output: &Output, code: i32) -> anyhow::Result<String> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    anyhow::ensure!(output.status.code() == Some(code), "exit {:?} instead of {code}\n{out}\n{err}", output.status.code());
    Ok(out.into_owned())
}

pub fn exists(path: &Path) -> bool {
    path.exists()
}
