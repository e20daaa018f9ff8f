//! `policy`: is one valid, how was it understood, what would it do, which one is active, and another one in its place.

pub mod apply;
mod difference;
mod effect;
pub mod look;
mod report;
mod texts;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use apply::{ApplyArgs, RollbackArgs};
use look::{DiffArgs, WhichArgs};
use portcullis_policy::{HostView, InUse, Policy, PolicyError, Taken};
use portcullis_schemas::Timestamp;
use serde_json::{Value, json};

use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::in_use;
use crate::screen::Screen;
use crate::words;

#[derive(clap::Args, Clone, Debug)]
pub struct PolicyArgs {
    #[command(subcommand)]
    pub command: PolicyCommand,
}

#[derive(clap::Subcommand, Clone, Debug)]
pub enum PolicyCommand {
    /// Check a policy file, run its tests, and print how it was understood. With --nats, also whether the senders, roles and labels that it names are
    /// in use
    Check {
        /// The file; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print the decision table, also where it is long
        #[arg(long)]
        table: bool,
        /// Print which known hosts groups, protection, limits and rules take
        #[arg(long)]
        fleet: bool,
    },
    /// Activate a policy in place of the active one; it decides within a second, without a restart
    Apply(ApplyArgs),
    /// Print the text of the active policy, or of another one
    Show(WhichArgs),
    /// Compare two policies: what changes in words, then the text
    Diff(DiffArgs),
    /// List which policies were active, by whom and why
    History,
    /// Activate the policy before the active one again, or an earlier one
    Rollback(RollbackArgs),
    /// Print the active policy as it is understood, or another one
    Explain(WhichArgs),
}

/// All but `check`, which needs no broker.
pub async fn on_broker<C: Client>(args: &PolicyArgs, client: &C, screen: &mut Screen, now: Timestamp) -> Result<Exit, Failure> {
    match &args.command {
        PolicyCommand::Check { .. } => {
            let hosts = if args.asks_for_fleet() { Some(client.fleet().await) } else { None };
            let seen = hosts.map(|fleet| fleet.map(|fleet| (in_use::of(&fleet.hosts), fleet.hosts)));
            run(args, seen, screen)
        }
        PolicyCommand::Apply(args) => apply::apply(args, client, screen, now).await,
        PolicyCommand::Show(args) => look::show(args, client, screen).await,
        PolicyCommand::Diff(args) => look::diff(args, client, screen).await,
        PolicyCommand::History => look::history(client, screen).await,
        PolicyCommand::Rollback(args) => apply::rollback(args, client, screen, now).await,
        PolicyCommand::Explain(args) => look::explain(args, client, screen).await,
    }
}

impl PolicyArgs {
    /// Whether it is of the policy that is active, and not of a file alone.
    pub fn needs_broker(&self) -> bool {
        !matches!(self.command, PolicyCommand::Check { .. })
    }

    /// Whether it cannot do without the broker.
    pub fn asks_for_fleet(&self) -> bool {
        matches!(self.command, PolicyCommand::Check { fleet: true, .. })
    }
}

/// What the broker's streams show, where one was given: names in use, and the hosts.
pub type Seen = Option<Result<(InUse, Vec<client::HostView>), Failure>>;

/// `check`.
pub fn run(args: &PolicyArgs, seen: Seen, screen: &mut Screen) -> Result<Exit, Failure> {
    let PolicyCommand::Check { file, table, fleet } = &args.command else { return Ok(Exit::Usage) };
    let name = file.display().to_string();
    let text = read(file)?;
    let policy = match Policy::parse(&text) {
        Ok(policy) => policy,
        Err(errors) => return invalid(&name, &errors, screen),
    };
    let mut warnings = policy.warnings().to_vec();
    let taken = match seen {
        Some(Ok((used, hosts))) => {
            let known = hosts.iter().filter(|host| host.inventory.is_some()).count();
            warnings.extend(policy.unknown(&used, known));
            fleet.then(|| survey(&policy, &hosts))
        }
        // Asked for with --fleet, it is what the verb is about.
        Some(Err(failure)) if *fleet => return Err(failure),
        Some(Err(failure)) => {
            screen.warn(&format!("senders, roles and labels are not compared: {failure}"));
            None
        }
        None => None,
    };
    warnings.sort();
    let failing = policy.failing_tests();
    let (explained, decisions) = (policy.explain(), policy.table());
    if screen.is_json() {
        screen.document(&json!({
            "file": name, "valid": true, "hash": policy.hash(), "errors": [], "warnings": placed(&warnings),
            "tests": { "run": policy.tests(), "failed": placed(&failing) }, "explained": explained, "table": decisions,
            "fleet": taken,
        }))?;
        return Ok(exit(&failing));
    }
    explained.lines().try_for_each(|line| screen.line(line))?;
    if *table || decisions.is_small() {
        report::table(&decisions, screen)?;
    }
    if let Some(taken) = &taken {
        report::fleet(taken, screen)?;
    }
    warnings.iter().for_each(|warning| screen.warn(&format!("{name}: {warning}")));
    failing.iter().for_each(|failure| screen.complain(&format!("{name}: {failure}"), None));
    if policy.tests() > 0 {
        let tests = words::count(policy.tests() as u64, "test", "tests");
        let failed = words::count(failing.len() as u64, "expectation", "expectations");
        screen.line("")?;
        screen.line(&if failing.is_empty() { format!("{tests} passed") } else { format!("{tests}: {failed} not met") })?;
    }
    Ok(exit(&failing))
}

fn exit(failing: &[PolicyError]) -> Exit {
    if failing.is_empty() { Exit::Done } else { Exit::Failed }
}

fn invalid(name: &str, errors: &[PolicyError], screen: &mut Screen) -> Result<Exit, Failure> {
    if screen.is_json() {
        screen.document(&json!({
            "file": name, "valid": false, "hash": null, "errors": placed(errors), "warnings": [],
            "tests": null, "explained": null, "table": null, "fleet": null,
        }))?;
    } else {
        errors.iter().for_each(|error| screen.complain(&format!("{name}: {error}"), None));
        screen.complain(&format!("{name}: {}", words::count(errors.len() as u64, "error", "errors")), None);
    }
    Ok(Exit::Failed)
}

/// What the policy takes of the hosts that have been heard.
fn survey(policy: &Policy, hosts: &[client::HostView]) -> Vec<Taken> {
    let known = hosts.iter().filter_map(|host| Some((host.host.as_str(), host.inventory.as_ref()?)));
    let labelled: Vec<_> = known.map(|(id, inventory)| (id, &inventory.hello, inventory.labels())).collect();
    let views: Vec<HostView<'_>> = labelled
        .iter()
        .map(|(id, hello, labels)| HostView { id, name: &hello.hostname, labels, roles: &hello.roles, level: hello.level })
        .collect();
    policy.survey(&views)
}

fn placed(found: &[PolicyError]) -> Vec<Value> {
    found.iter().map(|one| json!({ "line": one.line, "column": one.column, "message": one.message })).collect()
}

fn read(file: &Path) -> Result<String, Failure> {
    if file == Path::new("-") {
        let mut text = String::new();
        let read = io::stdin().read_to_string(&mut text);
        return read.map(|_| text).map_err(|source| Failure::Io { what: "cannot read standard input".into(), source });
    }
    std::fs::read_to_string(file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Failure::NoFile(file.display().to_string()),
        _ => Failure::Io { what: format!("cannot read {}", file.display()), source },
    })
}
