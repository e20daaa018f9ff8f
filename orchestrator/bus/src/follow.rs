//! Followers: the messages of a stream in order, first those that are stored already, then those that come, for as long as the process lives.

use portcullis_core::machine::Message;
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::mpsc;

use crate::connection::Broker;
use crate::error::ApiError;
use crate::reader::{FOLLOWS, From, Reader};

/// A message with its stream.
#[derive(Clone, Debug)]
pub struct Stored {
    pub stream: Stream,
    pub message: Message,
}

pub struct Follower(Reader);

impl Follower {
    /// Hands all that is stored to `take`, one message at a time, and returns the follower of what comes. `who` names this process.
    ///
    /// # Errors
    ///
    /// As [`Reader::open`] and [`Reader::next`].
    pub async fn open(
        broker: &Broker,
        prefix: &Prefix,
        stream: Stream,
        from: From,
        who: &str,
        mut take: impl FnMut(Message),
    ) -> Result<Self, ApiError> {
        let mut reader =
            Reader::open_as(broker, prefix, stream, vec![prefix.all(stream)], from, Some(format!("{FOLLOWS}{who}"))).await?;
        while let Some(message) = reader.next_stored().await? {
            take(message);
        }
        Ok(Self(reader))
    }

    /// Hands on what comes, until nobody takes it.
    pub fn spawn(mut self, to: mpsc::Sender<Stored>) {
        let stream = self.0.stream();
        tokio::spawn(async move {
            loop {
                match self.0.next().await {
                    Ok(message) => {
                        if to.send(Stored { stream, message }).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::error!(stream = stream.token(), %error, "message of a stream skipped: it has no sequence")
                    }
                }
            }
        });
    }
}
