//! Inputs: what senders, operators and the scheduler publish, by a durable consumer for each stream.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use futures_util::StreamExt as _;
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::mpsc;

use crate::backoff::Backoff;
use crate::connection::{Broker, Inlet};
use crate::delivery::Delivery;
use crate::error::ApiError;
use crate::stored;

/// A message that is not answered within this time comes again.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// Messages that are asked for at once. What waits here unread is not renewed, so it is no more than the engine takes in a moment.
const BATCH: usize = 512;
/// Between the end of one connection and the next. A sender can end them, so it is short.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));
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
///
/// # Errors
///
/// Where the broker does not answer, has no such stream or refuses.
pub async fn consume(broker: &Broker, prefix: &Prefix, stream: Stream) -> Result<mpsc::Receiver<Arrival>, ApiError> {
    let name = prefix.stream(stream);
    let handle = broker.context.get_stream(&name).await.map_err(|error| ApiError::of_stream(&error))?;
    let started = handle.cached_info().state.last_sequence;
    let durable = format!("orchestrator-{}", stream.token());
    let mut consumer = made(&handle, &durable).await?;
    let delivered = consumer.info().await.map(|info| info.delivered.stream_sequence).unwrap_or(0);
    let (to, from) = mpsc::channel(BATCH);
    // A consumer that is new has not missed what was removed before its time.
    let next = (delivered > 0).then_some(delivered + 1);
    let broker = broker.clone();
    let mut intake = Intake { broker, stream, name, durable, started, to, next, handed: 0 };
    tokio::spawn(async move {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        while !intake.to.is_closed() {
            let before = intake.broker.snapshot();
            let ended = intake.take().await;
            if let Err(error) = ended {
                intake.broker.note_end(before, stream.token(), &error);
            }
            if intake.to.is_closed() {
                return;
            }
            backoff.pause().await;
            intake.broker.up().await;
            // What ended the connection was delivered, and would be again and again.
            let mut before = intake.broker.snapshot();
            while let Err(error) = intake.read_by_the_api().await {
                intake.broker.note_end(before, stream.token(), &error);
                backoff.pause().await;
                intake.broker.up().await;
                before = intake.broker.snapshot();
            }
        }
    });
    Ok(from)
}

struct Intake {
    broker: Broker,
    stream: Stream,
    name: String,
    durable: String,
    started: u64,
    to: mpsc::Sender<Arrival>,
    /// The sequence after the last one that was delivered for the first time.
    next: Option<u64>,
    /// The highest sequence that was handed on by this process.
    handed: u64,
}

impl Intake {
    /// By the consumer, until its connection ends.
    async fn take(&mut self) -> anyhow::Result<()> {
        let inlet = Inlet::open(self.broker.servers()).await?;
        let handle = inlet.context.get_stream(&self.name).await?;
        let consumer = made(&handle, &self.durable).await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await?;
        loop {
            let message = tokio::select! {
                biased;
                () = self.to.closed() => return Ok(()),
                message = messages.next() => message.context("the consumer's messages ended")??,
                () = inlet.ended() => anyhow::bail!("the connection ended"),
            };
            self.hand(Delivery::new(self.stream, message, self.started, self.broker.client.clone())?).await?;
        }
    }

    /// What the consumer has delivered and nobody has handed on, by the API. Whatever is in it is dealt with before the consumer is asked
    /// again.
    async fn read_by_the_api(&mut self) -> anyhow::Result<()> {
        let handle = self.broker.context.get_stream(&self.name).await?;
        let consumer: jetstream::consumer::PullConsumer = made(&handle, &self.durable).await?;
        let info = consumer.cached_info();
        let (floor, delivered) = (info.ack_floor.stream_sequence, info.delivered.stream_sequence);
        let mut at = floor.max(self.handed) + 1;
        while at <= delivered {
            let Some(message) = stored::next(&self.broker, &self.name, at).await?.filter(|message| message.sequence <= delivered)
            else {
                return Ok(());
            };
            at = message.sequence + 1;
            let consumer = (self.name.as_str(), self.durable.as_str());
            let (delivery, done) =
                Delivery::read_by_the_api(self.stream, message, consumer, self.started, self.broker.client.clone());
            if let Some((_, problem)) = &delivery.delivered.message.malformed {
                tracing::warn!(stream = ?self.stream, sequence = delivery.ticket().sequence, problem, "reading connection ended: malformed headers");
            }
            self.hand(delivery).await?;
            let _ = done.await;
        }
        Ok(())
    }

    async fn hand(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        let (sequence, deliveries) = (delivery.ticket().sequence, delivery.delivered.deliveries);
        if let Some(expected) = self.next
            && sequence > expected
            && (deliveries == 1 || sequence > self.handed)
        {
            for (first, last) in lost(&self.broker, &self.name, expected, sequence).await? {
                self.to.send(Arrival::Lost { stream: self.stream, first, last }).await?;
            }
        }
        self.next = Some(self.next.unwrap_or(0).max(sequence + 1));
        self.handed = self.handed.max(sequence);
        self.to.send(Arrival::Message(Box::new(delivery))).await?;
        Ok(())
    }
}

/// What is missing in the stream from `expected` up to `found`. A sequence that was given to another consumer process is not missing.
async fn lost(broker: &Broker, stream: &str, expected: u64, found: u64) -> anyhow::Result<Vec<(u64, u64)>> {
    let mut holes = Vec::new();
    let mut at = expected;
    while at < found && holes.len() < HOLES {
        let standing = stored::next(broker, stream, at).await?.map_or(found, |message| message.sequence);
        if standing > at {
            holes.push((at, standing.min(found) - 1));
        }
        at = standing + 1;
    }
    Ok(holes)
}

/// The consumer, made where it does not stand yet.
async fn made(handle: &jetstream::stream::Stream, durable: &str) -> Result<jetstream::consumer::PullConsumer, ApiError> {
    let config = pull::Config {
        durable_name: Some(durable.to_owned()),
        description: Some("The deciding orchestrator's".into()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: 4 * BATCH as i64,
        ..pull::Config::default()
    };
    handle.create_consumer(config).await.map_err(|error| match error.kind() {
        ConsumerErrorKind::JetStream(error) => ApiError::refused(&error),
        _ => ApiError::silent(&error),
    })
}
