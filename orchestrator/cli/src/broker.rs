//! The client on the broker itself: reads the streams with ordered consumers, stores requests with an awaited ack.

mod merge;
mod reader;
mod record;
mod subject;

pub(crate) use record::chain;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::{self, Context, ContextBuilder, ErrorCode};
use async_nats::{ConnectErrorKind, ConnectOptions, HeaderMap, ServerAddr};
use futures_util::StreamExt;
use futures_util::future::{try_join, try_join_all, try_join3};
use portcullis_policy::InUse;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Payload, Request};
use portcullis_schemas::subjects::{FLEET, UNRESOLVED};
use portcullis_schemas::{HostId, Prefix, Stream, heartbeat};
use tokio::time::timeout;

use crate::Global;
use crate::client::{Beat, Client, Fleet, Follow, HostView, Query, Record, Records};
use crate::failure::Failure;
use crate::raw::{self, RawError};
use crate::screen::Screen;
use merge::Merge;
use reader::{From, Reader};

/// One server has this long to take the connection, all together that long.
const CONNECT_ONE: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(4);
/// The broker has this long for one answer.
const ANSWER: Duration = Duration::from_secs(4);
/// What is nice to know is not waited for longer.
const GLANCE: Duration = Duration::from_secs(1);
/// A whole read of a stream.
const READ: Duration = Duration::from_secs(60);

/// How to reach the broker, for as many connections as it takes.
pub struct Servers {
    addresses: Vec<ServerAddr>,
    credentials: Option<PathBuf>,
}

impl Servers {
    async fn options(&self) -> std::io::Result<ConnectOptions> {
        let options = ConnectOptions::new().name("portcullis").connection_timeout(CONNECT_ONE).request_timeout(Some(ANSWER));
        match &self.credentials {
            Some(path) => options.credentials_file(path).await,
            None => Ok(options),
        }
    }
}

pub struct Broker {
    js: Context,
    reach: Arc<Servers>,
    prefix: Prefix,
    servers: String,
    /// The server's last complaint. A denial is told in this way only; the call itself just times out.
    complaint: Arc<Mutex<Option<String>>>,
}

impl Broker {
    pub async fn connect(global: &Global) -> Result<Self, Failure> {
        let addresses = parse(&global.nats)?;
        let servers = addresses.iter().map(shown).collect::<Vec<_>>().join(", ");
        let complaint = Arc::new(Mutex::new(None));
        let watch = Watch { complaint: complaint.clone(), is_lost: AtomicBool::new(false), json: global.json };
        let reach = Servers { addresses: addresses.clone(), credentials: global.creds.clone() };
        let options = reach.options().await.map_err(|error| Failure::Usage {
            problem: format!("credentials file {}: {error}", global.creds.as_deref().unwrap_or(Path::new("")).display()),
            hint: "give --creds a file as `nsc generate creds` writes it".into(),
        })?;
        let options = options.event_callback(move |event| {
            watch.hear(&event);
            std::future::ready(())
        });
        let away = |problem: String, hint| Failure::Unreachable { servers: servers.clone(), problem, hint };
        let client = match timeout(CONNECT, options.connect(addresses)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                let hint = match error.kind() {
                    ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                        "it wants other credentials: see --creds and PORTCULLIS_CREDS"
                    }
                    ConnectErrorKind::Tls => "is it the right address, tls:// or nats://, and does this machine trust its CA?",
                    _ => "is it running, and is --nats (PORTCULLIS_NATS) its address?",
                };
                return Err(away(record::chain(&error), hint));
            }
            Err(_) => return Err(away("timed out".into(), "is there a firewall between? see --nats and PORTCULLIS_NATS")),
        };
        let js = ContextBuilder::new().timeout(ANSWER).build(client);
        Ok(Self { js, reach: Arc::new(reach), prefix: global.prefix.clone(), servers, complaint })
    }

    async fn stream(&self, stream: Stream) -> Result<jetstream::stream::Stream, Failure> {
        use jetstream::context::GetStreamErrorKind;
        let name = self.prefix.stream(stream);
        self.js.get_stream(&name).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => self.no_stream(stream),
            GetStreamErrorKind::JetStream(answer) => Failure::Broker(answer.to_string()),
            _ => self.silent(record::chain(&error)),
        })
    }

    async fn reader(&self, stream: Stream, filters: Vec<String>, from: From) -> Result<Reader, Failure> {
        let last = self.stream(stream).await?.cached_info().state.last_sequence;
        let (connections, place) = ((self.reach.clone(), self.js.clone()), (self.prefix.stream(stream), last));
        Box::pin(Reader::open(stream, connections, place, filters, from)).await.map_err(|problem| self.silent(problem))
    }

    /// Names that hosts and senders have, and the number of hosts.
    pub async fn in_use(&self) -> Result<(InUse, usize), Failure> {
        let mut used = InUse::default();
        let hosts = self.fleet().await?.hosts;
        for inventory in hosts.iter().filter_map(|host| host.inventory.as_ref()) {
            used.roles.extend(inventory.hello.roles.iter().cloned());
            for (name, value) in &inventory.hello.labels {
                used.labels.entry(name.clone()).or_default().insert(value.clone());
            }
        }
        let detections = self.stream(Stream::Detections).await?;
        let all = self.prefix.all(Stream::Detections);
        let mut subjects = detections.info_with_subjects(all).await.map_err(|error| self.silent(record::chain(&error)))?;
        while let Some(subject) = self.soon(async { Ok(subjects.next().await) }).await? {
            let (subject, _) = subject.map_err(|error| self.silent(record::chain(&error)))?;
            used.sources.extend(self.prefix.rest(Stream::Detections.token(), &subject).map(str::to_owned));
        }
        Ok((used, hosts.iter().filter(|host| host.inventory.is_some()).count()))
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
        while let Some(message) = self.soon(reader.next_stored()).await? {
            let Some(host) = self.prefix.host(stream.token(), &message.subject) else { continue };
            if message.body.is_empty() {
                continue;
            }
            match record::decode::<T>(&message.headers, &message.body) {
                Ok(event) => drop(last.insert(host, event.data)),
                Err(_) => unreadable.push(message.subject),
            }
        }
        reader.end().await;
        Ok((last, unreadable))
    }

    /// The last message of one subject, from the leader: a follower's answer may be an old one.
    async fn last<T: Payload>(&self, stream: Stream, host: &HostId) -> Result<Option<T>, Failure> {
        let subject = self.prefix.of(stream, host.as_str());
        match raw::last(&self.js, &self.prefix.stream(stream), &subject).await {
            Ok(Some(message)) if !message.body.is_empty() => {
                // What nobody can read decides nothing, and must not keep an operator from a release.
                Ok(record::decode::<T>(&message.headers().pairs, &message.body).ok().map(|event| event.data))
            }
            Ok(_) => Ok(None),
            Err(RawError::Refused(answer)) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => Err(self.no_stream(stream)),
            Err(RawError::Refused(answer)) => Err(Failure::Broker(answer.to_string())),
            Err(error) => Err(self.silent(error.to_string())),
        }
    }

    async fn soon<T>(&self, read: impl Future<Output = Result<T, String>>) -> Result<T, Failure> {
        match timeout(ANSWER, read).await {
            Ok(read) => read.map_err(|problem| self.silent(problem)),
            Err(_) => Err(self.silent("a read timed out".into())),
        }
    }

    async fn whole<T>(&self, read: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        timeout(READ, read).await.unwrap_or_else(|_| Err(self.silent("reading took over a minute".into())))
    }

    fn silent(&self, problem: String) -> Failure {
        let complaint = self.complaint.lock().ok().and_then(|kept| kept.clone());
        let problem = complaint.map_or(problem.clone(), |complaint| format!("{problem}; {complaint}"));
        Failure::Silent { servers: self.servers.clone(), problem }
    }

    fn no_stream(&self, stream: Stream) -> Failure {
        Failure::NoStream { servers: self.servers.clone(), stream: self.prefix.stream(stream) }
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
    fn hear(&self, event: &async_nats::Event) {
        match event {
            async_nats::Event::ServerError(error) => {
                if let Ok(mut kept) = self.complaint.lock() {
                    *kept = Some(error.to_string());
                }
            }
            async_nats::Event::Disconnected => {
                self.is_lost.store(true, Ordering::Relaxed);
                Screen::standard(self.json).warn("the connection to the broker is lost; trying again");
            }
            async_nats::Event::Connected if self.is_lost.swap(false, Ordering::Relaxed) => {
                Screen::standard(self.json).warn("the connection to the broker is back");
            }
            _ => {}
        }
    }
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

    async fn history(&self, query: &Query) -> Result<Vec<Record>, Failure> {
        let read = async {
            let subject = self.subject(query.stream, query.host.as_ref());
            let mut reader = self.reader(query.stream, vec![subject], From::Time(query.since)).await?;
            let mut newest = VecDeque::new();
            while let Some(message) = self.soon(reader.next_stored()).await? {
                let record = record::record(query.stream, message).map_err(|problem| self.silent(problem))?;
                if newest.len() == query.limit {
                    newest.pop_front();
                }
                newest.push_back(record);
            }
            reader.end().await;
            newest.truncate(query.limit);
            Ok(newest.into())
        };
        self.whole(read).await
    }

    async fn follow(&self, follow: &Follow) -> Result<Records, Failure> {
        let from = follow.since.map_or(From::Now, From::Time);
        let readers = follow.streams.iter().map(|stream| {
            let mut filters = vec![self.subject(*stream, follow.host.as_ref())];
            if *stream == Stream::Decisions && follow.host.is_some() {
                filters.push(self.prefix.of(*stream, UNRESOLVED));
            }
            self.reader(*stream, filters, from)
        });
        let merge = Merge::new(try_join_all(readers).await?, self.servers.clone());
        Ok(merge.records().boxed())
    }

    async fn heartbeat(&self) -> Option<Beat> {
        let bucket = self.prefix.bucket();
        let (stream, subject) = (format!("KV_{bucket}"), format!("$KV.{bucket}.{}", heartbeat::KEY));
        let read = try_join(raw::last(&self.js, &stream, &subject), raw::now(&self.js, &stream));
        // Who may not read it does all else.
        let (message, now) = timeout(GLANCE, read).await.ok()?.ok()?;
        let message = message?;
        let said = serde_json::from_slice(&message.body).ok()?;
        Some(Beat { at: message.at, age: now - message.at, said })
    }

    async fn request(&self, principal: &str, event: &Event<Request>) -> Result<u64, Failure> {
        let host = event.data.host.as_ref().map_or(FLEET, HostId::as_str);
        let body = envelope::encode(event).map_err(|error| Failure::Broker(format!("the request cannot be written: {error}")))?;
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", envelope::CONTENT_TYPE);
        // No Nats-Msg-Id: ids count for the whole stream, so another principal could have used this one in advance.
        let sent = self.js.publish_with_headers(self.prefix.request(principal, host), headers, body.into()).await;
        let stored = match sent {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        stored.map(|ack| ack.sequence).map_err(|error| match error.kind() {
            PublishErrorKind::StreamNotFound => self.no_stream(Stream::Requests),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => match self.silent(record::chain(&error)) {
                Failure::Silent { problem, .. } => Failure::Unstored(problem),
                other => other,
            },
            _ => Failure::Broker(record::chain(&error)),
        })
    }
}

fn view(hosts: &mut BTreeMap<HostId, HostView>, host: HostId) -> &mut HostView {
    hosts.entry(host).or_insert_with_key(|host| HostView::new(host.clone()))
}

fn parse(list: &str) -> Result<Vec<ServerAddr>, Failure> {
    let addresses: Result<Vec<ServerAddr>, _> =
        list.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::parse).collect();
    match addresses {
        Ok(addresses) if !addresses.is_empty() => Ok(addresses),
        // The text may hold a password, so it is not repeated.
        _ => Err(Failure::Usage {
            problem: "--nats (PORTCULLIS_NATS) is no list of server addresses".into(),
            hint: "write nats://HOST:4222 or tls://HOST:4222, several separated by commas".into(),
        }),
    }
}

fn shown(address: &ServerAddr) -> String {
    format!("{}://{}:{}", address.scheme(), address.host(), address.port())
}
