//! Stored messages by the API's own answer (JetStream `STREAM.MSG.GET`), one at a time, from the stream's leader.
//!
//! The answer is JSON, so a malformed header of a sender never reaches the connection's own parser, which would end over it.

use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis_schemas::Timestamp;
use portcullis_schemas::headers::{self, Headers};
use serde::Deserialize;
use serde_json::json;

/// A stored message.
#[derive(Clone, Debug)]
pub struct Raw {
    pub sequence: u64,
    pub at: Timestamp,
    pub subject: String,
    /// As it came; empty where there is none.
    pub header_block: Vec<u8>,
    pub body: Vec<u8>,
}

impl Raw {
    pub fn headers(&self) -> Headers {
        headers::read(&self.header_block)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RawError {
    #[error("the broker does not answer: {0}")]
    Silent(String),
    #[error("{0}")]
    Refused(async_nats::jetstream::Error),
    #[error("the broker's answer holds no base64 where it should")]
    NotBase64,
}

/// The first message at or behind `sequence`. None: there is none.
pub async fn next(context: &Context, stream: &str, sequence: u64) -> Result<Option<Raw>, RawError> {
    get(context, stream, json!({ "seq": sequence, "next_by_subj": ">" })).await
}

/// The last message of a subject. None: there is none.
pub async fn last(context: &Context, stream: &str, subject: &str) -> Result<Option<Raw>, RawError> {
    get(context, stream, json!({ "last_by_subj": subject })).await
}

/// The broker's time, from its answer about a stream. It is taken as the time at which the answer arrived, and so is late by half a round
/// trip and never early.
pub async fn now(context: &Context, stream: &str) -> Result<Timestamp, RawError> {
    #[derive(Deserialize)]
    struct Answer {
        ts: Timestamp,
    }
    let answer: Response<Answer> = context
        .request(format!("STREAM.INFO.{stream}"), &json!({}))
        .await
        .map_err(|error| RawError::Silent(crate::broker::chain(&error)))?;
    match answer {
        Response::Ok(answer) => Ok(answer.ts),
        Response::Err { error } => Err(RawError::Refused(error)),
    }
}

/// A panic in the NATS client ends one connection, which is made anew; it is said there. Every other one is told as usual.
pub fn quiet_client_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|location| !location.file().contains("async-nats")) {
            usual(panic);
        }
    }));
}

#[derive(Deserialize)]
struct Answer {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    subject: String,
    seq: u64,
    time: Timestamp,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

async fn get(context: &Context, stream: &str, wanted: serde_json::Value) -> Result<Option<Raw>, RawError> {
    let answer: Response<Answer> = context
        .request(format!("STREAM.MSG.GET.{stream}"), &wanted)
        .await
        .map_err(|error| RawError::Silent(crate::broker::chain(&error)))?;
    let message = match answer {
        Response::Ok(answer) => answer.message,
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => return Ok(None),
        Response::Err { error } => return Err(RawError::Refused(error)),
    };
    let decoded = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| RawError::NotBase64);
    Ok(Some(Raw {
        sequence: message.seq,
        at: message.time,
        subject: message.subject,
        header_block: decoded(&message.hdrs)?,
        body: decoded(&message.data)?,
    }))
}
