//! REJECTED: what could not be understood is kept whole, with its reason.

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis_core::machine::{Kept, Message, Ticket};
use portcullis_schemas::rejected::{Malformed, header};
use portcullis_schemas::{Prefix, Stream};

use crate::connection::Broker;
use crate::error::chain;

/// Room for what the headers grow by: the rest of what input streams leave below the largest payload.
const ROOM: usize = 6 * 1024;

/// A message as it came.
#[derive(Clone, Copy)]
pub struct Original<'a> {
    /// The subject's token after the prefix.
    pub kind: &'static str,
    /// Where it is stored, if it is.
    pub stored: Option<Ticket>,
    pub message: &'a Message,
}

/// Stores a message in REJECTED, by its sender. Where its headers make it too large they are left out, and a header says so.
pub async fn keep(broker: &Broker, prefix: &Prefix, original: &Original<'_>, why: &Malformed) -> Kept {
    let kept = match store(broker, prefix, original, why, true).await {
        Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => store(broker, prefix, original, why, false).await,
        kept => kept,
    };
    match kept {
        Ok(()) => Kept::Stored,
        Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => Kept::TooLarge,
        Err(error) => Kept::Failed(format!("REJECTED takes nothing: {}", chain(&error))),
    }
}

async fn store(
    broker: &Broker,
    prefix: &Prefix,
    original: &Original<'_>,
    why: &Malformed,
    with_headers: bool,
) -> Result<(), PublishError> {
    let Original { kind, stored, message: Message { subject, headers: own_headers, malformed, body, .. } } = *original;
    let token = prefix.rest(kind, subject).unwrap_or("_unknown");
    let mut headers = HeaderMap::new();
    let mut room = ROOM;
    if !with_headers {
        headers.insert("Portcullis-Headers-Left-Out", "all");
    }
    for (name, value) in own_headers.iter().filter(|_| with_headers) {
        // What the server or this stream gives a meaning to is kept under another name.
        let own = ["nats-", "portcullis-"].iter().any(|own| name.to_ascii_lowercase().starts_with(own));
        let grown = if own { header::ORIGINAL.len() } else { 0 };
        let name = if own { format!("{}{name}", header::ORIGINAL) } else { name.clone() };
        if grown <= room {
            room -= grown;
            headers.append(name.as_str(), value.as_str());
        }
    }
    if let Some((block, _)) = malformed.as_ref().filter(|_| with_headers) {
        headers.insert(header::HEADER_BLOCK, BASE64_STANDARD.encode(block).as_str());
    }
    headers.insert(header::REASON, why.code());
    let detail = printable(&why.to_string());
    headers.insert(header::DETAIL, detail.as_str());
    headers.insert(header::SUBJECT, printable(subject).as_str());
    let message = PublishMessage::build().payload(body.clone());
    if let Some(Ticket { stream, sequence }) = stored {
        headers.insert(header::STREAM, prefix.stream(stream).as_str());
        headers.insert(header::SEQUENCE, sequence.to_string().as_str());
        // Written by one program and from what is stored: the same message again is no second copy.
        headers.insert("Nats-Msg-Id", format!("{}:{sequence}", prefix.stream(stream)).as_str());
    }
    broker.context.send_publish(prefix.of(Stream::Rejected, token), message.headers(headers)).await?.await?;
    tracing::warn!(subject, reason = why.code(), why = detail, "input rejected");
    Ok(())
}

/// A header value holds no line breaks, and is not the place for a long text.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
