//! Plain subscriptions, each over a connection of its own: what no stream keeps.

use anyhow::Context as _;
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use portcullis_core::machine;
use portcullis_schemas::Timestamp;

use crate::connection::{Broker, Inlet, Servers};
use crate::delivery::pairs;

pub struct Subscription {
    inlet: Inlet,
    messages: Subscriber,
}

impl Subscription {
    /// Connects and subscribes once; an error passes.
    ///
    /// # Errors
    ///
    /// Where the broker cannot be reached or refuses.
    pub async fn open(servers: &Servers, subject: String) -> anyhow::Result<Self> {
        let inlet = Inlet::open(servers).await?;
        let messages = inlet.client.subscribe(subject).await?;
        // From here on the broker knows of it.
        inlet.client.flush().await?;
        Ok(Self { inlet, messages })
    }

    /// The next message.
    ///
    /// # Errors
    ///
    /// When the connection has ended: this subscription is of no more use.
    pub async fn next(&mut self) -> anyhow::Result<Heard> {
        tokio::select! {
            biased;
            message = self.messages.next() => Ok(Heard(message.context("the subscription ended")?)),
            () = self.inlet.ended() => anyhow::bail!("the connection ended"),
        }
    }
}

/// A message that no stream keeps.
pub struct Heard(Message);

impl Heard {
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// Where its sender waits for an answer.
    pub fn reply(&self) -> Option<&str> {
        self.0.reply.as_deref()
    }

    /// As it was heard at `at`.
    pub fn into_message(self, at: Timestamp) -> machine::Message {
        machine::Message {
            subject: self.0.subject.to_string(),
            headers: pairs(self.0.headers.as_ref()),
            malformed: None,
            body: self.0.payload,
            at,
            sequence: 0,
        }
    }
}

impl Broker {
    /// Sends what no stream is to keep.
    ///
    /// # Errors
    ///
    /// Where the connection has ended for good.
    pub async fn send(&self, subject: &str, body: Bytes) -> anyhow::Result<()> {
        Ok(self.client.publish(subject.to_owned(), body).await?)
    }
}
