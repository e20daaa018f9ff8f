//! The orchestrator's heartbeat in the KV bucket: operators see that it runs, and its condition.

use async_nats::jetstream::kv::Store;
use portcullis_schemas::heartbeat::{Heartbeat, KEY};
use portcullis_schemas::{Prefix, Timestamp};

use crate::connection::Broker;
use crate::error::ApiError;
use crate::stored;

pub struct HeartbeatStore {
    bucket: Store,
}

impl HeartbeatStore {
    pub async fn open(broker: &Broker, prefix: &Prefix) -> Result<Self, ApiError> {
        let bucket = broker.context.get_key_value(prefix.bucket()).await.map_err(|error| ApiError::silent(&error))?;
        Ok(Self { bucket })
    }

    /// Says it, beside the work of the caller. One that the broker does not take is followed by the next.
    pub fn beat(&self, beat: &Heartbeat) {
        let (bucket, body) = (self.bucket.clone(), serde_json::to_vec(beat));
        tokio::spawn(async move {
            let stored = match body {
                Ok(body) => bucket.put(KEY, body.into()).await.map(drop).map_err(anyhow::Error::from),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = stored {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "heartbeat not stored: operators see this orchestrator as unreachable"
                );
            }
        });
    }
}

/// The last heartbeat with the time of its storing, and the broker's time now. None: there was none, or it cannot be read.
///
/// # Errors
///
/// Where the broker does not answer or refuses.
pub async fn last_heartbeat(broker: &Broker, prefix: &Prefix) -> Result<Option<(Heartbeat, Timestamp, Timestamp)>, ApiError> {
    let bucket = prefix.bucket();
    let (stream, subject) = (format!("KV_{bucket}"), format!("$KV.{bucket}.{KEY}"));
    let (message, now) = tokio::try_join!(stored::last(broker, &stream, &subject), stored::now(broker, &stream))?;
    let Some(message) = message else { return Ok(None) };
    Ok(serde_json::from_slice(&message.body).ok().map(|beat| (beat, message.at, now)))
}
