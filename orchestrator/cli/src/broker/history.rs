//! The newest records of a stream, read backwards in windows: of a long log only what is wanted is read.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use portcullis_bus::{From, Reader, stored};
use portcullis_core::machine::Message;
use portcullis_schemas::subjects::PAGES;
use portcullis_schemas::{HostId, Stream, Timestamp};

use super::Broker;
use super::record::records;
use crate::client::{History, Query, Record, What};
use crate::failure::Failure;

/// Messages of the first window; each further one has so many times more.
const WINDOW: u64 = 2_048;
const GROWTH: u64 = 4;
/// What takes longer is ended, and says how far it came.
const BUDGET: Duration = Duration::from_secs(20);

/// What is looked for.
pub(super) struct Search<'a> {
    pub stream: Stream,
    pub filters: Vec<String>,
    pub since: Timestamp,
    pub limit: usize,
    /// The records of a message that count.
    pub take: &'a (dyn Fn(Message) -> Result<Vec<Record>, Failure> + Sync),
}

/// One window as it was read.
struct Window {
    records: VecDeque<Record>,
    /// When its first message was stored.
    from: Option<Timestamp>,
}

impl Broker {
    pub(super) async fn newest(&self, query: &Query) -> Result<History, Failure> {
        let mut filters = vec![self.subject(query.stream, query.host.as_ref())];
        if query.stream == Stream::Decisions && query.host.is_some() {
            filters.push(self.prefix.of(Stream::Decisions, PAGES));
        }
        let quoted = query.host.as_ref().map(|host| format!("\"{host}\""));
        let take = |message: Message| {
            if quoted.as_ref().is_some_and(|quoted| is_page(&message) && !holds(&message.body, quoted)) {
                return Ok(Vec::new());
            }
            let mut found = records(query.stream, message, query.host.as_ref()).map_err(|problem| self.silent(problem))?;
            found.retain(|record| is_listed(record, query.host.as_ref()));
            Ok(found)
        };
        self.search(&Search { stream: query.stream, filters, since: query.since, limit: query.limit, take: &take }).await
    }

    pub(super) async fn search(&self, search: &Search<'_>) -> Result<History, Failure> {
        let deadline = Instant::now() + BUDGET;
        let late = || self.silent(format!("reading took over {} s", BUDGET.as_secs()));
        let mut reader = self.reader(search.stream, search.filters.clone(), From::Time(search.since)).await?;
        if reader.pending() <= WINDOW {
            let window = self.window(search, reader, 0..u64::MAX, search.limit, deadline).await?.ok_or_else(late)?;
            return Ok(History { records: window.records.into(), from: None });
        }
        let bottom = self.soon(search.stream, reader.next_stored()).await?.map_or(0, |message| message.sequence);
        reader.end().await;
        let last = stored::last_sequence(&self.bus, &self.prefix.stream(search.stream)).await;
        let mut end = last.map_err(|error| self.failure(search.stream, error))? + 1;
        let (mut size, mut newest, mut from) = (WINDOW, VecDeque::new(), None);
        while end > bottom && newest.len() < search.limit {
            let start = end.saturating_sub(size).max(bottom);
            let reader = self.reader(search.stream, search.filters.clone(), From::Sequence(start)).await?;
            let wanted = search.limit - newest.len();
            let Some(mut window) = self.window(search, reader, start..end, wanted, deadline).await? else {
                return Ok(History { records: newest.into(), from: Some(from.ok_or_else(late)?) });
            };
            from = window.from.or(from);
            window.records.append(&mut newest);
            newest = window.records;
            (end, size) = (start, size.saturating_mul(GROWTH));
        }
        Ok(History { records: newest.into(), from: None })
    }

    /// The newest records of a window; none where there was no time to read it all.
    async fn window(
        &self,
        search: &Search<'_>,
        mut reader: Reader,
        sequences: Range<u64>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Option<Window>, Failure> {
        let mut window = Window { records: VecDeque::new(), from: None };
        while let Some(message) = self.soon(search.stream, reader.next_stored()).await? {
            if message.sequence >= sequences.end {
                break;
            }
            if Instant::now() > deadline {
                reader.end().await;
                return Ok(None);
            }
            window.from = window.from.or(Some(message.at));
            window.records.extend((search.take)(message)?);
            window.records.drain(..window.records.len().saturating_sub(limit));
        }
        reader.end().await;
        Ok(Some(window))
    }
}

/// Whether a body has this text somewhere, before anything in it is parsed.
pub(super) fn holds(body: &[u8], text: &str) -> bool {
    std::str::from_utf8(body).is_ok_and(|body| body.contains(text))
}

pub(super) fn is_page(message: &Message) -> bool {
    message.subject.rsplit('.').next() == Some(PAGES)
}

/// A page's entries on inputs without a host are about no host.
fn is_listed(record: &Record, host: Option<&HostId>) -> bool {
    !record.what.is_mark() && host.is_none_or(|host| record.is_about(host) || matches!(record.what, What::Unreadable(_)))
}
