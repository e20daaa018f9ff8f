//! `policy check`: is a policy valid, and how was it understood?

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use portcullis_policy::{InUse, Policy, PolicyError};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::screen::Screen;
use crate::words;

#[derive(clap::Args, Clone, Debug)]
pub struct PolicyArgs {
    #[command(subcommand)]
    pub command: PolicyCommand,
}

#[derive(clap::Subcommand, Clone, Debug)]
pub enum PolicyCommand {
    /// Check a policy file, and print how it was understood. With --nats, also whether the senders, roles and labels that it names are in use
    Check {
        /// The file; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// What the broker's streams show, where one was given: names in use, and the number of hosts.
pub type Seen = Option<Result<(InUse, usize), Failure>>;

pub fn run(args: &PolicyArgs, seen: Seen, screen: &mut Screen) -> Result<Exit, Failure> {
    let PolicyCommand::Check { file } = &args.command;
    let name = file.display().to_string();
    let text = read(file)?;
    match Policy::parse(&text) {
        Ok(policy) => {
            let explained = policy.explain();
            let mut warnings = policy.warnings().to_vec();
            match &seen {
                Some(Ok((used, hosts))) => warnings.extend(policy.unknown(used, *hosts)),
                Some(Err(failure)) => screen.warn(&format!("senders, roles and labels are not compared: {failure}")),
                None => {}
            }
            warnings.sort();
            if screen.is_json() {
                screen.document(&json!({
                    "file": name, "valid": true, "hash": policy.hash(), "errors": [], "warnings": placed(&warnings),
                    "explained": explained,
                }))?;
            } else {
                explained.lines().try_for_each(|line| screen.line(line))?;
                warnings.iter().for_each(|warning| screen.warn(&format!("{name}: {warning}")));
            }
            Ok(Exit::Done)
        }
        Err(errors) => {
            if screen.is_json() {
                screen.document(&json!({
                    "file": name, "valid": false, "hash": null, "errors": placed(&errors), "warnings": [], "explained": null,
                }))?;
            } else {
                errors.iter().for_each(|error| screen.complain(&format!("{name}: {error}"), None));
                screen.complain(&format!("{name}: {}", words::count(errors.len() as u64, "error", "errors")), None);
            }
            Ok(Exit::Failed)
        }
    }
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
