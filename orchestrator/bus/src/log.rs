//! The two logs with one writer: messages are appended behind a sequence, all of them or none.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use portcullis_core::machine::{Appended, Message, Outgoing};
use portcullis_schemas::envelope::CONTENT_TYPE;

use crate::connection::Broker;
use crate::{publish, stored};

/// For one message to be read. A stream that has no leader for a moment does not answer at all; the reading is tried again.
const READ: Duration = Duration::from_secs(2);

const AWAY: &str = "broker unreachable, or the connection was lost meanwhile";

/// Headers of an atomic batch (ADR-50, nats-server 2.12).
const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";
const EXPECTED_LAST_SEQUENCE: &str = "Nats-Expected-Last-Sequence";

/// Appends messages behind `expected`, the stream's last sequence. Several go as one atomic batch: at most 1,000 of them.
///
/// They carry no `Nats-Msg-Id`: an id used before, on any subject, would make the server answer `duplicate` and store nothing.
pub async fn append(broker: &Broker, messages: Vec<Outgoing>, expected: u64) -> Appended {
    let last = expected + messages.len() as u64;
    let Some(answer) = broker.connected(store(broker, messages, Some(expected))).await else {
        return Appended::Unclear(AWAY.to_owned());
    };
    match answer {
        Ok(ack) if !ack.duplicate && ack.sequence == last => Appended::Stored,
        Ok(ack) => Appended::Unclear(format!("the broker answered with sequence {} behind {expected}", ack.sequence)),
        Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => Appended::TooLarge,
        Err(error) => Appended::Unclear(error.to_string()),
    }
}

/// Stores messages of one stream, all of them or none.
///
/// # Errors
///
/// Where they are not stored, or no acknowledgement came.
pub async fn store_all(broker: &Broker, messages: Vec<Outgoing>) -> Result<(), publish::PublishError> {
    let away = || publish::PublishError::Unclear(AWAY.to_owned());
    let stored = broker.connected(store(broker, messages, None)).await.ok_or_else(away)?;
    stored.map(drop).map_err(|error| publish::PublishError::of(&error))
}

async fn store(broker: &Broker, mut messages: Vec<Outgoing>, expected: Option<u64>) -> Result<PublishAck, PublishError> {
    let Some(last) = messages.pop() else { return Err(PublishErrorKind::Other.into()) };
    let batch = (!messages.is_empty()).then(publish::random_id);
    let headers = |number: usize| {
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", CONTENT_TYPE);
        if let Some(batch) = &batch {
            headers.insert(BATCH_ID, batch.as_str());
            headers.insert(BATCH_SEQUENCE, number.to_string());
        }
        if let Some(expected) = expected.filter(|_| number == 1) {
            headers.insert(EXPECTED_LAST_SEQUENCE, expected.to_string());
        }
        headers
    };
    let count = messages.len() + 1;
    for (number, Outgoing { subject, body }) in (1..).zip(messages) {
        let sent = broker.client.publish_with_headers(subject, headers(number), body).await;
        sent.map_err(|error| match error.kind() {
            async_nats::PublishErrorKind::MaxPayloadExceeded => PublishErrorKind::MaxPayloadExceeded,
            _ => PublishErrorKind::Other,
        })?;
    }
    let mut headers = headers(count);
    if batch.is_some() {
        headers.insert(BATCH_COMMIT, "1");
    }
    broker.context.send_publish(last.subject, PublishMessage::build().payload(last.body).headers(headers)).await?.await
}

/// All that is stored behind `after`, read from the stream's leader.
pub async fn read_on(broker: &Broker, stream: &str, after: u64) -> Result<Vec<Message>, String> {
    broker.connected(read(broker, stream, after)).await.unwrap_or_else(|| Err(AWAY.to_owned()))
}

async fn read(broker: &Broker, stream: &str, after: u64) -> Result<Vec<Message>, String> {
    let mut read: Vec<Message> = Vec::new();
    loop {
        let next = read.last().map_or(after, |message| message.sequence) + 1;
        match tokio::time::timeout(READ, stored::next(broker, stream, next)).await {
            Ok(Ok(Some(message))) => read.push(message),
            Ok(Ok(None)) => return Ok(read),
            Ok(Err(error)) => return Err(format!("stream {stream}: {error}")),
            Err(_) => return Err(format!("stream {stream}: no answer within 2 s")),
        }
    }
}
