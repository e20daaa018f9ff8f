//! How a question to the JetStream API fails.

use std::error::Error;

use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("the broker does not answer: {0}")]
    Silent(String),
    #[error("the broker has no such stream")]
    NoStream,
    #[error("{0}")]
    Refused(String),
    #[error("the broker's answer holds no base64 where it should")]
    NotBase64,
}

impl ApiError {
    pub(crate) fn silent(error: &dyn Error) -> Self {
        Self::Silent(chain(error))
    }

    pub(crate) fn of_stream(error: &GetStreamError) -> Self {
        match error.kind() {
            GetStreamErrorKind::JetStream(error) => Self::refused(&error),
            _ => Self::silent(error),
        }
    }

    pub(crate) fn refused(error: &jetstream::Error) -> Self {
        if error.error_code() == ErrorCode::STREAM_NOT_FOUND { Self::NoStream } else { Self::Refused(error.to_string()) }
    }
}

/// An error and its causes, each once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        next = cause.source();
    }
    text
}
