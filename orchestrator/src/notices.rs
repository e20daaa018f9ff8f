//! Notices out: events for people, each said once in a while and not at every repetition of its cause.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use chrono::{DateTime, Utc};
use portcullis_core::deadlines::Monotonic;
use portcullis_schemas::envelope::{self, CONTENT_TYPE, Event};
use portcullis_schemas::events::Notice;
use portcullis_schemas::subjects::FLEET;
use portcullis_schemas::{Prefix, Stream, ids};

use crate::clock;

/// The same words are not said again within this time.
const QUIET: Duration = Duration::from_secs(3600);
const REMEMBERED: usize = 10_000;

pub struct Notices {
    context: jetstream::Context,
    prefix: Prefix,
    said: HashMap<String, Monotonic>,
}

impl Notices {
    pub fn new(context: jetstream::Context, prefix: Prefix) -> Self {
        Self { context, prefix, said: HashMap::new() }
    }

    /// Publishes notices. One that the broker does not take is logged: notices inform and decide nothing.
    pub async fn say(&mut self, notices: Vec<Notice>, at: DateTime<Utc>) {
        for notice in notices {
            let now = clock::monotonic();
            let kind = format!("{:?}", notice.kind);
            let host = notice.host.as_ref().map_or(FLEET, |host| host.as_str());
            let text = format!("{}{}", notice.incident.as_deref().unwrap_or_default(), notice.text);
            let id = ids::digest([kind.as_str(), host, &text]);
            if self.said.get(&id).is_some_and(|said| now.saturating_sub(*said) < QUIET) {
                continue;
            }
            if self.said.len() >= REMEMBERED {
                self.said.retain(|_, said| now.saturating_sub(*said) < QUIET);
            }
            self.said.insert(id.clone(), now);
            let subject = self.prefix.of(Stream::Notices, host);
            let event = Event {
                id,
                source: "/portcullis/orchestrator".into(),
                subject: Some(host.to_owned()),
                time: Some(at),
                traceparent: None,
                correlation: notice.incident.clone(),
                causation: None,
                data: notice,
            };
            let mut headers = HeaderMap::new();
            headers.insert("Content-Type", CONTENT_TYPE);
            let sent = match envelope::encode(&event) {
                Ok(body) => {
                    self.context.publish_with_headers(subject, headers, body.into()).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = sent {
                tracing::error!(error, text = event.data.text, "a notice could not be sent");
            }
        }
    }
}
