//! Several streams as one: what is stored already in the order of storing, then whatever comes first.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::select_all;
use futures_util::stream::{self, Stream};
use portcullis_bus::Reader;
use portcullis_schemas::HostId;
use tokio::time::timeout;

use super::record::records;
use crate::client::Record;
use crate::failure::Failure;

const READ_ONE: Duration = Duration::from_secs(4);

pub struct Merge {
    readers: Vec<Reader>,
    /// What was read of each and not handed on: the records of one message.
    heads: Vec<VecDeque<Record>>,
    host: Option<HostId>,
    servers: String,
}

impl Merge {
    /// Of pages, what is about `host`.
    pub fn new(readers: Vec<Reader>, host: Option<HostId>, servers: String) -> Self {
        let heads = readers.iter().map(|_| VecDeque::new()).collect();
        Self { readers, heads, host, servers }
    }

    pub fn records(self) -> impl Stream<Item = Result<Record, Failure>> + Send {
        stream::unfold(Some(self), |merge| async move {
            let mut merge = merge?;
            match merge.next().await {
                Ok(record) => Some((Ok(record), Some(merge))),
                Err(problem) => Some((Err(Failure::Silent { servers: merge.servers.clone(), problem }), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Record, String> {
        loop {
            for (reader, head) in self.readers.iter_mut().zip(&mut self.heads) {
                while head.is_empty() && reader.is_behind() {
                    let stored = timeout(READ_ONE, Box::pin(reader.next_stored()))
                        .await
                        .map_err(|_| "a read timed out".to_owned())?
                        .map_err(|error| error.to_string())?;
                    if let Some(message) = stored {
                        head.extend(records(reader.stream(), message, self.host.as_ref())?);
                    }
                }
            }
            let stored_at = |head: &VecDeque<Record>| head.front().map(|record| record.stored_at);
            let oldest = self.heads.iter_mut().filter(|head| !head.is_empty()).min_by_key(|head| stored_at(head));
            if let Some(record) = oldest.and_then(VecDeque::pop_front) {
                return Ok(record);
            }
            let reads = self.readers.iter_mut().map(|reader| Box::pin(reader.next()));
            // The reads that lose are dropped between two messages, never with one in hand.
            let (message, at, _) = select_all(reads).await;
            let message = message.map_err(|error| error.to_string())?;
            if let (Some(reader), Some(head)) = (self.readers.get(at), self.heads.get_mut(at)) {
                head.extend(records(reader.stream(), message, self.host.as_ref())?);
            }
        }
    }
}
