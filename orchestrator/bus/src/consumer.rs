//! Inputs, by durable consumers: each reads over a connection of its own, which what it reads may end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info, PullConsumer, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use futures_util::StreamExt as _;
use portcullis_core::machine::Message;
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::connection::{Broker, Inlet};
use crate::delivery::Delivery;
use crate::error::ApiError;
use crate::gaps::Gaps;
use crate::stored;
use crate::window::{Share, Window};

/// A message that is not answered within this time comes again.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// Messages of one consumer that are not acknowledged, in all processes.
const UNACKNOWLEDGED: i64 = 2_048;
/// What waits for the engine. It is not renewed there, so it is no more than the engine takes in a moment.
const WAITING: usize = 512;
/// A question for messages stands at the broker for this long.
const ASKED: Duration = Duration::from_secs(5);
/// One that has no end by then was lost with the server that had it.
const LOST: Duration = Duration::from_secs(1);
/// Before it is looked whether what a consumer passed over is lost. Others hand on meanwhile what is on its way to them.
const LOOK: Duration = Duration::from_millis(100);
/// Between the end of one connection and the next. A sender can end them, so it is short.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

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

/// Takes what comes in `stream` by one consumer, for as long as somebody listens.
///
/// # Errors
///
/// Where the broker does not answer, has no such stream or refuses.
pub async fn consume(broker: &Broker, prefix: &Prefix, stream: Stream) -> Result<mpsc::Receiver<Arrival>, ApiError> {
    let name = prefix.stream(stream);
    let handle = broker.context.get_stream(&name).await.map_err(|error| ApiError::of_stream(&error))?;
    let durable = Durable { name: format!("orchestrator-{}", stream.token()), subject: None, from: 0 };
    let consumer = made(&handle, &durable).await?;
    let info = consumer.cached_info();
    let (feed, from) = Feed::open(broker, stream, &handle, info.delivered.stream_sequence);
    tokio::spawn(Reading::new(feed, durable, info, None).run());
    Ok(from)
}

/// One durable consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Durable {
    pub name: String,
    /// None: all of the stream's.
    pub subject: Option<String>,
    /// Its first sequence; 0 is the first that there is.
    pub from: u64,
}

impl Durable {
    /// As it was made.
    pub(crate) fn of(info: &Info) -> Self {
        let from = match info.config.deliver_policy {
            DeliverPolicy::ByStartSequence { start_sequence } => start_sequence,
            _ => 0,
        };
        let subject = Some(info.config.filter_subject.clone()).filter(|subject| !subject.is_empty());
        Self { name: info.name.clone(), subject, from }
    }
}

/// What the consumers of a stream share.
#[derive(Clone)]
pub(crate) struct Feed {
    pub broker: Broker,
    /// The broker's, for all acknowledgements.
    client: Arc<async_nats::Client>,
    pub stream: Stream,
    /// The stream's.
    pub name: String,
    pub to: mpsc::Sender<Arrival>,
    /// The stream's last sequence when this process began to read.
    started: u64,
    share: Arc<Share>,
    gaps: Arc<Gaps>,
}

impl Feed {
    /// Messages up to `highest` were delivered before.
    pub(crate) fn open(
        broker: &Broker,
        stream: Stream,
        handle: &jetstream::stream::Stream,
        highest: u64,
    ) -> (Self, mpsc::Receiver<Arrival>) {
        let info = handle.cached_info();
        let (to, from) = mpsc::channel(WAITING);
        let (broker, name, started) = (broker.clone(), info.config.name.clone(), info.state.last_sequence);
        let (share, gaps) = (Arc::default(), Arc::new(Gaps::new(highest)));
        let client = Arc::new(broker.client.clone());
        (Self { broker, client, stream, name, to, started, share, gaps }, from)
    }
}

/// Subjects that have a consumer of their own, and from which sequence on.
pub(crate) type Owned = BTreeMap<String, u64>;

/// Reads by one consumer.
pub(crate) struct Reading {
    feed: Feed,
    durable: Durable,
    /// What is another consumer's, where this one reads for those that have none.
    owned: Option<watch::Receiver<Owned>>,
    window: Window,
    ending: Arc<AtomicBool>,
    /// More messages waited behind the last one.
    behind: bool,
    /// The sequence after the last one that was delivered for the first time.
    next: Option<u64>,
    /// The last sequence that was delivered.
    last: u64,
    /// The highest sequence that was handed on by this process.
    handed: u64,
    /// What was passed over: from a sequence to the one that came.
    spans: Vec<(u64, u64)>,
    /// The last sequence that was delivered before, and when they are looked at.
    before_spans: u64,
    look_at: Instant,
}

impl Reading {
    pub(crate) fn new(feed: Feed, durable: Durable, info: &Info, owned: Option<watch::Receiver<Owned>>) -> Self {
        let delivered = info.delivered.stream_sequence;
        // Whoever had nothing in hand had read all there was, and so has not missed what was delivered by others.
        let next = if info.num_ack_pending > 0 { Some(delivered + 1) } else { feed.gaps.next() };
        let window = Window::new(Arc::clone(&feed.share));
        let (ending, behind) = (Arc::default(), info.num_pending > 0);
        let (last, before_spans, handed, spans, look_at) = (delivered, delivered, 0, Vec::new(), Instant::now());
        Self { feed, durable, owned, window, ending, behind, next, last, handed, spans, before_spans, look_at }
    }

    /// Ends it once it is set: behind what it has asked for, which is handed on.
    pub(crate) fn ending(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ending)
    }

    /// Reads until nobody listens any more.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        let (broker, reader) = (self.feed.broker.clone(), self.feed.stream.token());
        while !self.is_over() {
            let before = broker.snapshot();
            if let Err(error) = self.take().await {
                broker.note_end(before, reader, &error);
            }
            if self.is_over() {
                return;
            }
            backoff.pause().await;
            broker.up().await;
            // What ended the connection was delivered, and would be again and again.
            let mut before = broker.snapshot();
            while let Err(error) = self.read_by_the_api().await {
                broker.note_end(before, reader, &error);
                backoff.pause().await;
                broker.up().await;
                before = broker.snapshot();
            }
        }
    }

    fn is_over(&self) -> bool {
        self.feed.to.is_closed() || self.ending.load(Ordering::Relaxed)
    }

    /// By the consumer, until its connection ends.
    async fn take(&mut self) -> anyhow::Result<()> {
        let inlet = Inlet::open(self.feed.broker.servers()).await?;
        let handle = inlet.context.get_stream(&self.feed.name).await?;
        let consumer = found(&handle, &self.durable).await?;
        let to = self.feed.to.clone();
        while !self.is_over() {
            self.window.set_busy(self.behind);
            let mut places = tokio::select! {
                biased;
                () = to.closed() => return Ok(()),
                () = inlet.ended() => anyhow::bail!("the connection ended"),
                places = self.window.places() => places?,
            };
            // All that is there up to so many, at once; where nothing is, the next one.
            self.behind = false;
            let lost_at = Instant::now() + ASKED + LOST;
            let mut messages = consumer.fetch().max_messages(places.num_permits()).expires(ASKED).messages().await?;
            loop {
                let message = tokio::select! {
                    biased;
                    () = to.closed() => return Ok(()),
                    message = messages.next() => message,
                    () = tokio::time::sleep_until(self.look_at), if !self.spans.is_empty() => {
                        self.report_lost().await?;
                        continue;
                    }
                    () = inlet.ended() => anyhow::bail!("the connection ended"),
                    // Nothing of it lies here: that would have come first.
                    () = tokio::time::sleep_until(lost_at) => break,
                };
                let Some(message) = message else { break };
                let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
                self.behind = message.info().is_ok_and(|info| info.pending > 0);
                let client = Arc::clone(&self.feed.client);
                let delivery = Delivery::new(self.feed.stream, message, self.feed.started, client, places.split(1))?;
                self.hand(delivery).await?;
            }
            if !self.spans.is_empty() && self.look_at <= Instant::now() {
                self.report_lost().await?;
            }
        }
        Ok(())
    }

    /// What the consumer has delivered and nobody has handed on, by the API. Whatever is in it is dealt with before the consumer is asked
    /// again.
    async fn read_by_the_api(&mut self) -> anyhow::Result<()> {
        let Feed { broker, stream, name, started, .. } = self.feed.clone();
        let handle = broker.context.get_stream(&name).await?;
        let consumer = found(&handle, &self.durable).await?;
        let info = consumer.cached_info();
        let (floor, delivered) = (info.ack_floor.stream_sequence, info.delivered.stream_sequence);
        self.behind = info.num_pending > 0;
        let mut at = floor.max(self.handed) + 1;
        while at <= delivered {
            let Some(message) = self.stored_at(at).await?.filter(|message| message.sequence <= delivered) else {
                return Ok(());
            };
            at = message.sequence + 1;
            let consumer = (name.as_str(), self.durable.name.as_str());
            let (delivery, done) = Delivery::read_by_the_api(stream, message, consumer, started, Arc::clone(&self.feed.client));
            if let Some((_, problem)) = &delivery.delivered.message.malformed {
                tracing::warn!(
                    ?stream,
                    sequence = delivery.ack.ticket.sequence,
                    problem,
                    "reading connection ended: malformed headers"
                );
            }
            self.hand(delivery).await?;
            let _ = done.await;
        }
        Ok(())
    }

    /// The consumer's first message at or behind a sequence.
    async fn stored_at(&self, sequence: u64) -> Result<Option<Message>, ApiError> {
        let subject = self.durable.subject.as_deref().unwrap_or(">");
        stored::next_of(&self.feed.broker, &self.feed.name, subject, sequence).await
    }

    async fn hand(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        let (sequence, deliveries) = (delivery.ack.ticket.sequence, delivery.delivered.deliveries);
        if let Some(expected) = self.next
            && sequence > expected
            && (deliveries == 1 || sequence > self.handed)
        {
            if self.spans.is_empty() {
                self.before_spans = self.last;
                // What one that reads all passes over is gone.
                self.look_at = Instant::now() + if self.durable.subject.is_some() { LOOK } else { Duration::ZERO };
            }
            self.spans.push((expected, sequence));
        }
        self.next = Some(self.next.unwrap_or(0).max(sequence + 1));
        self.handed = self.handed.max(sequence);
        self.last = sequence;
        let subject = &delivery.delivered.message.subject;
        if self.owned.as_ref().is_some_and(|owned| owned.borrow().get(subject).is_some_and(|from| sequence >= *from)) {
            delivery.ack.end().await;
            return Ok(());
        }
        self.feed.gaps.take(sequence);
        self.feed.to.send(Arrival::Message(Box::new(delivery))).await?;
        Ok(())
    }

    /// Reports what was removed before it was read, of what was passed over.
    async fn report_lost(&mut self) -> anyhow::Result<()> {
        if let Some(subject) = &self.durable.subject {
            // Limits remove the oldest of a subject first: while one that was read stands, so does all of its subject behind it.
            let stands = |message: Message| message.sequence == self.before_spans && message.subject == *subject;
            if self.stored_at(self.before_spans).await?.is_some_and(stands) {
                self.spans.clear();
                return Ok(());
            }
        }
        let stream = self.feed.stream;
        for (first, last) in self.feed.gaps.lost(&self.feed.broker, &self.feed.name, &self.spans).await? {
            self.feed.to.send(Arrival::Lost { stream, first, last }).await?;
        }
        self.spans.clear();
        Ok(())
    }
}

/// The consumer, made where it does not stand yet.
pub(crate) async fn made(handle: &jetstream::stream::Stream, durable: &Durable) -> Result<PullConsumer, ApiError> {
    handle.create_consumer(config(durable)).await.map_err(|error| match error.kind() {
        ConsumerErrorKind::JetStream(error) => ApiError::refused(&error),
        _ => ApiError::silent(&error),
    })
}

/// The consumer as it stands. It is made only where somebody else has removed it, so that whoever removes it on purpose does so for good.
async fn found(handle: &jetstream::stream::Stream, durable: &Durable) -> anyhow::Result<PullConsumer> {
    Ok(handle.get_or_create_consumer(&durable.name, config(durable)).await?)
}

fn config(durable: &Durable) -> pull::Config {
    pull::Config {
        durable_name: Some(durable.name.clone()),
        description: Some("The deciding orchestrator's".into()),
        deliver_policy: match durable.from {
            0 => DeliverPolicy::All,
            start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
        },
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: UNACKNOWLEDGED,
        filter_subject: durable.subject.clone().unwrap_or_default(),
        ..pull::Config::default()
    }
}
