//! Strays: what is published under the prefix where no stream takes it, and so would vanish without a word to anybody.
//!
//! A slip in a subject (`portcullis.detections.siem`) is no error to a sender on core NATS. So everything under the prefix is heard over a
//! connection of its own; what nothing takes is counted, a sample of it goes to REJECTED, and a sender who waits for an acknowledgement gets
//! the error. Best effort: it is not stored before it is heard.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use portcullis_bus::rejected::{self, Original};
use portcullis_bus::{Backoff, Broker, Heard, LiveSources, Subscription};
use portcullis_core::deadlines::Monotonic;
use portcullis_core::machine::Kept;
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{Prefix, Stream, Timestamp};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{clock, metrics};

/// One sample of a subject in this time.
const QUIET: Duration = Duration::from_secs(600);
/// Subjects that are remembered; while there are more, further ones are counted only.
const REMEMBERED: usize = 256;
/// Samples that wait to be stored.
const WAITING: usize = 8;

/// Hears strays for as long as the process lives, and by the way who sends detections.
pub async fn hear(broker: Broker, prefix: Prefix, live: LiveSources) {
    let (to, samples) = mpsc::channel(WAITING);
    tokio::spawn(store(broker.clone(), prefix.clone(), samples));
    let (mut seen, mut backoff) = (Seen::default(), Backoff::new(Duration::from_millis(50), Duration::from_millis(500)));
    loop {
        if let Err(error) = listen(&broker, &prefix, &live, &mut seen, &to).await {
            tracing::debug!(error = format!("{error:#}"), "reading connection ended: stray messages are missed until it is back");
        }
        backoff.pause().await;
        broker.up().await;
    }
}

async fn listen(
    broker: &Broker,
    prefix: &Prefix,
    live: &LiveSources,
    seen: &mut Seen,
    to: &mpsc::Sender<Heard>,
) -> anyhow::Result<()> {
    let mut messages = Subscription::open(broker.servers(), prefix.everything()).await?;
    loop {
        let message = messages.next().await?;
        if prefix.is_taken(message.subject()) {
            if prefix.rest(Stream::Detections.token(), message.subject()).is_some() {
                live.note(message.subject());
            }
            continue;
        }
        metrics::stray();
        answer(broker, &message).await;
        if seen.admits(message.subject(), clock::monotonic()) {
            // What finds no room is counted, and its subject comes again.
            let _ = to.try_send(message);
        }
    }
}

/// Whoever waits for a stream's acknowledgement gets its error: nobody else will answer. Only in an inbox: any other subject of the sender's
/// choice would be published to with this program's rights.
async fn answer(broker: &Broker, message: &Heard) {
    let Some(inbox) = message.reply().filter(|reply| reply.starts_with("_INBOX.")) else { return };
    let why = Malformed::NoStream(message.subject().to_owned()).to_string();
    let error = json!({ "error": { "code": 404, "err_code": 10_059, "description": why } });
    if let Err(error) = broker.send(inbox, Bytes::from(error.to_string())).await {
        tracing::debug!(%error, "sender of a stray message not answered");
    }
}

async fn store(broker: Broker, prefix: Prefix, mut samples: mpsc::Receiver<Heard>) {
    while let Some(message) = samples.recv().await {
        let message = message.into_message(Timestamp::default());
        let original = Original { kind: "", stored: None, message: &message };
        let subject = message.subject.as_str();
        let why = Malformed::NoStream(subject.to_owned());
        metrics::rejected(why.code());
        match rejected::keep(&broker, &prefix, &original, &why).await {
            Kept::Stored => {}
            Kept::TooLarge => tracing::warn!(subject, %why, "stray message not stored: larger than the broker takes"),
            Kept::Failed(error) => tracing::warn!(subject, error, %why, "stray message not stored"),
        }
    }
}

/// Subjects of which a sample was taken, and when.
#[derive(Default)]
struct Seen(HashMap<String, Monotonic>);

impl Seen {
    fn admits(&mut self, subject: &str, now: Monotonic) -> bool {
        let fresh = |at: &Monotonic| now.saturating_sub(*at) < QUIET;
        if self.0.get(subject).is_some_and(fresh) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, at| fresh(at));
        }
        let admitted = self.0.len() < REMEMBERED || self.0.contains_key(subject);
        if admitted {
            self.0.insert(subject.to_owned(), now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{QUIET, REMEMBERED, Seen};

    #[test]
    fn each_subject_has_one_sample_in_a_while_and_all_together_are_bounded() {
        let mut seen = Seen::default();
        let at = |seconds| Duration::from_secs(seconds);
        assert!(seen.admits("a", at(1_000)));
        assert!(!seen.admits("a", at(1_000) + QUIET - at(1)));
        assert!(seen.admits("a", at(1_000) + QUIET));
        let now = at(10_000);
        let admitted = (0..10 * REMEMBERED).filter(|n| seen.admits(&format!("s{n}"), now)).count();
        assert_eq!(admitted, REMEMBERED, "what is older gives way");
        assert!(!seen.admits("one more", now));
        assert!(seen.admits("one more", now + QUIET));
    }
}
