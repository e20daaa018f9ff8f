//! The two logs with one writer: a message is appended behind a sequence, or not at all.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, context::PublishErrorKind};
use bytes::Bytes;
use portcullis_cli::raw::{self, Raw};
use portcullis_core::machine::{Appended, Message};
use portcullis_schemas::envelope::CONTENT_TYPE;

/// Appends a message behind `expected`, the stream's last sequence.
///
/// It carries no `Nats-Msg-Id`: an id used before, on any subject, would make the server answer `duplicate` and store nothing.
pub async fn append(context: &jetstream::Context, subject: String, body: Bytes, expected: u64) -> Appended {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    let message = PublishMessage::build().payload(body).headers(headers).expected_last_sequence(expected);
    let answer = match context.send_publish(subject, message).await {
        Ok(ack) => ack.await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(ack) if !ack.duplicate && ack.sequence == expected + 1 => Appended::Stored,
        Ok(ack) => Appended::Unclear(format!("the broker answered with sequence {} behind {expected}", ack.sequence)),
        Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => Appended::TooLarge,
        Err(error) => Appended::Unclear(error.to_string()),
    }
}

/// All that stands behind `after`, from the stream's leader.
pub async fn read_on(context: &jetstream::Context, stream: &str, after: u64) -> Result<Vec<Message>, String> {
    let mut read: Vec<Message> = Vec::new();
    loop {
        let next = read.last().map_or(after, |message| message.sequence) + 1;
        match tokio::time::timeout(Duration::from_secs(5), raw::next(context, stream, next)).await {
            Ok(Ok(Some(raw))) => read.push(message(raw)),
            Ok(Ok(None)) => return Ok(read),
            Ok(Err(error)) => return Err(format!("stream {stream}: {error}")),
            Err(_) => return Err(format!("stream {stream}: no answer within 5 s")),
        }
    }
}

/// A message that was read by the API.
pub fn message(raw: Raw) -> Message {
    let headers = raw.headers();
    Message {
        subject: raw.subject,
        headers: headers.pairs,
        malformed: headers.problem.map(|problem| (raw.header_block, problem)),
        body: raw.body.into(),
        at: raw.at,
        sequence: raw.sequence,
    }
}
