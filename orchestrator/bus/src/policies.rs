//! Texts of policies in the KV bucket, by their hash: what a record in DECISIONS names can be read again.

use anyhow::Context as _;
use portcullis_schemas::Prefix;

use crate::connection::Broker;

fn key(hash: &str) -> String {
    format!("policy.{hash}")
}

/// Keeps the text of a policy.
///
/// # Errors
///
/// Where it cannot be stored.
pub async fn keep(broker: &Broker, prefix: &Prefix, hash: &str, text: String) -> anyhow::Result<()> {
    let name = prefix.bucket();
    let bucket = broker.context.get_key_value(&name).await.with_context(|| format!("KV bucket {name}"))?;
    if bucket.get(key(hash)).await?.is_none() {
        bucket.put(key(hash), text.into()).await?;
    }
    Ok(())
}

/// The text of a policy; None where it is not kept.
///
/// # Errors
///
/// Where the broker does not answer.
pub async fn read(broker: &Broker, prefix: &Prefix, hash: &str) -> anyhow::Result<Option<String>> {
    let name = prefix.bucket();
    let bucket = broker.context.get_key_value(&name).await.with_context(|| format!("KV bucket {name}"))?;
    let text = bucket.get(key(hash)).await?;
    text.map(|text| String::from_utf8(text.into()).context("the text of a policy is not UTF-8")).transpose()
}
