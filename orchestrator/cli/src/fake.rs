//! A client without a broker, for tests: says what it is told to say.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::StreamExt;
use futures_util::stream::unfold;
use portcullis_bus::survey::{Following, Held, Server, Storage};
use portcullis_core::inventory;
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{
    Counts, Decision, Evidence, Facts, Hello, Hold, InputKind, InputRef, Inventory, Level, LocalRelease, Order, Origin, Posture,
    Reason, Request, State, StateCause, Term, TermConfig, Verdict, WhenUnreachable,
};
use portcullis_schemas::{HostId, Prefix, Stream, Timestamp};
use tokio::sync::mpsc;

use crate::client::{Beat, Client, DetectionName, Fleet, Follow, History, HostView, Query, Record, Records, What};
use crate::failure::Failure;
use crate::site::{Chain, Site};

pub const DETECTIONS: &str = "PORTCULLIS_DETECTIONS";

/// What the world answers to a request.
pub type Answer = Box<dyn Fn(&Event<Request>) -> Vec<What> + Send + Sync>;

pub struct Fake {
    pub hosts: Vec<HostView>,
    pub records: Vec<(Stream, Record)>,
    pub answer: Answer,
    pub beat: Option<Beat>,
    pub site: Box<dyn Fn() -> Site + Send + Sync>,
    pub sent: Mutex<Vec<(String, Event<Request>)>>,
    pub followed: Mutex<Vec<Follow>>,
    /// Texts of policies by their hashes.
    pub policies: Mutex<BTreeMap<String, String>>,
    live: Mutex<Option<mpsc::UnboundedSender<Record>>>,
    /// How the broker answers a request.
    pub stored: fn() -> Result<u64, Failure>,
}

impl Fake {
    pub fn new(hosts: Vec<HostView>, answer: impl Fn(&Event<Request>) -> Vec<What> + Send + Sync + 'static) -> Self {
        Self {
            hosts,
            records: Vec::new(),
            answer: Box::new(answer),
            beat: None,
            site: Box::new(site),
            sent: Mutex::default(),
            followed: Mutex::default(),
            policies: Mutex::default(),
            live: Mutex::default(),
            stored: || Ok(1),
        }
    }
}

impl Client for Fake {
    async fn fleet(&self) -> Result<Fleet, Failure> {
        Ok(Fleet { hosts: self.hosts.clone(), unreadable: Vec::new() })
    }

    async fn host(&self, host: &HostId) -> Result<HostView, Failure> {
        Ok(self.hosts.iter().find(|view| view.host == *host).cloned().unwrap_or_else(|| HostView::new(host.clone())))
    }

    async fn history(&self, query: &Query) -> Result<History, Failure> {
        let fits = |(stream, record): &&(Stream, Record)| {
            let host = query.host.as_ref().is_none_or(|host| record.is_about(host));
            *stream == query.stream && host && !record.what.is_mark() && record.stored_at >= query.since
        };
        let mut found: Vec<Record> = self.records.iter().filter(fits).map(|(_, record)| record.clone()).collect();
        found.drain(..found.len().saturating_sub(query.limit));
        Ok(History { records: found, from: None })
    }

    async fn detection(&self, named: &DetectionName, since: Timestamp) -> Result<Option<Record>, Failure> {
        let is_named = |record: &Record| match (named, &record.what) {
            (DetectionName::Sequence(sequence), What::Detection(_)) => record.sequence == *sequence,
            (DetectionName::Id(id), What::Detection(event)) => event.id == *id && record.stored_at >= since,
            _ => false,
        };
        Ok(self.records.iter().map(|(_, record)| record).find(|record| is_named(record)).cloned())
    }

    async fn answers(&self, detection: &Record) -> Result<Vec<Record>, Failure> {
        let fits = |record: &&Record| record.answers(DETECTIONS, detection.sequence, None);
        Ok(self.records.iter().map(|(_, record)| record).filter(fits).cloned().collect())
    }

    async fn keys(&self, stream: &str, sequences: &[u64]) -> Result<Vec<Option<InputRef>>, Failure> {
        let key = |sequence: &u64| {
            self.records.iter().find_map(|(_, record)| match &record.what {
                What::Detection(event) if record.sequence == *sequence && stream == DETECTIONS => Some(InputRef {
                    kind: InputKind::Detection,
                    token: record.subject.rsplit('.').next().unwrap_or_default().into(),
                    source: event.source.clone(),
                    id: event.id.clone(),
                }),
                _ => None,
            })
        };
        Ok(sequences.iter().map(key).collect())
    }

    async fn follow(&self, follow: &Follow) -> Result<Records, Failure> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for (stream, record) in &self.records {
            if follow.streams.contains(stream) && follow.since.is_some_and(|since| record.stored_at >= since) {
                sender.send(record.clone()).expect("held below");
            }
        }
        self.followed.lock().expect("sound").push(follow.clone());
        *self.live.lock().expect("sound") = (follow.since.is_none()).then_some(sender);
        Ok(unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|record| (Ok(record), receiver)) }).boxed())
    }

    async fn site(&self) -> Site {
        (self.site)()
    }

    async fn heartbeat(&self) -> Option<Beat> {
        self.beat.clone()
    }

    async fn activations(&self) -> Result<Vec<Record>, Failure> {
        let is_one = |(_, record): &&(Stream, Record)| matches!(record.what, What::PolicyActivated(_));
        Ok(self.records.iter().filter(is_one).map(|(_, record)| record.clone()).collect())
    }

    async fn policy_text(&self, hash: &str) -> Result<Option<String>, Failure> {
        Ok(self.policies.lock().expect("sound").get(hash).cloned())
    }

    async fn keep_policy(&self, hash: &str, text: &str) -> Result<(), Failure> {
        self.policies.lock().expect("sound").insert(hash.to_owned(), text.to_owned());
        Ok(())
    }

    async fn request(&self, principal: &str, event: &Event<Request>) -> Result<u64, Failure> {
        let sequence = (self.stored)()?;
        self.sent.lock().expect("sound").push((principal.to_owned(), event.clone()));
        if let Some(sender) = self.live.lock().expect("sound").as_ref() {
            for what in (self.answer)(event) {
                sender.send(record("portcullis.decision.web1", at(0), what)).expect("followed");
            }
        }
        Ok(sequence)
    }
}

/// One that is well.
pub fn site() -> Site {
    let held = |stream: Stream| Held {
        name: Prefix::default().stream(stream),
        refused: None,
        lacks: Vec::new(),
        messages: 100,
        bytes: 10 << 20,
        max_bytes: Some(100 << 20),
        max_age: Duration::from_secs(365 * 86_400),
        max_per_subject: if stream == Stream::Orders { 1_024 } else { 0 },
        is_full_for_good: stream == Stream::Orders,
        first: 1,
        last: 100,
        first_at: Utc::now(),
        removed: 0,
        behind: Vec::new(),
    };
    let config = TermConfig { version: "0.1.0".into(), ..TermConfig::default() };
    let following = |who: &str| Following { who: who.into(), behind: 0 };
    Site {
        server: Server { shown: "nats://127.0.0.1:4222".into(), version: "2.15.1".into(), refused: None },
        clock_ahead: Ok(TimeDelta::milliseconds(3)),
        storage: Ok(Storage { used: 10 << 20, reserved: 20 << 20, limit: Some(100 << 20) }),
        streams: Stream::ALL.map(|stream| (stream, Ok(held(stream)))).into(),
        leader: Ok(Some(("a1".into(), TimeDelta::milliseconds(300)))),
        term: Ok(Some(Term { term: 3, who: "a1".into(), since: at(0), config, prev: None })),
        orchestrators: Ok(vec![following("a1"), following("b2")]),
        chain: Ok(Chain { checked: 4, ..Chain::default() }),
        detections: Ok([("siem".to_owned(), 100)].into()),
        rejected: Ok(Default::default()),
    }
}

pub fn at(seconds: i64) -> Timestamp {
    "2026-11-22T12:00:00Z".parse::<Timestamp>().expect("valid") + TimeDelta::seconds(seconds)
}

pub fn id(host: &str) -> HostId {
    host.parse().expect("a host id")
}

pub fn record(subject: &str, stored_at: Timestamp, what: What) -> Record {
    Record { sequence: 7, stored_at, subject: subject.into(), what }
}

pub fn event<T>(data: T) -> Event<T> {
    Event {
        id: "e-1".into(),
        source: "/test".into(),
        subject: None,
        time: None,
        traceparent: None,
        correlation: None,
        causation: None,
        data,
    }
}

pub fn input(request: &Event<Request>) -> InputRef {
    InputRef {
        kind: InputKind::Request,
        token: request.data.operator.clone(),
        source: request.source.clone(),
        id: request.id.clone(),
    }
}

pub fn decision(request: &Event<Request>, verdict: Verdict, reason: Reason, generation: Option<u64>) -> What {
    What::Decision(Box::new(event(Decision {
        host: request.data.host.clone(),
        generation,
        incident: Some("inc-1".into()),
        ..Decision::new(input(request), verdict, reason, Facts { counts: Counts::default(), ..Facts::default() })
    })))
}

pub fn state(generation: u64, posture: Posture) -> State {
    State {
        host: id("web1"),
        generation,
        posture,
        level: Level::Full,
        leaks: vec![],
        enforced_at: at(1),
        clock_ahead_seconds: None,
        evidence: Evidence { readback_ok: true, table_locked: true, sockets_killed: 12, flows_flushed: 3, ..Evidence::default() },
        cause: StateCause::Order,
        by: None,
        tamper: None,
        last_order: None,
        error: None,
        boot_id: "b".into(),
        agent_version: "0.1.0".into(),
        incident: Some("inc-1".into()),
    }
}

pub fn order(generation: u64, posture: Posture) -> Order {
    let cause = InputRef { kind: InputKind::Request, token: "alice".into(), source: "/portcullis/cli".into(), id: "r-1".into() };
    let until = at(8 * 3_600);
    let hold = Hold {
        rule: None,
        origin: Origin::Manual,
        causes: vec![cause.clone()],
        more: None,
        generation,
        since: at(0),
        until: Some(until),
        reason: None,
        ticket: None,
        incident: None,
    };
    let isolated = posture == Posture::Isolated;
    Order {
        host: id("web1"),
        generation,
        posture,
        holds: if isolated { vec![hold] } else { Vec::new() },
        release_at: isolated.then_some(until),
        exclusions: Vec::new(),
        when_unreachable: WhenUnreachable::Release,
        local_release: LocalRelease::Root,
        incident: "inc-1".into(),
        ticket: Some("T-1".into()),
        issued_at: at(0),
        issued_by: cause,
        reason: "C2 beacon".into(),
        expires_at: None,
        min_agent: None,
        settled: Vec::new(),
        settled_floor: None,
        released_at: None,
        last_release: None,
        last_isolation: None,
        asked_at_deadline: false,
        prev: "0".repeat(64),
    }
}

pub fn host(name: &str, hostname: &str, ips: &[&str]) -> HostView {
    let hello = Hello {
        host: id(name),
        hostname: hostname.into(),
        ips: ips.iter().map(ToString::to_string).collect(),
        internal_ips: Vec::new(),
        os: "Debian 12".into(),
        kernel: "6.18.44".into(),
        agent_version: "0.1.0".into(),
        boot_id: "b".into(),
        instance: "i".into(),
        level: Level::Full,
        leaks: vec![],
        labels: [("role".to_owned(), "web".to_owned())].into(),
        roles: Vec::new(),
        generation: 0,
        posture: Posture::Open,
        tells_last_order: false,
    };
    let claims = inventory::of(None, &hello, at(-60), false).map(|inventory| inventory.claims).unwrap_or_default();
    HostView {
        inventory: Some(Inventory { hello, claims, silent_since: None, roles_since: Default::default(), operator: None }),
        ..HostView::new(id(name))
    }
}
