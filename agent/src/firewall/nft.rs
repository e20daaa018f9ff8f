//! Runs nft: a batch on its stdin, its complaints in the error, and never for longer than it may.
//!
//! Not the `nftables` crate's own helper, which loses stderr and waits for ever.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use nftables::schema::Nftables;
use portcullis_agent_core::ruleset::{self, TABLE};
use portcullis_agent_core::verify::{Listing, Object};

use super::{Firewall, FirewallError};
use crate::parallel;

/// Fixed, not $PATH: whoever sets the agent's environment should not choose what it runs as root.
const DIRECTORIES: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Nft {
    path: PathBuf,
    timeout: Duration,
}

impl Nft {
    /// Looks for nft once.
    pub fn find() -> Result<Self, FirewallError> {
        Self::find_in(&DIRECTORIES)
    }

    pub fn find_in(directories: &[&'static str]) -> Result<Self, FirewallError> {
        let found = directories.iter().map(|directory| Path::new(directory).join("nft")).find(|path| path.is_file());
        found.map(Self::at).ok_or_else(|| FirewallError::NoNft { looked_in: directories.to_vec() })
    }

    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), timeout: TIMEOUT }
    }

    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// As `nft --version` says it, as `1.0.6`.
    pub fn version(&self) -> Result<String, FirewallError> {
        let output = self.run(&["--version"], b"")?.success()?;
        let text = String::from_utf8_lossy(&output);
        Ok(text.split_whitespace().find_map(|word| word.strip_prefix('v')).unwrap_or_default().to_owned())
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Output, FirewallError> {
        let mut child = Command::new(&self.path)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| FirewallError::Spawn { path: self.path.clone(), source })?;
        converse(&mut child, input, self.timeout)
    }
}

impl Firewall for Nft {
    fn apply(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        let input = as_nft_reads_it(batch)?;
        self.run(&["-j", "-f", "-"], &input)?.success().map(drop)
    }

    fn check(&self, batch: &Nftables<'_>) -> Result<(), FirewallError> {
        let input = as_nft_reads_it(batch)?;
        self.run(&["-c", "-j", "-f", "-"], &input)?.success().map(drop)
    }

    fn stands(&self) -> Result<bool, FirewallError> {
        self.list().map(|listed| listed.is_some())
    }

    /// One run for each, at once: asked for two tables of one name, nft 1.0.6 finds the second only.
    fn list(&self) -> Result<Option<Listing>, FirewallError> {
        let (netdev, inet) = parallel::both(|| self.objects("netdev"), || self.objects("inet"));
        let objects: Vec<Object> = inet?.into_iter().chain(netdev?).collect();
        Ok((!objects.is_empty()).then_some(Listing { objects }))
    }
}

fn as_nft_reads_it(batch: &Nftables<'_>) -> Result<Vec<u8>, FirewallError> {
    ruleset::json(batch).and_then(|value| serde_json::to_vec(&value)).map_err(FirewallError::Encode)
}

impl Nft {
    /// Whether a chain of that table is listed.
    pub(super) fn shows_chain(&self, family: &str, table: &str) -> Result<bool, FirewallError> {
        let output = self.run(&["-j", "list", "table", family, table], b"")?.success()?;
        let listing = Listing::parse(&output).map_err(FirewallError::Decode)?;
        Ok(listing.objects.iter().any(|object| object.kind == "chain"))
    }

    /// What stands in our table of a family. Protocols by their numbers: their names depend on /etc/protocols.
    fn objects(&self, family: &str) -> Result<Vec<Object>, FirewallError> {
        let output = self.run(&["-j", "-p", "list", "table", family, TABLE], b"")?;
        if !output.status.success() && ABSENT.iter().any(|absent| output.stderr.contains(absent)) {
            return Ok(Vec::new());
        }
        Ok(Listing::parse(&output.success()?).map_err(FirewallError::Decode)?.objects)
    }
}

/// What nft says of a table that is not there, and of a family that this kernel does not have.
const ABSENT: [&str; 2] = ["No such file or directory", "not supported"];

struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: String,
}

impl Output {
    fn success(self) -> Result<Vec<u8>, FirewallError> {
        match self.status.success() {
            true => Ok(self.stdout),
            false => Err(FirewallError::Refused { status: self.status, stderr: self.stderr }),
        }
    }
}

/// Writes and reads at once, as each side may wait for the other with a full pipe. All ends when nft closes its ends, at the
/// latest when it is killed.
fn converse(child: &mut Child, input: &[u8], timeout: Duration) -> Result<Output, FirewallError> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (done, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let threads = || {
            // A broken pipe means that nft ended early; its exit status and stderr say why.
            beside(scope, move || stdin.map(|mut pipe| pipe.write_all(input)))?;
            let errors = beside(scope, move || read(stderr))?;
            let output = beside(scope, move || {
                let all = read(stdout);
                drop(done);
                all
            })?;
            Ok((errors, output))
        };
        let (errors, output) = match threads() {
            Ok(threads) => threads,
            // A host may be out of threads by somebody's doing.
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(FirewallError::Io(error));
            }
        };
        let in_time = ended.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected);
        if !in_time {
            child.kill().map_err(FirewallError::Io)?;
        }
        let status = child.wait().map_err(FirewallError::Io)?;
        let taken = |thread: ScopedJoinHandle<'_, io::Result<Vec<u8>>>| thread.join().unwrap_or_else(|_| Ok(Vec::new()));
        let (stdout, stderr) = (taken(output), taken(errors));
        if !in_time {
            return Err(FirewallError::TimedOut(timeout));
        }
        let stderr = String::from_utf8_lossy(&stderr.map_err(FirewallError::Io)?).trim().to_owned();
        Ok(Output { status, stdout: stdout.map_err(FirewallError::Io)?, stderr })
    })
}

fn beside<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().spawn_scoped(scope, work)
}

fn read(pipe: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut all)).map(|_| all)
}
