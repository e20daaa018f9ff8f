//! Runs iproute2's `ip`, many commands in one process.

use std::io::{ErrorKind, Write};
use std::process::{Child, Command, Stdio};

use crate::error::{Error, Result, Tried};

/// Runs `lines` in one `ip -batch`, inside `netns` or here; the first line that fails ends it.
pub(crate) fn batch(netns: Option<&str>, lines: &str) -> Result<()> {
    let mut arguments = Vec::from(netns.map_or([].as_slice(), |_| &["-netns"]));
    arguments.extend(netns);
    arguments.extend(["-batch", "-"]);
    run(&arguments, lines)
}

/// The same, but goes on after a line that fails, and fails at the end.
pub(crate) fn batch_all(lines: &str) -> Result<()> {
    run(&["-force", "-batch", "-"], lines)
}

fn run(arguments: &[&str], lines: &str) -> Result<()> {
    let mut child = spawn(arguments)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(lines.as_bytes()) {
            // It gave up before it had read everything: its own words say more.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            other => other.tried(|| "write to `ip -batch`".to_owned())?,
        }
    }
    let output = child.wait_with_output().tried(|| "wait for `ip`".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Ip { arguments: arguments.join(" "), stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

// `su` without a dash leaves /usr/sbin out of PATH, where Debian has it.
const PROGRAMS: [&str; 3] = ["ip", "/usr/sbin/ip", "/sbin/ip"];

fn spawn(arguments: &[&str]) -> Result<Child> {
    for program in PROGRAMS {
        let spawned =
            Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        match spawned {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.tried(|| format!("start `{program}`")),
        }
    }
    Err(Error::IpMissing)
}
