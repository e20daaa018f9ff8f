//! `portcullis up`: everything on one machine, with a nats-server of its own.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use portcullis_bus::Backoff;
use portcullis_orchestrator::serve::{self, ServeArgs, Site};
use portcullis_schemas::{HostId, Prefix};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::enter::die_with_spawner;

/// The policy that `up` begins with, where none is given.
const POLICY: &str = include_str!("../../../deploy/policy.yaml");

#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    /// Where the broker keeps its streams, and where the policy is.
    #[arg(long, env = "PORTCULLIS_DATA", default_value = "/var/lib/portcullis", value_name = "DIR")]
    pub data: PathBuf,
    /// Port of the broker, on 127.0.0.1.
    #[arg(long, env = "PORTCULLIS_PORT", default_value_t = 4222, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The nats-server program, 2.12 or newer.
    #[arg(long, env = "PORTCULLIS_NATS_SERVER", default_value = "nats-server", value_name = "PATH")]
    pub nats_server: PathBuf,
    /// The policy; DATA/policy.yaml, written at the first start, where none is given.
    #[arg(long, env = "PORTCULLIS_POLICY", value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Serve /healthz, /readyz and /metrics here.
    #[arg(long, env = "PORTCULLIS_HTTP", default_value = "127.0.0.1:8422", value_name = "ADDR")]
    pub http: SocketAddr,
}

/// Runs broker and orchestrator until SIGTERM or SIGINT.
pub async fn run(args: UpArgs, prefix: Prefix) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.data).with_context(|| format!("--data: cannot make {}", args.data.display()))?;
    let _lock = claim(&args.data)?;
    let policy = match &args.policy {
        Some(path) => path.clone(),
        None => first_policy(&args.data)?,
    };
    let config = broker_config(&args.data, args.port)?;
    let (stop, stopped) = watch::channel(false);
    let broker = supervise(args.nats_server.clone(), config, args.data.join("nats-server.log"), stopped.clone()).await?;

    let own = own_host();
    let serve = ServeArgs {
        policy: Some(policy.clone()),
        http: Some(args.http),
        replicas: 1,
        broker_host: own.clone().into_iter().collect(),
        orchestrator_host: Vec::new(),
    };
    let nats = format!("nats://127.0.0.1:{}", args.port);
    let up = || println!("{}", portcullis_schemas::terminal::lines(&next_steps(&args.data, &policy, args.http, &nats, &prefix)));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let site = Site { nats: nats.clone(), credentials: None, prefix: prefix.clone() };
    let served = tokio::select! {
        served = serve::run_until(serve, site, stopped, up) => served,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    stop.send_replace(true);
    let _ = broker.await;
    served
}

/// Two brokers that write the same streams would destroy them.
fn claim(data: &Path) -> anyhow::Result<File> {
    let shown = data.display();
    let folder = File::open(data).with_context(|| format!("--data: cannot open {shown}"))?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => bail!("another `portcullis up` works in {shown}; stop it, or give another --data"),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("--data: cannot lock {shown}")),
    }
}

fn next_steps(data: &Path, policy: &Path, http: SocketAddr, nats: &str, prefix: &Prefix) -> String {
    let (data, policy) = (data.display(), policy.display());
    let mut there = format!("--nats {nats}");
    if *prefix != Prefix::default() {
        there = format!("{there} --prefix {prefix}");
    }
    format!(
        "portcullis is up
  broker   {nats} (streams in {data})
  policy   {policy} (edit it: a change is taken)
  health   http://{http}/readyz

next
  portcullis-agent run {there} --host-id web-1 --state-dir /var/lib/portcullis-agent   # on a host
  portcullis lab {there}                                                       # or: three virtual hosts
  portcullis hosts {there}
  portcullis tail {there}"
    )
}

fn first_policy(data: &Path) -> anyhow::Result<PathBuf> {
    let path = data.join("policy.yaml");
    if !path.exists() {
        std::fs::write(&path, POLICY).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

/// Writes the broker's configuration: loopback only, every message on disk before it is acknowledged.
fn broker_config(data: &Path, port: u16) -> anyhow::Result<PathBuf> {
    let store = data.join("streams");
    let store =
        store.to_str().filter(|path| !path.contains(['"', '\\', '\n'])).context("--data: a path of plain text is needed")?;
    let text = format!(
        "# Written by `portcullis up` at every start.\nserver_name: portcullis\nlisten: \"127.0.0.1:{port}\"\nmax_payload: 256KB\njetstream {{\n  store_dir: \"{store}\"\n  sync_interval: always\n}}\n"
    );
    let path = data.join("nats-server.conf");
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Starts nats-server and starts it again when it ends, until `stop` turns true. A first start that fails is an error.
async fn supervise(
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut child = start(&program, &config, &log)?;
    if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_millis(300), child.wait()).await {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let said: Vec<&str> = said.lines().rev().take(5).collect();
        bail!(
            "{} ended at once ({status}); the last lines of {}:\n{}",
            program.display(),
            log.display(),
            said.into_iter().rev().collect::<Vec<_>>().join("\n")
        );
    }
    Ok(tokio::spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            tokio::select! {
                status = child.wait() => tracing::error!(?status, "nats-server ended: restarting it"),
                _ = stop.wait_for(|stop| *stop) => break,
            }
            backoff.pause().await;
            match start(&program, &config, &log) {
                Ok(again) => child = again,
                Err(error) => tracing::error!("{error:#}"),
            }
        }
        end(&mut child).await;
    }))
}

/// Lets nats-server write what it holds and end by itself.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(Duration::from_secs(10), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn start(program: &Path, config: &Path, log: &Path) -> anyhow::Result<Child> {
    let out = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(program);
    command
        .arg("--config")
        .arg(config)
        .stdin(std::process::Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .kill_on_drop(true);
    // Ctrl-C is for this process, which ends its broker in its own time.
    command.process_group(0);
    die_with_spawner(command.as_std_mut());
    command.spawn().with_context(|| {
        format!(
            "cannot start {}; install nats-server 2.12 or newer (./deploy/demo fetches one) or name it with --nats-server",
            program.display()
        )
    })
}

/// The id that this machine's own agent has where it is not given one.
fn own_host() -> Option<HostId> {
    let machine = std::fs::read_to_string("/etc/machine-id").ok()?;
    HostId::of_machine(&machine)
}
