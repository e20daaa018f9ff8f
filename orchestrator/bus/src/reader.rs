//! One stream read in order, without a gap and without a repeat.
//!
//! It reads over a connection of its own: a malformed header ends the one by which it comes, for good. The message behind which it ended is then
//! read by the API, over the connection that nobody can end, and the rest over another one.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use futures_util::StreamExt as _;
use portcullis_core::machine::Message;
use portcullis_schemas::{Prefix, Stream, Timestamp};

use crate::backoff::Backoff;
use crate::connection::{Broker, Inlet, Snapshot};
use crate::delivery::pairs;
use crate::error::ApiError;
use crate::{stored, subject};

/// Between two attempts to read on.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// A question for messages stands at the broker for this long, and is confirmed after half of it. A consumer that is lost with the server that had it is
/// noticed after twice this time, and made again on another one.
const ASKED: Duration = Duration::from_secs(2);
/// Before the name of an orchestrator in the description of the consumer by which it follows a log.
pub(crate) const FOLLOWS: &str = "followed by orchestrator ";
/// For the broker to forget a consumer.
const FORGET: Duration = Duration::from_millis(200);

/// Where reading of a stream begins.
#[derive(Clone, Copy, Debug)]
pub enum From {
    /// With what is stored next.
    Now,
    Time(Timestamp),
    Sequence(u64),
    /// With the last message of each subject.
    LastOfEach,
}

pub struct Reader {
    stream: Stream,
    /// Asks the API.
    broker: Broker,
    name: String,
    filters: Vec<String>,
    /// Of the consumer, for people.
    description: Option<String>,
    source: Option<Source>,
    /// Messages that were stored and not yet read when the broker last said so.
    pending: u64,
    /// An ordered consumer that is made again before it has read anything starts at the first message of the stream. So what
    /// lies at or below `floor`, or before `since`, is dropped here.
    floor: u64,
    since: Option<Timestamp>,
    backoff: Backoff,
}

/// A connection of its own, and the consumer on it.
struct Source {
    inlet: Inlet,
    stream: jetstream::stream::Stream,
    /// The consumer's name.
    consumer: String,
    messages: Ordered,
    /// The publishing connection when this one was opened.
    before: Snapshot,
}

impl Source {
    async fn open(
        broker: &Broker,
        name: &str,
        (filters, description): (&[String], &Option<String>),
        from: DeliverPolicy,
    ) -> anyhow::Result<(Self, u64)> {
        let before = broker.snapshot();
        let inlet = Inlet::open(broker.servers()).await?;
        let stream = inlet.context.get_stream(name).await?;
        let config = OrderedConfig {
            filter_subjects: filters.to_vec(),
            deliver_policy: from,
            description: description.clone(),
            max_expires: ASKED,
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let (consumer_name, pending) = (consumer.cached_info().name.clone(), consumer.cached_info().num_pending);
        let messages = consumer.messages().await?;
        Ok((Self { inlet, stream, consumer: consumer_name, messages, before }, pending))
    }

    /// The next message; an error when the connection has ended.
    async fn next(&mut self) -> anyhow::Result<jetstream::Message> {
        tokio::select! {
            biased;
            message = self.messages.next() => Ok(message.context("the consumer's messages ended")??),
            () = self.inlet.ended() => anyhow::bail!("the connection ended"),
        }
    }
}

impl Reader {
    /// # Errors
    ///
    /// Where the broker does not answer, has no such stream or refuses.
    pub async fn open(
        broker: &Broker,
        prefix: &Prefix,
        stream: Stream,
        filters: Vec<String>,
        from: From,
    ) -> Result<Self, ApiError> {
        Self::open_as(broker, prefix, stream, filters, from, None).await
    }

    /// The same with a description of the consumer, by which people find it.
    pub(crate) async fn open_as(
        broker: &Broker,
        prefix: &Prefix,
        stream: Stream,
        filters: Vec<String>,
        from: From,
        description: Option<String>,
    ) -> Result<Self, ApiError> {
        let name = prefix.stream(stream);
        let last = stored::last_sequence(broker, &name).await?;
        let behind = |floor: u64| DeliverPolicy::ByStartSequence { start_sequence: floor + 1 };
        let (floor, since, policy) = match from {
            From::Now => (last, None, behind(last)),
            From::Time(since) => (0, Some(since), DeliverPolicy::ByStartTime { start_time: since }),
            From::Sequence(first) => (first.saturating_sub(1), None, behind(first.saturating_sub(1))),
            From::LastOfEach => (0, None, DeliverPolicy::LastPerSubject),
        };
        let opened = Source::open(broker, &name, (&filters, &description), policy).await;
        let (source, pending) = opened.map_err(|error| ApiError::Silent(format!("{error:#}")))?;
        let backoff = Backoff::new(PAUSE.0, PAUSE.1);
        let (broker, source) = (broker.clone(), Some(source));
        Ok(Self { stream, broker, name, filters, description, source, pending, floor, since, backoff })
    }

    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Messages that were stored and not yet read when the broker was last asked.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// Is there more that was stored before it was last looked?
    pub fn is_behind(&self) -> bool {
        self.pending > 0
    }

    /// Nothing more is read. The broker would keep the consumer for a while, and takes so many for each stream: whoever asks often would find
    /// none left.
    pub async fn end(mut self) {
        if let Some(source) = self.source.take() {
            drop(source.messages);
            // One that is gone already, or stays, goes by itself.
            let _ = tokio::time::timeout(FORGET, source.stream.delete_consumer(&source.consumer)).await;
        }
    }

    /// The next message, whenever it comes.
    ///
    /// # Errors
    ///
    /// Where the broker delivers what is no message of a stream. A connection that ends is none.
    pub async fn next(&mut self) -> Result<Message, ApiError> {
        loop {
            if let Some(message) = self.read().await? {
                return Ok(message);
            }
        }
    }

    /// The next message that is stored already; none when all are read.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`].
    pub async fn next_stored(&mut self) -> Result<Option<Message>, ApiError> {
        while self.is_behind() {
            if let Some(message) = self.read().await? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<Option<Message>, ApiError> {
        let Some(source) = &mut self.source else { return Ok(self.read_on().await) };
        let message = match source.next().await {
            Ok(message) => message,
            Err(error) => {
                self.broker.note_end(source.before, self.stream.token(), &error);
                self.source = None;
                return Ok(None);
            }
        };
        let info = message.info().map_err(|error| ApiError::Refused(error.to_string()))?;
        let (sequence, at) = (info.stream_sequence, info.published);
        self.pending = info.pending;
        let message = message.message;
        Ok(self.unread(Message {
            subject: message.subject.to_string(),
            headers: pairs(message.headers.as_ref()),
            malformed: None,
            body: message.payload,
            at,
            sequence,
        }))
    }

    /// The connection has ended: the next message is read by the API, what follows over a new one. Each step may be given up and done again.
    async fn read_on(&mut self) -> Option<Message> {
        let read = async {
            let next = stored::next(&self.broker, &self.name, self.floor + 1).await?;
            let start_sequence = next.as_ref().map_or(self.floor, |message| message.sequence) + 1;
            let rest = DeliverPolicy::ByStartSequence { start_sequence };
            anyhow::Ok((next, Source::open(&self.broker, &self.name, (&self.filters, &self.description), rest).await?))
        };
        match read.await {
            Ok((next, (source, pending))) => {
                (self.source, self.pending) = (Some(source), pending);
                let message = next?;
                let wanted = self.filters.iter().any(|filter| subject::matches(filter, &message.subject));
                self.unread(message).filter(|_| wanted)
            }
            Err(error) => {
                tracing::debug!(stream = self.name, error = format!("{error:#}"), "stream not read: will retry");
                self.backoff.pause().await;
                self.broker.up().await;
                None
            }
        }
    }

    /// Nothing, if it was read before or is older than asked for.
    fn unread(&mut self, message: Message) -> Option<Message> {
        if message.sequence <= self.floor {
            return None;
        }
        self.floor = message.sequence;
        self.since.is_none_or(|since| message.at >= since).then_some(message)
    }
}
