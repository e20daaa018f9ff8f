//! The heartbeat: what the orchestrator says of itself, in the KV bucket, so that operators see it is there and in what condition.

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::kv::Store;
use portcullis_schemas::Prefix;
use portcullis_schemas::heartbeat::{Heartbeat, KEY};

pub struct Heart {
    bucket: Store,
}

impl Heart {
    pub async fn open(context: &jetstream::Context, prefix: &Prefix) -> anyhow::Result<Self> {
        let name = prefix.bucket();
        let bucket = context.get_key_value(&name).await.with_context(|| format!("KV bucket {name}"))?;
        Ok(Self { bucket })
    }

    /// Says it, beside the work of the caller. One that the broker does not take is followed by the next.
    pub fn beat(&self, said: &Heartbeat) {
        let (bucket, body) = (self.bucket.clone(), serde_json::to_vec(said));
        tokio::spawn(async move {
            let stored = match body {
                Ok(body) => bucket.put(KEY, body.into()).await.map(drop).map_err(anyhow::Error::from),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = stored {
                tracing::warn!(error = format!("{error:#}"), "heartbeat not stored: operators see this orchestrator as away");
            }
        });
    }
}
