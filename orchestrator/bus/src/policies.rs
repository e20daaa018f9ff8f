//! Texts of policies in the KV bucket, by their hash: what a record in DECISIONS names can be read again.

use anyhow::Context as _;
use async_nats::jetstream::kv::CreateErrorKind;
use portcullis_schemas::Prefix;

use crate::connection::Broker;
use crate::stored;

/// Set where a key was deleted or purged.
const OPERATION: &str = "KV-Operation";

fn key(hash: &str) -> String {
    format!("policy.{hash}")
}

/// Keeps the text of a policy. It is written once.
///
/// # Errors
///
/// Where it cannot be stored.
pub async fn keep(broker: &Broker, prefix: &Prefix, hash: &str, text: String) -> anyhow::Result<()> {
    if read(broker, prefix, hash).await?.is_some() {
        return Ok(());
    }
    let name = prefix.bucket();
    let bucket = broker.context.get_key_value(&name).await.with_context(|| format!("KV bucket {name}"))?;
    match bucket.create(key(hash), text.into()).await {
        Err(error) if error.kind() != CreateErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("KV bucket {name}: policy {hash}"))
        }
        _ => Ok(()),
    }
}

/// The text of a policy, from the leader of the bucket's stream: what was stored before is found. None where it is not kept.
///
/// # Errors
///
/// Where the broker does not answer.
pub async fn read(broker: &Broker, prefix: &Prefix, hash: &str) -> anyhow::Result<Option<String>> {
    let name = prefix.bucket();
    let (stream, subject) = (format!("KV_{name}"), format!("$KV.{name}.{}", key(hash)));
    let found = stored::last(broker, &stream, &subject).await.with_context(|| format!("KV bucket {name}"))?;
    let is_kept = |(name, _): (&str, &str)| !name.eq_ignore_ascii_case(OPERATION);
    let text = found.filter(|message| message.headers().all(is_kept)).map(|message| message.body);
    text.map(|text| String::from_utf8(text.into()).context("the text of a policy is not UTF-8")).transpose()
}
