//! The policy's file: read at start and again on SIGHUP; an invalid one is never taken.

use std::path::Path;

use anyhow::Context as _;
use portcullis_core::policy::Policy;

/// Reads and validates a policy. The error lists everything that is wrong with it.
pub fn load(path: &Path) -> anyhow::Result<Policy> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--policy: cannot read {}", path.display()))?;
    Policy::parse(&text).map_err(|errors| {
        let list: Vec<String> = errors.iter().map(|error| format!("  {}:{error}", path.display())).collect();
        anyhow::anyhow!("the policy is not valid:\n{}", list.join("\n"))
    })
}
