//! One message from an input stream, which owns its acknowledgement: done, later, or still at work.

use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use portcullis_cli::raw::Raw;
use portcullis_schemas::Stream;
use tokio::sync::oneshot;

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
    pub subject: String,
    pub body: Bytes,
    pub headers: Vec<(String, String)>,
    /// A header block that is malformed, as it came, and why.
    pub malformed: Option<(Vec<u8>, String)>,
    ack: Subject,
    /// Not the connection that it came by, which may have ended meanwhile.
    client: Client,
    /// Goes with the delivery, and so says that it was dealt with.
    _over: Option<oneshot::Sender<()>>,
}

impl Delivery {
    /// As the consumer delivered it. `started` is the stream's last sequence when this process started.
    pub fn new(stream: Stream, message: Message, started: u64, client: Client) -> anyhow::Result<Self> {
        let info = message.info().map_err(|error| anyhow::anyhow!("a message without JetStream's own data: {error}"))?;
        let (sequence, delivered, stored_at) = (info.stream_sequence, info.delivered.unsigned_abs(), info.published);
        let message = message.message;
        let ack = message.reply.ok_or_else(|| anyhow::anyhow!("a message that cannot be acknowledged"))?;
        Ok(Self {
            stream,
            sequence,
            delivered,
            stored_at,
            waited: sequence <= started,
            subject: message.subject.to_string(),
            headers: pairs(message.headers.as_ref()),
            body: message.payload,
            malformed: None,
            ack,
            client,
            _over: None,
        })
    }

    /// By hand: a message that the consumer has delivered, and that its connection may have ended over.
    ///
    /// The server finds what waits for an acknowledgement by the message's sequence; the rest of the subject is for the client only.
    pub fn by_hand(
        stream: Stream,
        raw: Raw,
        consumer: (&str, &str),
        started: u64,
        client: Client,
    ) -> (Self, oneshot::Receiver<()>) {
        let (over, done) = oneshot::channel();
        let headers = raw.headers();
        let (name, durable) = consumer;
        let (sequence, nanoseconds) = (raw.sequence, raw.at.timestamp_nanos_opt().unwrap_or_default());
        let delivery = Self {
            stream,
            sequence,
            // It may have been begun before.
            delivered: 2,
            stored_at: raw.at,
            waited: sequence <= started,
            subject: raw.subject,
            headers: headers.pairs,
            body: raw.body.into(),
            malformed: headers.problem.map(|problem| (raw.header_block, problem)),
            ack: format!("$JS.ACK.{name}.{durable}.2.{sequence}.{sequence}.{nanoseconds}.0").into(),
            client,
            _over: Some(over),
        };
        (delivery, done)
    }

    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Ends it: the server has confirmed that it will not come again. A confirmation that is lost only means that it comes again.
    pub async fn done(&self) {
        let confirmed = self.client.request(self.ack.clone(), Bytes::from(AckKind::Ack));
        match tokio::time::timeout(CONFIRM, confirmed).await {
            Ok(Ok(_)) => {}
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
        self.say(AckKind::Nak(Some(delay))).await;
    }

    /// Still at work on it.
    pub async fn progress(&self) {
        self.say(AckKind::Progress).await;
    }

    async fn say(&self, kind: AckKind) {
        let _ = self.client.publish(self.ack.clone(), kind.into()).await;
    }
}

/// Header names and values of a message.
pub fn pairs(headers: Option<&HeaderMap>) -> Vec<(String, String)> {
    let all = headers.into_iter().flat_map(HeaderMap::iter);
    all.flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string()))).collect()
}
