//! Inputs: what senders, operators and the scheduler publish, by a durable consumer for each stream.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures_util::StreamExt as _;
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::mpsc;

use crate::delivery::Delivery;

/// A message that is not answered within this time comes again.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// Messages that may be on their way at once. What waits here unread is not renewed, so it is little.
const BATCH: usize = 32;
/// Holes in a stream that are looked at for one report.
const HOLES: usize = 16;

#[derive(Debug)]
pub enum Arrival {
    Message(Box<Delivery>),
    /// These were removed before they could be read.
    Lost {
        stream: Stream,
        first: u64,
        last: u64,
    },
}

/// Takes what comes in `stream`, for as long as somebody listens.
pub async fn spawn(context: &jetstream::Context, prefix: &Prefix, stream: Stream) -> anyhow::Result<mpsc::Receiver<Arrival>> {
    let name = prefix.stream(stream);
    let handle = context.get_stream(&name).await.with_context(|| format!("stream {name}"))?;
    let started = handle.cached_info().state.last_sequence;
    let mut consumer = durable(&handle, stream).await.with_context(|| format!("consumer of {name}"))?;
    let delivered = consumer.info().await.map(|info| info.delivered.stream_sequence).unwrap_or(0);
    let (to, from) = mpsc::channel(1);
    // A consumer that is new has not missed what was removed before its time.
    let mut next = (delivered > 0).then_some(delivered + 1);
    tokio::spawn(async move {
        while !to.is_closed() {
            if let Err(error) = take(&consumer, &handle, (stream, started), &to, &mut next).await {
                tracing::warn!(?stream, %error, "taking inputs anew");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Ok(again) = durable(&handle, stream).await {
                consumer = again;
            }
        }
    });
    Ok(from)
}

async fn take(
    consumer: &jetstream::consumer::PullConsumer,
    handle: &jetstream::stream::Stream,
    (stream, started): (Stream, u64),
    to: &mpsc::Sender<Arrival>,
    next: &mut Option<u64>,
) -> anyhow::Result<()> {
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .expires(Duration::from_secs(30))
        .heartbeat(Duration::from_secs(5))
        .messages()
        .await?;
    while let Some(message) = messages.next().await {
        let delivery = Delivery::new(stream, message?, started)?;
        if let Some(expected) = *next
            && delivery.delivered == 1
            && delivery.sequence > expected
        {
            for (first, last) in lost(handle, expected, delivery.sequence).await? {
                to.send(Arrival::Lost { stream, first, last }).await?;
            }
        }
        *next = Some((*next).unwrap_or(0).max(delivery.sequence + 1));
        to.send(Arrival::Message(Box::new(delivery))).await?;
    }
    anyhow::bail!("the consumer's messages ended")
}

/// What is missing in the stream from `expected` up to `found`. A sequence that was given to another consumer process is not missing.
async fn lost(handle: &jetstream::stream::Stream, expected: u64, found: u64) -> anyhow::Result<Vec<(u64, u64)>> {
    let mut holes = Vec::new();
    let mut at = expected;
    while at < found && holes.len() < HOLES {
        let standing = handle.get_first_raw_message_by_subject(">", at).await?.sequence;
        if standing > at {
            holes.push((at, standing.min(found) - 1));
        }
        at = standing + 1;
    }
    Ok(holes)
}

async fn durable(handle: &jetstream::stream::Stream, stream: Stream) -> anyhow::Result<jetstream::consumer::PullConsumer> {
    let name = format!("orchestrator-{}", stream.token());
    let config = pull::Config {
        durable_name: Some(name.clone()),
        description: Some("The deciding orchestrator's".into()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: 256,
        ..pull::Config::default()
    };
    Ok(handle.create_consumer(config).await?)
}
