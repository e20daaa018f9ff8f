//! The connections to the broker: one that publishes and asks, and one for each reader.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::client::FlushErrorKind;
use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerAddr, jetstream};
use tokio::sync::watch;

use crate::error::chain;

/// A broker that is back within this time is reported away and back, and nothing else.
const A_MOMENT: Duration = Duration::from_secs(2);

/// The connections of one process notice within this time that their broker is away.
const NOTICE: Duration = Duration::from_millis(500);

/// How long the broker is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one server to take the connection.
    pub connect: Duration,
    pub answer: Duration,
    /// For the acknowledgement of what is published.
    pub ack: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    // The text may hold a password, so it is not repeated.
    #[error("--nats holds what is no NATS URL; write nats://HOST:4222, several by commas")]
    Addresses,
    #[error("--creds: {} is no NATS credentials file", path.display())]
    Credentials { path: PathBuf, source: std::io::Error },
    #[error("the broker refuses these credentials: {0}")]
    Denied(String),
    #[error("no TLS with the broker: {0}")]
    Tls(String),
    #[error("connection to {0} closed before it was established")]
    Closed(String),
    #[error("{0}")]
    Other(String),
}

/// How to reach the broker, for as many connections as it takes.
#[derive(Clone, Debug)]
pub struct Servers {
    addresses: Vec<ServerAddr>,
    credentials: Option<PathBuf>,
    /// What the connections are called in the broker's monitoring.
    name: &'static str,
    patience: Patience,
}

impl Servers {
    /// `urls`: one URL or several, by commas.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Addresses`].
    pub fn parse(urls: &str, credentials: Option<PathBuf>, name: &'static str, patience: Patience) -> Result<Self, ConnectError> {
        let addresses: Result<Vec<ServerAddr>, _> =
            urls.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::parse).collect();
        match addresses {
            Ok(addresses) if !addresses.is_empty() => Ok(Self { addresses, credentials, name, patience }),
            _ => Err(ConnectError::Addresses),
        }
    }

    /// The servers without what may be secret.
    pub fn shown(&self) -> String {
        let names: Vec<String> = self.addresses.iter().map(|a| format!("{}://{}:{}", a.scheme(), a.host(), a.port())).collect();
        names.join(", ")
    }

    pub(crate) fn answer(&self) -> Duration {
        self.patience.answer
    }

    async fn connect(&self, options: ConnectOptions) -> Result<async_nats::Client, ConnectError> {
        options.connect(&self.addresses[..]).await.map_err(|error| match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => ConnectError::Denied(chain(&error)),
            ConnectErrorKind::Tls => ConnectError::Tls(chain(&error)),
            _ => ConnectError::Other(chain(&error)),
        })
    }

    async fn options(&self) -> Result<ConnectOptions, ConnectError> {
        let options = ConnectOptions::new()
            .name(self.name)
            .ignore_discovered_servers()
            .ping_interval(Duration::from_secs(10))
            .connection_timeout(self.patience.connect)
            .request_timeout(Some(self.patience.answer))
            .reconnect_delay_callback(|attempt| Duration::from_millis((20 << attempt.min(6)) as u64));
        match &self.credentials {
            Some(path) => {
                options.credentials_file(path).await.map_err(|source| ConnectError::Credentials { path: path.clone(), source })
            }
            None => Ok(options),
        }
    }

    fn context(&self, client: &async_nats::Client) -> jetstream::Context {
        jetstream::context::ContextBuilder::new()
            .timeout(self.patience.answer)
            .ack_timeout(self.patience.ack)
            .build(client.clone())
    }
}

/// Whether the publishing connection is up, and how often it was lost before.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    connected: bool,
    losses: u64,
}

/// What a connection tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    Up,
    Lost,
    /// The server's complaint. A denial arrives in this way only; the call itself just times out.
    Complaint(String),
}

/// The connection that publishes and asks the API. It comes back by itself, and never gets what others wrote, so that nobody can end it.
#[derive(Clone)]
pub struct Broker {
    pub(crate) servers: Servers,
    pub(crate) client: async_nats::Client,
    pub(crate) context: jetstream::Context,
    connected: watch::Receiver<bool>,
    /// How often it was lost.
    losses: watch::Receiver<u64>,
}

impl Broker {
    /// Connects, and waits for the first connection for as long as it takes: whoever starts first, it works out.
    ///
    /// # Errors
    ///
    /// Where waiting would not help.
    pub async fn connect(servers: Servers) -> Result<Self, ConnectError> {
        let shown = servers.shown();
        let reported = Mutex::new(Reported::default());
        let named = shown.clone();
        let broker = Self::open(servers, true, move |event| note(event, &reported, &named)).await?;
        let mut first = broker.connected.clone();
        if first.wait_for(|up| *up).await.is_err() {
            return Err(ConnectError::Closed(shown));
        }
        Ok(broker)
    }

    /// Connects once. `hear` is called with what becomes of the connection from then on.
    ///
    /// # Errors
    ///
    /// Where no server takes the connection.
    pub async fn connect_once(servers: Servers, hear: impl Fn(Link) + Send + Sync + 'static) -> Result<Self, ConnectError> {
        let hear = move |event: &Event| match event {
            Event::Connected => hear(Link::Up),
            Event::Disconnected => hear(Link::Lost),
            Event::ServerError(error) => hear(Link::Complaint(error.to_string())),
            _ => {}
        };
        Self::open(servers, false, hear).await
    }

    async fn open(servers: Servers, waits: bool, hear: impl Fn(&Event) + Send + Sync + 'static) -> Result<Self, ConnectError> {
        let (connected, seen) = watch::channel(false);
        let (lost, losses) = watch::channel(0);
        let options = servers.options().await?;
        let options = if waits { options.retry_on_initial_connect() } else { options };
        let options = options.event_callback(move |event| {
            match event {
                Event::Connected => drop(connected.send_replace(true)),
                Event::Disconnected | Event::Closed => {
                    lost.send_modify(|times| *times += 1);
                    connected.send_replace(false);
                }
                _ => {}
            }
            hear(&event);
            std::future::ready(())
        });
        let client = servers.connect(options).await?;
        Ok(Self { context: servers.context(&client), servers, client, connected: seen, losses })
    }

    /// Where it is, for people: without what may be secret.
    pub fn shown(&self) -> String {
        self.servers.shown()
    }

    /// How to open further connections.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Whether the connection is up, as it changes.
    pub fn link(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// The connection as it is now, for [`Broker::note_end`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { connected: *self.connected.borrow(), losses: *self.losses.borrow() }
    }

    /// Logs that a connection for reading, opened after `before`, ended by itself. With the broker away all of them end, which is logged once,
    /// by this connection; it may notice a moment later.
    pub fn note_end(&self, before: Snapshot, reader: &'static str, error: &anyhow::Error) {
        let (error, mut losses) = (format!("{error:#}"), self.losses.clone());
        tokio::spawn(async move {
            let lost = async { before.connected && losses.wait_for(|times| *times != before.losses).await.is_ok() };
            match tokio::time::timeout(NOTICE, lost).await {
                Err(_) => tracing::warn!(reader, error, "reading connection ended: connecting again"),
                Ok(_) => tracing::debug!(reader, error, "reading connection ended with the broker away"),
            }
        });
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

    /// Waits until the connection is up. While it is not, no other one will be.
    pub async fn up(&self) {
        let mut connected = self.connected.clone();
        let _ = connected.wait_for(|up| *up).await;
    }

    /// Waits until the client is of no more use: its own task has ended, as it does on a message that it cannot read. A connection that is lost
    /// comes back by itself; this does not, so the process must end and be started again.
    pub async fn gone(&self) -> anyhow::Error {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), self.client.flush()).await
                && error.kind() == FlushErrorKind::SendError
            {
                return anyhow::anyhow!("the NATS client ended on something that it could not read; start again");
            }
        }
    }
}

/// A connection that reads what others wrote. A malformed header there ends it, whole and for good (the client's parser gives up, or its
/// task panics), so nothing else goes over it, and whoever reads looks at the message by the API and opens another one.
pub(crate) struct Inlet {
    pub client: async_nats::Client,
    pub context: jetstream::Context,
    alive: watch::Receiver<bool>,
}

impl Inlet {
    /// Connects once; an error passes.
    pub async fn open(servers: &Servers) -> Result<Self, ConnectError> {
        let (ended, alive) = watch::channel(true);
        let options = servers.options().await?.max_reconnects(Some(1)).event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed) {
                ended.send_replace(false);
            }
            std::future::ready(())
        });
        let client = servers.connect(options).await?;
        Ok(Self { context: servers.context(&client), client, alive })
    }

    /// Waits until it is of no more use. At once: the sender in the callback goes with the client's task.
    pub async fn ended(&self) {
        let mut alive = self.alive.clone();
        let _ = alive.wait_for(|alive| !alive).await;
    }
}

/// A panic in the NATS client ends one connection, which is opened again and logged there. Every other panic is reported as usual.
pub fn quiet_client_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|location| !location.file().contains("async-nats")) {
            usual(panic);
        }
    }));
}

/// What was logged of a connection that is away.
#[derive(Default)]
struct Reported {
    up: bool,
    complaint: String,
    lost_at: Option<Instant>,
}

fn note(event: &Event, reported: &Mutex<Reported>, servers: &str) {
    let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        Event::Connected => {
            *reported = Reported { up: true, ..Reported::default() };
            tracing::info!(servers, "broker connected");
        }
        Event::Disconnected | Event::Closed => {
            if std::mem::take(&mut reported.up) {
                reported.lost_at = Some(Instant::now());
                tracing::warn!(servers, "broker unreachable: reconnecting");
            }
        }
        // Each attempt to connect fails in the same words: they are logged once, and not for a broker that is away for a moment.
        Event::ClientError(error) if reported.complaint == error.to_string() => {}
        Event::ClientError(error) if reported.lost_at.is_some_and(|lost| lost.elapsed() < A_MOMENT) => {
            tracing::debug!(%error, servers, "broker unreachable: retrying");
        }
        Event::ClientError(error) => {
            reported.complaint = error.to_string();
            tracing::warn!(%error, servers, "the broker is not reached: retrying until it is (--nats, PORTCULLIS_NATS)");
        }
        event => tracing::warn!(%event, servers, "broker reported an event"),
    }
}
