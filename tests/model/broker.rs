//! The broker of the model: streams as vectors, compare-and-set by length, redelivery, one clock that may be stepped.

use std::collections::HashMap;

use bytes::Bytes;
use portcullis_core::machine::{Delivered, Log, Message, Ticket};
use portcullis_core::{Input, Meta};
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{
    Decision, Hello, InputKind, InputRef, Inventory, Order, Payload, Posture, ReleaseDue, State, StateCause,
};
use portcullis_schemas::{HostId, Prefix, Stream, Timestamp, ids};

use crate::Defect;

/// How long an input is waited for before it is delivered again.
pub const ACK_WAIT: i64 = 2_000;

pub struct Broker {
    pub defect: Defect,
    pub traced: bool,
    /// Milliseconds since the world began, which nobody can set.
    pub now: i64,
    /// What the broker's wall clock is off by.
    pub offset: i64,
    /// What the wall clock of the orchestrators' machine is off by: nothing may come of it.
    pub machine: i64,
    /// The furthest that it ever was ahead: a clock that was set by it and carried on still is.
    pub ahead: i64,
    pub step: u64,
    /// Appends and reads fail now and then.
    pub faults: bool,
    pub inputs: Vec<Stored>,
    pub orders: Vec<StoredOrder>,
    pub decisions: Vec<Decision>,
    decision_bodies: Vec<(Bytes, Timestamp)>,
    /// Publishes that lie in a buffer: by whom, and what for.
    pub late: Vec<(usize, Log, Bytes, u64)>,
    pub states: Vec<(InputRef, State, Timestamp, i64)>,
    pub inventories: Vec<(Inventory, Timestamp)>,
    /// Hosts' own words, for whoever listens at the moment.
    pub hellos: Vec<(InputRef, Hello, Timestamp)>,
    pub violations: Vec<String>,
    issued: HashMap<String, u64>,
}

/// A message of an input stream.
pub struct Stored {
    pub input: Input,
    pub key: InputRef,
    pub at: Timestamp,
    pub stored: i64,
    pub acked: bool,
    pub delivered: u64,
    /// When it is delivered next.
    pub next: i64,
}

pub struct StoredOrder {
    pub order: Order,
    pub sha256: String,
    pub stored: i64,
    body: Bytes,
    at: Timestamp,
}

impl Broker {
    pub fn new(defect: Defect, traced: bool) -> Self {
        Self {
            defect,
            traced,
            now: 0,
            offset: 0,
            machine: 0,
            ahead: 0,
            step: 0,
            faults: true,
            inputs: Vec::new(),
            orders: Vec::new(),
            decisions: Vec::new(),
            decision_bodies: Vec::new(),
            late: Vec::new(),
            states: Vec::new(),
            inventories: Vec::new(),
            hellos: Vec::new(),
            violations: Vec::new(),
            issued: HashMap::new(),
        }
    }

    /// The wall clock of the broker.
    pub fn wall(&self) -> Timestamp {
        time(self.now + self.offset)
    }

    pub fn pass(&mut self, millis: i64) {
        self.now += millis;
        self.step += 1;
        self.ahead = self.ahead.max(self.offset);
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.traced {
            println!("{:>5} {:>10.3} {}", self.step, self.now as f64 / 1_000.0, text());
        }
    }

    pub fn violated(&mut self, text: String) {
        self.say(|| format!("VIOLATED {text}"));
        self.violations.push(text);
    }

    pub fn put(&mut self, input: Input, delay: i64) {
        let (key, at) = (meta(&input).input.clone(), self.wall());
        let input = match input {
            Input::Detection(meta, data) => Input::Detection(portcullis_core::Meta { at, ..meta }, data),
            Input::Request { meta, host, request } => {
                Input::Request { meta: portcullis_core::Meta { at, ..meta }, host, request }
            }
            Input::ReleaseDue { meta, due, rest } => Input::ReleaseDue { meta: portcullis_core::Meta { at, ..meta }, due, rest },
            other => other,
        };
        self.say(|| format!("stored {} {} {}", self.inputs.len(), word(&key), about(&input)));
        self.inputs.push(Stored { input, key, at, stored: self.now, acked: false, delivered: 0, next: self.now + delay });
    }

    pub fn last_order(&self, host: &HostId) -> Option<&StoredOrder> {
        self.orders.iter().rev().find(|stored| stored.order.host == *host)
    }

    /// Stores a message of a log behind `expected` others; false where others were faster.
    pub fn append(&mut self, who: usize, log: Log, body: &Bytes, expected: u64) -> bool {
        let last = if log == Log::Orders { self.orders.len() } else { self.decisions.len() };
        if expected != last as u64 && self.defect != Defect::NoCompareAndSet {
            return false;
        }
        match log {
            Log::Orders => self.append_order(who, body),
            Log::Decisions => self.append_decision(who, body),
        }
        true
    }

    fn append_order(&mut self, who: usize, body: &Bytes) {
        let mut event: Event<Order> = envelope::decode(std::iter::empty(), body).expect("an order is read");
        self.check_order(&event.data);
        self.say(|| {
            let order = &event.data;
            let holds: Vec<String> = order
                .holds
                .iter()
                .map(|l| format!("{}g{}*{}", l.rule.as_deref().unwrap_or("hand"), l.generation, l.causes.len()))
                .collect();
            let by = word(&order.issued_by);
            format!("o{who} order {} {} {} [{}] by {by}", order.host, order.generation, order.posture.as_str(), holds.join(" "))
        });
        let mut body = body.clone();
        if self.defect == Defect::NoMemory {
            event.data.settled.clear();
            body = envelope::encode(&event).expect("an order is written").into();
        }
        let (sha256, at) = (ids::sha256(&body), self.wall());
        self.orders.push(StoredOrder { order: event.data, sha256, stored: self.now, body, at });
    }

    fn append_decision(&mut self, who: usize, body: &Bytes) {
        let event: Event<Decision> = envelope::decode(std::iter::empty(), body).expect("a decision is read");
        let decision = event.data;
        self.say(|| {
            let (verdict, by) = (decision.verdict.as_str(), word(&decision.input));
            format!("o{who} decision {by} {verdict} {:?} {:?}", decision.reason, decision.generation)
        });
        self.decisions.push(decision);
        self.decision_bodies.push((body.clone(), self.wall()));
    }

    /// What lay in a buffer comes, if nobody was faster.
    pub fn deliver_late(&mut self, index: usize) {
        let (who, log, body, expected) = self.late.remove(index);
        let stored = self.append(who, log, &body, expected);
        self.say(|| format!("a late append of o{who} to {log:?}: stored {stored}"));
    }

    /// All of a log behind `after`.
    pub fn read(&self, log: Log, after: usize) -> Vec<Message> {
        match log {
            Log::Orders => (after..self.orders.len()).map(|index| self.order_message(index)).collect(),
            Log::Decisions => {
                let of = |index: usize| {
                    let (body, at) = &self.decision_bodies[index];
                    message(prefix().of(Stream::Decisions, "h"), body.clone(), *at, index)
                };
                (after..self.decisions.len()).map(of).collect()
            }
        }
    }

    pub fn order_message(&self, index: usize) -> Message {
        let stored = &self.orders[index];
        message(prefix().of(Stream::Orders, stored.order.host.as_str()), stored.body.clone(), stored.at, index)
    }

    pub fn state(&self, index: usize) -> Message {
        let (key, state, at, _) = &self.states[index];
        message(prefix().of(Stream::States, state.host.as_str()), event_of(key, state), *at, index)
    }

    pub fn hello(&self, index: usize) -> Message {
        let (key, hello, at) = &self.hellos[index];
        Message { sequence: 0, ..message(prefix().hello(&hello.host), event_of(key, hello), *at, index) }
    }

    pub fn inventory(&self, index: usize) -> Message {
        let (inventory, at) = &self.inventories[index];
        let host = inventory.hello.host.to_string();
        let key = InputRef { kind: InputKind::Hello, token: host.clone(), source: "/model".into(), id: format!("v{index}") };
        message(prefix().of(Stream::Inventory, &host), event_of(&key, inventory), *at, index)
    }

    pub fn ticket(&self, index: usize) -> Ticket {
        let stream = match self.inputs[index].input {
            Input::Request { .. } => Stream::Requests,
            Input::ReleaseDue { .. } => Stream::Releases,
            _ => Stream::Detections,
        };
        Ticket { stream, sequence: index as u64 + 1 }
    }

    /// An input as its consumer delivers it. All input streams have one line of sequences here.
    pub fn delivered(&self, index: usize, waited: bool) -> Delivered {
        let Stored { input, key, at, delivered, .. } = &self.inputs[index];
        let (subject, body) = match input {
            Input::Detection(_, data) => (prefix().of(Stream::Detections, &key.token), event_of(key, data)),
            Input::Request { host, request, .. } => (prefix().request(&key.token, host), event_of(key, request)),
            Input::ReleaseDue { due, .. } => (prefix().of(Stream::Releases, &key.token), event_of(key, due)),
            other => panic!("{other:?} is no input of a stream"),
        };
        let message = message(subject, body, *at, index);
        Delivered { stream: self.ticket(index).stream, deliveries: *delivered, waited, message }
    }

    pub fn store_inventory(&mut self, body: &[u8]) {
        let event: Event<Inventory> = envelope::decode(std::iter::empty(), body).expect("an inventory is read");
        let at = self.wall();
        self.inventories.push((event.data, at));
    }

    pub fn release_due(&mut self, body: &[u8]) {
        let event: Event<ReleaseDue> = envelope::decode(std::iter::empty(), body).expect("a release-due is read");
        let (token, due) = (event.data.host.to_string(), event.data);
        let input = InputRef { kind: InputKind::ReleaseDue, token, source: event.source, id: event.id };
        let meta = Meta { input, at: self.wall(), correlation: None, faults: Vec::new() };
        self.put(Input::ReleaseDue { meta, due, rest: None }, 0);
    }

    /// Invariants (a) and (c).
    fn check_order(&mut self, order: &Order) {
        let mut wrong = Vec::new();
        let prev =
            self.orders.last().map_or_else(|| portcullis_core::isolation::NO_PREV.to_owned(), |stored| stored.sha256.clone());
        if order.prev != prev {
            wrong.push("(a) the chain of orders is broken".to_owned());
        }
        if let Some(made) = self.issued.insert(order.issued_by.hash(), order.generation) {
            wrong.push(format!("(a) {} made two orders, {made} and {}", word(&order.issued_by), order.generation));
        }
        if let Some(last) = self.last_order(&order.host) {
            if last.order.generation >= order.generation {
                wrong.push(format!("(a) generation {} behind {}", order.generation, last.order.generation));
            }
            if last.order.posture == Posture::Isolated && order.posture == Posture::Open && !self.may_open(last, order) {
                wrong.push(format!("(c) {} opened at {} by {}", order.host, order.generation, word(&order.issued_by)));
            }
        }
        wrong.into_iter().for_each(|text| self.violated(text));
    }

    fn may_open(&self, last: &StoredOrder, order: &Order) -> bool {
        match order.issued_by.kind {
            InputKind::Request => true,
            InputKind::ReleaseDue => last.order.release_at.is_some_and(|release_at| {
                let passed = chrono::TimeDelta::milliseconds(self.now - last.stored);
                release_at <= time(self.now + self.ahead) || passed >= release_at - last.order.issued_at
            }),
            InputKind::Detection => self.inputs.iter().any(|message| {
                message.key == order.issued_by && matches!(&message.input, Input::Detection(_, data) if data.retracts.is_some())
            }),
            InputKind::State => self.states.iter().any(|(key, state, ..)| {
                *key == order.issued_by && matches!(state.cause, StateCause::Local | StateCause::Deadline)
            }),
            InputKind::Hello | InputKind::Stream => false,
        }
    }

    pub fn store_state(&mut self, key: InputRef, state: State) {
        self.say(|| format!("{} says {:?} {} {}", state.host, state.cause, state.generation, state.posture.as_str()));
        self.states.push((key, state, self.wall(), self.now));
    }
}

pub fn prefix() -> Prefix {
    Prefix::new("portcullis").expect("the model's prefix is valid")
}

fn message(subject: String, body: Bytes, at: Timestamp, index: usize) -> Message {
    Message { subject, headers: Vec::new(), malformed: None, body, at, sequence: index as u64 + 1 }
}

fn event_of<T: Payload + Clone>(key: &InputRef, data: &T) -> Bytes {
    let event = Event {
        id: key.id.clone(),
        source: key.source.clone(),
        subject: None,
        time: None,
        traceparent: None,
        correlation: None,
        causation: None,
        data: data.clone(),
    };
    envelope::encode(&event).expect("the model's event is written").into()
}

pub fn meta(input: &Input) -> &portcullis_core::Meta {
    match input {
        Input::Detection(meta, _)
        | Input::Doubtful(meta, _)
        | Input::Request { meta, .. }
        | Input::ReleaseDue { meta, .. }
        | Input::State(meta, _)
        | Input::Hello(meta, _)
        | Input::InputsLost { meta, .. } => meta,
    }
}

pub fn time(millis: i64) -> Timestamp {
    Timestamp::from_timestamp_millis(1_800_000_000_000 + millis).expect("the world's time is one")
}

pub fn word(key: &InputRef) -> String {
    format!("{:?} {}/{}", key.kind, key.token, key.id.chars().take(12).collect::<String>())
}

fn about(input: &Input) -> String {
    match input {
        Input::Detection(_, data) => format!("{:?} {} {:?}", data.host.id, data.rule.id, data.retracts),
        Input::Request { host, request, .. } => format!("{:?} {host}", request.action),
        Input::ReleaseDue { due, .. } => format!("{} {}", due.host, due.generation),
        _ => String::new(),
    }
}
