//! State events on their way out: kept on disk until the broker has stored them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use portcullis_agent_core::jitter;
use portcullis_schemas::events::{State, StateCause};
use portcullis_schemas::{HostId, Stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::broker::event::Event;
use crate::broker::link::{self, Link};

const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Openings by the host itself that wait for a broker; it takes as many orders to make that many.
const MOST: usize = 16;

/// What is not acknowledged yet, oldest first.
#[derive(Debug)]
pub struct Outbox {
    path: PathBuf,
    waiting: Vec<Pending>,
    head: watch::Sender<Head>,
    dirty: bool,
}

/// One encoded event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub id: String,
    /// Not replaced by a later one: it says what nobody would say again.
    pub keep: bool,
    pub body: String,
}

/// What the publisher is to send; the count makes sending it again at once a change.
#[derive(Clone, Debug, Default)]
struct Head {
    first: Option<Pending>,
    again: u64,
}

impl Pending {
    pub fn new(id: String, state: &State, body: Vec<u8>) -> Option<Self> {
        let keep = matches!(state.cause, StateCause::Local | StateCause::Deadline | StateCause::PostureLost | StateCause::Tamper);
        Some(Self { id, keep, body: String::from_utf8(body).ok()? })
    }
}

impl Outbox {
    /// Takes up what a former process could not send. What cannot be read is dropped: the start says again what stands.
    pub fn open(directory: &Path) -> Self {
        let path = directory.join("state.json");
        let waiting = match fs::read(&path).map(|body| serde_json::from_slice(&body)) {
            Ok(Ok(waiting)) => waiting,
            Ok(Err(error)) => {
                tracing::warn!(%error, file = %path.display(), "outbox cannot be read: its state events are dropped");
                Vec::new()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "outbox cannot be read: its state events are not sent");
                Vec::new()
            }
        };
        let outbox = Self { path, waiting, head: watch::Sender::default(), dirty: false };
        outbox.show();
        outbox
    }

    /// The newest word on what stands replaces older ones.
    pub fn push(&mut self, event: Pending) {
        self.waiting.retain(|other| other.keep && other.id != event.id);
        let over = (self.waiting.len() + 1).saturating_sub(MOST);
        self.waiting.drain(..over);
        self.waiting.push(event);
        self.dirty = true;
        self.show();
    }

    pub fn acknowledged(&mut self, id: &str) {
        self.waiting.retain(|event| event.id != id);
        self.dirty = true;
        self.show();
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Sends at once what waits for its next try.
    pub fn resend(&self) {
        self.head.send_modify(|head| head.again += 1);
    }

    /// What is to be written down of what still waits: a file, and its content, None where it is to be removed. None where all is.
    pub fn unsaved(&mut self) -> Option<(PathBuf, Option<Vec<u8>>)> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let body = (!self.waiting.is_empty()).then(|| serde_json::to_vec(&self.waiting).unwrap_or_default());
        Some((self.path.clone(), body))
    }

    pub fn is_unsaved(&self) -> bool {
        self.dirty
    }

    /// It could not be written.
    pub fn not_saved(&mut self) {
        self.dirty = true;
    }

    pub fn publisher(&self) -> Publisher {
        Publisher { head: self.head.subscribe() }
    }

    fn show(&self) {
        let first = self.waiting.first().cloned();
        self.head.send_if_modified(|head| {
            let changed = head.first != first;
            head.first = first;
            changed
        });
    }
}

/// Sends the oldest waiting event until it is stored.
pub struct Publisher {
    head: watch::Receiver<Head>,
}

impl Publisher {
    pub async fn run(mut self, host: HostId, mut link: Link, events: mpsc::Sender<Event>) {
        let subject = link.prefix.of(Stream::States, host.as_str());
        loop {
            let Some(event) = self.head.borrow_and_update().first.clone() else {
                if self.head.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut attempt = 0;
            loop {
                link.up().await;
                let body = Bytes::from(event.body.clone());
                let mut broken = link.clone();
                let stored = tokio::select! {
                    stored = link::store(&link, subject.clone(), body) => stored,
                    // An acknowledgement that was on its way will never come; what was stored all the same is stored again, with its id.
                    () = broken.changed() => Err(anyhow::anyhow!("the connection was lost before it was acknowledged")),
                };
                let error = match stored {
                    Ok(()) => {
                        if events.send(Event::Published(event.id.clone())).await.is_err() {
                            return;
                        }
                        // A wish to send it again that came meanwhile is fulfilled.
                        let next = |head: &Head| head.first.as_ref().is_none_or(|first| first.id != event.id);
                        if self.head.wait_for(next).await.is_err() {
                            return;
                        }
                        break;
                    }
                    Err(error) => error,
                };
                attempt += 1;
                if attempt == 1 {
                    tracing::warn!(error = format!("{error:#}"), subject, "state event not stored: retrying");
                }
                tokio::select! {
                    () = sleep(jitter::back_off(&host, "publish", attempt, RETRY.0, RETRY.1)) => {}
                    () = link.changed() => {}
                    changed = self.head.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_replaces_older_but_an_opening_stays_until_it_is_stored() {
        let directory = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(directory.path());
        for (id, keep) in [("order 1", false), ("local 1", true), ("check 1", false), ("order 2", false)] {
            outbox.push(Pending { id: id.into(), keep, body: "{}".into() });
        }
        save(&mut outbox);
        let mut outbox = Outbox::open(directory.path());
        let ids = |outbox: &Outbox| outbox.waiting.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&outbox), ["local 1", "order 2"]);
        outbox.acknowledged("local 1");
        outbox.acknowledged("order 2");
        save(&mut outbox);
        assert!(!directory.path().join("state.json").exists());
    }

    fn save(outbox: &mut Outbox) {
        match outbox.unsaved().unwrap() {
            (path, Some(body)) => crate::disk::posture_file::replace(&path, &body).unwrap(),
            (path, None) => crate::disk::posture_file::remove(&path).unwrap(),
        }
        assert_eq!(outbox.unsaved(), None);
    }

    #[test]
    fn an_unreadable_outbox_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("state.json"), "[{").unwrap();
        assert!(Outbox::open(directory.path()).is_empty());
    }
}
