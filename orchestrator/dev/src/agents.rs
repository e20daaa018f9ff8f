//! The agent processes of the lab: started, watched, killed and stopped one by one.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::enter::{die_with_spawner, name_on_exec, pid};
use crate::error::{Error, Result, Tried};
use crate::keeper::KeeperHandle;
use crate::topology::{BROKER_PORT, HUB_V4, VirtualHost};

/// How each host's agent is started.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    pub program: PathBuf,
    /// After the ones that the lab gives.
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
}

impl AgentConfig {
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new() }
    }
}

/// The agent of one host. It is restarted on request only, unless the lab supervises.
#[derive(Debug, Clone)]
pub struct Agent {
    inner: Arc<Inner>,
    keeper: KeeperHandle,
}

#[derive(Debug)]
struct Inner {
    lab: String,
    host: VirtualHost,
    config: Option<AgentConfig>,
    process: Mutex<Process>,
}

#[derive(Debug, Default)]
struct Process {
    child: Option<Child>,
    env: Vec<(OsString, OsString)>,
    wanted: bool,
}

impl Agent {
    pub(crate) fn new(lab: &str, host: &VirtualHost, config: Option<&AgentConfig>, keeper: &KeeperHandle) -> Self {
        Self {
            inner: Arc::new(Inner {
                lab: lab.to_owned(),
                host: host.clone(),
                config: config.cloned(),
                process: Mutex::default(),
            }),
            keeper: keeper.clone(),
        }
    }

    /// The pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.inner.process().running().map(|child| child.id())
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Starts it, with `env` on top of the configured one. An error if it runs.
    pub fn start(&self, env: &[(&str, &str)]) -> Result<()> {
        let env = env.iter().map(|(key, value)| (key.into(), value.into())).collect();
        let inner = Arc::clone(&self.inner);
        self.keeper.run(move || inner.start_here(env)).tried(|| format!("start the agent of {}", self.inner.host.id))?
    }

    /// SIGKILL, and waits until it is gone. Nothing happens if it does not run.
    pub fn kill9(&self) -> Result<()> {
        let what = || format!("kill the agent of {}", self.inner.host.id);
        let mut process = self.inner.process();
        if let Some(child) = process.running() {
            child.kill().tried(what)?;
            child.wait().tried(what)?;
        }
        Ok(())
    }

    /// SIGTERM, and waits until it is gone; killed when it does not go within ten seconds, which is an error.
    pub async fn stop(&self) -> Result<ExitStatus> {
        self.terminate()?;
        let stopped = self.wait(GRACE).await;
        if let Err(Error::AgentLives { .. }) = stopped {
            self.kill9()?;
        }
        stopped
    }

    /// Waits for it to end by itself: how it ended, also if that was before.
    pub async fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let id = || self.inner.host.id.clone();
        let deadline = Instant::now() + timeout;
        loop {
            // Asked again and again: tokio has no safe way to wait on a process that it has not spawned itself.
            let ended = match &mut self.inner.process().child {
                Some(child) => child.try_wait().tried(|| format!("wait for the agent of {}", id()))?,
                None => return Err(Error::AgentNeverRan(id())),
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
            if Instant::now() >= deadline {
                return Err(Error::AgentLives { host: id(), waited: timeout, log: self.inner.host.log.display().to_string() });
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Asks it to end, and no longer wants it.
    pub(crate) fn terminate(&self) -> Result<()> {
        let mut process = self.inner.process();
        process.wanted = false;
        let Some(running) = process.running().and_then(|child| pid(child.id())) else {
            return Ok(());
        };
        pidfd_open(running, PidfdFlags::empty())
            .and_then(|descriptor| pidfd_send_signal(descriptor, Signal::TERM))
            .map_err(io::Error::from)
            .tried(|| format!("send SIGTERM to the agent of {}", self.inner.host.id))
    }
}

const GRACE: Duration = Duration::from_secs(10);

/// Restarts agents that end without having been stopped; runs on the keeper's thread for ever.
pub(crate) async fn supervise(agents: Vec<Agent>) {
    struct Watched {
        agent: Agent,
        pause: Duration,
        started: Instant,
        due: Option<Instant>,
    }
    let mut all: Vec<Watched> =
        agents.into_iter().map(|agent| Watched { agent, pause: SHORTEST_PAUSE, started: Instant::now(), due: None }).collect();
    loop {
        tokio::time::sleep(SHORTEST_PAUSE).await;
        for watched in &mut all {
            let inner = &watched.agent.inner;
            if !inner.process().is_missed() {
                watched.due = None;
                continue;
            }
            let now = Instant::now();
            match watched.due {
                None => {
                    if now.duration_since(watched.started) > LONGEST_PAUSE {
                        watched.pause = SHORTEST_PAUSE;
                    }
                    watched.due = Some(now + watched.pause);
                    watched.pause = (watched.pause * 2).min(LONGEST_PAUSE);
                    tracing::warn!(host = inner.host.id, log = %inner.host.log.display(), "agent ended: restarting it");
                }
                Some(due) if now >= due => {
                    watched.due = None;
                    watched.started = now;
                    let env = inner.process().env.clone();
                    if let Err(error) = inner.start_here(env) {
                        tracing::warn!(
                            host = inner.host.id,
                            error = &error as &dyn std::error::Error,
                            "agent not restarted: will retry"
                        );
                    }
                }
                Some(_) => {}
            }
        }
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Inner {
    /// On the keeper's thread only: the kernel kills the agent when the thread that spawned it ends.
    fn start_here(&self, env: Vec<(OsString, OsString)>) -> Result<()> {
        let host = &self.host;
        let config = self.config.as_ref().ok_or(Error::NoAgents)?;
        let mut process = self.process();
        if process.running().is_some() {
            return Err(Error::AgentRuns(host.id.clone()));
        }
        let log =
            OpenOptions::new().create(true).append(true).open(&host.log).tried(|| format!("open {}", host.log.display()))?;
        let too = log.try_clone().tried(|| format!("open {}", host.log.display()))?;
        let mut command = host.netns.command(&config.program);
        command
            .arg("run")
            .args(["--host-id", &host.id])
            .arg("--state-dir")
            .arg(&host.state_dir)
            .args(["--label", &format!("lab={}", self.lab)])
            .arg("--resolv-conf")
            .arg(host.resolv_conf())
            .args(&config.args)
            .env("PORTCULLIS_NATS", format!("nats://{HUB_V4}:{BROKER_PORT}"))
            .envs(config.env.iter().map(|(key, value)| (key, value)))
            .envs(env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(too)
            // Ctrl-C at the terminal is for the lab, which then stops its agents in order.
            .process_group(0);
        name_on_exec(&mut command, &host.id);
        die_with_spawner(&mut command);
        let child = command.spawn().tried(|| format!("start {} in {}", config.program.display(), host.netns.name()))?;
        *process = Process { child: Some(child), env, wanted: true };
        Ok(())
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    fn running(&mut self) -> Option<&mut Child> {
        let child = self.child.as_mut()?;
        matches!(child.try_wait(), Ok(None)).then_some(child)
    }

    fn is_missed(&mut self) -> bool {
        self.wanted && self.running().is_none()
    }
}
