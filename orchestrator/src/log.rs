//! A log with one writer: every message carries the sequence that it follows, and a writer that has been overtaken fails.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, context::PublishErrorKind};
use portcullis_cli::raw::{self, Raw};
use portcullis_schemas::envelope::CONTENT_TYPE;

pub struct Log {
    context: jetstream::Context,
    stream: String,
    /// The last sequence that has been read or written.
    last: u64,
}

/// What became of a message that was to be appended.
pub enum Appended {
    /// It stands right behind what was known.
    Stored,
    /// Others were faster. All that had been stored since, in order; ours is among them where `mine` says so.
    Overtaken { read: Vec<Raw>, mine: bool },
}

/// A failure. But for [`LogError::TooLarge`] it passes: try again.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It would fail in the same way for ever.
    #[error("the message is larger than the broker takes")]
    TooLarge,
    #[error("the broker did not take the message: {0}")]
    Publish(String),
    #[error("the broker does not let the log be read on: {0}")]
    Read(String),
}

impl Log {
    pub fn new(context: jetstream::Context, stream: String, last: u64) -> Self {
        Self { context, stream, last }
    }

    /// Notes a message that was read elsewhere. Those known already change nothing.
    pub fn advance(&mut self, sequence: u64) -> bool {
        let new = sequence > self.last;
        self.last = self.last.max(sequence);
        new
    }

    /// Appends a message, if nobody else has since the last that is known. Whatever is no clean acknowledgement is answered by reading on
    /// from the stream's leader: the same body there means that it was stored all the same.
    ///
    /// It carries no `Nats-Msg-Id`: an id used before, on any subject, would make the server answer `duplicate` and store nothing.
    pub async fn append(&mut self, subject: String, body: &[u8]) -> Result<Appended, LogError> {
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", CONTENT_TYPE);
        let message = PublishMessage::build().payload(body.to_vec().into()).headers(headers).expected_last_sequence(self.last);
        let answer = match self.context.send_publish(subject, message).await {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        let failure = match answer {
            Ok(ack) if !ack.duplicate && ack.sequence == self.last + 1 => {
                self.last = ack.sequence;
                return Ok(Appended::Stored);
            }
            Ok(ack) => format!("it answered with sequence {} behind {}", ack.sequence, self.last),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => "overtaken".to_owned(),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => return Err(LogError::TooLarge),
            Err(error) => error.to_string(),
        };
        let read = self.read_on().await?;
        if read.is_empty() {
            return Err(LogError::Publish(failure));
        }
        let mine = read.iter().any(|message| message.body == body);
        Ok(Appended::Overtaken { read, mine })
    }

    /// All that stands behind the last message that is known, from the stream's leader.
    pub async fn read_on(&mut self) -> Result<Vec<Raw>, LogError> {
        let mut read = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_secs(5), raw::next(&self.context, &self.stream, self.last + 1)).await {
                Ok(Ok(Some(message))) => {
                    self.last = message.sequence;
                    read.push(message);
                }
                Ok(Ok(None)) => return Ok(read),
                Ok(Err(error)) => return Err(LogError::Read(error.to_string())),
                Err(_) => return Err(LogError::Read("no answer within 5 s".into())),
            }
        }
    }
}
