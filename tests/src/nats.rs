//! A real nats-server, every message on disk before it is acknowledged, that can be killed and come back.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::place::{Folder, free_port, nats_server};
use crate::process::Process;
use crate::until::until;

pub struct Nats {
    pub port: u16,
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
        let mut nats = Self { port: free_port()?, more: more.to_owned(), folder: Folder::new("nats")?, process: None };
        nats.start_again().await?;
        Ok(nats)
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
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
            "server_name: test\nlisten: \"127.0.0.1:{}\"\nmax_payload: 256KB\njetstream {{ store_dir: \"{}\", sync_interval: always }}\n{}\n",
            self.port,
            store.display(),
            self.more,
        );
        let path = self.folder.path().join("nats.conf");
        std::fs::write(&path, text)?;
        Ok(path)
    }
}
