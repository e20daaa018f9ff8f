//! The policy and its file: read at start and again on SIGHUP; an invalid one is never taken, and keeps nobody from releasing a host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use chrono::Utc;
use portcullis_policy::Policy;
use portcullis_schemas::heartbeat::{PolicyState, Refused};
use tokio::sync::watch;

use crate::metrics;

/// An error that is passed on to people has at most this many characters.
const LONGEST_PROBLEM: usize = 1_000;

/// The policy in force, with the file that it comes from.
pub struct PolicyFile {
    path: Option<PathBuf>,
    /// The last one that was valid, with its text.
    pub policy: Option<(Arc<Policy>, Arc<str>)>,
    state: watch::Sender<PolicyState>,
}

impl PolicyFile {
    /// Reads the file, if there is one. Where it is refused there is no policy, and detections wait for a person.
    pub fn open(path: Option<PathBuf>) -> Self {
        let mut file = Self { path, policy: None, state: watch::Sender::new(PolicyState::default()) };
        match file.path {
            Some(_) => file.read(),
            None => tracing::warn!("no policy given (--policy): detections are recorded and wait for a person"),
        }
        metrics::policy(file.policy.is_some());
        file
    }

    /// Reads it again. Where it is refused the policy in force stays.
    pub fn reload(&mut self) {
        if self.path.is_none() {
            return tracing::warn!("SIGHUP ignored: no policy file given (--policy)");
        }
        self.read();
        metrics::policy(self.policy.is_some());
    }

    pub fn state(&self) -> watch::Receiver<PolicyState> {
        self.state.subscribe()
    }

    fn read(&mut self) {
        let Some(path) = &self.path else { return };
        let refused = match load(path) {
            Ok((policy, text)) => {
                tracing::info!(file = %path.display(), hash = policy.hash(), "policy loaded");
                self.policy = Some((Arc::new(policy), text.into()));
                None
            }
            Err(error) => {
                let (file, problem) = (path.display().to_string(), format!("{error:#}"));
                match &self.policy {
                    Some((policy, _)) => tracing::error!(
                        file,
                        hash = policy.hash(),
                        problem,
                        "policy file refused: the policy before it stays active"
                    ),
                    None => tracing::error!(
                        file,
                        problem,
                        "policy file refused: no policy is loaded, and detections wait for a person"
                    ),
                }
                metrics::policy_refused();
                Some(Refused { at: Utc::now(), file, problem: problem.chars().take(LONGEST_PROBLEM).collect() })
            }
        };
        let hash = self.policy.as_ref().map(|(policy, _)| policy.hash().to_owned());
        self.state.send_replace(PolicyState { hash, refused });
    }
}

/// Reads and validates a policy. The error lists everything that is wrong with it.
fn load(path: &Path) -> anyhow::Result<(Policy, String)> {
    let shown = path.display();
    // Nobody may be writing into a pipe, and a device may never end: whoever reads those stands still, and all releases with them.
    let found = std::fs::metadata(path).with_context(|| format!("--policy: cannot read {shown}"))?;
    anyhow::ensure!(found.is_file(), "--policy: {shown} is no regular file");
    let text = std::fs::read_to_string(path).with_context(|| format!("--policy: cannot read {shown}"))?;
    let policy = Policy::parse(&text).map_err(|errors| {
        let list: Vec<String> = errors.iter().map(|error| format!("  {}:{error}", path.display())).collect();
        anyhow::anyhow!("the policy is not valid:\n{}", list.join("\n"))
    })?;
    for warning in policy.warnings() {
        tracing::warn!(
            line = warning.line,
            column = warning.column,
            warning = warning.message,
            "policy has a doubtful condition"
        );
    }
    Ok((policy, text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn what_never_ends_is_not_read() {
        for path in ["/dev/zero", "/proc/self"] {
            let error = super::load(Path::new(path)).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.contains("is no regular file")), "{path}");
        }
    }
}
