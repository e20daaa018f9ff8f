//! Attempts at an input that came again: counted by a mark that is written before work on it begins.
//!
//! The broker counts deliveries, and those grow without anybody's work: into a client that hangs, or while a connection is lost. Only an
//! input whose processing has ended this process again and again is poison.

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::kv::Store;
use portcullis_schemas::Prefix;

use crate::delivery::Delivery;

pub struct Attempts {
    marks: Store,
}

impl Attempts {
    pub async fn open(context: &jetstream::Context, prefix: &Prefix) -> anyhow::Result<Self> {
        let bucket = prefix.bucket();
        let marks = context.get_key_value(&bucket).await.with_context(|| format!("KV bucket {bucket}"))?;
        Ok(Self { marks })
    }

    /// How often work on `delivery` was begun and not finished. A first delivery costs nothing.
    pub async fn begun(&self, delivery: &Delivery) -> anyhow::Result<u64> {
        if delivery.delivered <= 1 {
            return Ok(0);
        }
        let mark = self.marks.get(key(delivery)).await.context("the mark of an input that came again cannot be read")?;
        Ok(mark.and_then(|mark| String::from_utf8_lossy(&mark).parse().ok()).unwrap_or(0))
    }

    /// Marks that work on `delivery` begins for the time named. Said twice, it is the same mark: a write that is tried again counts once.
    pub async fn begin(&self, delivery: &Delivery, time: u64) -> anyhow::Result<()> {
        if delivery.delivered > 1 {
            let mark = self.marks.put(key(delivery), time.to_string().into()).await;
            mark.context("the mark of an input that came again cannot be written")?;
        }
        Ok(())
    }

    /// Takes the mark away: the work was finished, or put off on purpose. One that stays is only a mark too many.
    pub async fn end(&self, delivery: &Delivery) {
        if delivery.delivered > 1
            && let Err(error) = self.marks.purge(key(delivery)).await
        {
            tracing::debug!(%error, "a mark could not be taken away");
        }
    }
}

fn key(delivery: &Delivery) -> String {
    format!("attempt.{}.{}", delivery.stream.token(), delivery.sequence)
}
