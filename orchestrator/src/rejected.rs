//! REJECTED: what could not be understood is kept whole, with its reason.

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, message::PublishMessage};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis_schemas::rejected::{Malformed, header};
use portcullis_schemas::{Prefix, Stream};

/// Room for what the headers grow by: the rest of what input streams leave below the largest payload.
const ROOM: usize = 6 * 1024;

/// A message as it came.
pub struct Original<'a> {
    /// The subject's token after the prefix.
    pub kind: &'static str,
    pub subject: &'a str,
    pub headers: Vec<(&'a str, &'a str)>,
    /// Its header block as it came, where that is malformed.
    pub block: Option<&'a [u8]>,
    pub body: &'a [u8],
    /// Where it stands, if it was stored.
    pub stored: Option<(Stream, u64)>,
}

/// Did it fail because the message is larger than the broker takes?
pub fn too_large(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<PublishError>().is_some_and(|cause| cause.kind() == PublishErrorKind::MaxPayloadExceeded)
    })
}

/// Stores a message in REJECTED, by its sender. Where its headers make it too large they are left out, and the reason says so.
pub async fn keep(context: &jetstream::Context, prefix: &Prefix, original: &Original<'_>, why: &Malformed) -> anyhow::Result<()> {
    match store(context, prefix, original, why).await {
        Err(error) if too_large(&error) && !(original.headers.is_empty() && original.block.is_none()) => {
            let bare = Original { headers: vec![("Portcullis-Headers-Left-Out", "all")], block: None, ..*original };
            store(context, prefix, &bare, why).await
        }
        stored => stored,
    }
}

async fn store(context: &jetstream::Context, prefix: &Prefix, original: &Original<'_>, why: &Malformed) -> anyhow::Result<()> {
    let token = prefix.rest(original.kind, original.subject).unwrap_or("_unknown");
    let mut headers = HeaderMap::new();
    let mut room = ROOM;
    for (name, value) in &original.headers {
        // What the server or this stream gives a meaning to is kept under another name.
        let own = ["nats-", "portcullis-"].iter().any(|own| name.to_ascii_lowercase().starts_with(own));
        let grown = if own { header::ORIGINAL.len() } else { 0 };
        let name = if own { format!("{}{name}", header::ORIGINAL) } else { (*name).to_owned() };
        if grown <= room {
            room -= grown;
            headers.append(name.as_str(), *value);
        }
    }
    if let Some(block) = original.block {
        headers.insert(header::HEADER_BLOCK, BASE64_STANDARD.encode(block).as_str());
    }
    headers.insert(header::REASON, why.code());
    let detail = printable(&why.to_string());
    headers.insert(header::DETAIL, detail.as_str());
    headers.insert(header::SUBJECT, printable(original.subject).as_str());
    let message = PublishMessage::build().payload(original.body.to_vec().into());
    if let Some((stream, sequence)) = original.stored {
        headers.insert(header::STREAM, prefix.stream(stream).as_str());
        headers.insert(header::SEQUENCE, sequence.to_string().as_str());
        // Written by one program and from what is stored: the same message again is no second copy.
        headers.insert("Nats-Msg-Id", format!("{}:{sequence}", prefix.stream(stream)).as_str());
    }
    let subject = prefix.of(Stream::Rejected, token);
    let ack = context.send_publish(subject, message.headers(headers)).await.context("REJECTED takes nothing")?;
    ack.await.context("REJECTED did not acknowledge")?;
    tracing::warn!(subject = original.subject, reason = why.code(), why = detail, "rejected");
    Ok(())
}

/// A header value holds no line breaks, and is not the place for a long text.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}
