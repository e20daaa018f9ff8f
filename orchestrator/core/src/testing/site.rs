//! A broker in memory with one machine on it: what a test stores and delivers is decided to the end, whatever the appends meet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use portcullis_policy::Policy;
use portcullis_schemas::envelope;
use portcullis_schemas::events::{Decision, Facts, Order, Page, Payload, Reason};
use portcullis_schemas::subjects::{PAGES, POLICY, TERM};
use portcullis_schemas::{Prefix, Stream, Timestamp, ids};

use super::{POLICY as TEXT, at, hello};
use crate::decide::Config;
use crate::machine::{Appended, Command, Delivered, Event, Kept, Log, Machine, Message, Now, Outgoing, Ticket};
use crate::replay::Recording;

/// Texts of policies in the KV bucket; the last one is not valid.
pub const TEXTS: [&str; 3] = [TEXT, "version: 1\nrules: [{ name: rest, then: observe }]\n", "version: 1\nrules: []\n"];

/// What becomes of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Stored,
    /// Stored, and the acknowledgement is lost.
    Unheard,
    /// Not stored.
    Lost,
}

pub struct Site {
    pub machine: Machine,
    pub streams: BTreeMap<Stream, BTreeMap<u64, Message>>,
    pub policy: Arc<Policy>,
    /// Of the appends to come; when there are no more, all are stored.
    pub fates: VecDeque<Fate>,
    pub acked: BTreeSet<Ticket>,
    pub rejected: usize,
    /// The time in milliseconds.
    pub millis: u64,
    /// The time of the last input.
    second: i64,
}

impl Site {
    /// The hosts are known, and the process leads under the test's policy.
    pub fn new(hosts: &[&str]) -> Self {
        let policy = Arc::new(Policy::parse(TEXT).expect("the test's policy is valid"));
        let mut site = Self {
            machine: Machine::new(prefix(), Config::default(), "first".into()),
            streams: BTreeMap::new(),
            policy,
            fates: VecDeque::new(),
            acked: BTreeSet::new(),
            rejected: 0,
            millis: 0,
            second: 0,
        };
        site.start("first");
        hosts.iter().for_each(|host| site.hear(host));
        site
    }

    /// A heartbeat of a host comes.
    pub fn hear(&mut self, host: &str) {
        let message = self.message(format!("portcullis.hello.{host}"), envelope_of("hello", hello(host)));
        self.give(Event::Hello(message));
    }

    /// A process begins with what is stored, as it begins to lead; the one before it is gone.
    pub fn start(&mut self, who: &str) {
        self.machine = Machine::new(prefix(), Config::default(), who.into());
        for stream in [Stream::Orders, Stream::Inventory, Stream::Decisions, Stream::States] {
            for message in self.stream(stream).values().cloned().collect::<Vec<_>>() {
                self.machine.handle(Event::Logged(stream, message), self.now());
            }
        }
        self.give(Event::Policy(Arc::clone(&self.policy)));
        while !self.machine.is_leading() {
            self.give(Event::Lead);
        }
    }

    /// Stores an input, one second later than the one before it, however long that took; its sequence.
    pub fn put<T: Payload>(&mut self, stream: Stream, subject: &str, id: &str, data: T) -> u64 {
        let at = at(self.next_second());
        self.second += 1;
        let message = self.message(format!("portcullis.{subject}"), envelope_of(id, data));
        self.store(stream, Message { at, ..message })
    }

    /// The time of the next input.
    pub fn next_second(&self) -> i64 {
        self.second + 1
    }

    pub fn deliver(&mut self, inputs: &[Ticket]) {
        let delivered = |ticket: &Ticket| {
            let message = self.stream(ticket.stream)[&ticket.sequence].clone();
            Delivered { stream: ticket.stream, deliveries: 1, waited: false, message }
        };
        let all = inputs.iter().map(delivered).collect();
        self.give(Event::Delivered(all));
    }

    /// Hands in an event and does all that follows, pauses included.
    pub fn give(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        for _ in 0..10_000 {
            if let Some(event) = events.pop_front() {
                self.machine.handle(event, self.now());
            } else if !self.machine.is_idle() {
                let wake = self.machine.next_wake().saturating_sub(self.now().boot);
                self.millis += u64::try_from(wake.as_millis()).expect("a pause is short") + 1;
                self.machine.handle(Event::Tick, self.now());
            } else {
                return;
            }
            while let Some(command) = self.machine.next_command() {
                events.extend(self.execute(command));
            }
        }
        panic!("there is no end to what is to be done");
    }

    fn execute(&mut self, command: Command) -> Vec<Event> {
        match command {
            Command::Append { number, log, messages, expected } => self.append(number, log, messages, expected),
            Command::Read { number, log, after } => {
                let behind = self.stream(log.stream()).range(after + 1..).map(|(_, message)| message.clone()).collect();
                vec![Event::Read(number, Ok(behind))]
            }
            Command::Fetch(ticket) => {
                vec![Event::Fetched(ticket, Ok(self.stream(ticket.stream).get(&ticket.sequence).cloned()))]
            }
            Command::FetchPolicy(hash) => {
                let text = TEXTS.iter().find(|text| ids::sha256(text.as_bytes()) == hash).map(|text| (*text).to_owned());
                vec![Event::PolicyFetched(hash, Ok(text))]
            }
            Command::Mark(ticket) => vec![Event::Marked(ticket, Ok(0))],
            Command::Ack(tickets) => {
                self.acked.extend(tickets);
                Vec::new()
            }
            Command::Reject { number, .. } => {
                self.rejected += 1;
                vec![Event::Kept(number, Kept::Stored)]
            }
            Command::StoreInventories(messages) => {
                let stored: Vec<Event> = messages.into_iter().map(|message| self.log(Stream::Inventory, message)).collect();
                [Event::InventoriesStored(Ok(()))].into_iter().chain(stored).collect()
            }
            Command::ReleaseDue { subject, body, .. } => {
                self.log(Stream::Releases, Outgoing { subject, body });
                Vec::new()
            }
            Command::Defer(..) | Command::Notify(_) | Command::Begin | Command::StepDown | Command::Report(_) => Vec::new(),
        }
    }

    fn append(&mut self, number: u64, log: Log, messages: Vec<Outgoing>, expected: u64) -> Vec<Event> {
        let stream = log.stream();
        let last = self.stream(stream).last_key_value().map_or(0, |(sequence, _)| *sequence);
        let fate = self.fates.pop_front().unwrap_or(Fate::Stored);
        if last != expected || fate == Fate::Lost {
            return vec![Event::Appended(number, Appended::Unclear("not stored".into()))];
        }
        let mut events: Vec<Event> = messages.into_iter().map(|message| self.log(stream, message)).collect();
        let answer = match fate {
            Fate::Stored => Appended::Stored,
            _ => Appended::Unclear("no answer".into()),
        };
        events.push(Event::Appended(number, answer));
        events
    }

    /// Stores a message, which its follower brings.
    fn log(&mut self, stream: Stream, message: Outgoing) -> Event {
        let message = self.message(message.subject, message.body.to_vec());
        let sequence = self.store(stream, message);
        Event::Logged(stream, self.stream(stream)[&sequence].clone())
    }

    pub fn store(&mut self, stream: Stream, message: Message) -> u64 {
        let kept = self.streams.entry(stream).or_default();
        let sequence = kept.last_key_value().map_or(0, |(sequence, _)| *sequence) + 1;
        kept.insert(sequence, Message { sequence, ..message });
        sequence
    }

    fn message(&self, subject: String, body: Vec<u8>) -> Message {
        let (headers, malformed, sequence) = Default::default();
        Message { subject, headers, malformed, body: body.into(), at: self.now().broker, sequence }
    }

    fn now(&self) -> Now {
        let boot = Duration::from_millis(self.millis);
        Now { boot, broker: at(0) + boot }
    }

    pub fn stream(&self, stream: Stream) -> &BTreeMap<u64, Message> {
        static NONE: BTreeMap<u64, Message> = BTreeMap::new();
        self.streams.get(&stream).unwrap_or(&NONE)
    }

    /// What was ordered, without the links of the chain.
    pub fn orders(&self) -> Vec<Order> {
        let orders = self.stream(Stream::Orders).values().filter(|message| !message.subject.ends_with(TERM));
        orders.map(|message| Order { prev: String::new(), ..data::<Order>(message) }).collect()
    }

    /// What was decided last on each input, alone or in pages, without what it saw; a plain input has its rule and verdict.
    pub fn decisions(&self) -> BTreeMap<Ticket, Decision> {
        let mut all = BTreeMap::new();
        let mut add = |stream, mut decision: Decision| {
            let sequence = decision.sequence.expect("its stream keeps it");
            decision.facts = Facts::default();
            // In a page a rule's pass belongs to no incident.
            if decision.reason == Reason::Rule && decision.generation.is_none() {
                decision.incident = None;
            }
            let is_last = decision.waited || decision.asked;
            let before = all.insert(Ticket { stream, sequence }, decision);
            assert!(before.is_none() || is_last, "an input has one answer: {before:?}");
        };
        for message in self.stream(Stream::Decisions).values() {
            match message.subject.rsplit('.').next() {
                Some(TERM | POLICY) => {}
                Some(PAGES) => {
                    let page = data::<Page>(message);
                    let stream = Stream::ALL.into_iter().find(|stream| prefix().stream(*stream) == page.stream);
                    let stream = stream.expect("a page names a stream");
                    for plain in &page.plain {
                        for sequence in plain.each() {
                            add(stream, self.plain(stream, sequence, plain.rule.clone(), plain.verdict));
                        }
                    }
                    page.into_decisions().filter(|one| one.sequence.is_some()).for_each(|decision| add(stream, decision));
                }
                _ => {
                    let decision = data::<Decision>(message);
                    // The end of a pause answers no input of a stream.
                    if let Some(stream) = crate::machine::stream_of(decision.input.kind) {
                        add(stream, decision);
                    }
                }
            }
        }
        all
    }

    fn plain(&self, stream: Stream, sequence: u64, rule: String, verdict: portcullis_schemas::events::Verdict) -> Decision {
        let message = &self.stream(stream)[&sequence];
        let input = self.machine.key_of(stream, message).expect("the test's input is read");
        let event = envelope::decode::<portcullis_schemas::events::Detection>(message.headers(), &message.body);
        let host = event.expect("it is a detection").data.host.id.and_then(|id| id.parse().ok());
        let decision = Decision::new(input, verdict, Reason::Rule, Default::default());
        Decision { sequence: Some(sequence), host, rule: Some(rule), ..decision }
    }

    pub fn recording(&self) -> Recording {
        let read = TEXTS.iter().filter_map(|text| Policy::parse(text).ok());
        let policies = read.map(|policy| (policy.hash().to_owned(), Arc::new(policy))).collect();
        Recording { prefix: prefix(), streams: self.streams.clone(), policies }
    }
}

fn data<T: Payload>(message: &Message) -> T {
    envelope::decode::<T>(message.headers(), &message.body).expect("what is stored is read").data
}

fn envelope_of<T: Payload>(id: &str, data: T) -> Vec<u8> {
    let (subject, traceparent, correlation, causation) = Default::default();
    let time: Option<Timestamp> = None;
    let event =
        envelope::Event { id: id.into(), source: "/test".into(), subject, time, traceparent, correlation, causation, data };
    envelope::encode(&event).expect("the test's event is written")
}

fn prefix() -> Prefix {
    Prefix::new("portcullis").expect("the test's prefix is valid")
}
