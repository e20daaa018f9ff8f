//! One message from an input stream, which owns its acknowledgement: done, later, or still at work.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{AckKind, Message};
use chrono::{DateTime, Utc};
use portcullis_schemas::Stream;

/// How long the server's word on an acknowledgement is waited for. Others wait meanwhile.
const CONFIRM: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Delivery {
    pub stream: Stream,
    pub sequence: u64,
    pub delivered: u64,
    pub stored_at: DateTime<Utc>,
    /// It lay in the stream when this process started.
    pub waited: bool,
    message: Message,
}

impl Delivery {
    /// `started` is the stream's last sequence when this process started.
    pub fn new(stream: Stream, message: Message, started: u64) -> anyhow::Result<Self> {
        let info = message.info().map_err(|error| anyhow::anyhow!("a message without JetStream's own data: {error}"))?;
        let (sequence, delivered, stored_at) = (info.stream_sequence, info.delivered.unsigned_abs(), info.published);
        Ok(Self { stream, sequence, delivered, stored_at, waited: sequence <= started, message })
    }

    pub fn subject(&self) -> &str {
        self.message.subject.as_str()
    }

    pub fn body(&self) -> &[u8] {
        &self.message.payload
    }

    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(self.message.headers.as_ref())
    }

    /// Ends it: the server has confirmed that it will not come again. A confirmation that is lost only means that it comes again.
    pub async fn done(&self) {
        match tokio::time::timeout(CONFIRM, self.message.double_ack()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, sequence = self.sequence, "the acknowledgement was not confirmed; the input may come again")
            }
            Err(_) => tracing::debug!(
                sequence = self.sequence,
                "the acknowledgement was not confirmed in time; the input may come again"
            ),
        }
    }

    /// It comes again after `delay`.
    pub async fn later(&self, delay: Duration) {
        let _ = self.message.ack_with(AckKind::Nak(Some(delay))).await;
    }

    /// Still at work on it.
    pub async fn progress(&self) {
        let _ = self.message.ack_with(AckKind::Progress).await;
    }
}

/// Header names and values of a message.
pub fn pairs(headers: Option<&HeaderMap>) -> impl Iterator<Item = (&str, &str)> {
    headers.into_iter().flat_map(|headers| {
        headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (AsRef::<str>::as_ref(name), value.as_str())))
    })
}
