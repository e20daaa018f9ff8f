//! Places: programs that were built, folders that go away, ports that are free.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};

/// A program of this workspace, as built beside the test that runs.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where is this test?")?;
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: run `cargo build --workspace` first, or ./deploy/test, which does"))
}

/// The nats-server: PORTCULLIS_NATS_SERVER, or the first on PATH.
pub fn nats_server() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("PORTCULLIS_NATS_SERVER") {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|path| path.is_file());
    match found {
        Some(found) => Ok(found),
        None => bail!("no nats-server on PATH: run ./deploy/test, which fetches one, or name it in PORTCULLIS_NATS_SERVER"),
    }
}

/// A number that no other test of this run, nor of another one that still lives, has.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A folder of its own under the system's temporary one, removed when it is dropped, unless PORTCULLIS_KEEP is set.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(what: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("portcullis-{what}-{}", unique()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::env::var_os("PORTCULLIS_KEEP").is_none() && !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A port on 127.0.0.1 that was free a moment ago, and that this process gives once: a broker that was killed, or is about to begin, keeps its own.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return Ok(port);
        }
    }
}
