//! A lab as a whole: made in the order in which its parts need each other, and unmade in the reverse.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use crate::agents::{self, Agent, AgentConfig};
use crate::door::Door;
use crate::error::{Error, Result, Tried};
use crate::keeper::{Keeper, KeeperHandle};
use crate::netns::Netns;
use crate::owner::{self, Ownership};
use crate::services;
use crate::topology::{self, ECHO_PORT, MAX_HOSTS, OUTSIDE_V4, OUTSIDE_V6, RESOLVER_V4, RESOLVER_V6, Topology, VirtualHost};

#[derive(Debug, Clone)]
pub struct LabConfig {
    /// Also the name of its namespaces, `pclab-NAME-…`.
    pub name: String,
    pub hosts: usize,
    /// Holds a folder for each host: its agent's state and log.
    pub dir: PathBuf,
    /// Empties those folders first.
    pub fresh: bool,
    /// Where the hosts' door to the broker leads, as seen from here; without it there is no door.
    pub broker: Option<SocketAddr>,
    pub agent: Option<AgentConfig>,
    /// Restarts agents that end by themselves.
    pub supervise: bool,
}

impl LabConfig {
    /// A lab without broker and agents.
    pub fn new(name: impl Into<String>, hosts: usize, dir: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), hosts, dir: dir.into(), fresh: false, broker: None, agent: None, supervise: false }
    }

    fn validate(&self) -> Result<u8> {
        validate_name(&self.name)?;
        match u8::try_from(self.hosts) {
            Ok(hosts @ 1..) if self.hosts <= MAX_HOSTS => Ok(hosts),
            _ => Err(Error::Hosts { hosts: self.hosts, most: MAX_HOSTS }),
        }
    }
}

/// A running lab. Dropping it takes everything away too, but kills the agents where [`Lab::stop`] asks them.
#[derive(Debug)]
pub struct Lab {
    name: String,
    // The order of these fields is the order in which they end: nothing may still run in a namespace that goes, and the
    // name is free only when all is gone.
    door: Option<Door>,
    keeper: Option<Keeper>,
    agents: Vec<Agent>,
    topology: Topology,
    _ownership: Ownership,
}

impl Lab {
    /// Starts everything; when it returns, every host reaches the outside world and the agents have been started.
    pub async fn start(config: LabConfig) -> Result<Self> {
        blocking(move || Self::build(&config)).await
    }

    /// Stops the agents in good order, then takes everything away.
    pub async fn stop(self) -> Result<()> {
        for agent in &self.agents {
            agent.terminate()?;
        }
        let deadline = Instant::now() + GRACE;
        for agent in self.agents.iter().filter(|agent| agent.is_running()) {
            // One that does not go by itself is killed below.
            if let Err(error) = agent.wait(deadline.saturating_duration_since(Instant::now())).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "agent not stopped");
            }
        }
        blocking(move || {
            let mut lab = self;
            lab.end_processes();
            lab.topology.remove()
        })
        .await
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace of the bridge.
    pub fn hub(&self) -> &Netns {
        &self.topology.hub
    }

    /// The namespace of the outside world.
    pub fn outside(&self) -> &Netns {
        &self.topology.outside
    }

    pub fn hosts(&self) -> &[VirtualHost] {
        &self.topology.hosts
    }

    /// Host `h<number>`, from 1 on.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn host(&self, number: usize) -> &VirtualHost {
        &self.topology.hosts[number - 1]
    }

    /// The agent of host `h<number>`, from 1 on.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn agent(&self, number: usize) -> &Agent {
        &self.agents[number - 1]
    }

    /// Takes the broker away from the hosts (standing connections are closed, new ones refused), or gives it back.
    pub async fn cut_broker(&self, cut: bool) -> Result<()> {
        match &self.door {
            Some(door) => door.cut(cut).await,
            None => Ok(()),
        }
    }

    fn build(config: &LabConfig) -> Result<Self> {
        let hosts = config.validate()?;
        if !geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        raise_file_limit(config.hosts);
        let ownership = Ownership::take(Path::new(owner::DIRECTORY), &config.name)?;
        let topology = Topology::create(&config.name, hosts, &config.dir)?;
        let (keeper, handle) = Keeper::start(&config.name)?;
        let mut lab = Self {
            name: config.name.clone(),
            door: None,
            keeper: Some(keeper),
            agents: Vec::new(),
            topology,
            _ownership: ownership,
        };
        services::start(&lab.topology, &handle)?;
        lab.prove_paths()?;
        if let Some(broker) = config.broker {
            lab.door = Some(Door::open(lab.hub().clone(), broker, &handle)?);
        }
        lab.start_agents(config, &handle)?;
        Ok(lab)
    }

    /// Links come up in the kernel's own time, on a busy machine after the first question for a neighbour has been given up; after this nothing that
    /// fails can be blamed on that.
    fn prove_paths(&self) -> Result<()> {
        let end = Instant::now() + PATHS;
        for host in self.hosts() {
            for netns in [&host.netns, &host.container] {
                for outside in [SocketAddr::from((OUTSIDE_V4, ECHO_PORT)), (OUTSIDE_V6, ECHO_PORT).into()] {
                    while let Err(source) = netns.tcp_connect(outside, Duration::from_secs(5)) {
                        if Instant::now() > end {
                            return Err(Error::NoPath { from: netns.name().to_owned(), to: outside.to_string(), source });
                        }
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
        Ok(())
    }

    fn start_agents(&mut self, config: &LabConfig, keeper: &KeeperHandle) -> Result<()> {
        for host in &self.topology.hosts {
            if config.fresh {
                empty(&host.state_dir).tried(|| format!("empty {}", host.state_dir.display()))?;
            }
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&host.state_dir)
                .tried(|| format!("make {}", host.state_dir.display()))?;
            let resolv_conf = format!("nameserver {RESOLVER_V4}\nnameserver {RESOLVER_V6}\n");
            fs::write(host.resolv_conf(), resolv_conf).tried(|| format!("write {}", host.resolv_conf().display()))?;
            let agent = Agent::new(&self.name, host, config.agent.as_ref(), keeper);
            self.agents.push(agent);
        }
        if config.agent.is_none() {
            return Ok(());
        }
        for agent in &self.agents {
            agent.start(&[])?;
        }
        if config.supervise {
            let agents = self.agents.clone();
            keeper.run(move || drop(tokio::spawn(agents::supervise(agents)))).tried(|| "watch the agents".to_owned())?;
        }
        Ok(())
    }

    /// Without the keeper nobody restarts an agent, and the kernel has killed those that it spawned.
    fn end_processes(&mut self) {
        self.door = None;
        self.keeper = None;
        for agent in &self.agents {
            if let Err(error) = agent.kill9() {
                tracing::warn!(error = &error as &dyn std::error::Error, "agent left behind by the lab");
            }
        }
    }
}

const GRACE: Duration = Duration::from_secs(10);
const PATHS: Duration = Duration::from_secs(20);

impl Drop for Lab {
    fn drop(&mut self) {
        self.end_processes();
    }
}

/// Removes every lab whose owner is dead, and says which; labs of living processes are left alone.
pub fn clean_stale() -> Result<Vec<String>> {
    let root = Path::new(owner::DIRECTORY);
    let mut names = topology::labs()?;
    match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        entries => {
            let entries = entries.tried(|| format!("list {}", owner::DIRECTORY))?;
            names.extend(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()));
        }
    }
    let mut cleaned = Vec::new();
    for name in names.into_iter().filter(|name| validate_name(name).is_ok()) {
        if let Some(_ownership) = Ownership::take_if_free(root, &name)? {
            topology::remove_all(&name)?;
            cleaned.push(name);
        }
    }
    Ok(cleaned)
}

pub(crate) fn validate_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=20).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('-') {
        Ok(())
    } else {
        Err(Error::Name(name.to_owned()))
    }
}

fn empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A host has four sockets and a log, and its agent a connection of two ends.
fn raise_file_limit(hosts: usize) {
    let wanted = 512 + 16 * hosts as u64;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(now.maximum.map_or(wanted, |maximum| maximum.min(wanted))), maximum: now.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, wanted, "limit of open files not raised");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(io::Error::other(cancelled)).tried(|| "finish: the runtime is ending".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_paths_and_namespaces() {
        for good in ["a", "demo", "t-1", "12345678901234567890"] {
            assert!(validate_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a/b", "..", "a b", "ä", "123456789012345678901"] {
            assert!(validate_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_number_of_hosts_is_bounded() {
        for (hosts, good) in [(0, false), (1, true), (200, true), (201, false), (257, false)] {
            assert_eq!(LabConfig::new("x", hosts, "/d").validate().is_ok(), good, "{hosts}");
        }
    }
}
