//! The one loop: takes inputs in the order of their urgency, lets the core decide, stores what follows.

mod input;
mod recent;

use std::time::Duration;

use async_nats::jetstream;
use chrono::{DateTime, Utc};
use portcullis_core::{Config, Fleet, Input, Outcome, decide};
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Decision, InputKind, InputRef, Inventory, Order, Reason};
use portcullis_schemas::heartbeat::{self, Heartbeat};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::subjects::UNRESOLVED;
use portcullis_schemas::{Prefix, Stream, ids};
use tokio::sync::{mpsc, watch};

use crate::attempts::Attempts;
use crate::delivery::{Delivery, pairs};
use crate::follow::Stored;
use crate::heart::Heart;
use crate::ingress::Arrival;
use crate::log::{Appended, Log, LogError};
use crate::notices::Notices;
use crate::policy_file::PolicyFile;
use crate::rejected::Original;
use crate::scheduler::Schedule;
use crate::{figures, rejected, steps};
use input::Heard;
pub use recent::Recent;

const SOURCE: &str = "/portcullis/orchestrator";

/// An input that was begun so often, beside its first delivery, and never finished is kept unread at its fifth.
const POISON: u64 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Everything that the loop can hear.
pub struct Ears {
    pub releases: mpsc::Receiver<Arrival>,
    pub requests: mpsc::Receiver<Arrival>,
    pub detections: mpsc::Receiver<Arrival>,
    /// Orders, states and inventories as they are stored.
    pub followed: mpsc::Receiver<Stored>,
    pub hellos: mpsc::Receiver<async_nats::Message>,
    pub reload: mpsc::Receiver<()>,
    pub connected: watch::Receiver<bool>,
    pub stop: watch::Receiver<bool>,
}

pub struct Engine {
    pub context: jetstream::Context,
    pub prefix: Prefix,
    pub fleet: Fleet,
    pub orders: Log,
    pub decisions: Log,
    pub recent: Recent,
    pub schedule: Schedule,
    pub notices: Notices,
    pub config: Config,
    pub policy: PolicyFile,
    pub heart: Heart,
    pub attempts: Attempts,
}

/// The envelope's part of an input, carried into what follows from it.
#[derive(Clone, Debug, Default)]
struct Trace {
    traceparent: Option<String>,
    causation: Option<String>,
    /// The input lay in its stream when this process started: part of its order's time is over.
    waited: bool,
}

/// What became of an input.
enum Settled {
    Done,
    Later(Duration),
    /// Its answer can never be stored.
    Never(Malformed),
}

impl Engine {
    /// Runs until it is told to stop. What is urgent goes first: a release never waits behind detections.
    pub async fn run(mut self, mut ears: Ears) {
        let mut pulse = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                biased;
                _ = ears.stop.changed() => return,
                Some(arrival) = ears.releases.recv() => self.arrived(arrival).await,
                Some(arrival) = ears.requests.recv() => self.arrived(arrival).await,
                Some(stored) = ears.followed.recv() => self.followed(stored).await,
                Some(()) = ears.reload.recv() => {
                    self.policy.reload();
                    self.heartbeat(Utc::now());
                }
                Ok(()) = ears.connected.changed() => self.fleet.forgive_silence(Utc::now()),
                Some(message) = ears.hellos.recv() => self.hello(message).await,
                _ = pulse.tick() => self.pulse(*ears.connected.borrow()).await,
                Some(arrival) = ears.detections.recv() => self.arrived(arrival).await,
            }
        }
    }

    async fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Message(delivery) => self.delivered(&delivery).await,
            Arrival::Lost { stream, first, last } => {
                let (meta, input) = input::lost(&self.prefix, stream, first, last, Utc::now());
                if !self.recent.contains(&meta.input) {
                    self.observed(&input, &meta.input, &Trace::default()).await;
                }
            }
        }
    }

    async fn delivered(&mut self, delivery: &Delivery) {
        let begun = self.begin(delivery).await;
        steps::step("orchestrator.received");
        let heard = match begun {
            begun if begun >= POISON => Err(Malformed::Poison(begun + 1)),
            _ => input::read(&self.prefix, delivery),
        };
        match heard {
            Err(why) => self.reject(delivery, &why).await,
            Ok(Heard { key, .. }) if self.recent.contains(&key) => {}
            Ok(heard) => {
                figures::input(heard.key.kind);
                if let [first, ..] = heard.faults() {
                    let (token, id, faults) = (&heard.key.token, &heard.key.id, heard.faults().len());
                    tracing::warn!(token, id, faults, first, "detection has members that cannot be read; they decide nothing");
                }
                match self.decided(&heard, delivery).await {
                    Settled::Done => {}
                    Settled::Later(later) => {
                        self.attempts.end(delivery).await;
                        return delivery.later(later).await;
                    }
                    Settled::Never(why) => self.reject(delivery, &why).await,
                }
            }
        }
        steps::step("orchestrator.recorded");
        self.attempts.end(delivery).await;
        delivery.done().await;
        steps::step("orchestrator.acked");
    }

    /// Marks an input that came again, and looks whether another orchestrator has answered it since the tail was read. Each step is tried
    /// again by itself: a failure that passes is no attempt.
    async fn begin(&mut self, delivery: &Delivery) -> u64 {
        let mut pause = FIRST_PAUSE;
        while delivery.delivered > 1
            && let Err(error) = self.read_decisions().await
        {
            wait(&mut pause, &error, Some(delivery)).await;
        }
        let begun = loop {
            match self.attempts.begun(delivery).await {
                Ok(begun) => break begun,
                Err(error) => wait(&mut pause, &error, Some(delivery)).await,
            }
        };
        while let Err(error) = self.attempts.begin(delivery, begun + 1).await {
            wait(&mut pause, &error, Some(delivery)).await;
        }
        begun
    }

    async fn decided(&mut self, heard: &Heard, delivery: &Delivery) -> Settled {
        let trace =
            Trace { traceparent: heard.traceparent.clone(), causation: Some(heard.key.id.clone()), waited: delivery.waited };
        let schedule = self.schedule.clone();
        let input = heard.input(|due| schedule.rest(&due.host, due.generation));
        self.settle(&input, &heard.key, &trace, Some(delivery)).await
    }

    /// Settles what no consumer waits for.
    async fn observed(&mut self, input: &Input, key: &InputRef, trace: &Trace) {
        if let Settled::Never(why) = self.settle(input, key, trace, None).await {
            tracing::error!(%why, token = key.token, "what a host said of itself cannot be answered");
        }
    }

    /// Decides an input and stores what follows: order, notices, decision. A lost compare-and-set drops what was decided, reads on and
    /// decides again. What fails in passing is tried again, with the message kept alive meanwhile.
    async fn settle(&mut self, input: &Input, key: &InputRef, trace: &Trace, delivery: Option<&Delivery>) -> Settled {
        let mut pause = FIRST_PAUSE;
        loop {
            let policy = self.policy.policy.clone();
            let outcome = decide(&self.fleet, policy.as_deref(), &self.config, input);
            if let Some(later) = outcome.again_in {
                return Settled::Later(later);
            }
            steps::step("orchestrator.decided");
            let stands = match (&outcome.order, &outcome.decision) {
                (Some(order), _) => self.order(order, trace).await,
                // What orders nothing is no compare-and-set: it holds only if all orders up to now were known.
                (None, Some(_)) => self.read_orders().await,
                (None, None) => Ok(true),
            };
            match stands {
                Ok(true) => {}
                Ok(false) => {
                    figures::overtaken();
                    continue;
                }
                // What can never be stored is kept whole, and holds up nobody else.
                Err(error) if permanent(&error) => return Settled::Never(never(&error)),
                Err(error) => {
                    wait(&mut pause, &error, delivery).await;
                    continue;
                }
            }
            steps::step("orchestrator.ordered");
            match self.finish(outcome, key, trace, delivery).await {
                Ok(true) => return Settled::Done,
                Ok(false) => {}
                Err(error) => return Settled::Never(never(&error)),
            }
        }
    }

    /// What follows an order that is stored, or one that is not needed. False: others decided something meanwhile, decide again.
    async fn finish(
        &mut self,
        outcome: Outcome,
        key: &InputRef,
        trace: &Trace,
        delivery: Option<&Delivery>,
    ) -> anyhow::Result<bool> {
        let Outcome { decision, notices, order, .. } = outcome;
        if let Some(order) = &order {
            let latency = (Utc::now() - order.issued_at).to_std().unwrap_or_default();
            figures::ordered(order.posture, latency);
            tracing::info!(host = %order.host, generation = order.generation, posture = order.posture.as_str(), reason = order.reason, "ordered");
        }
        let at = decision.as_ref().and_then(|decision| decision.facts.now).unwrap_or_else(Utc::now);
        self.notices.say(notices, at).await;
        let Some(decision) = decision else { return Ok(true) };
        let verdict = decision.verdict;
        let mut event = decision_event(decision, at, trace);
        let recorded = match self.record(&event, key, order.is_some(), delivery).await {
            // What a host says of itself, or a sender in its name, can be larger than a decision may be: it stands in their own events.
            Err(error) if permanent(&error) => {
                event.data.facts.labels.clear();
                event.data.facts.roles.clear();
                event.data.facts.input_faults.clear();
                event.data.reason = shortened(event.data.reason);
                self.record(&event, key, order.is_some(), delivery).await?
            }
            recorded => recorded?,
        };
        if recorded {
            figures::verdict(verdict);
        }
        Ok(recorded)
    }

    /// Reads the log of orders on. True: nothing was new.
    async fn read_orders(&mut self) -> anyhow::Result<bool> {
        let read = self.orders.read_on().await?;
        for message in &read {
            self.take_order(&message.body);
        }
        Ok(read.is_empty())
    }

    /// Reads the log of decisions on.
    async fn read_decisions(&mut self) -> anyhow::Result<()> {
        for message in &self.decisions.read_on().await? {
            self.recent.take(&message.body);
        }
        Ok(())
    }

    /// Stores an order. False: others were faster, and what they stored has been taken.
    async fn order(&mut self, order: &Order, trace: &Trace) -> anyhow::Result<bool> {
        let generation = order.generation.to_string();
        let event = Event {
            id: ids::digest(["order", order.host.as_str(), &generation, &order.prev]),
            source: SOURCE.into(),
            subject: Some(order.host.to_string()),
            time: Some(order.issued_at),
            traceparent: trace.traceparent.clone(),
            correlation: Some(order.incident.clone()),
            causation: trace.causation.clone(),
            data: order.clone(),
        };
        let body = envelope::encode(&event)?;
        let subject = self.prefix.of(Stream::Orders, order.host.as_str());
        match self.orders.append(subject, &body).await? {
            Appended::Stored => {
                match trace.waited {
                    true => self.schedule.follow_read(order),
                    false => self.schedule.follow_live(order),
                }
                self.fleet.take_order(order.clone(), ids::sha256(&body));
                Ok(true)
            }
            Appended::Overtaken { read, mine } => {
                for message in &read {
                    self.take_order(&message.body);
                }
                Ok(mine)
            }
        }
    }

    /// Stores a decision. False: others decided something first, and this one orders nothing: it may no longer be right.
    async fn record(
        &mut self,
        event: &Event<Decision>,
        key: &InputRef,
        ordered: bool,
        delivery: Option<&Delivery>,
    ) -> anyhow::Result<bool> {
        let subject = self.prefix.of(Stream::Decisions, event.subject.as_deref().unwrap_or(UNRESOLVED));
        let body = envelope::encode(event)?;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.decisions.append(subject.clone(), &body).await {
                Ok(Appended::Stored) => break,
                Ok(Appended::Overtaken { read, mine }) => {
                    figures::overtaken();
                    for message in &read {
                        self.recent.take(&message.body);
                    }
                    if mine || self.recent.contains(key) {
                        break;
                    }
                    if !ordered {
                        return Ok(false);
                    }
                }
                Err(error @ LogError::TooLarge) => return Err(error.into()),
                Err(error) => wait(&mut pause, &error.into(), delivery).await,
            }
        }
        self.recent.add(key);
        Ok(true)
    }

    async fn reject(&mut self, delivery: &Delivery, why: &Malformed) {
        let original = Original {
            kind: delivery.stream.token(),
            subject: &delivery.subject,
            headers: delivery.headers().collect(),
            block: delivery.malformed.as_ref().map(|(block, _)| block.as_slice()),
            body: &delivery.body,
            stored: Some((delivery.stream, delivery.sequence)),
        };
        self.keep(original, why, Some(delivery)).await;
    }

    /// Keeps whole what could not be understood.
    async fn keep(&mut self, original: Original<'_>, why: &Malformed, delivery: Option<&Delivery>) {
        let mut pause = FIRST_PAUSE;
        figures::rejected(why.code());
        while let Err(error) = rejected::keep(&self.context, &self.prefix, &original, why).await {
            if rejected::too_large(&error) {
                // It stays where it is stored; what is not stored was larger than anything that a stream takes.
                return tracing::error!(subject = original.subject, bytes = original.body.len(), %why, "too large to be kept with its reason");
            }
            wait(&mut pause, &error, delivery).await;
        }
    }

    async fn followed(&mut self, stored: Stored) {
        match stored.stream {
            Stream::Orders if self.orders.advance(stored.sequence) => self.take_order(&stored.body),
            Stream::Inventory => {
                if let Ok(event) = envelope::decode::<Inventory>(stored.headers(), &stored.body) {
                    self.fleet.take_inventory(event.data, stored.at);
                }
            }
            Stream::States => self.state(&stored).await,
            _ => {}
        }
    }

    /// A stored state event: taken into the fleet, and answered where the host acted by itself.
    pub async fn state(&mut self, stored: &Stored) {
        let (key, event) = match input::state(&self.prefix, stored) {
            Ok(heard) => heard,
            Err(why) => {
                let original = Original {
                    kind: Stream::States.token(),
                    subject: &stored.subject,
                    headers: stored.headers().collect(),
                    block: stored.malformed.as_ref().map(|(block, _)| block.as_slice()),
                    body: &stored.body,
                    stored: Some((stored.stream, stored.sequence)),
                };
                return self.keep(original, &why, None).await;
            }
        };
        figures::input(InputKind::State);
        // An opening is told until it is known to be stored.
        let known = self.recent.contains(&key);
        self.fleet.take_state(event.data.clone(), stored.at);
        let trace = Trace { traceparent: event.traceparent, causation: Some(key.id.clone()), waited: false };
        let meta =
            portcullis_core::Meta { input: key.clone(), at: stored.at, correlation: event.correlation, faults: Vec::new() };
        let input = Input::State(meta, event.data);
        if !known {
            self.observed(&input, &key, &trace).await;
        }
    }

    /// Takes a message of the log of orders.
    pub fn take_order(&mut self, body: &[u8]) {
        match envelope::decode::<Order>(std::iter::empty(), body) {
            Ok(event) => {
                self.schedule.follow_read(&event.data);
                self.fleet.take_order(event.data, ids::sha256(body));
            }
            Err(error) => {
                tracing::error!(%error, "a message in the log of orders is no order; somebody else writes there");
                self.fleet.take_unreadable(ids::sha256(body));
            }
        }
    }

    async fn hello(&mut self, message: async_nats::Message) {
        let at = Utc::now();
        let (key, event) = match input::hello(&self.prefix, &message) {
            Ok(heard) => heard,
            Err(why) => {
                let headers = pairs(message.headers.as_ref());
                let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let subject = message.subject.as_str();
                let original = Original { kind: "hello", subject, headers, block: None, body: &message.payload, stored: None };
                return self.keep(original, &why, None).await;
            }
        };
        figures::input(InputKind::Hello);
        let inventory = self.fleet.inventory_for(&event.data, at);
        let meta = portcullis_core::Meta { input: key.clone(), at, correlation: None, faults: Vec::new() };
        let refused = self.fleet.spelled_otherwise(&event.data.host).is_some();
        let input = Input::Hello(meta, event.data.clone());
        if !refused {
            self.fleet.hear(&event.data, at);
        }
        self.observed(&input, &key, &Trace::default()).await;
        if let Some(inventory) = inventory.filter(|_| !refused) {
            self.store_inventory(inventory, at).await;
        }
    }

    async fn store_inventory(&mut self, inventory: Inventory, at: DateTime<Utc>) {
        let event = input::inventory_event(SOURCE, inventory, at);
        let subject = self.prefix.of(Stream::Inventory, event.data.hello.host.as_str());
        let sent = match envelope::encode(&event) {
            Ok(body) => self.context.publish(subject, body.into()).await.map_err(anyhow::Error::from),
            Err(error) => Err(error.into()),
        };
        let stored = match sent {
            Ok(ack) => ack.await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match stored {
            // Taken at once: the next detection may name this host.
            Ok(_) => self.fleet.take_inventory(event.data, at),
            Err(error) => tracing::warn!(%error, "the inventory was not stored; the host's next word stores it"),
        }
    }

    async fn pulse(&mut self, connected: bool) {
        let now = Utc::now();
        figures::fleet(&self.fleet, now);
        // While the broker is away no host can be heard, and silence means nothing.
        if !connected {
            return;
        }
        self.heartbeat(now);
        for inventory in self.fleet.fallen_silent(now) {
            let host = inventory.hello.host.clone();
            let last_hello = inventory.silent_since.map(|since| since.to_rfc3339());
            tracing::warn!(%host, last_hello, "host unreachable: heartbeats missed");
            let notice = self.fleet.unreachable(&inventory);
            self.store_inventory(inventory, now).await;
            self.notices.say(vec![notice], now).await;
        }
    }

    fn heartbeat(&self, now: DateTime<Utc>) {
        let late = self.fleet.late(now, heartbeat::MOST_LATE);
        self.heart.beat(&Heartbeat { policy: self.policy.state().borrow().clone(), late });
    }
}

fn decision_event(decision: Decision, at: DateTime<Utc>, trace: &Trace) -> Event<Decision> {
    let input = &decision.input;
    Event {
        id: ids::digest(["decision", &input.hash(), &input.token, &input.source, &input.id]),
        source: SOURCE.into(),
        subject: Some(decision.host.as_ref().map_or_else(|| UNRESOLVED.to_owned(), ToString::to_string)),
        time: Some(at),
        traceparent: trace.traceparent.clone(),
        correlation: decision.incident.clone(),
        causation: Some(input.id.clone()),
        data: decision,
    }
}

/// Would it fail in the same way for ever?
fn permanent(error: &anyhow::Error) -> bool {
    error.is::<Malformed>() || matches!(error.downcast_ref(), Some(LogError::TooLarge))
}

fn never(error: &anyhow::Error) -> Malformed {
    Malformed::Unanswerable(format!("{error:#}"))
}

/// A reason without what a sender wrote.
fn shortened(reason: Reason) -> Reason {
    match reason {
        Reason::Unresolved { .. } => Reason::Unresolved { wanted: String::new(), candidates: Vec::new() },
        Reason::RuleError { .. } => Reason::RuleError { message: String::new() },
        Reason::OperatorMismatch { .. } => Reason::OperatorMismatch { operator: String::new(), principal: String::new() },
        Reason::Unreadable { member, .. } => Reason::Unreadable { member, problem: String::new() },
        Reason::HostMismatch { .. } => Reason::HostMismatch { named: String::new() },
        reason => reason,
    }
}

/// Waits a moment, twice as long each time, and tells the broker that the input is still at work.
async fn wait(pause: &mut Duration, error: &anyhow::Error, delivery: Option<&Delivery>) {
    tracing::warn!(error = format!("{error:#}"), pause_ms = pause.as_millis(), "trying again");
    if let Some(delivery) = delivery {
        delivery.progress().await;
    }
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}
