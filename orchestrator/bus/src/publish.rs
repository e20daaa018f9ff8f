//! Publishing with an awaited acknowledgement.

use async_nats::HeaderMap;
use async_nats::jetstream::context::{self, PublishErrorKind};
use bytes::Bytes;
use portcullis_schemas::envelope::CONTENT_TYPE;

use crate::connection::Broker;
use crate::error::chain;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("no stream takes this subject")]
    NoStream,
    /// No acknowledgement came: it may be stored or not.
    #[error("{0}")]
    Unclear(String),
    #[error("{0}")]
    Refused(String),
}

impl PublishError {
    pub(crate) fn of(error: &context::PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::StreamNotFound => Self::NoStream,
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Self::Unclear(chain(error)),
            _ => Self::Refused(chain(error)),
        }
    }
}

/// Stores an event, and returns its sequence once it is stored.
///
/// It carries no `Nats-Msg-Id`: ids count for the whole stream, so another sender could have used this one in advance.
///
/// # Errors
///
/// Where it is not stored, or no acknowledgement came.
pub async fn publish(broker: &Broker, subject: String, body: Bytes) -> Result<u64, PublishError> {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    let stored = match broker.context.publish_with_headers(subject, headers, body).await {
        Ok(ack) => ack.await,
        Err(error) => Err(error),
    };
    stored.map(|ack| ack.sequence).map_err(|error| PublishError::of(&error))
}

/// A text that nobody else has, of 16 hexadecimal digits.
pub fn random_id() -> String {
    use std::hash::{BuildHasher, Hasher};
    // Its keys come from the system's source of randomness.
    format!("{:016x}", std::collections::hash_map::RandomState::new().build_hasher().finish())
}
