//! From a stored message to a record.

use std::error::Error;

use async_nats::HeaderMap;
use portcullis_schemas::Stream;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::Payload;
use portcullis_schemas::rejected::Malformed;

use super::reader::Stored;
use crate::client::{Record, What};

pub fn decode<T: Payload>(headers: Option<&HeaderMap>, body: &[u8]) -> Result<Event<T>, Malformed> {
    let headers = headers.into_iter().flat_map(HeaderMap::iter);
    envelope::decode(headers.flat_map(|(name, values)| values.iter().map(|value| (name.as_ref(), value.as_str()))), body)
}

pub fn record(stream: Stream, message: Stored) -> Result<Record, String> {
    let headers = message.headers.as_ref();
    let body = message.payload.as_ref();
    let what = match stream {
        Stream::Detections => decode(headers, body).map(|event| What::Detection(Box::new(event))),
        Stream::Decisions => decode(headers, body).map(|event| What::Decision(Box::new(event))),
        Stream::Orders => decode(headers, body).map(|event| What::Order(Box::new(event))),
        Stream::States => decode(headers, body).map(|event| What::State(Box::new(event))),
        Stream::Notices => decode(headers, body).map(|event| What::Notice(Box::new(event))),
        Stream::Requests | Stream::Releases | Stream::Inventory | Stream::Rejected => {
            return Err(format!("records of {} are not shown", stream.token()));
        }
    };
    Ok(Record {
        sequence: message.sequence,
        stored_at: message.stored_at,
        subject: message.subject.to_string(),
        what: what.unwrap_or_else(What::Unreadable),
    })
}

/// An error and its causes, each said once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
