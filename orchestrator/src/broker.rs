//! The connection to the broker.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::client::FlushErrorKind;
use async_nats::{ConnectOptions, Event, ServerAddr, jetstream};
use tokio::sync::watch;

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// One URL or several, by commas.
    pub urls: String,
    pub credentials: Option<PathBuf>,
    pub name: &'static str,
}

/// A connection that comes back by itself, and whether it stands.
pub struct Broker {
    pub client: async_nats::Client,
    pub context: jetstream::Context,
    pub connected: watch::Receiver<bool>,
}

/// Waits until the client is of no more use: its own task has ended, as it does on a message that it cannot read. A connection that is lost comes
/// back by itself; this does not, so the process must end and be started again.
pub async fn gone(client: async_nats::Client) -> anyhow::Error {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), client.flush()).await
            && error.kind() == FlushErrorKind::SendError
        {
            return anyhow::anyhow!("the NATS client ended on something that it could not read; start again");
        }
    }
}

/// Connects, and waits for the first connection for as long as it takes: whoever starts first, it works out.
pub async fn connect(config: &BrokerConfig) -> anyhow::Result<Broker> {
    let urls: Vec<ServerAddr> = config
        .urls
        .split(',')
        .map(|url| {
            url.trim()
                .parse()
                .with_context(|| format!("--nats: {url:?} is no NATS URL; write nats://HOST:4222, several by commas"))
        })
        .collect::<anyhow::Result<_>>()?;
    let (connected, seen) = watch::channel(false);
    let mut options = ConnectOptions::new()
        .name(config.name)
        .retry_on_initial_connect()
        .ignore_discovered_servers()
        .ping_interval(Duration::from_secs(10))
        .request_timeout(Some(Duration::from_secs(5)))
        .reconnect_delay_callback(|attempt| Duration::from_millis((20 << attempt.min(6)) as u64))
        .event_callback(move |event| {
            let connected = connected.clone();
            async move {
                match event {
                    Event::Connected => {
                        connected.send_replace(true);
                        tracing::info!("connected to the broker");
                    }
                    Event::Disconnected | Event::Closed => {
                        connected.send_replace(false);
                        tracing::warn!("the broker is away");
                    }
                    event => tracing::warn!(%event, "broker"),
                }
            }
        });
    if let Some(path) = &config.credentials {
        options = options
            .credentials_file(path)
            .await
            .with_context(|| format!("--creds: {} is no NATS credentials file", path.display()))?;
    }
    let client = options.connect(&urls[..]).await.with_context(|| format!("cannot connect to {}", config.urls))?;
    let mut first = seen.clone();
    if first.wait_for(|up| *up).await.is_err() {
        anyhow::bail!("the connection to {} was closed before it stood", config.urls);
    }
    let context = jetstream::context::ContextBuilder::new()
        .timeout(Duration::from_secs(5))
        .ack_timeout(Duration::from_secs(2))
        .build(client.clone());
    Ok(Broker { client, context, connected: seen })
}
