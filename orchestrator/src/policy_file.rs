//! The file of `serve --policy`: read at the start, on SIGHUP and when it changed; an invalid one is never taken, and keeps nobody from releasing a host.
//!
//! What decides is the policy that the log names: see `portcullis_core::machine`. This file is activated where none is, and each time that it changed.

use std::os::unix::fs::MetadataExt;
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

/// The file as it was read last, and what operators hear of it and of the policy that decides.
pub struct PolicyFile {
    path: Option<PathBuf>,
    /// The last one that was valid, with its text.
    pub policy: Option<(Arc<Policy>, Arc<str>)>,
    /// What it was when it was read, and when it was looked at last.
    read: Option<Stamp>,
    seen: Option<Stamp>,
    state: watch::Sender<PolicyState>,
}

/// Tells a file that was changed: device, inode, size, and the time of its last change in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl PolicyFile {
    /// Reads the file, if there is one.
    pub fn open(path: Option<PathBuf>) -> Self {
        let (policy, read, seen, state) = (None, None, None, watch::Sender::new(PolicyState::default()));
        let mut file = Self { path, policy, read, seen, state };
        metrics::policy(false);
        file.read();
        file
    }

    /// Reads it again. True: it is another policy.
    pub fn reload(&mut self) -> bool {
        if self.path.is_none() {
            tracing::warn!("SIGHUP ignored: no policy file given (--policy)");
        }
        self.read()
    }

    /// Reads it again where it was changed, and nobody is writing it any more. True: it is another policy.
    pub fn look(&mut self) -> bool {
        let Some(now) = self.path.as_deref().and_then(stamp) else { return false };
        let is_still = self.seen.replace(now) == Some(now);
        is_still && self.read != Some(now) && self.read()
    }

    /// Says which policy decides.
    pub fn decides(&self, hash: Option<&str>) {
        let is_new = self.state.send_if_modified(|state| {
            let is_new = state.hash.as_deref() != hash;
            state.hash = hash.map(str::to_owned);
            is_new
        });
        if is_new {
            metrics::policy(hash.is_some());
        }
    }

    /// Says what follows from the file as it was read at the start, once it is known which policy is active.
    pub fn report(&self, active: Option<&str>) {
        match (&self.path, active) {
            (None, None) => tracing::warn!("no policy is active and no file given (--policy): detections wait for a person"),
            (Some(_), None) if self.policy.is_none() => {
                tracing::error!("policy file refused: no policy is loaded, and detections wait for a person");
            }
            (Some(_), Some(hash)) if self.policy.is_none() => {
                tracing::error!(hash, "policy file refused: the policy before it stays active");
            }
            _ => {}
        }
    }

    pub fn state(&self) -> watch::Receiver<PolicyState> {
        self.state.subscribe()
    }

    fn read(&mut self) -> bool {
        let Some(path) = &self.path else { return false };
        self.read = stamp(path);
        let mut is_other = false;
        let refused = match load(path) {
            Ok((policy, text)) => {
                tracing::info!(file = %path.display(), hash = policy.hash(), "policy file read");
                is_other = self.policy.as_ref().is_none_or(|(known, _)| known.hash() != policy.hash());
                self.policy = Some((Arc::new(policy), text.into()));
                None
            }
            Err(error) => {
                let (file, problem) = (path.display().to_string(), format!("{error:#}"));
                tracing::error!(file, problem, "policy file refused: the active policy is not changed");
                metrics::policy_refused();
                Some(Refused { at: Utc::now(), file, problem: problem.chars().take(LONGEST_PROBLEM).collect() })
            }
        };
        self.state.send_modify(|state| state.refused = refused);
        is_other
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
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

    use super::PolicyFile;

    #[test]
    fn what_never_ends_is_not_read() {
        for path in ["/dev/zero", "/proc/self"] {
            let error = super::load(Path::new(path)).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.contains("is no regular file")), "{path}");
        }
    }

    #[test]
    fn a_change_is_taken_once_the_file_is_still() {
        const POLICY: &str = "version: 1\nrules: [{ name: rest, then: observe }]\n";
        let path = std::env::temp_dir().join(format!("portcullis-policy-{}.yaml", std::process::id()));
        std::fs::write(&path, POLICY).expect("a file is written");
        let mut file = PolicyFile::open(Some(path.clone()));
        assert!(!file.look() && !file.look(), "nothing was changed");
        std::fs::write(&path, format!("{POLICY}# more\n")).expect("a file is written");
        assert!(!file.look(), "somebody may be writing");
        assert!(file.look());
        assert!(!file.look() && !file.reload(), "it was taken");
        std::fs::write(&path, "version: 2\n").expect("a file is written");
        assert!(!file.look() && !file.look());
        assert!(file.state().borrow().refused.is_some());
        std::fs::remove_file(&path).expect("a file is removed");
        assert!(!file.look(), "what is gone changes nothing");
    }
}
