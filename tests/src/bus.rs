//! The bus as a sender, an operator and an onlooker see it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::RawMessageErrorKind;
use chrono::{TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt};
use portcullis_schemas::envelope::{self, CONTENT_TYPE, Event};
use portcullis_schemas::events::{
    Action, Decision, Detection, Facts, Hello, HostClaim, Indicator, InputKind, InputRef, Inventory, Order, Page, Payload,
    Posture, Reason, Request, RuleRef, Severity, State,
};
use portcullis_schemas::subjects::{PAGES, POLICY, TERM};
use portcullis_schemas::{HostId, Prefix, Stream, Timestamp};
use serde_json::json;

use crate::place::unique;
use crate::until::until;

pub struct Bus {
    pub client: async_nats::Client,
    pub context: jetstream::Context,
    pub prefix: Prefix,
    /// Of detections, by stream and sequence, as far as they were asked for.
    keys: Mutex<HashMap<(String, u64), InputRef>>,
}

/// An event with where and when it was stored.
#[derive(Clone, Debug)]
pub struct Found<T> {
    pub sequence: u64,
    pub at: Timestamp,
    pub event: Event<T>,
}

impl Bus {
    /// `urls`: one or several, by commas.
    pub async fn connect(urls: &str) -> anyhow::Result<Self> {
        Self::connect_to(urls, Prefix::default()).await
    }

    /// The same for a site under another prefix.
    pub async fn connect_to(urls: &str, prefix: Prefix) -> anyhow::Result<Self> {
        let servers: Vec<async_nats::ServerAddr> = urls.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect().ping_interval(Duration::from_secs(2));
        let client = options.connect(servers).await?;
        let context = jetstream::context::ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(Duration::from_secs(5))
            .build(client.clone());
        Ok(Self { client, context, prefix, keys: Mutex::default() })
    }

    /// Publishes an event to `subject`; its sequence and id when it is stored.
    pub async fn publish<T: Payload>(&self, subject: String, event: &Event<T>) -> anyhow::Result<u64> {
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", CONTENT_TYPE);
        let ack = self.context.publish_with_headers(subject, headers, envelope::encode(event)?.into()).await?.await?;
        Ok(ack.sequence)
    }

    /// Publishes raw bytes as they are.
    pub async fn publish_raw(&self, subject: String, body: Vec<u8>) -> anyhow::Result<u64> {
        Ok(self.context.publish(subject, body.into()).await?.await?.sequence)
    }

    /// Publishes a detection as a sensor would; its id.
    pub async fn detect(&self, source: &str, detection: Detection) -> anyhow::Result<String> {
        let event = detection_event(detection);
        self.publish(self.prefix.of(Stream::Detections, source), &event).await?;
        Ok(event.id)
    }

    /// Publishes a request as an operator would; its id.
    pub async fn request(&self, operator: &str, request: Request) -> anyhow::Result<String> {
        let host = request.host.as_ref().map_or("_fleet".to_owned(), ToString::to_string);
        let event = event(format!("request-{}", unique()), "/test", request);
        self.publish(self.prefix.request(operator, &host), &event).await?;
        Ok(event.id)
    }

    /// All events of a type on a subject, oldest first, without the terms between.
    pub async fn all<T: Payload>(&self, stream: Stream, subject: &str) -> anyhow::Result<Vec<Found<T>>> {
        let mut found = Vec::new();
        for message in self.raw(stream, subject).await?.into_iter().filter(|message| token(message) != TERM) {
            let event = envelope::decode::<T>(std::iter::empty(), &message.payload)?;
            let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
            found.push(Found { sequence: info.stream_sequence, at: info.published, event });
        }
        Ok(found)
    }

    /// All messages on a subject, oldest first.
    pub async fn raw(&self, stream: Stream, subject: &str) -> anyhow::Result<Vec<jetstream::Message>> {
        let handle = self.context.get_stream(self.prefix.stream(stream)).await?;
        let config = pull::OrderedConfig {
            deliver_policy: DeliverPolicy::All,
            filter_subject: subject.to_owned(),
            ..pull::OrderedConfig::default()
        };
        let consumer = handle.create_consumer(config).await?;
        let (name, mut pending) = (consumer.cached_info().name.clone(), consumer.cached_info().num_pending);
        let mut messages = consumer.messages().await?;
        let mut found = Vec::new();
        while pending > 0 {
            let message =
                tokio::time::timeout(Duration::from_secs(5), messages.next()).await?.context("the messages ended")??;
            pending = message.info().map_err(|error| anyhow::anyhow!("{error}"))?.pending;
            found.push(message);
        }
        drop(messages);
        // A stream takes so many consumers, and a question may be asked a hundred times a second.
        let _ = handle.delete_consumer(&name).await;
        Ok(found)
    }

    /// The consumers by which the orchestrator reads a stream: of detections one for each source, and one for those that have none of their own.
    pub async fn consumers(&self, stream: Stream) -> anyhow::Result<Vec<jetstream::consumer::Info>> {
        let handle = self.context.get_stream(self.prefix.stream(stream)).await?;
        let mut all: Vec<_> = handle.consumers().try_collect().await?;
        all.retain(|info| info.name.starts_with(&format!("orchestrator-{}", stream.token())));
        Ok(all)
    }

    /// A stream's last sequence, and up to which the orchestrator has acknowledged all.
    pub async fn floor(&self, stream: Stream) -> anyhow::Result<(u64, u64)> {
        let mut handle = self.context.get_stream(self.prefix.stream(stream)).await?;
        let consumers = self.consumers(stream).await?;
        let mut subjects = handle.info_with_subjects(">").await?;
        let last = handle.info().await?.state.last_sequence;
        let mut floor = last;
        while let Some((subject, _)) = subjects.try_next().await? {
            let reads = |info: &&jetstream::consumer::Info| matches!(&info.config.filter_subject, all if all.is_empty() || *all == subject);
            if !consumers.iter().any(|info| reads(&info)) {
                return Ok((last, 0));
            }
        }
        for info in consumers.iter().filter(|info| info.num_pending > 0 || info.num_ack_pending > 0) {
            floor = floor.min(info.ack_floor.stream_sequence);
        }
        Ok((last, floor))
    }

    pub async fn orders(&self, host: &str) -> anyhow::Result<Vec<Found<Order>>> {
        self.all(Stream::Orders, &self.prefix.of(Stream::Orders, host)).await
    }

    pub async fn states(&self, host: &str) -> anyhow::Result<Vec<Found<State>>> {
        self.all(Stream::States, &self.prefix.of(Stream::States, host)).await
    }

    /// What was ordered, of all hosts: without the terms between.
    pub async fn all_orders(&self) -> anyhow::Result<Vec<jetstream::Message>> {
        let mut all = self.raw(Stream::Orders, &self.prefix.all(Stream::Orders)).await?;
        all.retain(|message| token(message) != TERM);
        Ok(all)
    }

    /// The sequences of the detections that each message of DECISIONS answers, and when it was stored.
    pub async fn answered(&self) -> anyhow::Result<Vec<(Timestamp, Vec<u64>)>> {
        let mut found = Vec::new();
        for message in self.raw(Stream::Decisions, &self.prefix.all(Stream::Decisions)).await? {
            let at = message.info().map_err(|error| anyhow::anyhow!("{error}"))?.published;
            let sequences: Vec<u64> = match token(&message) {
                TERM | POLICY => continue,
                PAGES => {
                    let page = envelope::decode::<Page>(std::iter::empty(), &message.payload)?.data;
                    let is_of = page.stream == self.prefix.stream(Stream::Detections);
                    page.answered().filter(|_| is_of).flat_map(|(first, last)| first..=last).collect()
                }
                _ => {
                    let decision = envelope::decode::<Decision>(std::iter::empty(), &message.payload)?.data;
                    let is_detection = decision.input.kind == InputKind::Detection;
                    decision.sequence.filter(|_| is_detection).into_iter().collect()
                }
            };
            found.push((at, sequences));
        }
        Ok(found)
    }

    /// What was decided, alone or in pages: a plain input is a decision like another, without what only its `seen` tells.
    pub async fn decisions(&self) -> anyhow::Result<Vec<Found<Decision>>> {
        let mut found = Vec::new();
        for message in self.raw(Stream::Decisions, &self.prefix.all(Stream::Decisions)).await? {
            let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
            let (sequence, at) = (info.stream_sequence, info.published);
            match token(&message) {
                TERM | POLICY => {}
                PAGES => {
                    let page = envelope::decode::<Page>(std::iter::empty(), &message.payload)?;
                    let around = |decision| Event { time: page.time, ..event(page.id.clone(), &page.source, decision) };
                    let answers = self.answers(page.data.clone()).await?;
                    found.extend(answers.into_iter().map(|answer| Found { sequence, at, event: around(answer) }));
                }
                _ => found.push(Found { sequence, at, event: envelope::decode(std::iter::empty(), &message.payload)? }),
            }
        }
        Ok(found)
    }

    /// The decisions of a page in the order of its inputs.
    async fn answers(&self, page: Page) -> anyhow::Result<Vec<Decision>> {
        let mut all = Vec::new();
        for plain in &page.plain {
            for sequence in plain.each() {
                let facts = Facts { policy: page.policy.clone(), seen: Some(page.seen.clone()), ..Facts::default() };
                let input = self.key(&page.stream, sequence).await?;
                all.push(Decision {
                    sequence: Some(sequence),
                    host: Some(plain.host.clone()),
                    rule: Some(plain.rule.clone()),
                    ..Decision::new(input, plain.verdict, Reason::Rule, facts)
                });
            }
        }
        all.extend(page.into_decisions());
        all.sort_by_key(|decision| decision.sequence);
        Ok(all)
    }

    /// The key of a stored detection. One that was removed has its sequence for an id.
    async fn key(&self, stream: &str, sequence: u64) -> anyhow::Result<InputRef> {
        let (kind, at) = (InputKind::Detection, (stream.to_owned(), sequence));
        if let Some(known) = self.keys.lock().expect("sound").get(&at) {
            return Ok(known.clone());
        }
        let stored = match self.context.get_stream(stream).await?.get_raw_message(sequence).await {
            Ok(stored) => stored,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
                return Ok(InputRef { kind, token: String::new(), source: stream.to_owned(), id: sequence.to_string() });
            }
            Err(error) => return Err(error.into()),
        };
        let headers = stored.headers.iter().flat_map(|(name, values)| values.iter().map(|value| (name.as_ref(), value.as_str())));
        let (event, _) = envelope::detection(headers, &stored.payload)?;
        let token =
            self.prefix.rest(Stream::Detections.token(), &stored.subject).context("the subject of a detection")?.to_owned();
        let key = InputRef { kind, token, source: event.source, id: event.id };
        self.keys.lock().expect("sound").insert(at, key.clone());
        Ok(key)
    }

    /// The decision on the input with this id.
    pub async fn decision(&self, id: &str) -> anyhow::Result<Decision> {
        until(&format!("a decision on {id}"), Duration::from_secs(20), || async {
            let found = self.decisions().await?.into_iter().find(|found| found.event.data.input.id == id);
            Ok(found.map(|found| found.event.data))
        })
        .await
    }

    /// Waits for a decision that is so. It is stored after its order, and so perhaps after the host has done what the order says.
    pub async fn decided(&self, what: &str, so: impl Fn(&Decision) -> bool) -> anyhow::Result<Decision> {
        until(what, Duration::from_secs(20), || async {
            let decisions = self.decisions().await?;
            Ok(decisions.into_iter().map(|found| found.event.data).find(|decision| so(decision)))
        })
        .await
    }

    /// Waits until the host itself says that it holds `posture` under a generation of at least `generation`.
    pub async fn state(&self, host: &str, generation: u64, posture: Posture) -> anyhow::Result<Found<State>> {
        until(&format!("{host} says {} under {generation}", posture.as_str()), Duration::from_secs(30), || async {
            let states = self.states(host).await?;
            let last = states.into_iter().next_back();
            Ok(last.filter(|found| found.event.data.generation >= generation && found.event.data.posture == posture))
        })
        .await
    }

    /// Waits until every stream of a cluster has all its replicas, and they are current. Before that, what is read may be that of one that lags behind.
    pub async fn is_whole(&self) -> anyhow::Result<()> {
        let bucket = format!("KV_{}", self.prefix.bucket());
        until("the cluster is whole", Duration::from_secs(120), || async {
            for name in Stream::ALL.map(|stream| self.prefix.stream(stream)).iter().chain([&bucket]) {
                let info = self.context.get_stream(name).await?.cached_info().clone();
                let cluster = info.cluster.context("no cluster")?;
                let current = cluster.replicas.iter().filter(|peer| peer.current && !peer.offline).count();
                if cluster.leader.is_none() || current + 1 != info.config.num_replicas {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }

    /// Stores the inventory of a host that has no agent, as its hello would be.
    pub async fn know(&self, host: &str) -> anyhow::Result<()> {
        let inventory = Inventory {
            hello: known(host)?,
            claims: Vec::new(),
            silent_since: None,
            roles_since: Default::default(),
            operator: None,
        };
        let body = envelope::encode(&event(format!("inventory-{host}"), "/test", inventory))?;
        self.publish_raw(self.prefix.of(Stream::Inventory, host), body).await.map(drop)
    }

    /// Waits until the orchestrator knows these hosts.
    pub async fn known(&self, hosts: &[&str]) -> anyhow::Result<()> {
        until("the hosts are in the inventory", Duration::from_secs(30), || async {
            for host in hosts {
                let subject = self.prefix.of(Stream::Inventory, host);
                if self.all::<Inventory>(Stream::Inventory, &subject).await?.is_empty() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }
}

/// The last token of a message's subject.
fn token(message: &jetstream::Message) -> &str {
    message.subject.rsplit('.').next().unwrap_or_default()
}

pub fn event<T>(id: String, source: &str, data: T) -> Event<T> {
    Event {
        id,
        source: source.into(),
        subject: None,
        time: Some(Utc::now()),
        traceparent: None,
        correlation: None,
        causation: None,
        data,
    }
}

pub fn detection_event(detection: Detection) -> Event<Detection> {
    let traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    Event { traceparent, ..event(format!("detection-{}", unique()), "https://siem.example/alerts", detection) }
}

/// A detection of ransomware on a host, observed now.
pub fn ransomware(host: HostClaim) -> Detection {
    Detection {
        host,
        indicator: Some(Indicator {
            kind: "sha256".into(),
            value: "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f".into(),
        }),
        severity: Severity::Critical,
        confidence: Some(95),
        rule: RuleRef { id: "crypt-0001".into(), name: "Mass file encryption".into() },
        techniques: vec!["T1486".into()],
        product: "elastic".into(),
        observed_at: Utc::now() - TimeDelta::seconds(1),
        incident: None,
        url: None,
        user: None,
        process: None,
        retracts: None,
        raw: None,
    }
}

pub fn by_id(host: &str) -> HostClaim {
    HostClaim { id: Some(host.into()), ..HostClaim::default() }
}

/// The first hello of a host without an agent.
pub fn known(host: &str) -> anyhow::Result<Hello> {
    Ok(serde_json::from_value(json!({
        "host": host, "hostname": format!("{host}.example"), "ips": [], "os": "Linux", "kernel": "6.12", "agent_version": "0.1.0",
        "boot_id": "one", "instance": "one", "level": "full", "labels": {}, "roles": [], "generation": 0, "posture": "open",
    }))?)
}

pub fn ask(action: Action, host: &str, operator: &str) -> anyhow::Result<Request> {
    Ok(Request { host: Some(HostId::new(host)?), reason: Some("a test".into()), ..Request::new(action, operator) })
}

/// A host's first hello, as its agent would publish it: subject and body.
pub fn hello_message(prefix: &Prefix, host: &str, name: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let hello = hello(host, name, &[])?;
    Ok((prefix.hello(&hello.host), envelope::encode(&event(format!("hello-{host}"), "/test", hello))?))
}

/// What an open host says of itself.
pub fn hello(host: &str, name: &str, ips: &[String]) -> anyhow::Result<Hello> {
    Ok(serde_json::from_value(serde_json::json!({
        "host": host, "hostname": name, "ips": ips, "os": "Linux", "kernel": "6.12", "agent_version": "0.1.0", "boot_id": "one",
        "instance": "one", "level": "full", "labels": {}, "roles": [], "generation": 0, "posture": "open",
    }))?)
}
