//! The broker of the model: streams as vectors, compare-and-set by length, redelivery, one clock that may be stepped.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use portcullis_core::machine::{Delivered, Log, Message, Outgoing, Ticket};
use portcullis_core::{Input, Meta};
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{
    Action, Decision, Detection, Effect, Hello, InputKind, InputRef, Inventory, Order, Page, Payload, PolicyActivated, Posture,
    Reason, ReleaseDue, Request, State, StateCause, Verdict,
};
use portcullis_schemas::subjects::{PAGES, POLICY, TERM};
use portcullis_schemas::{HostId, Prefix, Stream, Timestamp, ids};

use crate::Defect;
use crate::asked::{self, Asked};

/// How the id of a detection begins that ends whoever reads it.
pub const POISON: &str = "poison";
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
    /// Messages of ORDERS.
    pub order_log: Vec<(Outgoing, Timestamp)>,
    /// The orders among them.
    pub orders: Vec<StoredOrder>,
    /// Messages of DECISIONS.
    pub decisions: Vec<(Outgoing, Timestamp)>,
    /// What they say of each input, in their order.
    pub answers: Vec<Answer>,
    /// Publishes that lie in a buffer: by whom, and what for.
    pub late: Vec<(usize, Log, Vec<Outgoing>, u64)>,
    pub states: Vec<(InputRef, State, Timestamp, i64)>,
    pub inventories: Vec<(Inventory, Timestamp)>,
    /// Hosts' own words, for whoever listens at the moment.
    pub hellos: Vec<(InputRef, Hello, Timestamp)>,
    /// Attempts at inputs that came again, in KV.
    pub marks: HashMap<Ticket, u64>,
    /// Texts of policies in KV, by their hashes.
    pub policies: HashMap<String, String>,
    /// Places of inputs that were kept in REJECTED as what ends a process.
    pub rejected: BTreeSet<usize>,
    /// Places of inputs whose loss is stored.
    pub lost: BTreeSet<usize>,
    pub violations: Vec<String>,
    pub asked: Asked,
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
    /// It was removed from its stream, and whoever comes to it finds a gap.
    pub removed: bool,
}

pub struct StoredOrder {
    pub order: Order,
    pub stored: i64,
}

/// What a message of DECISIONS says of one input.
pub struct Answer {
    pub input: InputRef,
    pub sequence: Option<u64>,
    pub host: Option<HostId>,
    pub reason: Reason,
    pub generation: Option<u64>,
    pub waited: bool,
    /// It was pending, and this is the last answer.
    pub asked: bool,
    pub verdict: Verdict,
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
            order_log: Vec::new(),
            orders: Vec::new(),
            decisions: Vec::new(),
            answers: Vec::new(),
            late: Vec::new(),
            states: Vec::new(),
            inventories: Vec::new(),
            hellos: Vec::new(),
            marks: HashMap::new(),
            policies: HashMap::new(),
            rejected: BTreeSet::new(),
            lost: BTreeSet::new(),
            violations: Vec::new(),
            asked: Asked::default(),
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
        self.inputs.push(Stored {
            input,
            key,
            at,
            stored: self.now,
            acked: false,
            delivered: 0,
            next: self.now + delay,
            removed: false,
        });
    }

    /// Whether a detection is about this host: it names the host itself, or an address that was found to be the host's.
    pub fn is_about(&self, key: &InputRef, data: &Detection, host: &HostId) -> bool {
        if data.host.ips.is_empty() {
            return data.host.id.as_deref() == Some(host.as_str());
        }
        self.answers.iter().any(|answer| answer.input == *key && answer.host.as_ref() == Some(host))
    }

    /// Whether an input on this host was kept as what ends a process, and may have had its effect before.
    pub fn is_rejected_on(&self, host: &HostId) -> bool {
        self.rejected.iter().map(|index| &self.inputs[*index]).any(|message| match &message.input {
            Input::Detection(_, data) => !is_poison(&message.key) && data.host.id.as_deref().is_none_or(|id| id == host.as_str()),
            Input::Request { request, .. } => request.host.as_ref() == Some(host),
            Input::ReleaseDue { due, .. } => due.host == *host,
            _ => false,
        })
    }

    /// Whether the host that a detection names is in the inventory.
    pub fn is_known(&self, input: &Input) -> bool {
        let Input::Detection(_, data) = input else { return false };
        self.inventories.iter().any(|(inventory, _)| Some(inventory.hello.host.as_str()) == data.host.id.as_deref())
    }

    /// Whether no host was found for an input, whenever it was decided.
    pub fn found_no_host(&self, key: &InputRef) -> bool {
        let mut answers = self.answers.iter().filter(|answer| answer.input == *key).peekable();
        answers.peek().is_some() && answers.all(|answer| matches!(answer.reason, Reason::Unresolved { .. }))
    }

    /// Whether an input was asked about, or what it does was, and isolates nobody by itself.
    pub fn is_held_back(&self, key: &InputRef) -> bool {
        let asks = |answer: &&Answer| answer.verdict == Verdict::Ask && !matches!(answer.reason, Reason::Unresolved { .. });
        let of_input = || self.answers.iter().filter(|answer| answer.input == *key);
        // A copy may have come at another time.
        of_input().any(|answer| asks(&answer)) && !of_input().any(|answer| answer.verdict == Verdict::Isolate)
    }

    pub fn last_order(&self, host: &HostId) -> Option<&StoredOrder> {
        self.orders.iter().rev().find(|stored| stored.order.host == *host)
    }

    /// Stores messages of a log behind `expected` others, all of them or none; false where others were faster.
    pub fn append(&mut self, who: usize, log: Log, messages: &[Outgoing], expected: u64) -> bool {
        let last = if log == Log::Orders { self.order_log.len() } else { self.decisions.len() };
        let unfenced =
            self.defect == Defect::NoFence && log == Log::Orders && !messages.iter().any(|one| one.subject.ends_with(TERM));
        if expected != last as u64 && self.defect != Defect::NoCompareAndSet && !unfenced {
            return false;
        }
        let mut messages = messages.to_vec();
        if self.defect == Defect::StaleOverlay && log == Log::Orders {
            blind(&mut messages);
        }
        for message in &messages {
            match log {
                Log::Orders => self.append_order(who, message),
                Log::Decisions => self.append_decision(who, message),
            }
        }
        true
    }

    fn append_order(&mut self, who: usize, message: &Outgoing) {
        let mut message = message.clone();
        if message.subject.ends_with(TERM) {
            self.say(|| format!("o{who} leads"));
        } else {
            let mut event: Event<Order> = envelope::decode(std::iter::empty(), &message.body).expect("an order is read");
            self.check_order(&event.data);
            if let Some(wrong) = asked::wrong(self, &event.data) {
                self.violated(wrong);
            }
            self.say(|| {
                let order = &event.data;
                let holds: Vec<String> = order
                    .holds
                    .iter()
                    .map(|l| format!("{}g{}*{}", l.rule.as_deref().unwrap_or("manual"), l.generation, l.causes.len()))
                    .collect();
                let by = word(&order.issued_by);
                format!(
                    "o{who} order {} {} {} [{}] by {by}",
                    order.host,
                    order.generation,
                    order.posture.as_str(),
                    holds.join(" ")
                )
            });
            if self.defect == Defect::NoMemory {
                event.data.settled.clear();
                message.body = envelope::encode(&event).expect("an order is written").into();
            }
            self.orders.push(StoredOrder { order: event.data, stored: self.now });
        }
        self.order_log.push((message, self.wall()));
    }

    fn append_decision(&mut self, who: usize, message: &Outgoing) {
        self.decisions.push((message.clone(), self.wall()));
        let token = prefix().rest(Stream::Decisions.token(), &message.subject).map(str::to_owned);
        let mut found = Vec::new();
        match token.as_deref() {
            Some(POLICY) if self.defect == Defect::NamesNoPolicy => {
                let mut event: Event<PolicyActivated> =
                    envelope::decode(std::iter::empty(), &message.body).expect("a policy's record is read");
                event.data.hash = None;
                let body = envelope::encode(&event).expect("a policy's record is written").into();
                self.decisions.last_mut().expect("it was pushed").0.body = body;
            }
            Some(TERM | POLICY) => self.say(|| format!("o{who} {}", message.subject)),
            Some(PAGES) => {
                let page: Event<Page> = envelope::decode(std::iter::empty(), &message.body).expect("a page is read");
                for plain in &page.data.plain {
                    for sequence in plain.sequences.iter().flat_map(|(first, last)| *first..=*last) {
                        found.push(Answer {
                            input: self.inputs[sequence as usize - 1].key.clone(),
                            sequence: Some(sequence),
                            host: Some(plain.host.clone()),
                            reason: Reason::Rule,
                            generation: None,
                            waited: false,
                            asked: false,
                            verdict: Verdict::Observe,
                        });
                    }
                }
                found.extend(page.data.into_decisions().map(|decision| self.answered(decision)));
            }
            _ => {
                let event: Event<Decision> = envelope::decode(std::iter::empty(), &message.body).expect("a decision is read");
                found.push(self.answered(event.data));
            }
        }
        for answer in &found {
            let by = word(&answer.input);
            self.say(|| format!("o{who} decided {by} {:?} {:?} {:?}", answer.sequence, answer.reason, answer.generation));
            if let Reason::InputsLost { first, last } = answer.reason {
                self.lost.extend((first..=last).map(|sequence| sequence as usize - 1));
            }
            if let Some(sequence) = answer.sequence
                && let Some(order) = answer.generation
                && !self
                    .orders
                    .iter()
                    .any(|stored| Some(&stored.order.host) == answer.host.as_ref() && stored.order.generation == order)
            {
                self.violated(format!("(i) {by} (sequence {sequence}) was answered before its order {order} was stored"));
            }
        }
        self.answers.extend(found);
    }

    fn answered(&mut self, decision: Decision) -> Answer {
        // Orders that were taken for lost and decided again go with their connection: by then another answer may be right, without an order behind
        // which they could not come.
        if decision.effects.iter().any(|effect| matches!(effect, Effect::Paused { .. })) {
            self.late.retain(|(_, log, ..)| *log != Log::Orders);
        }
        let of_request = |sequence: u64| self.inputs.get(sequence as usize - 1).map(|message| message.key.token.clone());
        let said_by = decision.sequence.filter(|_| decision.input.kind == InputKind::Request).and_then(of_request);
        if let Some(wrong) = self.asked.take(&decision, said_by.as_deref()) {
            self.violated(wrong);
        }
        answer(decision)
    }

    /// What lay in a buffer comes, if nobody was faster.
    pub fn deliver_late(&mut self, index: usize) {
        let (who, log, messages, expected) = self.late.remove(index);
        let stored = self.append(who, log, &messages, expected);
        self.say(|| format!("a late append of o{who} to {log:?}: stored {stored}"));
    }

    /// All of a log behind `after`.
    pub fn read(&self, log: Log, after: usize) -> Vec<Message> {
        match log {
            Log::Orders => (after..self.order_log.len()).map(|index| self.order_message(index)).collect(),
            Log::Decisions => (after..self.decisions.len()).map(|index| self.decision_message(index)).collect(),
        }
    }

    pub fn order_message(&self, index: usize) -> Message {
        let (stored, at) = &self.order_log[index];
        message(stored.subject.clone(), stored.body.clone(), *at, index)
    }

    pub fn decision_message(&self, index: usize) -> Message {
        let (stored, at) = &self.decisions[index];
        message(stored.subject.clone(), stored.body.clone(), *at, index)
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
            Input::Request { host, request, .. } => {
                let twice = self.defect == Defect::CountsTwice && request.action == Action::Approve;
                let by = if twice { format!("{}{index}", key.token) } else { key.token.clone() };
                let request = Request { operator: if twice { by.clone() } else { request.operator.clone() }, ..request.clone() };
                (prefix().request(&by, host), event_of(key, &request))
            }
            Input::ReleaseDue { due, .. } => (prefix().of(Stream::Releases, &key.token), event_of(key, due)),
            other => panic!("{other:?} is no input of a stream"),
        };
        let body = if is_poison(key) { unreadable(&body) } else { body };
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
        let no_prev = || portcullis_core::isolation::NO_PREV.to_owned();
        let prev = self.order_log.last().map_or_else(no_prev, |(stored, _)| ids::sha256(&stored.body));
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
            InputKind::Hello | InputKind::Stream | InputKind::Time => false,
        }
    }

    pub fn store_state(&mut self, key: InputRef, state: State) {
        self.say(|| format!("{} says {:?} {} {}", state.host, state.cause, state.generation, state.posture.as_str()));
        self.states.push((key, state, self.wall(), self.now));
    }
}

/// Makes every order of a batch what it would be without those before it, as far as chain and generation go.
fn blind(messages: &mut [Outgoing]) {
    let decode = |message: &Outgoing| envelope::decode::<Order>(std::iter::empty(), &message.body).ok();
    let Some(first) = messages.first().and_then(decode) else { return };
    for message in &mut messages[1..] {
        if let Some(mut event) = decode(message) {
            event.data.prev = first.data.prev.clone();
            message.body = envelope::encode(&event).expect("an order is written").into();
        }
    }
}

/// Whoever reads it ends.
pub fn is_poison(key: &InputRef) -> bool {
    key.id.starts_with(POISON)
}

/// With a member that decides nothing and cannot be read, so that whoever reads it says so.
fn unreadable(body: &[u8]) -> Bytes {
    let mut event: serde_json::Value = serde_json::from_slice(body).expect("the model's event is read");
    event["data"]["url"] = 5.into();
    serde_json::to_vec(&event).expect("the model's event is written").into()
}

fn answer(decision: Decision) -> Answer {
    let Decision { input, sequence, host, verdict, reason, generation, waited, asked, .. } = decision;
    Answer { input, sequence, host, verdict, reason, generation, waited, asked }
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
        | Input::Activate { meta, .. }
        | Input::ReleaseDue { meta, .. }
        | Input::State(meta, _)
        | Input::Hello(meta, _)
        | Input::Inventory(meta, _)
        | Input::Over(meta, _)
        | Input::PauseOver(meta)
        | Input::BreakerOver(meta, _)
        | Input::InputsLost { meta, .. } => meta,
        Input::Asked(_) => unreachable!("no stream keeps the end of an approval"),
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
