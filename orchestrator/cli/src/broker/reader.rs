//! One stream read in order, without a gap and without a repeat.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::stream;
use async_nats::subject::Subject;
use bytes::Bytes;
use futures_util::StreamExt;
use portcullis_schemas::{Stream, Timestamp};

use super::record::chain;

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
    pub subject: Subject,
    pub headers: Option<HeaderMap>,
    pub payload: Bytes,
}

pub struct Reader {
    pub stream: Stream,
    messages: Ordered,
    /// Messages that were stored and not yet read when the broker last said so.
    pending: u64,
    /// An ordered consumer that is made anew before it has read anything starts at the first message of the stream. So what
    /// lies at or below `floor`, or before `since`, is dropped here.
    floor: u64,
    since: Option<Timestamp>,
}

impl Reader {
    pub async fn open(stream: Stream, handle: stream::Stream, filters: Vec<String>, from: From) -> Result<Self, String> {
        let last = handle.cached_info().state.last_sequence;
        let (floor, since, deliver_policy) = match from {
            From::Now => (last, None, DeliverPolicy::ByStartSequence { start_sequence: last + 1 }),
            From::Time(since) => (0, Some(since), DeliverPolicy::ByStartTime { start_time: since }),
            From::LastOfEach => (0, None, DeliverPolicy::LastPerSubject),
        };
        let config = OrderedConfig { filter_subjects: filters, deliver_policy, ..OrderedConfig::default() };
        let consumer = handle.create_consumer(config).await.map_err(|error| chain(&error))?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|error| chain(&error))?;
        Ok(Self { stream, messages, pending, floor, since })
    }

    /// Is there more that was stored before it was last looked?
    pub fn is_behind(&self) -> bool {
        self.pending > 0
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
        let message = match self.messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(chain(&error)),
            None => return Err("the connection was closed".into()),
        };
        let info = message.info().map_err(|error| error.to_string())?;
        let (sequence, stored_at) = (info.stream_sequence, info.published);
        self.pending = info.pending;
        if sequence <= self.floor || self.since.is_some_and(|since| stored_at < since) {
            return Ok(None);
        }
        self.floor = sequence;
        let message = message.message;
        Ok(Some(Stored { sequence, stored_at, subject: message.subject, headers: message.headers, payload: message.payload }))
    }
}
