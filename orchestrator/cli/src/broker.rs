//! The client on the broker itself: reads the streams with ordered consumers, stores requests with an awaited ack.

mod detections;
mod history;
mod merge;
mod record;
mod site;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{try_join_all, try_join3};
use portcullis_bus::{
    ApiError, ConnectError, From, Link, Patience, PublishError, Reader, Servers, last_heartbeat, policies, publish, stored,
    streams,
};
use portcullis_core::machine::Message;
use portcullis_policy::InUse;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{InputRef, Payload, Request};
use portcullis_schemas::subjects::{FLEET, PAGES, POLICY, UNRESOLVED};
use portcullis_schemas::{HostId, Prefix, Stream, Timestamp};
use tokio::time::timeout;

use crate::Global;
use crate::client::{Beat, Client, DetectionName, Fleet, Follow, History, HostView, Query, Record, Records};
use crate::failure::Failure;
use crate::in_use;
use crate::screen::Screen;
use crate::site::Site;
use merge::Merge;

/// One server has this long to take the connection, all together that long.
const PATIENCE: Patience = Patience { connect: Duration::from_secs(2), answer: ANSWER, ack: Duration::from_secs(30) };
const CONNECT: Duration = Duration::from_secs(4);
/// The broker has this long for one answer.
const ANSWER: Duration = Duration::from_secs(4);
/// What is nice to know is not waited for longer.
const GLANCE: Duration = Duration::from_secs(1);
/// A whole read of a stream.
const READ: Duration = Duration::from_secs(60);

pub struct Broker {
    bus: portcullis_bus::Broker,
    prefix: Prefix,
    /// The server's last complaint. A denial is told in this way only; the call itself just times out.
    complaint: Arc<Mutex<Option<String>>>,
}

impl Broker {
    pub async fn connect(global: &Global) -> Result<Self, Failure> {
        let servers = Servers::parse(&global.nats, global.creds.clone(), "portcullis", PATIENCE).map_err(|_| Failure::Usage {
            // The text may hold a password, so it is not repeated.
            problem: "--nats (PORTCULLIS_NATS) is no list of server addresses".into(),
            hint: "write nats://HOST:4222 or tls://HOST:4222, several separated by commas".into(),
        })?;
        let shown = servers.shown();
        let complaint = Arc::new(Mutex::new(None));
        let watch = Watch { complaint: complaint.clone(), is_lost: AtomicBool::new(false), json: global.json };
        let connected = portcullis_bus::Broker::connect_once(servers, move |link| watch.hear(link));
        let away = |problem: String, hint| Failure::Unreachable { servers: shown.clone(), problem, hint };
        let bus = match timeout(CONNECT, connected).await {
            Ok(connected) => connected.map_err(|error| match error {
                ConnectError::Credentials { path, source } => Failure::Usage {
                    problem: format!("credentials file {}: {source}", path.display()),
                    hint: "give --creds a file as `nsc generate creds` writes it".into(),
                },
                ConnectError::Denied(problem) => away(problem, "it wants other credentials: see --creds and PORTCULLIS_CREDS"),
                ConnectError::Tls(problem) => {
                    away(problem, "is it the right address, tls:// or nats://, and does this machine trust its CA?")
                }
                ConnectError::Addresses | ConnectError::Closed(_) | ConnectError::Other(_) => {
                    away(error.to_string(), "is it running, and is --nats (PORTCULLIS_NATS) its address?")
                }
            })?,
            Err(_) => return Err(away("timed out".into(), "is there a firewall between? see --nats and PORTCULLIS_NATS")),
        };
        Ok(Self { bus, prefix: global.prefix.clone(), complaint })
    }

    async fn reader(&self, stream: Stream, filters: Vec<String>, from: From) -> Result<Reader, Failure> {
        let opened = Box::pin(Reader::open(&self.bus, &self.prefix, stream, filters, from)).await;
        opened.map_err(|error| self.failure(stream, error))
    }

    /// Names that hosts and senders have, and the number of hosts.
    pub async fn in_use(&self) -> Result<(InUse, Vec<HostView>), Failure> {
        let hosts = self.fleet().await?.hosts;
        let mut used = in_use::of(&hosts);
        let (name, all) = (self.prefix.stream(Stream::Detections), self.prefix.all(Stream::Detections));
        let subjects = streams::subjects(&self.bus, &name, &all).await;
        for (subject, _) in subjects.map_err(|error| self.failure(Stream::Detections, error))? {
            used.sources.extend(self.prefix.rest(Stream::Detections.token(), &subject).map(str::to_owned));
        }
        Ok((used, hosts))
    }

    fn subject(&self, stream: Stream, host: Option<&HostId>) -> String {
        match (stream, host) {
            (Stream::Detections, _) | (_, None) => self.prefix.all(stream),
            (_, Some(host)) => self.prefix.of(stream, host.as_str()),
        }
    }

    /// The last message of each subject of a stream.
    async fn last_of_each<T: Payload>(&self, stream: Stream) -> Result<(BTreeMap<HostId, T>, Vec<String>), Failure> {
        let mut reader = self.reader(stream, vec![self.prefix.all(stream)], From::LastOfEach).await?;
        let (mut last, mut unreadable) = (BTreeMap::new(), Vec::new());
        while let Some(message) = self.soon(stream, reader.next_stored()).await? {
            let Some(host) = self.prefix.host(stream.token(), &message.subject) else { continue };
            if message.body.is_empty() {
                continue;
            }
            match record::decode::<T>(&message.headers, &message.body) {
                Ok(event) if is_about(&event, &host) => drop(last.insert(host, event.data)),
                _ => unreadable.push(message.subject),
            }
        }
        reader.end().await;
        Ok((last, unreadable))
    }

    /// The last message of one subject, from the leader: a follower's answer may be an old one.
    async fn last<T: Payload>(&self, stream: Stream, host: &HostId) -> Result<Option<T>, Failure> {
        let subject = self.prefix.of(stream, host.as_str());
        let last = stored::last(&self.bus, &self.prefix.stream(stream), &subject).await;
        // What nobody can read decides nothing, and must not keep an operator from a release.
        let read = |message: Message| {
            let event = record::decode::<T>(&message.headers, &message.body).ok()?;
            is_about(&event, host).then_some(event.data)
        };
        last.map(|last| last.filter(|message| !message.body.is_empty()).and_then(read))
            .map_err(|error| self.failure(stream, error))
    }

    async fn soon<T>(&self, stream: Stream, read: impl Future<Output = Result<T, ApiError>>) -> Result<T, Failure> {
        match timeout(ANSWER, read).await {
            Ok(read) => read.map_err(|error| self.failure(stream, error)),
            Err(_) => Err(self.silent("a read timed out".into())),
        }
    }

    async fn whole<T>(&self, read: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        timeout(READ, read).await.unwrap_or_else(|_| Err(self.silent("reading took over a minute".into())))
    }

    fn failure(&self, stream: Stream, error: ApiError) -> Failure {
        match error {
            ApiError::NoStream => self.no_stream(stream),
            ApiError::Refused(problem) => Failure::Broker(problem),
            ApiError::Silent(problem) => self.silent(problem),
            ApiError::NotBase64 => self.silent(error.to_string()),
        }
    }

    async fn of_bucket<T, E: std::fmt::Display>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
        match timeout(ANSWER, work).await {
            Ok(done) => done.map_err(|error| self.silent(format!("{error:#}"))),
            Err(_) => Err(self.silent("the KV bucket did not answer in time".into())),
        }
    }

    fn silent(&self, problem: String) -> Failure {
        let complaint = self.complaint.lock().ok().and_then(|kept| kept.clone());
        let problem = complaint.map_or(problem.clone(), |complaint| format!("{problem}; {complaint}"));
        Failure::Silent { servers: self.bus.shown(), problem }
    }

    fn no_stream(&self, stream: Stream) -> Failure {
        Failure::NoStream { servers: self.bus.shown(), stream: self.prefix.stream(stream) }
    }
}

/// Hears what the connection says of itself.
struct Watch {
    complaint: Arc<Mutex<Option<String>>>,
    is_lost: AtomicBool,
    json: bool,
}

impl Watch {
    /// A person who follows must not take a lost connection for a quiet night.
    fn hear(&self, link: Link) {
        match link {
            Link::Complaint(complaint) => {
                if let Ok(mut kept) = self.complaint.lock() {
                    *kept = Some(complaint);
                }
            }
            Link::Lost => {
                self.is_lost.store(true, Ordering::Relaxed);
                Screen::standard(self.json).warn("connection to the broker lost: reconnecting");
            }
            Link::Up if self.is_lost.swap(false, Ordering::Relaxed) => {
                Screen::standard(self.json).warn("connected to the broker again");
            }
            Link::Up => {}
        }
    }
}

/// Whether a message under the subject of a host is of that host: one that another client copied there is not.
fn is_about<T>(event: &Event<T>, host: &HostId) -> bool {
    event.subject.as_deref().is_none_or(|named| named == host.as_str())
}

impl Client for Broker {
    async fn fleet(&self) -> Result<Fleet, Failure> {
        // Boxed: unboxed, the three together need more stack than a thread has in a debug build.
        let reads = try_join3(
            Box::pin(self.last_of_each(Stream::Orders)),
            Box::pin(self.last_of_each(Stream::States)),
            Box::pin(self.last_of_each(Stream::Inventory)),
        );
        let ((orders, mut unreadable), (states, bad_states), (inventory, bad_inventory)) = self.whole(reads).await?;
        unreadable.extend(bad_states.into_iter().chain(bad_inventory));
        let mut hosts: BTreeMap<HostId, HostView> = BTreeMap::new();
        for (host, order) in orders {
            view(&mut hosts, host).order = Some(order);
        }
        for (host, state) in states {
            view(&mut hosts, host).state = Some(state);
        }
        for (host, inventory) in inventory {
            view(&mut hosts, host).inventory = Some(inventory);
        }
        Ok(Fleet { hosts: hosts.into_values().collect(), unreadable })
    }

    async fn host(&self, host: &HostId) -> Result<HostView, Failure> {
        let (order, state, inventory) =
            try_join3(self.last(Stream::Orders, host), self.last(Stream::States, host), self.last(Stream::Inventory, host))
                .await?;
        Ok(HostView { host: host.clone(), order, state, inventory })
    }

    // Boxed, like the verbs that wait for them: a debug build would run out of stack.
    async fn history(&self, query: &Query) -> Result<History, Failure> {
        self.whole(Box::pin(self.newest(query))).await
    }

    async fn detection(&self, named: &DetectionName, since: Timestamp) -> Result<Option<Record>, Failure> {
        self.whole(Box::pin(self.detection_named(named, since))).await
    }

    async fn answers(&self, detection: &Record) -> Result<Vec<Record>, Failure> {
        self.whole(Box::pin(self.answers_to(detection))).await
    }

    async fn keys(&self, stream: &str, sequences: &[u64]) -> Result<Vec<Option<InputRef>>, Failure> {
        self.whole(Box::pin(self.keys_of(stream, sequences))).await
    }

    async fn follow(&self, follow: &Follow) -> Result<Records, Failure> {
        let from = follow.since.map_or(From::Now, From::Time);
        let readers = follow.streams.iter().map(|stream| {
            let mut filters = vec![self.subject(*stream, follow.host.as_ref())];
            if *stream == Stream::Decisions && follow.host.is_some() {
                filters.extend([UNRESOLVED, PAGES].map(|token| self.prefix.of(*stream, token)));
            }
            self.reader(*stream, filters, from)
        });
        let merge = Merge::new(try_join_all(readers).await?, follow.host.clone(), self.bus.shown());
        Ok(merge.records().boxed())
    }

    async fn site(&self) -> Site {
        Box::pin(self.survey()).await
    }

    async fn heartbeat(&self) -> Option<Beat> {
        // Who may not read it does all else.
        let (said, at, now) = timeout(GLANCE, last_heartbeat(&self.bus, &self.prefix)).await.ok()?.ok()??;
        Some(Beat { at, age: now - at, said })
    }

    async fn activations(&self) -> Result<Vec<Record>, Failure> {
        let filter = self.prefix.of(Stream::Decisions, POLICY);
        let mut reader = self.reader(Stream::Decisions, vec![filter], From::Sequence(1)).await?;
        let mut found = Vec::new();
        while let Some(message) = self.soon(Stream::Decisions, reader.next_stored()).await? {
            found.extend(record::records(Stream::Decisions, message, None).map_err(|problem| self.silent(problem))?);
        }
        reader.end().await;
        Ok(found)
    }

    async fn policy_text(&self, hash: &str) -> Result<Option<String>, Failure> {
        self.of_bucket(policies::read(&self.bus, &self.prefix, hash)).await
    }

    async fn keep_policy(&self, hash: &str, text: &str) -> Result<(), Failure> {
        self.of_bucket(policies::keep(&self.bus, &self.prefix, hash, text.to_owned())).await
    }

    async fn request(&self, principal: &str, event: &Event<Request>) -> Result<u64, Failure> {
        let host = event.data.host.as_ref().map_or(FLEET, HostId::as_str);
        let body = envelope::encode(event).map_err(|error| Failure::Broker(format!("the request cannot be written: {error}")))?;
        let subject = self.prefix.request(principal, host);
        publish(&self.bus, subject, body.into()).await.map_err(|error| match error {
            PublishError::NoStream => self.no_stream(Stream::Requests),
            PublishError::Unclear(problem) => match self.silent(problem) {
                Failure::Silent { problem, .. } => Failure::Unstored(problem),
                other => other,
            },
            PublishError::Refused(problem) => Failure::Broker(problem),
        })
    }
}

fn view(hosts: &mut BTreeMap<HostId, HostView>, host: HostId) -> &mut HostView {
    hosts.entry(host).or_insert_with_key(|host| HostView::new(host.clone()))
}
