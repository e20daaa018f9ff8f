//! The heartbeat: who this host is, on each connection, every 30 seconds, and when the roll is called. Never stored.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use portcullis_agent_core::jitter;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Hello, Level, Posture, Rollcall};
use portcullis_schemas::{HostId, ids};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::broker::link::{self, Link};
use crate::host::addresses::{self, Addresses};
use portcullis_agent_core::level::leaks;

const EVERY: Duration = Duration::from_secs(30);
const MOST_ADDRESSES: usize = 256;
/// Between two hellos, however often the roll is called.
const LEAST: Duration = Duration::from_secs(1);
/// Over which the answers to a roll call are spread: where it cannot be read, and at most.
const AFTER: Duration = Duration::from_secs(2);
const MOST_AFTER: Duration = Duration::from_secs(60);

/// What changes while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub generation: u64,
    pub posture: Posture,
    pub level: Level,
}

/// What is known from the start.
#[derive(Clone, Debug)]
pub struct Identity {
    pub host: HostId,
    pub labels: BTreeMap<String, String>,
    pub boot_id: String,
    /// Random per process.
    pub instance: String,
    pub agent_version: String,
}

impl Identity {
    pub fn source(&self) -> String {
        format!("/portcullis/agent/{}", self.host)
    }

    fn hello(&self, now: &Snapshot, addresses: &Addresses) -> Hello {
        let some = |ips: &[IpAddr]| ips.iter().take(MOST_ADDRESSES).map(ToString::to_string).collect();

        Hello {
            host: self.host.clone(),
            hostname: kernel("hostname"),
            ips: some(&addresses.all),
            internal_ips: some(&addresses.internal),
            os: fs::read_to_string("/etc/os-release").map(|text| os_name(&text)).unwrap_or_default(),
            kernel: kernel("osrelease"),
            agent_version: self.agent_version.clone(),
            boot_id: self.boot_id.clone(),
            instance: self.instance.clone(),
            level: now.level,
            leaks: leaks(now.level).into_iter().map(str::to_owned).collect(),
            labels: self.labels.clone(),
            roles: Vec::new(),
            generation: now.generation,
            posture: now.posture,
            tells_last_order: true,
        }
    }
}

/// Publishes heartbeats for ever.
pub async fn run(identity: Identity, link: Link, snapshot: watch::Receiver<Snapshot>) {
    let subject = link.prefix.hello(&identity.host);
    let mut addresses = Addresses::default();
    let (mut up, mut changes) = (link.clone(), link.clone());
    let mut calls = Calls::default();
    let mut pace = Pace::new(Instant::now());
    for count in 0u64.. {
        loop {
            tokio::select! {
                () = due(&mut up, &pace) => break,
                after = calls.next(&link) => {
                    let wait = jitter::between(&identity.host, "rollcall", count, Duration::ZERO, after);
                    pace.bring_forward(Instant::now() + wait);
                }
                () = changes.changed() => pace.bring_forward(Instant::now()),
            }
        }
        // The connection over which this one goes asks for no other.
        changes.up().await;
        match addresses::read() {
            Ok(read) => addresses = read,
            Err(error) => tracing::warn!(%error, "addresses of this host not read: hello repeats the last ones"),
        }
        let hello = identity.hello(&snapshot.borrow().clone(), &addresses);
        if let Err(error) = say(&identity, &link, &subject, hello, count).await {
            tracing::warn!(error = format!("{error:#}"), "hello not published: it is repeated with the next heartbeat");
        }
        let now = Instant::now();
        pace.said(now, now + jitter::between(&identity.host, "hello", count, EVERY.mul_f32(0.8), EVERY.mul_f32(1.2)));
    }
}

async fn due(link: &mut Link, pace: &Pace) {
    link.up().await;
    sleep_until(pace.due()).await;
}

/// When the next hello is due.
#[derive(Debug)]
struct Pace {
    due: Instant,
    /// Not before this time.
    earliest: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { due: now, earliest: now }
    }

    fn due(&self) -> Instant {
        self.due.max(self.earliest)
    }

    fn bring_forward(&mut self, to: Instant) {
        self.due = self.due.min(to);
    }

    fn said(&mut self, now: Instant, next: Instant) {
        *self = Self { due: next, earliest: now + LEAST };
    }
}

/// Roll calls, as they come over the client that stands.
#[derive(Default)]
struct Calls(Option<async_nats::Subscriber>);

impl Calls {
    /// The next one: over which time its answers are to be spread.
    async fn next(&mut self, link: &Link) -> Duration {
        loop {
            let Some(subscription) = &mut self.0 else {
                match link.client().subscribe(link.prefix.rollcall()).await {
                    Ok(subscription) => self.0 = Some(subscription),
                    Err(error) => {
                        tracing::warn!(%error, "roll call not subscribed: retrying");
                        sleep(LEAST).await;
                    }
                }
                continue;
            };
            match subscription.next().await {
                Some(message) => return after(&message),
                None => self.0 = None,
            }
        }
    }
}

fn after(message: &async_nats::Message) -> Duration {
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let headers = headers.filter_map(|(name, values)| Some((name.as_ref(), values.first()?.as_str())));
    let call = envelope::decode::<Rollcall>(headers, &message.payload);
    call.map_or(AFTER, |call| Duration::from_secs(call.data.after.as_secs())).min(MOST_AFTER)
}

async fn say(identity: &Identity, link: &Link, subject: &str, data: Hello, count: u64) -> anyhow::Result<()> {
    let event = Event {
        id: ids::digest([identity.host.as_str(), &identity.instance, &count.to_string()])[..32].to_owned(),
        source: identity.source(),
        subject: Some(identity.host.to_string()),
        time: Some(crate::host::clock::wall()),
        traceparent: None,
        correlation: None,
        causation: None,
        data,
    };
    let body = envelope::encode(&event)?;
    link.client().publish_with_headers(subject.to_owned(), link::headers(), body.into()).await?;
    Ok(())
}

/// A random id from the kernel.
pub fn random_id() -> String {
    kernel("random/uuid")
}

fn kernel(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/kernel/{name}")).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn os_name(text: &str) -> String {
    let of =
        |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches(['"', '\'']).to_owned());
    of("PRETTY_NAME=").or_else(|| of("NAME=")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_calls_make_one_hello_a_second_and_the_earliest_counts() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(start);
        assert_eq!(pace.due(), at(0), "the first hello waits for nothing");
        pace.said(at(0), at(30_000));
        assert_eq!(pace.due(), at(30_000));
        for to in [at(20_000), at(2_000), at(9_000)] {
            pace.bring_forward(to);
        }
        assert_eq!(pace.due(), at(2_000));
        for to in [at(10), at(20), at(30)] {
            pace.bring_forward(to);
        }
        assert_eq!(pace.due(), at(1_000));
        pace.said(at(1_000), at(31_000));
        pace.bring_forward(at(1_001));
        assert_eq!(pace.due(), at(2_000));
    }

    #[test]
    fn answers_to_a_call_are_spread_over_a_minute_at_most_and_over_two_seconds_where_it_cannot_be_read() {
        let of = |body: &str| {
            after(&async_nats::Message {
                subject: "portcullis.rollcall".into(),
                reply: None,
                payload: body.to_owned().into(),
                headers: None,
                status: None,
                description: None,
                length: body.len(),
            })
        };
        let example = include_str!("../../../schemas/examples/rollcall.json");
        for (span, seconds) in [("0s", 0), ("7s", 7), ("1m", 60), ("1h", 60), ("soon", 2)] {
            assert_eq!(of(&example.replace("2s", span)), Duration::from_secs(seconds), "{span}");
        }
        for body in ["", "{}", "after"] {
            assert_eq!(of(body), Duration::from_secs(2), "{body:?}");
        }
    }

    #[test]
    fn the_os_has_its_pretty_name() {
        assert_eq!(os_name("NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_name("NAME=Alpine\n"), "Alpine");
    }
}
