//! Detections, by a consumer for each source, so that the flood of one delays no other.
//!
//! A source is a subject. It has a consumer of its own from the moment at which it is heard live, or is seen in the stream. There are no more than
//! [`OWN`] of them; while there are more sources, one further consumer reads all of the stream and passes over what is another's. A consumer that is made
//! begins behind what that one has delivered, so each message is some consumer's. An orchestrator that begins finds all of them on the broker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::Info;
use futures_util::StreamExt as _;
use futures_util::stream;
use portcullis_schemas::{Prefix, Stream, ids};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::connection::Broker;
use crate::consumer::{Arrival, Durable, Feed, Owned, Reading, made};
use crate::error::ApiError;
use crate::{stored, streams};

/// Sources with a consumer of their own.
const OWN: usize = 256;
/// A subject of more bytes has none: its consumer could not be named to the server, whose control lines hold 4 KiB.
const LONGEST: usize = 512;
/// How long a source that was not heard live waits at most, while none shares a consumer; and how often it is seen whether there is room for another.
const LOOK: Duration = Duration::from_secs(2);
const LOOK_SHARED: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Consumers that are made at the same time.
const TOGETHER: usize = 16;
/// Sources that were heard live and are remembered.
const HEARD: usize = 1_024;

/// Subjects of detections as they are heard live, before the broker is asked what its stream holds.
#[derive(Clone, Debug, Default)]
pub struct LiveSources(watch::Sender<BTreeSet<String>>);

impl LiveSources {
    /// Notes the subject of a detection. It may be called for each.
    pub fn note(&self, subject: &str) {
        if !self.0.borrow().contains(subject) {
            self.0.send_if_modified(|heard| heard.len() < HEARD && heard.insert(subject.to_owned()));
        }
    }

    fn keep(&self, known: impl Fn(&str) -> bool) {
        self.0.send_if_modified(|heard| {
            heard.retain(|subject| known(subject));
            false
        });
    }
}

/// Takes detections, for as long as somebody listens.
///
/// # Errors
///
/// Where the broker does not answer, has no such stream or refuses.
pub async fn consume_detections(
    broker: &Broker,
    prefix: &Prefix,
    live: LiveSources,
) -> Result<mpsc::Receiver<Arrival>, ApiError> {
    let stream = Stream::Detections;
    let handle = broker.context.get_stream(prefix.stream(stream)).await.map_err(|error| ApiError::of_stream(&error))?;
    let shared_name = format!("orchestrator-{}", stream.token());
    let mut found = Vec::new();
    let mut consumers = handle.consumers();
    while let Some(info) = consumers.next().await {
        let info = info.map_err(|error| ApiError::silent(&error))?;
        if info.name.strip_prefix(&shared_name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
            found.push(info);
        }
    }
    let highest = found.iter().map(|info| info.delivered.stream_sequence).max().unwrap_or(0);
    let (feed, from) = Feed::open(broker, stream, &handle, highest);
    let all = prefix.all(stream);
    let mut sources =
        Sources { feed, handle, all, shared_name, live, own: Vec::new(), owned: watch::Sender::default(), shared: None };
    for info in found {
        sources.begin(&info);
    }
    tokio::spawn(sources.run());
    Ok(from)
}

struct Sources {
    feed: Feed,
    handle: jetstream::stream::Stream,
    /// All subjects of the stream.
    all: String,
    /// The name of the consumer of those that have none of their own, and the beginning of all others'.
    shared_name: String,
    live: LiveSources,
    own: Vec<Consumer>,
    owned: watch::Sender<Owned>,
    shared: Option<Consumer>,
}

/// A consumer, and who reads by it.
struct Consumer {
    durable: Durable,
    task: JoinHandle<()>,
    ending: Arc<AtomicBool>,
}

impl Sources {
    async fn run(mut self) {
        let (to, mut heard) = (self.feed.to.clone(), self.live.0.subscribe());
        while !to.is_closed() {
            let pause = match self.look().await {
                Ok(()) => self.pause(),
                Err(error) => {
                    tracing::debug!(error = error.to_string(), "sources of detections not read, will retry");
                    LOOK_AGAIN
                }
            };
            let until = Instant::now() + pause;
            loop {
                tokio::select! {
                    biased;
                    () = to.closed() => return,
                    () = tokio::time::sleep_until(until) => break,
                    _ = heard.changed() => {
                        let subjects = heard.borrow_and_update().clone();
                        if !self.hear(subjects).await {
                            break;
                        }
                    }
                }
            }
            self.feed.broker.up().await;
        }
    }

    fn pause(&self) -> Duration {
        let is_ending = |shared: &Consumer| shared.ending.load(Ordering::Relaxed);
        if self.shared.as_ref().is_some_and(|shared| !is_ending(shared)) { LOOK_SHARED } else { LOOK }
    }

    /// Makes consumers for the sources that were heard. False: it has to be looked what there is.
    async fn hear(&mut self, heard: BTreeSet<String>) -> bool {
        let new: Vec<String> = heard.into_iter().filter(|subject| !self.is_owned(subject)).collect();
        let fit: Vec<String> = new.iter().filter(|subject| fits(subject)).take(self.free()).cloned().collect();
        let all = fit.len() == new.len();
        self.make(fit).await.is_ok() && (all || self.shared.is_some())
    }

    /// Compares the consumers with what the stream holds.
    async fn look(&mut self) -> Result<(), ApiError> {
        let standing: BTreeSet<String> = streams::subjects(&self.feed.broker, &self.feed.name, &self.all)
            .await?
            .into_iter()
            .map(|(subject, _)| subject)
            .collect();
        let new: Vec<&String> = standing.iter().filter(|subject| !self.is_owned(subject) && fits(subject)).collect();
        if new.len() > self.free() {
            self.remove_gone(&standing).await;
        }
        let new = new.into_iter().take(self.free()).cloned().collect();
        self.make(new).await?;
        let owned = self.owned.borrow().clone();
        self.live.keep(|subject| owned.contains_key(subject));
        let rest: Vec<&String> = standing.iter().filter(|subject| !owned.contains_key(*subject)).collect();
        match rest.is_empty() {
            true => self.end_shared().await,
            false => self.begin_shared(&rest).await,
        }
    }

    /// Makes a consumer for each of these subjects. One that the broker refuses is left to the one that is shared.
    async fn make(&mut self, subjects: Vec<String>) -> Result<(), ApiError> {
        if subjects.is_empty() {
            return Ok(());
        }
        // What the one that is shared has delivered is its own.
        let from = match &self.shared {
            Some(shared) => self.info(&shared.durable).await?.delivered.stream_sequence + 1,
            None => 1,
        };
        let durables = subjects.into_iter().map(|subject| {
            let name = format!("{}-{}", self.shared_name, &ids::digest([subject.as_str()])[..32]);
            Durable { name, subject: Some(subject), from }
        });
        let handle = &self.handle;
        let made = stream::iter(durables)
            .map(|durable| async move { (made(handle, &durable).await, durable) })
            .buffer_unordered(TOGETHER)
            .collect::<Vec<_>>()
            .await;
        let mut failed = Ok(());
        for (made, durable) in made {
            match made {
                Ok(consumer) => self.begin(consumer.cached_info()),
                Err(ApiError::Refused(error)) => match self.info(&durable).await {
                    // One that an earlier orchestrator was about to remove.
                    Ok(info) => self.begin(&info),
                    Err(_) => {
                        let subject = durable.subject.unwrap_or_default();
                        tracing::warn!(subject, error, "source has no consumer of its own: the broker refuses it");
                    }
                },
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    /// Reads by a consumer that stands.
    fn begin(&mut self, info: &Info) {
        let durable = Durable::of(info);
        let owned = durable.subject.is_none().then(|| self.owned.subscribe());
        let reading = Reading::new(self.feed.clone(), durable.clone(), info, owned);
        let consumer = Consumer { ending: reading.ending(), task: tokio::spawn(reading.run()), durable };
        match consumer.durable.subject.clone() {
            Some(subject) => {
                self.owned.send_modify(|owned| {
                    owned.insert(subject, consumer.durable.from);
                });
                self.own.push(consumer);
            }
            None => self.shared = Some(consumer),
        }
    }

    /// Removes the consumers of sources that the stream holds nothing of, and that have nothing in hand.
    async fn remove_gone(&mut self, standing: &BTreeSet<String>) {
        for consumer in std::mem::take(&mut self.own) {
            let subject = consumer.durable.subject.clone().unwrap_or_default();
            let info = if standing.contains(&subject) { None } else { self.info(&consumer.durable).await.ok() };
            let Some(info) = info.filter(|info| info.num_ack_pending == 0 && info.num_pending == 0) else {
                self.own.push(consumer);
                continue;
            };
            self.owned.send_modify(|owned| {
                owned.remove(&subject);
            });
            consumer.task.abort();
            if let Err(error) = self.delete(&consumer.durable).await {
                tracing::debug!(subject, %error, "consumer of a source that is gone not deleted");
                self.begin(&info);
            }
        }
    }

    /// Reads what has no consumer of its own.
    async fn begin_shared(&mut self, rest: &[&String]) -> Result<(), ApiError> {
        if let Some(shared) = &self.shared {
            if !shared.ending.load(Ordering::Relaxed) || !shared.task.is_finished() {
                return Ok(());
            }
            let info = self.info(&shared.durable).await?;
            self.begin(&info);
            return Ok(());
        }
        let durable = Durable { name: self.shared_name.clone(), subject: None, from: self.first_of(rest).await? };
        let consumer = made(&self.handle, &durable).await?;
        tracing::info!(sources = rest.len(), own = self.own.len(), "sources of detections share one consumer");
        self.begin(consumer.cached_info());
        Ok(())
    }

    /// The first message of any of these. Where they are many, of the stream.
    async fn first_of(&self, subjects: &[&String]) -> Result<u64, ApiError> {
        let mut first = u64::MAX;
        for subject in subjects.iter().take(OWN) {
            let message = stored::next_of(&self.feed.broker, &self.feed.name, subject, 1).await?;
            first = first.min(message.map_or(u64::MAX, |message| message.sequence));
        }
        Ok(if subjects.len() > OWN || first == u64::MAX { 1 } else { first })
    }

    /// Ends reading by the consumer that is shared, and removes it once nothing of it is in hand.
    async fn end_shared(&mut self) -> Result<(), ApiError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        if !shared.ending.swap(true, Ordering::Relaxed) || !shared.task.is_finished() {
            return Ok(());
        }
        let info = self.info(&shared.durable).await?;
        if info.num_ack_pending > 0 {
            self.begin(&info);
            return Ok(());
        }
        self.delete(&shared.durable).await?;
        self.shared = None;
        tracing::info!(own = self.own.len(), "every source of detections has a consumer of its own");
        Ok(())
    }

    async fn info(&self, durable: &Durable) -> Result<Info, ApiError> {
        self.handle.consumer_info(&durable.name).await.map_err(|error| ApiError::silent(&error))
    }

    async fn delete(&self, durable: &Durable) -> Result<(), ApiError> {
        self.handle.delete_consumer(&durable.name).await.map(drop).map_err(|error| ApiError::silent(&error))
    }

    fn is_owned(&self, subject: &str) -> bool {
        self.owned.borrow().contains_key(subject)
    }

    fn free(&self) -> usize {
        OWN.saturating_sub(self.own.len())
    }
}

/// Whether a consumer can be for this subject alone. A token that is a wildcard to a filter is a plain one to a sender.
fn fits(subject: &str) -> bool {
    subject.len() <= LONGEST && subject.split('.').all(|token| !matches!(token, "*" | ">"))
}

#[cfg(test)]
mod tests {
    use super::{HEARD, LONGEST, LiveSources, fits};

    #[test]
    fn a_subject_that_a_filter_would_read_otherwise_has_no_consumer_of_its_own() {
        for good in ["p.detection.siem", "p.detection.a.b", "p.detection.a*b", "p.detection.>x", "p.detection.ä"] {
            assert!(fits(good), "{good}");
        }
        let too_long = format!("p.detection.{}", "x".repeat(LONGEST));
        for bad in ["p.detection.*", "p.detection.>", "p.detection.*.b", &too_long] {
            assert!(!fits(bad), "{bad}");
        }
    }

    #[test]
    fn a_source_is_heard_once_and_no_more_than_so_many() {
        let live = LiveSources::default();
        let mut heard = live.0.subscribe();
        live.note("a");
        assert!(heard.has_changed().expect("the sender lives"));
        heard.mark_unchanged();
        live.note("a");
        assert!(!heard.has_changed().expect("the sender lives"));
        (0..2 * HEARD).for_each(|n| live.note(&format!("s{n}")));
        assert_eq!(live.0.borrow().len(), HEARD);
        heard.mark_unchanged();
        live.keep(|subject| subject == "a");
        assert!(!heard.has_changed().expect("the sender lives"), "what is forgotten is no news");
        assert_eq!(live.0.borrow().len(), 1);
    }
}
