//! One message from an input stream, and its acknowledgement: done, later, or still at work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use portcullis_core::machine::{Delivered, Message, Ticket};
use portcullis_schemas::Stream;
use tokio::sync::oneshot;

use crate::window::Place;

/// How long the server's word on an acknowledgement is waited for. Others wait meanwhile.
const CONFIRM: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Delivery {
    pub delivered: Delivered,
    pub ack: AckHandle,
}

/// What is left of a delivery while its message is decided.
#[derive(Debug)]
pub struct AckHandle {
    pub ticket: Ticket,
    /// See [`Delivered::is_suspect`].
    pub is_suspect: bool,
    /// When it came into this process.
    pub since: Instant,
    subject: Subject,
    /// Not the connection that it came by, which may have ended meanwhile.
    client: Arc<Client>,
    /// Goes with this, and so says that it was dealt with.
    _over: Option<oneshot::Sender<()>>,
    /// Its place among its consumer's messages.
    _place: Option<Place>,
}

impl Delivery {
    /// As the consumer delivered it. `started` is the stream's last sequence when this process started.
    pub(crate) fn new(
        stream: Stream,
        message: async_nats::jetstream::Message,
        started: u64,
        client: Arc<Client>,
        place: Option<Place>,
    ) -> anyhow::Result<Self> {
        let info = message.info().map_err(|error| anyhow::anyhow!("message without the metadata of a stream: {error}"))?;
        let (sequence, deliveries, at) = (info.stream_sequence, info.delivered.unsigned_abs(), info.published);
        let message = message.message;
        let ack = message.reply.ok_or_else(|| anyhow::anyhow!("message without a subject for its acknowledgement"))?;
        let message = Message {
            subject: message.subject.to_string(),
            headers: pairs(message.headers.as_ref()),
            malformed: None,
            body: message.payload,
            at,
            sequence,
        };
        let delivered = Delivered { stream, deliveries, waited: sequence <= started, message };
        Ok(Self::of(delivered, ack, client, None, place))
    }

    /// A message that the consumer has delivered, read by the API, since its connection may have ended over it.
    ///
    /// The server finds what waits for an acknowledgement by the message's sequence; the rest of the subject is for the client only.
    pub(crate) fn read_by_the_api(
        stream: Stream,
        message: Message,
        consumer: (&str, &str),
        started: u64,
        client: Arc<Client>,
    ) -> (Self, oneshot::Receiver<()>) {
        let (over, done) = oneshot::channel();
        let (name, durable) = consumer;
        let (sequence, nanoseconds) = (message.sequence, message.at.timestamp_nanos_opt().unwrap_or_default());
        let ack = format!("$JS.ACK.{name}.{durable}.2.{sequence}.{sequence}.{nanoseconds}.0").into();
        // It may have been begun before.
        let delivered = Delivered { stream, deliveries: 2, waited: sequence <= started, message };
        (Self::of(delivered, ack, client, Some(over), None), done)
    }

    fn of(
        delivered: Delivered,
        subject: Subject,
        client: Arc<Client>,
        over: Option<oneshot::Sender<()>>,
        place: Option<Place>,
    ) -> Self {
        let ticket = Ticket { stream: delivered.stream, sequence: delivered.message.sequence };
        let (is_suspect, since) = (delivered.is_suspect(), Instant::now());
        Self { delivered, ack: AckHandle { ticket, is_suspect, since, subject, client, _over: over, _place: place } }
    }
}

impl AckHandle {
    /// Ends it: the server has confirmed that it will not come again. A confirmation that is lost only means that it comes again.
    pub async fn done(&self) {
        let confirmed = self.client.request(self.subject.clone(), Bytes::from(AckKind::Ack));
        match tokio::time::timeout(CONFIRM, confirmed).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, sequence = self.ticket.sequence, "acknowledgement not confirmed: the input may be redelivered")
            }
            Err(_) => {
                tracing::debug!(
                    sequence = self.ticket.sequence,
                    "acknowledgement not confirmed in time: the input may be redelivered"
                )
            }
        }
    }

    /// Ends it without waiting for the server's word.
    pub async fn end(&self) {
        self.say(AckKind::Ack).await;
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
        let _ = self.client.publish(self.subject.clone(), kind.into()).await;
    }
}

/// Header names and values of a message.
pub(crate) fn pairs(headers: Option<&HeaderMap>) -> Vec<(String, String)> {
    let all = headers.into_iter().flat_map(HeaderMap::iter);
    all.flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string()))).collect()
}
