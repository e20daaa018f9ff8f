//! Followers: stored messages of a stream in order, first those that stand, then those that come, for as long as the process lives.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::mpsc;

/// A stored message.
#[derive(Clone, Debug)]
pub struct Stored {
    pub stream: Stream,
    pub sequence: u64,
    pub at: DateTime<Utc>,
    pub subject: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Stored {
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
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
    handle: jetstream::stream::Stream,
    messages: pull::Ordered,
    next: u64,
}

impl Follower {
    /// Reads all that stands, and returns it with the follower of what comes.
    pub async fn open(
        context: &jetstream::Context,
        prefix: &Prefix,
        stream: Stream,
        from: From,
    ) -> anyhow::Result<(Vec<Stored>, Self)> {
        let name = prefix.stream(stream);
        let handle = context.get_stream(&name).await.with_context(|| format!("stream {name}"))?;
        let state = handle.cached_info().state.clone();
        let messages = ordered(&handle, from).await?;
        let mut follower = Self { stream, handle, messages, next: 1 };
        let mut standing = Vec::new();
        let nothing = match from {
            From::LastOfEach => state.messages == 0,
            From::Sequence(first) => state.last_sequence < first || state.messages == 0,
        };
        if let From::Sequence(first) = from {
            follower.next = first;
        }
        let mut pending = u64::from(!nothing);
        while pending > 0 {
            let (stored, behind) = follower.read().await?;
            standing.push(stored);
            pending = behind;
        }
        Ok((standing, follower))
    }

    /// Hands on what comes. A follower that breaks begins again behind the last message that it saw.
    pub fn spawn(mut self, to: mpsc::Sender<Stored>) {
        tokio::spawn(async move {
            loop {
                match self.read().await {
                    Ok((stored, _)) => {
                        if to.send(stored).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(stream = ?self.stream, %error, "following anew");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        if let Ok(messages) = ordered(&self.handle, From::Sequence(self.next)).await {
                            self.messages = messages;
                        }
                    }
                }
            }
        });
    }

    async fn read(&mut self) -> anyhow::Result<(Stored, u64)> {
        loop {
            let message = self.messages.next().await.context("the follower ended")??;
            let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
            let (sequence, at, pending) = (info.stream_sequence, info.published, info.pending);
            if sequence < self.next {
                continue;
            }
            self.next = sequence + 1;
            let headers = crate::delivery::pairs(message.headers.as_ref());
            let stored = Stored {
                stream: self.stream,
                sequence,
                at,
                subject: message.subject.to_string(),
                headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                body: message.payload.clone(),
            };
            return Ok((stored, pending));
        }
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
