//! Orders from the broker: hears live ones, reads the last one, and never listens where orders are not stored yet.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::stream::DirectGetErrorKind;
use futures_util::StreamExt;
use portcullis_agent_core::deadline::Anchor;
use portcullis_agent_core::jitter;
use portcullis_schemas::envelope;
use portcullis_schemas::events::{Order, Posture};
use portcullis_schemas::{HostId, Stream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::broker::event::{Event, Reached, Received};
use crate::broker::heartbeat::Snapshot;
use crate::broker::link::{Link, PATIENCE};
use crate::broker::pending_orders::PendingOrders;
use crate::broker::{leader, relay};
use crate::host::clock;

/// When the broker stored what it hands on.
const TIME_STAMP: &str = "Nats-Time-Stamp";

/// Hears orders and reads the last one, until the process ends. Subscribe, flush, then get: an order that is stored in between
/// comes by one way or the other. `seen`: what this host has taken.
pub async fn ingress(
    host: HostId,
    link: Link,
    seen: watch::Receiver<Snapshot>,
    orders: PendingOrders,
    events: mpsc::Sender<Event>,
) {
    let subject = link.prefix.live(&host);
    loop {
        match link.client().subscribe(subject.clone()).await {
            Ok(subscription) => {
                let listening = listen(&host, subscription, &orders);
                let reading = poll(&host, link.clone(), &seen, &orders, &events);
                tokio::select! {
                    () = listening => tracing::warn!("subscription to live orders ended: subscribing again"),
                    () = reading => return,
                }
            }
            Err(error) => tracing::warn!(%error, subject, "live orders not subscribed: retrying"),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn listen(host: &HostId, mut subscription: async_nats::Subscriber, orders: &PendingOrders) {
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
async fn poll(
    host: &HostId,
    mut link: Link,
    seen: &watch::Receiver<Snapshot>,
    orders: &PendingOrders,
    events: &mpsc::Sender<Event>,
) {
    let stream = link.prefix.stream(Stream::Orders);
    let subject = link.prefix.of(Stream::Orders, host.as_str());
    let mut complained = String::new();
    let mut reads = 0u64;
    loop {
        link.up().await;
        if events.send(Event::Reached(reached(&link).await)).await.is_err() {
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
                            Err(error) => tracing::warn!(
                                error = format!("{error:#}"),
                                "broker's time not read: the order is judged without it"
                            ),
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
                if behind && !is_behind && events.send(Event::LogEnds(generation)).await.is_err() {
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
        tracing::warn!(%error, "end of the broker's connection not found: it is taken to be on another machine");
        None
    })?;
    let server = leader::server(link).await;
    let server = server.inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "leader of the order log not known"));
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
