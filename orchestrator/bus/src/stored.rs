//! Stored messages by the API's own answer (JetStream `STREAM.MSG.GET`), one at a time, from the stream's leader.
//!
//! The answer is JSON, so a malformed header of a sender never reaches the connection's own parser, which would end over it.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis_core::machine::Message;
use portcullis_schemas::{Timestamp, headers};
use serde::Deserialize;
use serde_json::json;

use crate::connection::Broker;
use crate::error::ApiError;

/// The first message at or behind `sequence`. None: there is none.
pub async fn next(broker: &Broker, stream: &str, sequence: u64) -> Result<Option<Message>, ApiError> {
    get(broker, stream, json!({ "seq": sequence, "next_by_subj": ">" })).await
}

/// The first message of a subject at or behind `sequence`. None: there is none.
pub(crate) async fn next_of(broker: &Broker, stream: &str, subject: &str, sequence: u64) -> Result<Option<Message>, ApiError> {
    get(broker, stream, json!({ "seq": sequence, "next_by_subj": subject })).await
}

/// The last message of a subject. None: there is none.
pub async fn last(broker: &Broker, stream: &str, subject: &str) -> Result<Option<Message>, ApiError> {
    get(broker, stream, json!({ "last_by_subj": subject })).await
}

/// The broker's time, from its answer about a stream. It is taken as the time at which the answer arrived, and so is late by half a round
/// trip and never early.
pub async fn now(broker: &Broker, stream: &str) -> Result<Timestamp, ApiError> {
    #[derive(Deserialize)]
    struct Answer {
        ts: Timestamp,
    }
    let answer: Response<Answer> =
        broker.context.request(format!("STREAM.INFO.{stream}"), &json!({})).await.map_err(|error| ApiError::silent(&error))?;
    match answer {
        Response::Ok(answer) => Ok(answer.ts),
        Response::Err { error } => Err(ApiError::refused(&error)),
    }
}

#[derive(Deserialize)]
struct Answer {
    message: Encoded,
}

#[derive(Deserialize)]
struct Encoded {
    subject: String,
    seq: u64,
    time: Timestamp,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

async fn get(broker: &Broker, stream: &str, wanted: serde_json::Value) -> Result<Option<Message>, ApiError> {
    let answer: Response<Answer> =
        broker.context.request(format!("STREAM.MSG.GET.{stream}"), &wanted).await.map_err(|error| ApiError::silent(&error))?;
    let message = match answer {
        Response::Ok(answer) => answer.message,
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => return Ok(None),
        Response::Err { error } => return Err(ApiError::refused(&error)),
    };
    let decoded = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| ApiError::NotBase64);
    let block = decoded(&message.hdrs)?;
    let headers = headers::read(&block);
    Ok(Some(Message {
        subject: message.subject,
        headers: headers.pairs,
        malformed: headers.problem.map(|problem| (block, problem)),
        body: decoded(&message.data)?.into(),
        at: message.time,
        sequence: message.seq,
    }))
}

/// The stream's last sequence.
///
/// # Errors
///
/// Where the broker does not answer, has no such stream or refuses.
pub async fn last_sequence(broker: &Broker, stream: &str) -> Result<u64, ApiError> {
    Ok(state(broker, stream).await?.last_seq)
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct State {
    pub first_seq: u64,
    pub last_seq: u64,
    /// Removed between the first and the last.
    #[serde(default)]
    pub num_deleted: u64,
}

pub(crate) async fn state(broker: &Broker, stream: &str) -> Result<State, ApiError> {
    #[derive(Deserialize)]
    struct Answer {
        state: State,
    }
    let answer: Response<Answer> =
        broker.context.request(format!("STREAM.INFO.{stream}"), &json!({})).await.map_err(|error| ApiError::silent(&error))?;
    match answer {
        Response::Ok(answer) => Ok(answer.state),
        Response::Err { error } => Err(ApiError::refused(&error)),
    }
}
