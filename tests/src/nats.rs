//! A real nats-server, every message on disk before it is acknowledged, that can be killed and come back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;

use crate::place::{Folder, free_port, nats_server};
use crate::process::Process;
use crate::until::until;

pub struct Nats {
    pub port: u16,
    /// Its own name among those of a cluster.
    pub name: String,
    /// More of its configuration.
    more: String,
    folder: Folder,
    process: Option<Process>,
}

impl Nats {
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with("").await
    }

    /// With more in its configuration.
    pub async fn start_with(more: &str) -> anyhow::Result<Self> {
        let mut nats = Self::new("test", more.to_owned())?;
        nats.start_again().await?;
        Ok(nats)
    }

    /// So many servers on loopback, with routes to one another: a cluster.
    pub async fn start_cluster(size: usize) -> anyhow::Result<Vec<Self>> {
        let ports: Vec<u16> = (0..size).map(|_| free_port()).collect::<Result<_, _>>()?;
        let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let mut servers = Vec::new();
        for (n, port) in ports.iter().enumerate() {
            let more = format!("cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{}] }}", routes.join(", "));
            let mut server = Self::new(&format!("n{n}"), more)?;
            server.start_again().await?;
            servers.push(server);
        }
        Ok(servers)
    }

    fn new(name: &str, more: String) -> anyhow::Result<Self> {
        Ok(Self { port: free_port()?, name: name.to_owned(), more, folder: Folder::new("nats")?, process: None })
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// To its process: SIGSTOP makes it a server that nobody reaches, and that knows nothing of it.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.as_ref().context("the server runs")?.signal(signal)
    }

    pub fn kill9(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill9()?;
        }
        Ok(())
    }

    /// Deletes all that it has stored; to be killed first.
    pub fn lose(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(self.folder.path().join("streams"))?)
    }

    /// Deletes a stream; to be killed first.
    pub fn lose_stream(&self, name: &str) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(self.stream(name))?)
    }

    /// Keeps a copy of a stream as it is now; to be killed first.
    pub fn copy_stream(&self, name: &str) -> anyhow::Result<()> {
        copy(&self.stream(name), &self.folder.path().join("copy"))
    }

    /// Puts that copy in the place of the stream; to be killed first.
    pub fn restore_stream(&self, name: &str) -> anyhow::Result<()> {
        self.lose_stream(name)?;
        copy(&self.folder.path().join("copy"), &self.stream(name))
    }

    fn stream(&self, name: &str) -> PathBuf {
        self.folder.path().join("streams/jetstream/$G/streams").join(name)
    }

    /// Starts it on what it had stored, and returns when it takes connections.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let config = self.config()?;
        let mut command = Command::new(nats_server()?);
        command.arg("--config").arg(config);
        self.process = Some(Process::start(&mut command, &self.folder.path().join("log"))?);
        let address = format!("127.0.0.1:{}", self.port);
        until("nats-server takes connections", Duration::from_secs(20), || async {
            Ok(tokio::net::TcpStream::connect(&address).await.ok())
        })
        .await?;
        Ok(())
    }

    fn config(&self) -> anyhow::Result<PathBuf> {
        let store = self.folder.path().join("streams");
        let text = format!(
            "server_name: {}\nlisten: \"127.0.0.1:{}\"\nmax_payload: 256KB\njetstream {{ store_dir: \"{}\", sync_interval: always }}\n{}\n",
            self.name,
            self.port,
            store.display(),
            self.more,
        );
        let path = self.folder.path().join("nats.conf");
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let done = Command::new("cp").arg("-a").args([from, to]).status()?;
    anyhow::ensure!(done.success(), "{} was not copied", from.display());
    Ok(())
}
