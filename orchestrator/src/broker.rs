//! The connection to the broker.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::client::FlushErrorKind;
use async_nats::{ConnectOptions, Event, ServerAddr, jetstream};
use tokio::sync::watch;

/// A broker that is back within this time is reported away and back, and nothing else.
const A_MOMENT: Duration = Duration::from_secs(2);

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// One URL or several, by commas.
    pub urls: String,
    pub credentials: Option<PathBuf>,
    pub name: &'static str,
}

/// The connection that publishes and asks the API. It comes back by itself, and never gets what others wrote, so that nobody can end it.
#[derive(Clone)]
pub struct Broker {
    pub config: BrokerConfig,
    /// For people: where it is, without what may be secret.
    pub servers: String,
    pub client: async_nats::Client,
    pub context: jetstream::Context,
    pub connected: watch::Receiver<bool>,
    /// How often it was lost.
    losses: watch::Receiver<u64>,
}

impl Broker {
    /// How often the connection was lost up to now.
    pub fn losses(&self) -> u64 {
        *self.losses.borrow()
    }

    /// Says that a connection for reading ended, by itself: with the broker away all of them end, which is said once.
    pub fn note_end(&self, losses_before: u64, reader: &str, error: &anyhow::Error) {
        let error = format!("{error:#}");
        if *self.connected.borrow() && self.losses() == losses_before {
            tracing::warn!(reader, error, "reading connection ended: connecting again");
        } else {
            tracing::debug!(reader, error, "reading connection ended with the broker away");
        }
    }

    /// Does what needs the connection. None where it is away, or is lost meanwhile: an answer that was on its way never comes.
    pub async fn connected<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let (mut losses, mut connected) = (self.losses.clone(), self.connected.clone());
        losses.borrow_and_update();
        if !*connected.borrow_and_update() {
            return None;
        }
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = losses.changed() => None,
        }
    }

    /// Waits until the connection stands. While it does not, no other one will.
    pub async fn up(&self) {
        let mut connected = self.connected.clone();
        let _ = connected.wait_for(|up| *up).await;
    }
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

/// A connection that reads what others wrote. A malformed header there ends it, whole and for good (the client's parser gives up, or its
/// task panics), so nothing else goes over it, and whoever reads looks at the message by the API and opens another one.
pub struct Inlet {
    pub client: async_nats::Client,
    pub context: jetstream::Context,
    alive: watch::Receiver<bool>,
}

impl Inlet {
    /// Connects once; an error passes.
    pub async fn open(config: &BrokerConfig) -> anyhow::Result<Self> {
        let (told, alive) = watch::channel(true);
        let options = options(config).await?.max_reconnects(Some(1)).event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed) {
                told.send_replace(false);
            }
            std::future::ready(())
        });
        let client = options.connect(&addresses(config)?[..]).await.context("no connection for reading")?;
        Ok(Self { context: context(&client), client, alive })
    }

    /// Waits until it is of no more use. At once: the sender in the callback goes with the client's task.
    pub async fn ended(&self) {
        let mut alive = self.alive.clone();
        let _ = alive.wait_for(|alive| !alive).await;
    }
}

/// Connects, and waits for the first connection for as long as it takes: whoever starts first, it works out.
pub async fn connect(config: &BrokerConfig) -> anyhow::Result<Broker> {
    let (connected, seen) = watch::channel(false);
    let (lost, losses) = watch::channel(0);
    let addresses = addresses(config)?;
    let servers = shown(&addresses);
    let said = Arc::new(Mutex::new(Said::default()));
    let told = servers.clone();
    let options = options(config).await?.retry_on_initial_connect().event_callback(move |event| {
        note(&event, &connected, &lost, &said, &told);
        std::future::ready(())
    });
    let client = options.connect(&addresses[..]).await.with_context(|| format!("cannot connect to {servers}"))?;
    let mut first = seen.clone();
    if first.wait_for(|up| *up).await.is_err() {
        anyhow::bail!("the connection to {servers} was closed before it stood");
    }
    Ok(Broker { config: config.clone(), servers, context: context(&client), client, connected: seen, losses })
}

/// What was said of a connection that is away.
#[derive(Default)]
struct Said {
    complaint: String,
    lost_at: Option<Instant>,
}

fn note(event: &Event, connected: &watch::Sender<bool>, lost: &watch::Sender<u64>, said: &Mutex<Said>, servers: &str) {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Event::Connected => {
            connected.send_replace(true);
            *said = Said::default();
            tracing::info!(servers, "broker connected");
        }
        Event::Disconnected | Event::Closed => {
            lost.send_modify(|times| *times += 1);
            if connected.send_replace(false) {
                said.lost_at = Some(Instant::now());
                tracing::warn!(servers, "broker unreachable: reconnecting");
            }
        }
        // Each attempt to connect fails in the same words: they are said once, and not for one that is away for a moment.
        Event::ClientError(error) if said.complaint == error.to_string() => {}
        Event::ClientError(error) if said.lost_at.is_some_and(|lost| lost.elapsed() < A_MOMENT) => {
            tracing::debug!(%error, servers, "reconnecting failed");
        }
        Event::ClientError(error) => {
            said.complaint = error.to_string();
            tracing::warn!(%error, servers, "the broker is not reached: retrying until it is (--nats, PORTCULLIS_NATS)");
        }
        event => tracing::warn!(%event, "broker"),
    }
}

fn addresses(config: &BrokerConfig) -> anyhow::Result<Vec<ServerAddr>> {
    // The text may hold a password, so it is not repeated.
    let address =
        |url: &str| url.trim().parse().context("--nats holds what is no NATS URL; write nats://HOST:4222, several by commas");
    config.urls.split(',').map(address).collect()
}

/// The servers without what may be secret.
fn shown(addresses: &[ServerAddr]) -> String {
    let names: Vec<String> = addresses.iter().map(|a| format!("{}://{}:{}", a.scheme(), a.host(), a.port())).collect();
    names.join(", ")
}

async fn options(config: &BrokerConfig) -> anyhow::Result<ConnectOptions> {
    let options = ConnectOptions::new()
        .name(config.name)
        .ignore_discovered_servers()
        .ping_interval(Duration::from_secs(10))
        .request_timeout(Some(Duration::from_secs(5)))
        .reconnect_delay_callback(|attempt| Duration::from_millis((20 << attempt.min(6)) as u64));
    match &config.credentials {
        Some(path) => options
            .credentials_file(path)
            .await
            .with_context(|| format!("--creds: {} is no NATS credentials file", path.display())),
        None => Ok(options),
    }
}

fn context(client: &async_nats::Client) -> jetstream::Context {
    jetstream::context::ContextBuilder::new()
        .timeout(Duration::from_secs(5))
        .ack_timeout(Duration::from_secs(2))
        .build(client.clone())
}
