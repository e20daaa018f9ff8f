//! What the doctor looks at, read from the broker.

use std::collections::BTreeMap;
use std::future::Future;

use chrono::Utc;
use portcullis_bus::{From, stored, streams, survey};
use portcullis_schemas::events::{Order, Term};
use portcullis_schemas::subjects::TERM;
use portcullis_schemas::{Stream, ids};
use tokio::time::timeout;

use super::{ANSWER, Broker, record};
use crate::failure::Failure;
use crate::site::{Chain, Link, Site};

/// So many of the last orders are checked.
const LINKS: u64 = 2_000;

impl Broker {
    pub(super) async fn survey(&self) -> Site {
        let mut streams = Vec::new();
        for stream in Stream::ALL {
            streams.push((stream, self.part(stream, survey::stream(&self.bus, &self.prefix, stream)).await));
        }
        Site {
            server: survey::server(&self.bus),
            clock_ahead: self.clock().await,
            storage: self.part(Stream::Orders, survey::storage(&self.bus)).await,
            streams,
            leader: self.leader().await,
            term: self.term().await,
            orchestrators: self.part(Stream::Decisions, survey::orchestrators(&self.bus, &self.prefix)).await,
            chain: self.whole(self.chain()).await,
            detections: self.counts(Stream::Detections).await,
            rejected: self.counts(Stream::Rejected).await,
        }
    }

    async fn part<T>(
        &self,
        stream: Stream,
        read: impl Future<Output = Result<T, portcullis_bus::ApiError>>,
    ) -> Result<T, Failure> {
        self.soon(stream, read).await
    }

    async fn clock(&self) -> Result<chrono::TimeDelta, Failure> {
        let before = Utc::now();
        let now = self.part(Stream::Orders, stored::now(&self.bus, &self.prefix.stream(Stream::Orders))).await?;
        let after = Utc::now();
        Ok(now - (before + (after - before) / 2))
    }

    async fn leader(&self) -> Result<Option<(String, chrono::TimeDelta)>, Failure> {
        let (leader, now) = self
            .part(Stream::Orders, async {
                let leader = survey::leader(&self.bus, &self.prefix).await?;
                Ok((leader, stored::now(&self.bus, &self.prefix.stream(Stream::Orders)).await?))
            })
            .await?;
        Ok(leader.map(|(who, at)| (who, now - at)))
    }

    async fn term(&self) -> Result<Option<Term>, Failure> {
        let stream = Stream::Decisions;
        let (name, subject) = (self.prefix.stream(stream), self.prefix.of(stream, TERM));
        let last = self.part(stream, stored::last(&self.bus, &name, &subject)).await?;
        Ok(last.and_then(|last| record::decode::<Term>(&last.headers, &last.body).ok()).map(|event| event.data))
    }

    async fn chain(&self) -> Result<Chain, Failure> {
        let stream = Stream::Orders;
        let last = self.part(stream, stored::last_sequence(&self.bus, &self.prefix.stream(stream))).await?;
        let from = From::Sequence((last + 1).saturating_sub(LINKS).max(1));
        let mut reader = self.reader(stream, vec![self.prefix.all(stream)], from).await?;
        let (mut chain, mut before): (Chain, Option<Link>) = (Chain::default(), None);
        while let Some(message) = self.soon(stream, reader.next_stored()).await? {
            let prev = match self.prefix.rest(stream.token(), &message.subject) {
                Some(TERM) => record::decode::<Term>(&message.headers, &message.body).ok().and_then(|event| event.data.prev),
                _ => record::decode::<Order>(&message.headers, &message.body).ok().map(|event| event.data.prev),
            };
            let link = Link { sequence: message.sequence, sha256: ids::sha256(&message.body), prev };
            chain.take(before.as_ref(), &link);
            before = Some(link);
        }
        reader.end().await;
        Ok(chain)
    }

    async fn counts(&self, stream: Stream) -> Result<BTreeMap<String, u64>, Failure> {
        let (name, all) = (self.prefix.stream(stream), self.prefix.all(stream));
        let counted = match timeout(ANSWER, streams::subjects(&self.bus, &name, &all)).await {
            Ok(counted) => counted.map_err(|error| self.failure(stream, error))?,
            Err(_) => return Err(self.silent("a read timed out".into())),
        };
        let named = counted.into_iter();
        let named =
            named.map(|(subject, count)| (self.prefix.rest(stream.token(), &subject).unwrap_or(&subject).to_owned(), count));
        Ok(named.collect())
    }
}
