//! The program `portcullis`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use portcullis_cli::{Global, Verb};
use portcullis_dev::LabArgs;
use portcullis_dev::up::{self, UpArgs};
use portcullis_orchestrator::serve::{self, ServeArgs, Site};
use portcullis_schemas::terminal;

/// Cuts compromised Linux hosts off from the network, and lets them back: event-driven host isolation.
#[derive(Parser)]
#[command(name = "portcullis", version, propagate_version = true)]
struct Program {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything on one machine: a broker of its own and the orchestrator
    Up(UpArgs),
    /// The orchestrator, on an existing NATS
    Serve(ServeArgs),
    /// Virtual hosts in network namespaces, with real agents
    Lab(LabArgs),
    #[command(flatten)]
    Operator(Verb),
}

fn main() -> ExitCode {
    let program = parsed().unwrap_or_else(|error| usage(&error));
    // The engine has the main thread; connections and what waits for the broker are served beside it.
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("portcullis: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run(program))
}

fn parsed() -> Result<Program, clap::Error> {
    let matches = Program::command().try_get_matches()?;
    let mut program = Program::from_arg_matches(&matches)?;
    program.global.nats_given = matches.value_source("nats") != Some(ValueSource::DefaultValue);
    Ok(program)
}

async fn run(program: Program) -> ExitCode {
    let Program { global, verb } = program;
    let result = match verb {
        Command::Operator(verb) => return portcullis_cli::run(verb, &global).await,
        Command::Up(args) => {
            log("info,tokio_cron_scheduler=warn");
            up::run(args, global.prefix.clone()).await
        }
        Command::Serve(args) => {
            log("info,tokio_cron_scheduler=warn");
            let site = Site { nats: global.nats.clone(), credentials: global.creds.clone(), prefix: global.prefix.clone() };
            serve::run(args, site).await
        }
        Command::Lab(args) => {
            log("warn");
            portcullis_dev::run(args, &global.nats, handed(&global), global.json).await
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis: {}", terminal::lines(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with the command line, or the help that it asks for. What it quotes may come from elsewhere.
fn usage(error: &clap::Error) -> ! {
    let plain = error.render().to_string();
    let clean = terminal::lines(&plain);
    if clean == plain {
        error.exit();
    }
    eprint!("{clean}");
    std::process::exit(error.exit_code())
}

/// What the agents of a lab are told beside where their broker is.
fn handed(global: &Global) -> Vec<OsString> {
    let mut handed = vec!["--prefix".into(), global.prefix.to_string().into()];
    handed.extend(global.creds.iter().flat_map(|creds| ["--creds".into(), creds.into()]));
    handed
}

/// The log goes to stderr; PORTCULLIS_LOG sets how much of it.
fn log(default: &str) {
    let mut filter = std::env::var("PORTCULLIS_LOG").unwrap_or_default();
    if tracing_subscriber::EnvFilter::try_new(&filter).is_err() || filter.is_empty() {
        filter = default.to_owned();
    }
    // The client logs an ERROR for each connection that it gives up, also where the next one is open already; what it reports is logged here.
    if !filter.contains("async_nats") {
        filter.push_str(",async_nats=warn,async_nats::connector=off");
    }
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let terminal = std::io::stderr().is_terminal();
    // What cannot be logged, on a full disk say, must not end the process: tracing would say so on the same stderr, and panic.
    let log = tracing_subscriber::fmt().log_internal_errors(false).with_writer(|| terminal::Log(std::io::stderr()));
    log.with_env_filter(filter).with_ansi(terminal).init();
}
