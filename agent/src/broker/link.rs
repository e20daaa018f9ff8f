//! The connection to the broker: made again whenever it is lost, by another client where the one before has ended.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{Client, ConnectOptions, HeaderMap, ServerAddr};
use bytes::Bytes;
use portcullis_agent_core::jitter;
use portcullis_schemas::envelope::CONTENT_TYPE;
use portcullis_schemas::{HostId, Prefix};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::broker::event::Event;

const PING: Duration = Duration::from_secs(10);
pub const PATIENCE: Duration = Duration::from_secs(5);
/// An agent gets an order now and then: the client's default of 65,536 buys nothing.
const CAPACITY: usize = 256;
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(4));

/// The connection, and whether it stands.
#[derive(Clone)]
pub struct Link {
    pub prefix: Prefix,
    /// A client comes back by itself when its connection is lost, but ends for good over a message whose headers it cannot read. Then another
    /// one takes its place.
    current: watch::Receiver<Client>,
    state: watch::Receiver<State>,
}

/// Counts the connections, so that a short break is a change as well, and so is a message that was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    up: bool,
    count: u64,
    /// Messages that there was no room for.
    missed: u64,
}

pub struct Settings {
    pub host: HostId,
    pub prefix: Prefix,
    pub credentials: Option<PathBuf>,
    /// May change while there is a client.
    pub servers: watch::Receiver<Vec<ServerAddr>>,
}

/// Returns at once; the connection comes when the broker does.
pub async fn connect(settings: Settings, events: mpsc::Sender<Event>) -> anyhow::Result<Link> {
    let (told, state) = watch::channel(State::default());
    let (client, ended) = make(&settings, &told, &events).await?;
    let (handed, current) = watch::channel(client);
    let prefix = settings.prefix.clone();
    tokio::spawn(replace(settings, (told, events), handed, ended));
    Ok(Link { prefix, current, state })
}

/// Ends when the client's own task does.
type Ended = oneshot::Receiver<()>;

/// Puts another client in the place of one that has ended, for as long as somebody uses them.
async fn replace(
    settings: Settings,
    (told, events): (watch::Sender<State>, mpsc::Sender<Event>),
    handed: watch::Sender<Client>,
    mut ended: Ended,
) {
    let mut count = 0;
    loop {
        tokio::select! {
            _ = &mut ended => {}
            () = handed.closed() => return,
        }
        tracing::warn!("NATS client ended: it received a message that it cannot parse, connecting with a new client");
        told.send_modify(|state| state.up = false);
        let _ = events.send(Event::Disconnected).await;
        loop {
            // Whoever writes such messages may go on with it.
            count += 1;
            sleep(jitter::back_off(&settings.host, "client", count % 8, RECONNECT.0, RECONNECT.1)).await;
            match make(&settings, &told, &events).await {
                Ok((client, next)) => {
                    ended = next;
                    handed.send_replace(client);
                    break;
                }
                Err(error) => tracing::error!(error = format!("{error:#}"), "NATS client not started: retrying"),
            }
        }
    }
}

/// A panic in the NATS client ends that client alone, which is said and mended here. Every other panic is told as usual.
pub fn quiet_client_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|location| !location.file().contains("async-nats")) {
            usual(panic);
        }
    }));
}

async fn make(settings: &Settings, told: &watch::Sender<State>, events: &mpsc::Sender<Event>) -> anyhow::Result<(Client, Ended)> {
    let (life, ended) = oneshot::channel::<()>();
    // Held by the callback, and so gone with the client's task.
    let life = Arc::new(life);
    let complaint = Arc::new(Mutex::new(String::new()));
    // Without what may be secret.
    let names: Vec<String> =
        settings.servers.borrow().iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
    let servers = Arc::new(names.join(", "));
    let (host, told, events) = (settings.host.clone(), told.clone(), events.clone());
    let mut options = ConnectOptions::new()
        .name(format!("portcullis-agent {host}"))
        .retry_on_initial_connect()
        .ignore_discovered_servers()
        .ping_interval(PING)
        .connection_timeout(PATIENCE)
        .request_timeout(Some(PATIENCE))
        .subscription_capacity(CAPACITY)
        .client_capacity(CAPACITY)
        .custom_inbox_prefix(format!("_INBOX_{host}"))
        .reconnect_delay_callback(move |attempt| jitter::back_off(&host, "reconnect", attempt as u64, RECONNECT.0, RECONNECT.1))
        .event_callback(move |event| {
            let (told, events, life) = (told.clone(), events.clone(), life.clone());
            let (complaint, servers) = (complaint.clone(), servers.clone());
            async move {
                if let Some(error) = complain(&complaint, &event) {
                    tracing::warn!(error, servers = *servers, "broker unreachable: retrying");
                }
                note(event, &told, &events).await;
                drop(life);
            }
        });
    if let Some(path) = &settings.credentials {
        options = options
            .credentials_file(path)
            .await
            .with_context(|| format!("cannot read the credentials in {}; check --creds", path.display()))?;
    }
    let servers = settings.servers.borrow().clone();
    let client = options.connect(servers).await.context("cannot start the NATS client")?;
    Ok((client, ended))
}

/// What the client says of itself, where that is not what it said last: each attempt to connect fails in the same words.
fn complain(said: &Mutex<String>, event: &async_nats::Event) -> Option<String> {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        async_nats::Event::Connected => said.clear(),
        async_nats::Event::ClientError(error) if *said != error.to_string() => {
            *said = error.to_string();
            return Some(said.clone());
        }
        _ => {}
    }
    None
}

async fn note(event: async_nats::Event, told: &watch::Sender<State>, events: &mpsc::Sender<Event>) {
    match event {
        async_nats::Event::Connected => {
            told.send_modify(|state| *state = State { up: true, count: state.count + 1, ..*state });
            let _ = events.send(Event::Connected).await;
        }
        async_nats::Event::Disconnected | async_nats::Event::Closed => {
            told.send_modify(|state| state.up = false);
            let _ = events.send(Event::Disconnected).await;
        }
        async_nats::Event::ServerError(error) => {
            tracing::warn!(%error, "broker refused an operation: check this agent's credentials and permissions")
        }
        async_nats::Event::ClientError(_) => {}
        async_nats::Event::SlowConsumer(_) => {
            told.send_modify(|state| state.missed += 1);
            tracing::warn!("orders dropped, they came faster than they were read: the last one is read from the log")
        }
        other => tracing::info!(event = %other, "NATS client event"),
    }
}

impl Link {
    /// The client that stands now. Not to be kept: it may be replaced.
    pub fn client(&self) -> Client {
        self.current.borrow().clone()
    }

    pub fn is_up(&self) -> bool {
        self.state.borrow().up
    }

    /// Tells the client where the brokers are now; it uses that when it connects again. Only while there is a connection: a client that looks
    /// for one hears nothing.
    pub async fn move_to(&self, servers: Vec<ServerAddr>) -> anyhow::Result<()> {
        timeout(PATIENCE, self.client().set_server_pool(servers)).await.context("the client does not answer")??;
        Ok(())
    }

    /// Waits until there is a connection.
    pub async fn up(&mut self) {
        if self.state.wait_for(|state| state.up).await.is_err() {
            // Nobody makes clients any more, which happens only as the process ends.
            std::future::pending::<()>().await;
        }
    }

    /// Waits for a connection that is made or lost, or for a message that was lost.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Headers of everything that the agent sends.
pub fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    headers
}

/// Has the client connect again, to the next server, whenever that is asked for.
pub async fn move_on(link: Link, asked: Arc<Notify>) {
    loop {
        asked.notified().await;
        if let Err(error) = link.client().force_reconnect().await {
            tracing::warn!(%error, "NATS client not moved to the next broker");
        }
    }
}

/// Publishes into a stream and waits until it is stored.
pub async fn store(link: &Link, subject: String, body: Bytes) -> anyhow::Result<()> {
    let context = async_nats::jetstream::new(link.client());
    let sent = context.publish_with_headers(subject, headers(), body);
    let acknowledged = timeout(PATIENCE, async { sent.await?.await }).await.context("no acknowledgement in time")?;
    acknowledged?;
    Ok(())
}
