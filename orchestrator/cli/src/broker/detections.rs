//! Detections by sequence or id, and what was decided about one.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::StreamExt;
use futures_util::stream;
use portcullis_bus::{From, stored};
use portcullis_core::machine::Message;
use portcullis_schemas::envelope;
use portcullis_schemas::events::{InputKind, InputRef, Reason};
use portcullis_schemas::{Stream, Timestamp};
use serde::Deserialize;

use super::Broker;
use super::history::{Search, holds, is_page};
use super::record::records;
use crate::client::{DetectionName, Record, What};
use crate::failure::Failure;

/// Single reads on their way at once.
const AT_ONCE: usize = 64;
/// An answer is stored after its input; the servers of a cluster differ by no more than this.
const BEFORE: TimeDelta = TimeDelta::seconds(2);
const BUDGET: Duration = Duration::from_secs(20);

/// A page as far as it tells what it answers.
#[derive(Deserialize)]
struct Page {
    data: Bounds,
}

#[derive(Deserialize)]
struct Bounds {
    stream: String,
    first: u64,
    last: u64,
}

impl Broker {
    pub(super) async fn detection_named(&self, named: &DetectionName, since: Timestamp) -> Result<Option<Record>, Failure> {
        let of = |message| records(Stream::Detections, message, None).map_err(|problem| self.silent(problem));
        match named {
            DetectionName::Sequence(sequence) => {
                let name = self.prefix.stream(Stream::Detections);
                let found = self.soon(Stream::Detections, stored::next(&self.bus, &name, *sequence)).await?;
                let found = found.filter(|message| message.sequence == *sequence).map(of).transpose()?;
                Ok(found.and_then(|found| found.into_iter().next()))
            }
            DetectionName::Id(id) => {
                // A sender may write some characters of its id in another way.
                let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                let plain = id.split(|c| !is_plain(c)).max_by_key(|part| part.len()).unwrap_or_default();
                let take = |message: Message| {
                    let named = holds(&message.body, plain) || message.headers.iter().any(|(_, value)| value.contains(plain));
                    match named && self.key(&message).is_some_and(|key| key.id == *id) {
                        true => of(message),
                        false => Ok(Vec::new()),
                    }
                };
                let filters = vec![self.prefix.all(Stream::Detections)];
                let found = self.search(&Search { stream: Stream::Detections, filters, since, limit: 1, take: &take }).await?;
                Ok(found.records.into_iter().next())
            }
        }
    }

    pub(super) async fn answers_to(&self, detection: &Record) -> Result<Vec<Record>, Failure> {
        let stream = self.prefix.stream(Stream::Detections);
        let key = self.keys_of(&stream, &[detection.sequence]).await?.pop().flatten();
        let filters = vec![self.prefix.all(Stream::Decisions)];
        let mut reader = self.reader(Stream::Decisions, filters, From::Time(detection.stored_at - BEFORE)).await?;
        let deadline = Instant::now() + BUDGET;
        let mut answers: Vec<Record> = Vec::new();
        while !answers.last().is_some_and(is_final)
            && Instant::now() < deadline
            && let Some(message) = self.soon(Stream::Decisions, reader.next_stored()).await?
        {
            if is_page(&message) && !covers(&message.body, &stream, detection.sequence) {
                continue;
            }
            let found = records(Stream::Decisions, message, None).map_err(|problem| self.silent(problem))?;
            answers.extend(found.into_iter().filter(|record| record.answers(&stream, detection.sequence, key.as_ref())));
        }
        reader.end().await;
        Ok(answers)
    }

    pub(super) async fn keys_of(&self, stream: &str, sequences: &[u64]) -> Result<Vec<Option<InputRef>>, Failure> {
        let reads: Vec<_> = sequences.iter().map(|sequence| self.key_at(stream, *sequence)).collect();
        let read: Vec<Result<Option<InputRef>, Failure>> = stream::iter(reads).buffered(AT_ONCE).collect().await;
        read.into_iter().collect()
    }

    async fn key_at(&self, stream: &str, sequence: u64) -> Result<Option<InputRef>, Failure> {
        let message = self.soon(Stream::Detections, stored::next(&self.bus, stream, sequence)).await?;
        Ok(message.filter(|message| message.sequence == sequence).and_then(|message| self.key(&message)))
    }

    /// As the orchestrator reads it: by what identifies the event alone.
    fn key(&self, message: &Message) -> Option<InputRef> {
        let token = self.prefix.rest(Stream::Detections.token(), &message.subject)?.to_owned();
        let headers = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let (event, _) = envelope::detection(headers, &message.body).ok()?;
        Some(InputRef { kind: InputKind::Detection, token, source: event.source, id: event.id })
    }
}

fn covers(body: &[u8], stream: &str, sequence: u64) -> bool {
    // What cannot be read here is read whole, and shown as it is.
    serde_json::from_slice::<Page>(body)
        .map_or(true, |page| page.data.stream == stream && (page.data.first..=page.data.last).contains(&sequence))
}

/// One that waits for its host has another decision behind it.
fn is_final(record: &Record) -> bool {
    !matches!(&record.what, What::Decision(event) if matches!(event.data.reason, Reason::Unresolved { waits: Some(_), .. }))
}
