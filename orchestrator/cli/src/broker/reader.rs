//! One stream read in order, without a gap and without a repeat.
//!
//! It reads over a connection of its own: a malformed header ends the one by which it comes, for good. The message behind which it ended is then
//! read by the API, over the connection that nobody can end, and the rest over another one.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Event;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use portcullis_schemas::{Stream, Timestamp};
use tokio::sync::watch;

use super::record::{chain, pairs};
use super::{Servers, subject};
use crate::raw;

/// Between two tries to get on.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug)]
pub enum From {
    Now,
    Time(Timestamp),
    /// The last message of each subject.
    LastOfEach,
}

pub struct Stored {
    pub sequence: u64,
    pub stored_at: Timestamp,
    pub subject: String,
    pub headers: Vec<(String, String)>,
    /// Why the header block is malformed.
    pub malformed: Option<String>,
    pub body: Vec<u8>,
}

pub struct Reader {
    pub stream: Stream,
    servers: Arc<Servers>,
    /// Asks the API.
    js: Context,
    name: String,
    filters: Vec<String>,
    source: Option<Source>,
    /// Messages that were stored and not yet read when the broker last said so.
    pending: u64,
    /// An ordered consumer that is made anew before it has read anything starts at the first message of the stream. So what
    /// lies at or below `floor`, or before `since`, is dropped here.
    floor: u64,
    since: Option<Timestamp>,
}

/// A connection of its own, and the consumer on it.
struct Source {
    stream: jetstream::stream::Stream,
    /// The consumer's name.
    consumer: String,
    messages: Ordered,
    alive: watch::Receiver<bool>,
}

impl Source {
    async fn open(
        servers: &Servers,
        name: &str,
        filters: &[String],
        deliver_policy: DeliverPolicy,
    ) -> Result<(Self, u64), String> {
        let (told, alive) = watch::channel(true);
        let options = servers.options().await.map_err(|error| error.to_string())?.max_reconnects(Some(1));
        let options = options.event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed) {
                told.send_replace(false);
            }
            std::future::ready(())
        });
        let client = options.connect(&servers.addresses[..]).await.map_err(|error| chain(&error))?;
        let stream = jetstream::new(client).get_stream(name).await.map_err(|error| chain(&error))?;
        let config = OrderedConfig { filter_subjects: filters.to_vec(), deliver_policy, ..OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await.map_err(|error| chain(&error))?;
        let (name, pending) = (consumer.cached_info().name.clone(), consumer.cached_info().num_pending);
        let messages = consumer.messages().await.map_err(|error| chain(&error))?;
        Ok((Self { stream, consumer: name, messages, alive }, pending))
    }

    /// The next message; an error when the connection has ended.
    async fn next(&mut self) -> Result<jetstream::Message, String> {
        tokio::select! {
            biased;
            message = self.messages.next() => match message {
                Some(message) => message.map_err(|error| chain(&error)),
                None => Err("the connection was closed".into()),
            },
            _ = self.alive.wait_for(|alive| !alive) => Err("the connection was closed".into()),
        }
    }
}

impl Reader {
    /// `last` is the stream's last sequence.
    pub async fn open(
        stream: Stream,
        (servers, js): (Arc<Servers>, Context),
        (name, last): (String, u64),
        filters: Vec<String>,
        from: From,
    ) -> Result<Self, String> {
        let (floor, since, deliver_policy) = match from {
            From::Now => (last, None, DeliverPolicy::ByStartSequence { start_sequence: last + 1 }),
            From::Time(since) => (0, Some(since), DeliverPolicy::ByStartTime { start_time: since }),
            From::LastOfEach => (0, None, DeliverPolicy::LastPerSubject),
        };
        let (source, pending) = Source::open(&servers, &name, &filters, deliver_policy).await?;
        Ok(Self { stream, servers, js, name, filters, source: Some(source), pending, floor, since })
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
            let _ = tokio::time::timeout(PAUSE, source.stream.delete_consumer(&source.consumer)).await;
        }
    }

    /// The next message, whenever it comes.
    pub async fn next(&mut self) -> Result<Stored, String> {
        loop {
            if let Some(stored) = self.read().await? {
                return Ok(stored);
            }
        }
    }

    /// The next message that is stored already; none when all are read.
    pub async fn next_stored(&mut self) -> Result<Option<Stored>, String> {
        while self.is_behind() {
            if let Some(stored) = self.read().await? {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<Option<Stored>, String> {
        let Some(source) = &mut self.source else { return self.get_on().await };
        let Ok(message) = source.next().await else {
            self.source = None;
            return Ok(None);
        };
        let info = message.info().map_err(|error| error.to_string())?;
        let (sequence, stored_at) = (info.stream_sequence, info.published);
        self.pending = info.pending;
        let message = message.message;
        Ok(self.unread(Stored {
            sequence,
            stored_at,
            subject: message.subject.to_string(),
            headers: pairs(message.headers.as_ref()),
            malformed: None,
            body: message.payload.into(),
        }))
    }

    /// The connection has ended: the next message is read by the API, what follows over a new one. Each step may be given up and done again.
    async fn get_on(&mut self) -> Result<Option<Stored>, String> {
        let Ok(next) = raw::next(&self.js, &self.name, self.floor + 1).await else {
            tokio::time::sleep(PAUSE).await;
            return Ok(None);
        };
        let start_sequence = next.as_ref().map_or(self.floor, |raw| raw.sequence) + 1;
        let rest = DeliverPolicy::ByStartSequence { start_sequence };
        let Ok((source, pending)) = Source::open(&self.servers, &self.name, &self.filters, rest).await else {
            tokio::time::sleep(PAUSE).await;
            return Ok(None);
        };
        self.source = Some(source);
        self.pending = pending;
        let Some(raw) = next else { return Ok(None) };
        let headers = raw.headers();
        let wanted = self.filters.iter().any(|filter| subject::matches(filter, &raw.subject));
        let stored = self.unread(Stored {
            sequence: raw.sequence,
            stored_at: raw.at,
            subject: raw.subject,
            headers: headers.pairs,
            malformed: headers.problem,
            body: raw.body,
        });
        Ok(stored.filter(|_| wanted))
    }

    /// Nothing, if it was read before or is older than asked for.
    fn unread(&mut self, stored: Stored) -> Option<Stored> {
        if stored.sequence <= self.floor {
            return None;
        }
        self.floor = stored.sequence;
        self.since.is_none_or(|since| stored.stored_at >= since).then_some(stored)
    }
}
