//! The verbs of `portcullis-agent`, and their exit codes.

mod privileges;
pub mod render;
mod screen;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, Args, Parser, Subcommand};
use portcullis_agent_core::record::StoredRecord;
use portcullis_schemas::events::{Level, Posture};
use portcullis_schemas::terminal::Log;
use portcullis_schemas::time::Span;
use portcullis_schemas::{HostId, Prefix};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::broker::servers;
use crate::control::restore;
use crate::control::run::{self, Config};
use crate::disk::brokers::recall;
use crate::disk::posture_file::PostureFile;
use crate::doctor;
use crate::host::clock::Clock;
use crate::host::{facts, memory};
use crate::local::socket::{self, Answer, Request};
use crate::local::status::{Exclusions, Status};
use crate::watch::probes::Probes;
use privileges::User;

const STATE_DIR: &str = "/var/lib/portcullis-agent";
const MACHINE_ID: &str = "/etc/machine-id";
const FAILED: u8 = 1;
const REFUSED: u8 = 4;

/// Isolates this host when the orchestrator orders it, and opens it again.
#[derive(Debug, Parser)]
#[command(name = "portcullis-agent", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent: restore the posture, then follow orders.
    Run(RunArgs),
    /// Put in force what the posture file says, before the network comes up. Asks neither a broker nor DNS.
    Restore(RestoreArgs),
    /// Show what this host enforces. Exit code 1 if the agent is not running.
    Status(ShowArgs),
    /// Show what passes now, resolved. Exit code 4 on an open host.
    Exclusions(ShowArgs),
    /// Open this host, as root on it, where the order allows that.
    Release(ReleaseArgs),
    /// Print the nftables rules of an order, as JSON. Changes nothing.
    Render(RenderArgs),
    /// Check whether this host can be fully isolated, with what helps. Exit code 1 if it cannot (promise A of POSTURES.md).
    Doctor(DoctorArgs),
}

#[derive(Debug, Args)]
struct HostArgs {
    /// Host id; derived from /etc/machine-id if absent.
    #[arg(long, env = "PORTCULLIS_HOST_ID", value_name = "ID")]
    host_id: Option<HostId>,
    /// Where the posture is kept.
    #[arg(long, env = "PORTCULLIS_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// NATS servers.
    #[arg(long, env = "PORTCULLIS_NATS", value_name = "URL[,URL]", hide_env_values = true)]
    nats: String,
    #[command(flatten)]
    host: HostArgs,
    /// Label to report; may be repeated.
    #[arg(long = "label", env = "PORTCULLIS_LABELS", value_name = "K=V", value_parser = label, value_delimiter = ',')]
    labels: Vec<(String, String)>,
    /// First token of all subjects.
    #[arg(long, env = "PORTCULLIS_PREFIX", default_value = "portcullis")]
    prefix: Prefix,
    /// Where resolvers are named; may be repeated.
    #[arg(long, env = "PORTCULLIS_RESOLV_CONF", value_name = "PATH", value_delimiter = ',', default_value = facts::RESOLV_CONF)]
    resolv_conf: Vec<PathBuf>,
    /// How long an order is waited for after the deadline, before the host opens itself.
    #[arg(long, env = "PORTCULLIS_GRACE", value_name = "DURATION", default_value = "5m")]
    grace: Span,
    /// Use no layer of rules above this level: inet, partial or full. For tests, and for kernels whose netdev hooks do harm.
    #[arg(long, env = "PORTCULLIS_LEVEL", default_value = "full", value_name = "LEVEL", value_parser = level)]
    level: Level,
    /// Lock the tables in the kernel where it can do that (6.9 and later): auto or off. For tests.
    #[arg(long, env = "PORTCULLIS_LOCK", default_value = "auto", value_name = "LOCK", value_parser = lock, action = ArgAction::Set)]
    lock: bool,
    /// Isolate also where every broker is reached through a tunnel, which an isolation cuts: then the deadline alone opens the host again.
    #[arg(long, env = "PORTCULLIS_ALLOW_TUNNEL")]
    allow_tunnel: bool,
    /// Isolate also where the broker is reached by a relay on this host, which an isolation cuts: then the deadline alone opens the host again.
    #[arg(long, env = "PORTCULLIS_ALLOW_RELAY")]
    allow_relay: bool,
    /// Addresses that must not be reached while isolated, tried over TCP after each change and every 30 s.
    #[arg(long, env = "PORTCULLIS_PROBE_CLOSED", value_name = "ADDR:PORT", value_delimiter = ',')]
    probe_closed: Vec<SocketAddr>,
    /// Addresses that must be reached while isolated, tried in the same way.
    #[arg(long, env = "PORTCULLIS_PROBE_OPEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    probe_open: Vec<SocketAddr>,
    /// Become this user (a name or a number) at the start, and keep only the capabilities that the agent needs. For root, where no supervisor does it.
    #[arg(long, env = "PORTCULLIS_USER", value_name = "USER", value_parser = User::find)]
    user: Option<User>,
    /// NATS credentials.
    #[arg(long, env = "PORTCULLIS_CREDS", value_name = "FILE")]
    creds: Option<PathBuf>,
    /// What to log to stderr: a level, or a filter as of tracing.
    #[arg(long, env = "PORTCULLIS_LOG", value_name = "FILTER", default_value = "info,async_nats=warn")]
    log: String,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    #[command(flatten)]
    host: HostArgs,
    /// NATS servers, for a posture file that cannot be read any more.
    #[arg(long, env = "PORTCULLIS_NATS", value_name = "URL[,URL]", hide_env_values = true)]
    nats: Option<String>,
    /// Use no layer of rules above this level: inet, partial or full. For tests, and for kernels whose netdev hooks do harm.
    #[arg(long, env = "PORTCULLIS_LEVEL", default_value = "full", value_name = "LEVEL", value_parser = level)]
    level: Level,
    /// Lock the tables in the kernel where it can do that (6.9 and later): auto or off. For tests.
    #[arg(long, env = "PORTCULLIS_LOCK", default_value = "auto", value_name = "LOCK", value_parser = lock, action = ArgAction::Set)]
    lock: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    host: HostArgs,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ReleaseArgs {
    /// Why; goes with the state event.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    show: ShowArgs,
}

#[derive(Debug, Args)]
struct RenderArgs {
    /// The order as CloudEvent or as bare data; - is stdin.
    #[arg(long, value_name = "FILE", default_value = "-")]
    order: PathBuf,
    /// NATS servers; names are not resolved, but taken to be where the agent last found them.
    #[arg(long, env = "PORTCULLIS_NATS", value_name = "URL[,URL]", hide_env_values = true)]
    nats: Option<String>,
    #[arg(long, env = "PORTCULLIS_RESOLV_CONF", value_name = "PATH", value_delimiter = ',', default_value = facts::RESOLV_CONF)]
    resolv_conf: Vec<PathBuf>,
    /// Where the agent remembers the addresses of its brokers' names.
    #[arg(long, env = "PORTCULLIS_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// NATS servers.
    #[arg(long, env = "PORTCULLIS_NATS", value_name = "URL[,URL]")]
    nats: Option<String>,
    /// Judge the host as if it had no layer of rules above this level: inet, partial or full.
    #[arg(long, env = "PORTCULLIS_LEVEL", default_value = "full", value_name = "LEVEL", value_parser = level)]
    level: Level,
    /// Whether the agent locks its tables: auto or off.
    #[arg(long, env = "PORTCULLIS_LOCK", default_value = "auto", value_name = "LOCK", value_parser = lock, action = ArgAction::Set)]
    lock: bool,
    #[command(flatten)]
    show: ShowArgs,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    memory::one_heap();
    let cli = Cli::try_parse().unwrap_or_else(|error| screen::usage(&error));
    // Before there is a second thread: each has rights of its own.
    if let Verb::Run(args) = &cli.verb
        && let Err(error) = privileges::give_up(args.user, &args.host.state_dir)
    {
        screen::error(&format!("{error:#}"));
        return ExitCode::from(FAILED);
    }
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(verb(cli.verb)));
    done.unwrap_or_else(|error| {
        screen::error(&format!("{error:#}"));
        ExitCode::from(FAILED)
    })
}

async fn verb(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run(args) => start(args).await,
        Verb::Restore(args) => {
            log_to_stderr(EnvFilter::new("warn"));
            let servers = args.nats.as_deref().map(servers::parse).transpose()?.unwrap_or_default();
            let restored = restore::restore(&args.host.state_dir, &id(&args.host)?, &servers, (args.level, args.lock))?;
            match restored {
                Some(level) => screen::lines(&format!("isolated, as the posture file says; level {}", level.as_str()))?,
                None => screen::lines("open, as the posture file says; nothing done")?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Status(args) => status(&args).await,
        Verb::Exclusions(args) => exclusions(&args).await,
        Verb::Release(args) => release(args).await,
        Verb::Render(args) => {
            let servers = args.nats.as_deref().map(servers::parse).transpose()?.unwrap_or_default();
            let remembered = recall(&PostureFile::new(&args.state_dir), &StoredRecord::Never);
            let (rules, problems) = render::render(&args.order, &args.resolv_conf, servers::known(&servers, &remembered))?;
            screen::json(&rules)?;
            problems.iter().for_each(|problem| screen::note(problem));
            Ok(ExitCode::SUCCESS)
        }
        Verb::Doctor(args) => examine(args).await,
    }
}

async fn examine(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let DoctorArgs { nats, level, lock, show: ShowArgs { host, json } } = args;
    let config = doctor::Config {
        host: id(&host)?,
        state_dir: host.state_dir,
        servers: nats.as_deref().map(servers::parse).transpose()?.unwrap_or_default(),
        level,
        locks: lock,
    };
    let report = doctor::examine(&config).await;
    show(json, &report)?;
    Ok(if report.keeps_promise_a { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

async fn start(args: RunArgs) -> anyhow::Result<ExitCode> {
    let RunArgs {
        nats,
        host,
        labels,
        prefix,
        resolv_conf,
        grace,
        level,
        lock,
        allow_tunnel,
        allow_relay,
        probe_closed,
        probe_open,
        user: _,
        creds,
        log,
    } = args;
    let filter =
        EnvFilter::try_new(&log).with_context(|| format!("--log {log:?} is no filter; write info or portcullis_agent=debug"))?;
    log_to_stderr(filter);
    let config = Config {
        servers: servers::parse(&nats)?,
        credentials: creds,
        host: id(&host)?,
        labels: labels.into_iter().collect::<BTreeMap<_, _>>(),
        prefix,
        state_dir: host.state_dir,
        resolv_conf,
        grace: Duration::from_secs(grace.as_secs()),
        level,
        locks: lock,
        allow_tunnel,
        allow_relay,
        probes: Probes::new(&probe_closed, &probe_open)?,
    };
    run::run(config).await?;
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(filter: EnvFilter) {
    let terminal = std::io::stderr().is_terminal();
    // What cannot be logged, on a full disk say, must not end the process: tracing would say so on the same stderr, and panic.
    let log = tracing_subscriber::fmt().log_internal_errors(false).with_writer(|| Log(std::io::stderr()));
    log.with_env_filter(filter).with_ansi(terminal).with_target(false).init();
}

async fn status(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    match socket::ask(&args.host.state_dir, &Request::Status).await? {
        Some(Answer::Status(status)) => {
            show(args.json, &*status)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => bail!("the agent answered {other:?}"),
        None => {
            let (me, stored, problems) = on_disk(&args.host)?;
            let status = Status { problems, ..Status::of(&me, &stored, &Clock::new().now()) };
            show(args.json, &status)?;
            screen::note("The agent is not running; this is from its posture file.");
            Ok(ExitCode::from(FAILED))
        }
    }
}

async fn exclusions(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let shown = match socket::ask(&args.host.state_dir, &Request::Exclusions).await? {
        Some(Answer::Exclusions(exclusions)) => exclusions,
        Some(other) => bail!("the agent answered {other:?}"),
        None => {
            let (me, stored, problems) = on_disk(&args.host)?;
            let now = Clock::new().now();
            let (gate, left_out) = stored.record().map(|record| record.gate(&now)).unwrap_or_default();
            let opens = stored.record().map(|record| record.opens(&now)).unwrap_or_default();
            problems.iter().for_each(|problem| screen::note(problem));
            screen::note("The agent is not running; this is from its posture file.");
            Exclusions::of(&me, &stored, gate, &[], left_out.iter().map(ToString::to_string).collect(), opens)
        }
    };
    show(args.json, &shown)?;
    Ok(if shown.posture == Posture::Open { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

async fn release(args: ReleaseArgs) -> anyhow::Result<ExitCode> {
    let answer = socket::ask(&args.show.host.state_dir, &Request::Release { reason: args.reason }).await?;
    match answer {
        Some(Answer::Released(done)) => {
            if args.show.json {
                print_json(&done)?;
            } else if done.posture == Posture::Open {
                screen::lines(&format!(
                    "This host is open, after {} ms. Orders up to no. {} are ignored.",
                    done.milliseconds, done.generation
                ))?;
            }
            if let Some(error) = &done.error {
                screen::error(error);
            }
            Ok(if done.posture == Posture::Open { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
        }
        Some(Answer::Refused { reason }) => {
            if args.show.json {
                print_json(&serde_json::json!({ "refused": reason }))?;
            }
            screen::error(&reason);
            Ok(ExitCode::from(REFUSED))
        }
        Some(other) => bail!("the agent answered {other:?}"),
        None => bail!("no agent is running with {}; start it, then release", args.show.host.state_dir.display()),
    }
}

fn show<T: Serialize + std::fmt::Display>(json: bool, what: &T) -> anyhow::Result<()> {
    if json {
        print_json(what)?;
    } else {
        screen::lines(what.to_string().trim_end())?;
    }
    Ok(())
}

fn print_json<T: Serialize>(what: &T) -> anyhow::Result<()> {
    screen::json(&serde_json::to_string_pretty(what)?)
}

fn on_disk(args: &HostArgs) -> anyhow::Result<(HostId, StoredRecord, Vec<String>)> {
    let file = PostureFile::new(&args.state_dir);
    let me = args.host_id.clone().map_or_else(|| recorded(&args.state_dir), Ok)?;
    let (stored, faults) = file.read(&me);
    Ok((me, stored, faults.iter().map(ToString::to_string).collect()))
}

/// Without --host-id, the record's own host is asked for: it is shown, not judged.
fn recorded(state_dir: &Path) -> anyhow::Result<HostId> {
    let derived = derived_host();
    let probe = derived.as_ref().ok().cloned().map_or_else(|| HostId::new("unknown"), Ok)?;
    let (stored, _) = PostureFile::new(state_dir).read(&probe);
    stored.record().map_or(derived, |record| Ok(record.host.clone()))
}

fn id(args: &HostArgs) -> anyhow::Result<HostId> {
    args.host_id.clone().map_or_else(derived_host, Ok)
}

/// The id of a host that is given none.
fn derived_host() -> anyhow::Result<HostId> {
    let text = std::fs::read_to_string(MACHINE_ID)
        .with_context(|| format!("cannot read {MACHINE_ID}, from which the host id is derived; give --host-id"))?;
    HostId::of_machine(&text)
        .with_context(|| format!("{MACHINE_ID} holds no machine id (it may not be set up yet); give --host-id"))
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn level(text: &str) -> Result<Level, String> {
    [Level::Inet, Level::Partial, Level::Full]
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| "write inet, partial or full".to_owned())
}

fn lock(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("write auto or off".to_owned()),
    }
}
