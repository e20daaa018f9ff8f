//! The operator's verbs, over one Client trait.

// All that reaches a terminal goes through `screen`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod broker;
pub mod client;
pub mod failure;
#[cfg(test)]
mod fake;
pub mod find;
mod in_use;
mod natural;
mod pages;
pub mod screen;
pub mod site;
pub mod verbs;
pub mod wait;
pub mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use portcullis_schemas::Prefix;

pub use client::Client;
pub use failure::{Exit, Failure};
pub use screen::Screen;
pub use verbs::Verb;

use broker::Broker;
use portcullis_policy::InUse;

/// What every verb takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Global {
    /// Print JSON; errors too, on stderr
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,

    /// NATS servers; several are tried in turn
    // The address may hold a password: it is not shown in --help.
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        env = "PORTCULLIS_NATS",
        value_name = "URL[,URL]",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    pub nats: String,

    /// NATS credentials file
    #[arg(long, global = true, help_heading = "Connection", env = "PORTCULLIS_CREDS", value_name = "FILE")]
    pub creds: Option<PathBuf>,

    /// First token of every subject: the site, where several share one NATS cluster
    #[arg(
        long,
        global = true,
        help_heading = "Connection",
        env = "PORTCULLIS_PREFIX",
        value_name = "PREFIX",
        default_value = "portcullis"
    )]
    pub prefix: Prefix,

    /// Whether `nats` was given, and is not the default.
    #[arg(skip)]
    pub nats_given: bool,
}

/// Does what one verb says, and prints it.
pub async fn run(verb: Verb, global: &Global) -> ExitCode {
    portcullis_bus::quiet_client_panics();
    let mut screen = Screen::standard(global.json);
    let done = match verb {
        Verb::Policy(args) if !args.needs_broker() => {
            // A policy is checked without a broker as well, and not everybody has one at its usual place.
            let seen = if global.nats_given || args.asks_for_fleet() { Some(in_use(global).await) } else { None };
            verbs::policy::run(&args, seen, &mut screen)
        }
        verb => match Broker::connect(global).await {
            Ok(broker) => verbs::run(verb, &broker, &mut screen).await,
            Err(failure) => Err(failure),
        },
    };
    done.unwrap_or_else(|failure| screen.failure(&failure)).into()
}

async fn in_use(global: &Global) -> Result<(InUse, Vec<client::HostView>), Failure> {
    Broker::connect(global).await?.in_use().await
}
