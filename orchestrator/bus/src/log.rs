//! The two logs with one writer: a message is appended behind a sequence, or not at all.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use portcullis_core::machine::{Appended, Message};
use portcullis_schemas::envelope::CONTENT_TYPE;

use crate::connection::Broker;
use crate::stored;

const AWAY: &str = "the broker is away, or was lost meanwhile";

/// Appends a message behind `expected`, the stream's last sequence.
///
/// It carries no `Nats-Msg-Id`: an id used before, on any subject, would make the server answer `duplicate` and store nothing.
pub async fn append(broker: &Broker, subject: String, body: Bytes, expected: u64) -> Appended {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    let message = PublishMessage::build().payload(body).headers(headers).expected_last_sequence(expected);
    let answer = broker.connected(async {
        match broker.context.send_publish(subject, message).await {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        }
    });
    let Some(answer) = answer.await else { return Appended::Unclear(AWAY.to_owned()) };
    match answer {
        Ok(ack) if !ack.duplicate && ack.sequence == expected + 1 => Appended::Stored,
        Ok(ack) => Appended::Unclear(format!("the broker answered with sequence {} behind {expected}", ack.sequence)),
        Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => Appended::TooLarge,
        Err(error) => Appended::Unclear(error.to_string()),
    }
}

/// All that is stored behind `after`, read from the stream's leader.
pub async fn read_on(broker: &Broker, stream: &str, after: u64) -> Result<Vec<Message>, String> {
    broker.connected(read(broker, stream, after)).await.unwrap_or_else(|| Err(AWAY.to_owned()))
}

async fn read(broker: &Broker, stream: &str, after: u64) -> Result<Vec<Message>, String> {
    let mut read: Vec<Message> = Vec::new();
    loop {
        let next = read.last().map_or(after, |message| message.sequence) + 1;
        match tokio::time::timeout(Duration::from_secs(5), stored::next(broker, stream, next)).await {
            Ok(Ok(Some(message))) => read.push(message),
            Ok(Ok(None)) => return Ok(read),
            Ok(Err(error)) => return Err(format!("stream {stream}: {error}")),
            Err(_) => return Err(format!("stream {stream}: no answer within 5 s")),
        }
    }
}
