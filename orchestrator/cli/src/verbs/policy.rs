//! `policy check`: is a policy valid, and how was it understood?

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use portcullis_core::policy::Policy;
use serde_json::json;

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
    /// Check a policy file, and print how it was understood
    Check {
        /// The file; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

pub fn run(args: &PolicyArgs, screen: &mut Screen) -> Result<Exit, Failure> {
    let PolicyCommand::Check { file } = &args.command;
    let name = file.display().to_string();
    let text = read(file)?;
    match Policy::parse(&text) {
        Ok(policy) => {
            let explained = policy.explain();
            if screen.is_json() {
                screen.document(
                    &json!({ "file": name, "valid": true, "hash": policy.hash(), "errors": [], "explained": explained }),
                )?;
            } else {
                explained.lines().try_for_each(|line| screen.line(line))?;
            }
            Ok(Exit::Done)
        }
        Err(errors) => {
            if screen.is_json() {
                let errors: Vec<_> = errors
                    .iter()
                    .map(|error| json!({ "line": error.line, "column": error.column, "message": error.message }))
                    .collect();
                screen.document(&json!({ "file": name, "valid": false, "hash": null, "errors": errors, "explained": null }))?;
            } else {
                errors.iter().for_each(|error| screen.complain(&format!("{name}: {error}"), None));
                screen.complain(&format!("{name}: {}", words::count(errors.len() as u64, "error", "errors")), None);
            }
            Ok(Exit::Failed)
        }
    }
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
