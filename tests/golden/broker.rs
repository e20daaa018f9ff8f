//! A broker in memory: streams that keep everything, appends by compare-and-set, and a clock that is set.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use portcullis_core::machine::{Appended, Command, Delivered, Event, Machine, Message, Now, Outgoing, Ticket};
use portcullis_schemas::events::Payload;
use portcullis_schemas::{Prefix, Stream, Timestamp, envelope};

use crate::input::monday;

/// The machine gives a command for each thing that it wants; more of them than this have no end.
const MOST_EVENTS: usize = 100_000;

#[derive(Default)]
pub struct Broker {
    pub streams: BTreeMap<Stream, BTreeMap<u64, Message>>,
    /// Notices, in the order in which they were made.
    pub notices: Vec<Outgoing>,
    /// Inputs that come again, and when.
    deferred: Vec<(Duration, Ticket)>,
    acked: BTreeSet<Ticket>,
    /// Time since Monday.
    pub clock: Duration,
}

impl Broker {
    pub fn now(&self) -> Now {
        Now { boot: self.clock, broker: monday() + chrono::TimeDelta::from_std(self.clock).unwrap() }
    }

    pub fn stream(&self, stream: Stream) -> &BTreeMap<u64, Message> {
        static NONE: BTreeMap<u64, Message> = BTreeMap::new();
        self.streams.get(&stream).unwrap_or(&NONE)
    }

    pub fn message(&self, subject: String, body: Vec<u8>) -> Message {
        let (headers, malformed, sequence) = Default::default();
        Message { subject, headers, malformed, body: body.into(), at: self.now().broker, sequence }
    }

    pub fn store(&mut self, stream: Stream, subject: String, body: Vec<u8>) -> Message {
        let sequence = self.stream(stream).last_key_value().map_or(0, |(sequence, _)| *sequence) + 1;
        let message = Message { sequence, ..self.message(subject, body) };
        self.streams.entry(stream).or_default().insert(sequence, message.clone());
        message
    }

    /// Hands in an event, and does all that follows at this moment.
    pub fn give(&mut self, machine: &mut Machine, event: Event) {
        let mut events = VecDeque::from([event]);
        for _ in 0..MOST_EVENTS {
            let Some(event) = events.pop_front() else { return };
            machine.handle(event, self.now());
            while let Some(command) = machine.next_command() {
                self.execute(command, &mut events);
            }
        }
        panic!("there is no end to what is to be done");
    }

    /// Inputs whose time has come again.
    pub fn come_again(&mut self) -> Vec<Delivered> {
        let clock = self.clock;
        let (due, later) = std::mem::take(&mut self.deferred).into_iter().partition(|(at, _)| *at <= clock);
        self.deferred = later;
        let due: Vec<(Duration, Ticket)> = due;
        due.into_iter().map(|(_, ticket)| self.delivered(ticket)).collect()
    }

    pub fn next_deferred(&self) -> Option<Duration> {
        self.deferred.iter().map(|(at, _)| *at).min()
    }

    pub fn delivered(&self, ticket: Ticket) -> Delivered {
        let message = self.stream(ticket.stream)[&ticket.sequence].clone();
        Delivered { stream: ticket.stream, deliveries: 1, waited: false, message }
    }

    /// Inputs that were never acknowledged: they come again to another leader.
    pub fn unacked(&self) -> Vec<Delivered> {
        let inputs = [Stream::Detections, Stream::Requests, Stream::Releases];
        let all = inputs
            .into_iter()
            .flat_map(|stream| self.stream(stream).keys().map(move |sequence| Ticket { stream, sequence: *sequence }));
        all.filter(|ticket| !self.acked.contains(ticket)).map(|ticket| self.delivered(ticket)).collect()
    }

    fn execute(&mut self, command: Command, events: &mut VecDeque<Event>) {
        match command {
            Command::Append { number, log, messages, expected } => {
                let stream = log.stream();
                let last = self.stream(stream).last_key_value().map_or(0, |(sequence, _)| *sequence);
                assert_eq!(last, expected, "nobody else appends");
                for Outgoing { subject, body } in messages {
                    let message = self.store(stream, subject, body.to_vec());
                    events.push_back(Event::Logged(stream, message));
                }
                events.push_back(Event::Appended(number, Appended::Stored));
            }
            Command::Read { number, log, after } => {
                let behind = self.stream(log.stream()).range(after + 1..).map(|(_, message)| message.clone()).collect();
                events.push_back(Event::Read(number, Ok(behind)));
            }
            Command::FetchPolicy(hash) => events.push_back(Event::PolicyFetched(hash, Ok(None))),
            Command::Fetch(ticket) => {
                events.push_back(Event::Fetched(ticket, Ok(self.stream(ticket.stream).get(&ticket.sequence).cloned())));
            }
            Command::Mark(ticket) => events.push_back(Event::Marked(ticket, Ok(0))),
            Command::Ack(tickets) => self.acked.extend(tickets),
            Command::Defer(ticket, delay) => self.deferred.push((self.clock + delay, ticket)),
            Command::Reject { number, why, .. } => panic!("input {number} was rejected: {why}"),
            Command::StoreInventories(messages) => {
                events.push_back(Event::InventoriesStored(Ok(())));
                for Outgoing { subject, body } in messages {
                    let message = self.store(Stream::Inventory, subject, body.to_vec());
                    events.push_back(Event::Logged(Stream::Inventory, message));
                }
            }
            Command::ReleaseDue { subject, body, .. } => {
                let sequence = self.store(Stream::Releases, subject, body.to_vec()).sequence;
                events.push_back(Event::Delivered(vec![self.delivered(Ticket { stream: Stream::Releases, sequence })]));
            }
            Command::Notify(notices) => self.notices.extend(notices),
            Command::Begin => events.push_back(Event::Delivered(self.unacked())),
            Command::StepDown | Command::Report(_) => {}
        }
    }
}

pub fn prefix() -> Prefix {
    Prefix::new("portcullis").unwrap()
}

/// An event as its sender writes it.
pub fn event<T: Payload>(source: &str, id: &str, time: Option<Timestamp>, data: T) -> Vec<u8> {
    let (subject, traceparent, correlation, causation) = Default::default();
    let event =
        envelope::Event { id: id.into(), source: format!("/{source}"), subject, time, traceparent, correlation, causation, data };
    envelope::encode(&event).unwrap()
}
