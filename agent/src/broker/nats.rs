//! The way to the broker: hears live orders, reads the last one, and never listens where orders are not stored yet.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::stream::DirectGetErrorKind;
use async_nats::{Client, ConnectOptions, HeaderMap, ServerAddr};
use bytes::Bytes;
use futures_util::StreamExt;
use portcullis_agent_core::deadline::Anchor;
use portcullis_agent_core::jitter;
use portcullis_schemas::envelope::{self, CONTENT_TYPE};
use portcullis_schemas::events::{Order, Posture};
use portcullis_schemas::{HostId, Prefix, Stream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::broker::heartbeat::Snapshot;
use crate::broker::waiting::Waiting;
use crate::broker::{leader, relay};
use crate::control::input::{Input, Reached, Received};
use crate::host::clock;

const PING: Duration = Duration::from_secs(10);
pub const PATIENCE: Duration = Duration::from_secs(5);
/// An agent gets an order now and then: the client's default of 65,536 buys nothing.
const CAPACITY: usize = 256;
/// When the broker stored what it hands on.
const TIME_STAMP: &str = "Nats-Time-Stamp";
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
pub async fn connect(settings: Settings, inputs: mpsc::Sender<Input>) -> anyhow::Result<Link> {
    let (told, state) = watch::channel(State::default());
    let (client, ended) = make(&settings, &told, &inputs).await?;
    let (handed, current) = watch::channel(client);
    let prefix = settings.prefix.clone();
    tokio::spawn(replace(settings, (told, inputs), handed, ended));
    Ok(Link { prefix, current, state })
}

/// Ends when the client's own task does.
type Ended = oneshot::Receiver<()>;

/// Puts another client in the place of one that has ended, for as long as somebody uses them.
async fn replace(
    settings: Settings,
    (told, inputs): (watch::Sender<State>, mpsc::Sender<Input>),
    handed: watch::Sender<Client>,
    mut ended: Ended,
) {
    let mut count = 0;
    loop {
        tokio::select! {
            _ = &mut ended => {}
            () = handed.closed() => return,
        }
        tracing::warn!("the NATS client ended over something that it could not read; another one takes its place");
        told.send_modify(|state| state.up = false);
        let _ = inputs.send(Input::Disconnected).await;
        loop {
            // Whoever writes such messages may go on with it.
            count += 1;
            sleep(jitter::back_off(&settings.host, "client", count % 8, RECONNECT.0, RECONNECT.1)).await;
            match make(&settings, &told, &inputs).await {
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

async fn make(settings: &Settings, told: &watch::Sender<State>, inputs: &mpsc::Sender<Input>) -> anyhow::Result<(Client, Ended)> {
    let (life, ended) = oneshot::channel::<()>();
    // Held by the callback, and so gone with the client's task.
    let life = Arc::new(life);
    let complaint = Arc::new(Mutex::new(String::new()));
    // Without what may be secret.
    let names: Vec<String> =
        settings.servers.borrow().iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
    let servers = Arc::new(names.join(", "));
    let (host, told, inputs) = (settings.host.clone(), told.clone(), inputs.clone());
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
            let (told, inputs, life) = (told.clone(), inputs.clone(), life.clone());
            let (complaint, servers) = (complaint.clone(), servers.clone());
            async move {
                if let Some(error) = complain(&complaint, &event) {
                    tracing::warn!(error, servers = *servers, "the broker is not reached; trying again until it is");
                }
                note(event, &told, &inputs).await;
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

async fn note(event: async_nats::Event, told: &watch::Sender<State>, inputs: &mpsc::Sender<Input>) {
    use async_nats::Event;
    match event {
        Event::Connected => {
            told.send_modify(|state| *state = State { up: true, count: state.count + 1, ..*state });
            let _ = inputs.send(Input::Connected).await;
        }
        Event::Disconnected | Event::Closed => {
            told.send_modify(|state| state.up = false);
            let _ = inputs.send(Input::Disconnected).await;
        }
        Event::ServerError(error) => {
            tracing::warn!(%error, "the broker refuses something; check this agent's credentials and permissions")
        }
        Event::ClientError(_) => {}
        Event::SlowConsumer(_) => {
            told.send_modify(|state| state.missed += 1);
            tracing::warn!("orders came faster than they were read; the last one is read again from the log")
        }
        other => tracing::info!("the broker says: {other}"),
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
            tracing::warn!(%error, "the NATS client cannot be made to connect again");
        }
    }
}

/// Hears orders and reads the last one, until the process ends. Subscribe, flush, then get: an order that is stored in between
/// comes by one way or the other. `seen`: what this host has taken.
pub async fn ingress(host: HostId, link: Link, seen: watch::Receiver<Snapshot>, orders: Waiting, inputs: mpsc::Sender<Input>) {
    let subject = link.prefix.live(&host);
    loop {
        match link.client().subscribe(subject.clone()).await {
            Ok(subscription) => {
                let listening = listen(&host, subscription, &orders);
                let reading = poll(&host, link.clone(), &seen, &orders, &inputs);
                tokio::select! {
                    () = listening => tracing::warn!("the subscription to live orders ended; subscribing again"),
                    () = reading => return,
                }
            }
            Err(error) => tracing::warn!(%error, subject, "live orders not subscribed: retrying"),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn listen(host: &HostId, mut subscription: async_nats::Subscriber, orders: &Waiting) {
    while let Some(message) = subscription.next().await {
        let headers = pairs(message.headers);
        // It was stored a moment ago.
        let stored =
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(TIME_STAMP)).and_then(|(_, text)| text.parse().ok());
        let anchor = stored.map(|broker| Anchor { broker, boot_ms: clock::boot_ms() });
        let received = Received { subject: message.subject.to_string(), headers, body: message.payload, anchor };
        orders.put(host, received);
    }
}

/// Reads the last order at once on each connection, again after 2 s, since followers of a replicated stream answer stale now and
/// then, and from then on every 30 to 60 s.
async fn poll(host: &HostId, mut link: Link, seen: &watch::Receiver<Snapshot>, orders: &Waiting, inputs: &mpsc::Sender<Input>) {
    let stream = link.prefix.stream(Stream::Orders);
    let subject = link.prefix.of(Stream::Orders, host.as_str());
    let mut complained = String::new();
    let mut reads = 0u64;
    loop {
        link.up().await;
        if inputs.send(Input::Reached(reached(&link).await)).await.is_err() {
            return;
        }
        let mut is_behind = false;
        for since_connected in 0u64.. {
            let mut ends = None;
            let result = read_last(&link, &stream, &subject).await;
            match result {
                Ok(Some(mut received)) => {
                    complained.clear();
                    let (last, taken) = (order(&received), seen.borrow().generation);
                    ends = last.as_ref().map(|order| order.generation);
                    if last.is_some_and(|order| may_have_expired(&order, taken)) {
                        match leader::time(&link).await {
                            Ok(anchor) => received.anchor = Some(anchor),
                            Err(error) => tracing::warn!(error = format!("{error:#}"), "cannot ask the broker for its time"),
                        }
                    }
                    orders.put(host, received);
                }
                Ok(None) => {
                    complained.clear();
                    ends = Some(0);
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    if text != complained {
                        tracing::warn!(error = text, stream, "last order not read: the posture in force is kept, will retry");
                        complained = text;
                    }
                }
            }
            // A log that has lost orders has them again when the orchestrator knows of them.
            if let Some(generation) = ends {
                let behind = generation < seen.borrow().generation;
                if behind && !is_behind && inputs.send(Input::LogEnds(generation)).await.is_err() {
                    return;
                }
                is_behind = behind;
            }
            reads += 1;
            let seconds = Duration::from_secs;
            let pause = match since_connected {
                0 => jitter::between(host, "read", reads, seconds(2), seconds(4)),
                _ if !complained.is_empty() => jitter::between(host, "read", reads, seconds(4), seconds(8)),
                _ => jitter::between(host, "read", reads, seconds(30), seconds(60)),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = link.changed() => break,
            }
        }
    }
}

/// Where the connection ends, and where that is on this host, which servers keep the log of orders.
async fn reached(link: &Link) -> Option<Reached> {
    let end = relay::look().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look whether the connection to the broker ends on this host");
        None
    })?;
    let server = leader::server(link).await;
    let server =
        server.inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "cannot ask which server leads the orders"));
    Some(Reached { broker: end.broker, server: server.ok() })
}

/// Whether an order is one that is not taken yet and is not to be taken after its time. One that is heard live comes with the broker's time.
fn may_have_expired(order: &Order, taken: u64) -> bool {
    order.generation > taken && order.posture == Posture::Isolated && order.expires_at.is_some()
}

fn order(received: &Received) -> Option<Order> {
    let headers = received.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    envelope::decode::<Order>(headers, &received.body).ok().map(|event| event.data)
}

async fn read_last(link: &Link, stream: &str, subject: &str) -> anyhow::Result<Option<Received>> {
    let client = link.client();
    timeout(PATIENCE, client.flush()).await.context("the broker does not answer")??;
    let stream = async_nats::jetstream::new(client).get_stream_no_info(stream).await?;
    let message =
        match timeout(PATIENCE, stream.direct_get_last_for_subject(subject)).await.context("the broker does not answer")? {
            Ok(message) => message,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
    Ok(Some(Received {
        subject: message.subject.to_string(),
        headers: pairs(Some(message.headers)),
        body: message.payload,
        anchor: None,
    }))
}

fn pairs(headers: Option<HeaderMap>) -> Vec<(String, String)> {
    let one = |(name, values): (&async_nats::HeaderName, &Vec<async_nats::HeaderValue>)| {
        Some((name.to_string(), values.first()?.to_string()))
    };
    headers.iter().flat_map(HeaderMap::iter).filter_map(one).collect()
}

/// Publishes into a stream and waits until it is stored.
pub async fn store(link: &Link, subject: String, body: Bytes) -> anyhow::Result<()> {
    let context = async_nats::jetstream::new(link.client());
    let sent = context.publish_with_headers(subject, headers(), body);
    let acknowledged = timeout(PATIENCE, async { sent.await?.await }).await.context("no acknowledgement in time")?;
    acknowledged?;
    Ok(())
}
