//! Followers: stored messages of a stream in order, first those that stand, then those that come, for as long as the process lives.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt as _;
use portcullis_cli::raw;
use portcullis_core::machine::Message;
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::mpsc;

use crate::broker::{Broker, Inlet};
use crate::log;

/// A stored message.
#[derive(Clone, Debug)]
pub struct Stored {
    pub stream: Stream,
    pub message: Message,
}

/// Where a follower begins.
#[derive(Clone, Copy, Debug)]
pub enum From {
    /// With the last message of each subject.
    LastOfEach,
    Sequence(u64),
}

pub struct Follower {
    stream: Stream,
    name: String,
    broker: Broker,
    /// None: the connection has ended, or never stood.
    source: Option<Source>,
    from: From,
    next: u64,
}

/// A connection of its own, and the consumer on it.
struct Source {
    inlet: Inlet,
    messages: pull::Ordered,
}

impl Follower {
    /// Reads all that stands, and returns it with the follower of what comes.
    pub async fn open(broker: &Broker, prefix: &Prefix, stream: Stream, from: From) -> anyhow::Result<(Vec<Stored>, Self)> {
        let name = prefix.stream(stream);
        let handle = broker.context.get_stream(&name).await.with_context(|| format!("stream {name}"))?;
        let state = handle.cached_info().state.clone();
        let (nothing, next) = match from {
            From::LastOfEach => (state.messages == 0, 1),
            From::Sequence(first) => (state.last_sequence < first || state.messages == 0, first),
        };
        let mut follower = Self { stream, name, broker: broker.clone(), source: None, from, next };
        let mut standing = Vec::new();
        let mut pending = u64::from(!nothing);
        while pending > 0 {
            let (stored, behind) = follower.read().await?;
            standing.push(stored);
            pending = behind;
        }
        Ok((standing, follower))
    }

    /// Hands on what comes.
    pub fn spawn(mut self, to: mpsc::Sender<Stored>) {
        tokio::spawn(async move {
            loop {
                let losses = self.broker.losses();
                match self.read().await {
                    Ok((stored, _)) => {
                        if to.send(stored).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        self.broker.note_end(losses, self.stream.token(), &error);
                        self.broker.up().await;
                    }
                }
            }
        });
    }

    /// The next message, and how many are known to stand behind it. An error passes: what follows begins behind the last message.
    async fn read(&mut self) -> anyhow::Result<(Stored, u64)> {
        loop {
            let Some(source) = &mut self.source else {
                let inlet = Inlet::open(&self.broker.config).await?;
                let messages = ordered(&inlet.context.get_stream(&self.name).await?, self.from).await?;
                self.source = Some(Source { inlet, messages });
                continue;
            };
            let read = tokio::select! {
                biased;
                message = source.messages.next() => message.context("the follower ended").and_then(|message| Ok(message?)),
                () = source.inlet.ended() => Err(anyhow::anyhow!("the connection ended")),
            };
            let message = match read {
                Ok(message) => message,
                Err(error) => {
                    self.source = None;
                    // What ended the connection may be the next message: that one is read by the API.
                    if let Some(read) = self.by_hand().await? {
                        return Ok(read);
                    }
                    self.from = From::Sequence(self.next);
                    tracing::debug!(stream = ?self.stream, error = format!("{error:#}"), "the follower connects anew");
                    continue;
                }
            };
            let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
            let (sequence, at, pending) = (info.stream_sequence, info.published, info.pending);
            if sequence < self.next {
                continue;
            }
            self.next = sequence + 1;
            self.from = From::Sequence(self.next);
            let message = Message {
                subject: message.subject.to_string(),
                headers: crate::delivery::pairs(message.headers.as_ref()),
                malformed: None,
                body: message.payload.clone(),
                at,
                sequence,
            };
            let stored = Stored { stream: self.stream, message };
            return Ok((stored, pending));
        }
    }

    /// The next message, if it stands, by the API.
    async fn by_hand(&mut self) -> anyhow::Result<Option<(Stored, u64)>> {
        let Some(raw) = raw::next(&self.broker.context, &self.name, self.next).await? else { return Ok(None) };
        self.next = raw.sequence + 1;
        self.from = From::Sequence(self.next);
        let behind = raw::next(&self.broker.context, &self.name, self.next).await?;
        let stored = Stored { stream: self.stream, message: log::message(raw) };
        Ok(Some((stored, u64::from(behind.is_some()))))
    }
}

async fn ordered(stream: &jetstream::stream::Stream, from: From) -> anyhow::Result<pull::Ordered> {
    let deliver_policy = match from {
        From::LastOfEach => DeliverPolicy::LastPerSubject,
        From::Sequence(first) => DeliverPolicy::ByStartSequence { start_sequence: first.max(1) },
    };
    // A filter is needed for the last of each subject, and harmless otherwise.
    let filter_subject = stream.cached_info().config.subjects.first().cloned().unwrap_or_else(|| ">".into());
    let config = pull::OrderedConfig { deliver_policy, filter_subject, ..pull::OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await?;
    Ok(consumer.messages().await?)
}
