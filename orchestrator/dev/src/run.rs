//! The verb `portcullis lab`: starts a lab, says what is in it, and waits until it is told to end.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agents::AgentConfig;
use crate::error::Error;
use crate::lab::{Lab, LabConfig, clean_stale, validate_name};
use crate::topology::{BROKER_PORT, ECHO_PORT, HUB_V4, OUTSIDE_V4, OUTSIDE_V6, RESOLVER_V4, VirtualHost};

/// Virtual hosts in network namespaces with real agents; needs root
#[derive(Debug, Clone, clap::Args)]
pub struct LabArgs {
    /// How many hosts, 1 to 200
    #[arg(long, default_value_t = 3)]
    pub hosts: usize,
    /// Name of the lab, also of its namespaces; labs with different names run side by side
    #[arg(long, default_value = "demo")]
    pub name: String,
    /// Where the agents keep state and logs, kept between runs [default: /var/lib/portcullis-lab/NAME, emptied at the start]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The agent's program [default: portcullis-agent beside this program]
    #[arg(long, conflicts_with = "no_agents")]
    pub agent: Option<PathBuf>,
    /// Hosts only
    #[arg(long)]
    pub no_agents: bool,
}

/// Runs a lab until Ctrl-C. `nats` is the broker as reached from here; the hosts find it at nats://10.213.0.1:4222. With `json` what is in the
/// lab is said as one line of JSON. `handed` are further arguments of the agents.
pub async fn run(args: LabArgs, nats: &str, handed: Vec<OsString>, json: bool) -> anyhow::Result<()> {
    // Before anything exists: a signal that comes while the lab starts is then kept until it can be cleaned up.
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let config = configure(&args, nats, handed).await?;
    for name in clean_stale()? {
        tracing::info!(name, "remains of an ended lab removed");
    }
    let broker = config.broker;
    let lab = Lab::start(config).await?;
    let said = describe(&lab, &args, json, broker).await;
    if said.is_ok() {
        signals.any().await;
    }
    if !json {
        let _nobody_reads = writeln!(io::stderr(), "cleaning up");
    }
    lab.stop().await?;
    said.context("cannot write to standard output")
}

struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn configure(args: &LabArgs, nats: &str, handed: Vec<OsString>) -> anyhow::Result<LabConfig> {
    validate_name(&args.name)?;
    if !rustix::process::geteuid().is_root() {
        bail!(Error::NotRoot);
    }
    let agent = match args.no_agents {
        true => None,
        false => Some(AgentConfig { args: handed, ..AgentConfig::new(agent_program(args.agent.as_deref())?) }),
    };
    let dir = match &args.dir {
        Some(dir) => std::path::absolute(dir).with_context(|| format!("cannot use --dir {}", dir.display()))?,
        None => Path::new("/var/lib/portcullis-lab").join(&args.name),
    };
    Ok(LabConfig {
        broker: Some(resolve(nats).await?),
        agent,
        supervise: true,
        // An agent that remembers an earlier broker's orders would refuse those of a new one.
        fresh: args.dir.is_none(),
        ..LabConfig::new(&args.name, args.hosts, dir)
    })
}

fn agent_program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(program) => std::path::absolute(program)?,
        None => std::env::current_exe()
            .context("cannot find out where this program is: give --agent PATH")?
            .with_file_name("portcullis-agent"),
    };
    if !program.is_file() {
        bail!("there is no agent at {}: give --agent PATH, or --no-agents", program.display());
    }
    Ok(program)
}

async fn resolve(url: &str) -> anyhow::Result<SocketAddr> {
    let place = match url.split_once("://") {
        None => url,
        Some(("nats", place)) => place,
        Some((scheme, _)) => bail!("--nats {url}: the lab forwards plain nats:// only, not {scheme}://"),
    };
    let place = place.trim_end_matches('/');
    if place.contains('@') {
        bail!("--nats: no user and password here: the agents would not get them");
    }
    let has_port = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let place = if has_port && !place.ends_with(']') { place.to_owned() } else { format!("{place}:{BROKER_PORT}") };
    let mut found = tokio::net::lookup_host(&place).await.with_context(|| format!("--nats {url}: cannot resolve {place}"))?;
    found.next().with_context(|| format!("--nats {url}: {place} has no address"))
}

#[derive(Serialize)]
struct Described<'a> {
    lab: &'a str,
    broker: String,
    outside: [String; 2],
    hosts: &'a [VirtualHost],
}

async fn describe(lab: &Lab, args: &LabArgs, json: bool, broker: Option<SocketAddr>) -> io::Result<()> {
    let mut out = io::stdout();
    if json {
        let described = Described {
            lab: lab.name(),
            broker: format!("nats://{HUB_V4}:{BROKER_PORT}"),
            outside: [OUTSIDE_V4.to_string(), OUTSIDE_V6.to_string()],
            hosts: lab.hosts(),
        };
        writeln!(out, "{}", serde_json::to_string(&described)?)?;
        return out.flush();
    }
    writeln!(out, "{:<6} {:<28} {:<16} {:<18} CONTAINER", "HOST", "NETNS", "IPV4", "IPV6")?;
    for host in lab.hosts() {
        writeln!(
            out,
            "{:<6} {:<28} {:<16} {:<18} {}, {} in {}",
            host.id,
            host.netns.name(),
            host.ipv4.to_string(),
            host.ipv6.to_string(),
            host.container_ipv4,
            host.container_ipv6,
            host.container.name()
        )?;
    }
    let first = lab.host(1).netns.name();
    writeln!(out, "\nThe outside world is {OUTSIDE_V4} and {OUTSIDE_V6}; try:")?;
    writeln!(out, "  ip netns exec {first} ping -c 3 {OUTSIDE_V4}")?;
    writeln!(out, "  ip netns exec {first} bash -c 'echo hello >/dev/tcp/{OUTSIDE_V4}/{ECHO_PORT} && echo open'")?;
    writeln!(out, "  ip netns exec {first} dig @{RESOLVER_V4} www.lab.test")?;
    if !args.no_agents {
        writeln!(out, "  ip netns exec {first} nft list ruleset")?;
        writeln!(out, "  tail -f {}", lab.host(1).log.display())?;
    }
    if let Some(broker) = broker {
        let connected = tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(broker)).await;
        if !args.no_agents && !matches!(connected, Ok(Ok(_))) {
            writeln!(out, "\nNo broker answers at {broker} yet: the agents try again until one does.")?;
        }
    }
    writeln!(out, "\nlab {:?} is ready; Ctrl-C ends it and cleans up", lab.name())?;
    out.flush()
}
