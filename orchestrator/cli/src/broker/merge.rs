//! Several streams as one: what is stored already in the order of storing, then whatever comes first.

use std::time::Duration;

use futures_util::future::select_all;
use futures_util::stream::{self, Stream};
use portcullis_bus::Reader;
use tokio::time::timeout;

use super::record::record;
use crate::client::Record;
use crate::failure::Failure;

const READ_ONE: Duration = Duration::from_secs(4);

pub struct Merge {
    readers: Vec<Reader>,
    heads: Vec<Option<Record>>,
    servers: String,
}

impl Merge {
    pub fn new(readers: Vec<Reader>, servers: String) -> Self {
        let heads = readers.iter().map(|_| None).collect();
        Self { readers, heads, servers }
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
        for (reader, head) in self.readers.iter_mut().zip(&mut self.heads) {
            if head.is_none() && reader.is_behind() {
                let stored = timeout(READ_ONE, reader.next_stored())
                    .await
                    .map_err(|_| "a read timed out".to_owned())?
                    .map_err(|error| error.to_string())?;
                *head = stored.map(|message| record(reader.stream(), message)).transpose()?;
            }
        }
        let oldest =
            self.heads.iter_mut().filter(|head| head.is_some()).min_by_key(|head| head.as_ref().map(|record| record.stored_at));
        if let Some(record) = oldest.and_then(Option::take) {
            return Ok(record);
        }
        let reads = self.readers.iter_mut().map(|reader| {
            Box::pin(async move {
                let stream = reader.stream();
                reader.next().await.map(|message| (stream, message)).map_err(|error| error.to_string())
            })
        });
        // The reads that lose are dropped between two messages, never with one in hand.
        let (stream, message) = select_all(reads).await.0?;
        record(stream, message)
    }
}
