//! The policy's file: read at start and again on SIGHUP; an invalid one is never taken.

use std::path::Path;

use anyhow::Context as _;
use portcullis_core::policy::Policy;

/// Reads and validates a policy. The error lists everything that is wrong with it.
pub fn load(path: &Path) -> anyhow::Result<Policy> {
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
    Ok(policy)
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
