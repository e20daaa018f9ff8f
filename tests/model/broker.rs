//! The broker of the model: streams as vectors, compare-and-set by length, redelivery, one clock that may be stepped.

use std::collections::HashMap;

use portcullis_core::Input;
use portcullis_schemas::events::{Decision, Hello, InputKind, InputRef, Inventory, Order, Posture, State, StateCause};
use portcullis_schemas::{HostId, Timestamp, ids};

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
    pub inputs: Vec<Message>,
    pub orders: Vec<Stored>,
    pub decisions: Vec<Decision>,
    pub states: Vec<(InputRef, State, Timestamp, i64)>,
    pub inventories: Vec<(Inventory, Timestamp)>,
    /// Hosts' own words, for whoever listens at the moment.
    pub hellos: Vec<(InputRef, Hello, Timestamp)>,
    pub violations: Vec<String>,
    issued: HashMap<String, u64>,
}

/// A message of an input stream.
pub struct Message {
    pub input: Input,
    pub key: InputRef,
    pub at: Timestamp,
    pub stored: i64,
    pub acked: bool,
    pub delivered: u64,
    /// When it is delivered next.
    pub next: i64,
}

pub struct Stored {
    pub order: Order,
    pub sha256: String,
    pub stored: i64,
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
            inputs: Vec::new(),
            orders: Vec::new(),
            decisions: Vec::new(),
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
        self.inputs.push(Message { input, key, at, stored: self.now, acked: false, delivered: 0, next: self.now + delay });
    }

    pub fn last_order(&self, host: &HostId) -> Option<&Stored> {
        self.orders.iter().rev().find(|stored| stored.order.host == *host)
    }

    /// Stores an order behind `expected` others; false where others were faster.
    pub fn append_order(&mut self, who: usize, order: &Order, sha256: String, expected: usize) -> bool {
        if expected != self.orders.len() && self.defect != Defect::NoCompareAndSet {
            return false;
        }
        self.check_order(order);
        self.say(|| {
            let leases: Vec<String> = order
                .leases
                .iter()
                .map(|l| format!("{}g{}*{}", l.rule.as_deref().unwrap_or("hand"), l.generation, l.causes.len()))
                .collect();
            let by = word(&order.issued_by);
            format!("o{who} order {} {} {} [{}] by {by}", order.host, order.generation, order.posture.as_str(), leases.join(" "))
        });
        self.orders.push(Stored { order: order.clone(), sha256, stored: self.now });
        true
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

    fn may_open(&self, last: &Stored, order: &Order) -> bool {
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

    /// Stores a decision behind `expected` others; false where others were faster.
    pub fn append_decision(&mut self, who: usize, decision: &Decision, expected: usize) -> bool {
        if expected != self.decisions.len() && self.defect != Defect::NoCompareAndSet {
            return false;
        }
        self.say(|| {
            let (verdict, by) = (decision.verdict.as_str(), word(&decision.input));
            format!("o{who} decision {by} {verdict} {:?} {:?}", decision.reason, decision.generation)
        });
        self.decisions.push(decision.clone());
        true
    }

    pub fn store_state(&mut self, key: InputRef, state: State) {
        self.say(|| format!("{} says {:?} {} {}", state.host, state.cause, state.generation, state.posture.as_str()));
        self.states.push((key, state, self.wall(), self.now));
    }
}

pub fn encode(order: &Order) -> String {
    ids::sha256(&serde_json::to_vec(order).expect("an order is written"))
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
