//! The verbs, one file each.

pub mod act;
mod ask;
mod banner;
mod decisions;
mod detection;
mod doctor;
mod hosts;
mod lines;
mod operator;
mod outcome;
pub mod policy;
mod show;
mod tail;
#[cfg(test)]
mod tests;

use chrono::Utc;

pub use act::{IsolateArgs, ReleaseArgs};
pub use decisions::DecisionsArgs;
pub use doctor::DoctorArgs;
pub use hosts::HostsArgs;
pub use policy::PolicyArgs;
pub use show::ShowArgs;
pub use tail::TailArgs;

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::screen::Screen;

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Verb {
    /// List the hosts with their status
    Hosts(HostsArgs),
    /// Show what is known of one host, or of one detection
    #[command(override_usage = "portcullis show [OPTIONS] <HOST|DETECTION>")]
    Show(ShowArgs),
    /// Cut a host off from the network
    #[command(override_usage = "portcullis isolate [OPTIONS] <HOST>")]
    Isolate(IsolateArgs),
    /// Open a host again
    #[command(override_usage = "portcullis release [OPTIONS] <HOST>")]
    Release(ReleaseArgs),
    /// List what was decided, and why
    Decisions(DecisionsArgs),
    /// Watch detections, decisions, orders, states and notices as they come
    Tail(TailArgs),
    /// Say what is wrong at this site, and what to do
    Doctor(DoctorArgs),
    /// Check, apply, compare and roll back policies
    Policy(PolicyArgs),
}

pub async fn run<C: Client>(verb: Verb, client: &C, screen: &mut Screen) -> Result<Exit, Failure> {
    let now = Utc::now();
    let beat = client.heartbeat().await;
    if let Verb::Doctor(args) = &verb {
        return Box::pin(doctor::run(args, client, screen, now, beat.as_ref())).await;
    }
    beat.iter().flat_map(banner::lines).for_each(|line| screen.warn(&line));
    match verb {
        Verb::Hosts(args) => Box::pin(hosts::run(&args, client, screen, now, beat.as_ref())).await,
        Verb::Show(args) => Box::pin(show::run(&args, client, screen, now, beat.as_ref())).await,
        Verb::Isolate(args) => Box::pin(act::isolate(&args, client, screen, now)).await,
        Verb::Release(args) => Box::pin(act::release(&args, client, screen, now)).await,
        Verb::Decisions(args) => Box::pin(decisions::run(&args, client, screen, now)).await,
        Verb::Doctor(args) => Box::pin(doctor::run(&args, client, screen, now, beat.as_ref())).await,
        Verb::Tail(args) => Box::pin(tail::run(&args, client, screen, now)).await,
        Verb::Policy(args) => Box::pin(policy::on_broker(&args, client, screen, now)).await,
    }
}
