//! The posture record on disk: two copies, each replaced whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
pub use portcullis_agent_core::machine::CopyName;
use portcullis_agent_core::record::{self, Copy, Fault, Record, StoredRecord};
use portcullis_schemas::HostId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A file of the agent's directory is larger only if it is none of ours.
const MOST_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub enum Written {
    Replaced,
    /// There was no space: it stands in the second copy, over what was there.
    InPlace(io::Error),
}

#[derive(Clone, Debug)]
pub struct PostureFile {
    directory: PathBuf,
}

/// Held while an agent works in the directory.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl PostureFile {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Makes the directory, for its owner only, and keeps a second agent out.
    pub fn claim(&self) -> anyhow::Result<Lock> {
        let shown = self.directory.display();
        if !self.directory.exists() {
            let mut made = DirBuilder::new();
            made.recursive(true)
                .mode(0o700)
                .create(&self.directory)
                .with_context(|| format!("--state-dir: cannot make {shown}"))?;
        }
        self.lock()
    }

    /// Keeps a second agent out of the directory that stands.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let shown = self.directory.display();
        let directory = File::open(&self.directory).with_context(|| format!("--state-dir: cannot open {shown}"))?;
        let found = directory.metadata()?;
        if !found.is_dir() {
            bail!("--state-dir: {shown} is no directory; name one, or one that can be made");
        }
        let mode = found.permissions().mode() & 0o777;
        // Not changed from here: the flag may name a directory that is somebody else's by a slip of the pen.
        if mode & 0o022 != 0 {
            bail!("{shown} has mode {mode:03o}: others could replace the posture; chmod 700 it, or give another --state-dir");
        }
        // The directory itself is locked: that needs no space, and works where nothing can be written.
        match flock(directory.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _directory: directory }),
            Err(Errno::WOULDBLOCK) => bail!("another portcullis-agent works in {shown}; stop it, or give another --state-dir"),
            Err(error) => Err(error).with_context(|| format!("cannot lock {shown}")),
        }
    }

    /// The user as whom the agent runs: the directory is its own. Before there is one, whoever asks.
    pub fn owner(&self) -> u32 {
        fs::metadata(&self.directory).map_or_else(|_| rustix::process::geteuid().as_raw(), |found| found.uid())
    }

    pub fn read(&self, me: &HostId) -> (StoredRecord, Vec<Fault>) {
        record::read(&self.copy(CopyName::A), &self.copy(CopyName::B), me)
    }

    /// Whether a copy says that the host is isolated, be it the older one.
    pub fn says_isolated(&self) -> bool {
        record::says_isolated(&self.copy(CopyName::A), &self.copy(CopyName::B))
    }

    /// Replaces one copy, durably.
    pub fn write(&self, which: CopyName, record: &Record) -> io::Result<Written> {
        let body = record::encode(record).map_err(io::Error::other)?;
        match replace(&self.path(which), &body) {
            Ok(()) => Ok(Written::Replaced),
            // On a full disk the older copy gives its own blocks: in place, while the other one stays whole.
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                match overwrite(&self.path(CopyName::B), &body) {
                    Ok(()) => Ok(Written::InPlace(error)),
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    pub fn path(&self, which: CopyName) -> PathBuf {
        self.directory.join(match which {
            CopyName::A => "posture.a",
            CopyName::B => "posture.b",
        })
    }

    /// Another file of the same directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn copy(&self, which: CopyName) -> Copy {
        let path = self.path(which);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
            Ok(found) if !found.is_file() || found.len() > MOST_BYTES => return Err("it is no posture file".to_owned()),
            Ok(_) => {}
        }
        fs::read(&path).map(Some).map_err(|error| error.to_string())
    }
}

/// Writes `path` whole or not at all: a crash leaves the old content or the new one.
pub fn replace(path: &Path, body: &[u8]) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
    };
    let mut temporary = name.to_owned();
    temporary.push(".new");
    let temporary = directory.join(temporary);
    let written = write_new(&temporary, body).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    File::open(directory)?.sync_all()
}

/// Removes `path`; one that is not there is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_new(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(body)?;
    file.sync_all()
}

fn overwrite(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(body)?;
    file.set_len(body.len() as u64)?;
    file.sync_all()
}
