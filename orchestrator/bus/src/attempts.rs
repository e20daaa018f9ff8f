//! Attempts at an input that came again: counted by a mark that is written before work on it begins.
//!
//! The broker counts deliveries, and those grow without anybody's work: into a client that hangs, or while a connection is lost. Only an
//! input whose processing has ended this process again and again is poison.

use async_nats::jetstream::kv::Store;
use portcullis_core::machine::Ticket;
use portcullis_schemas::Prefix;

use crate::connection::Broker;
use crate::delivery::AckHandle;
use crate::error::ApiError;

#[derive(Clone)]
pub struct Attempts {
    marks: Store,
}

impl Attempts {
    pub async fn open(broker: &Broker, prefix: &Prefix) -> Result<Self, ApiError> {
        let marks = broker.context.get_key_value(prefix.bucket()).await.map_err(|error| ApiError::silent(&error))?;
        Ok(Self { marks })
    }

    /// Counts an attempt, and says how often work on the input was begun before and never finished.
    ///
    /// A mark that is written again after a failure counts once: it is the same one.
    pub async fn mark(&self, ticket: Ticket) -> Result<u64, ApiError> {
        let mark = self.marks.get(key(ticket)).await.map_err(|error| ApiError::silent(&error))?;
        let begun: u64 = mark.and_then(|mark| String::from_utf8_lossy(&mark).parse().ok()).unwrap_or(0);
        let mark = self.marks.put(key(ticket), (begun + 1).to_string().into()).await;
        mark.map(|_| begun).map_err(|error| ApiError::silent(&error))
    }

    /// Takes the mark away: the work was finished, or put off on purpose. One that stays is only a mark too many.
    pub async fn end(&self, ack: &AckHandle) {
        if ack.is_suspect
            && let Err(error) = self.marks.purge(key(ack.ticket)).await
        {
            tracing::debug!(%error, "mark of a redelivered input not removed");
        }
    }
}

fn key(ticket: Ticket) -> String {
    format!("attempt.{}.{}", ticket.stream.token(), ticket.sequence)
}
