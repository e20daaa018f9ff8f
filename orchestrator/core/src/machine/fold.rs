//! Folds the logs: what is stored becomes what this process knows, wherever it was read.

use portcullis_schemas::envelope;
use portcullis_schemas::events::{
    Decision, InputKind, Inventory, Notice, NoticeKind, Order, Page, PolicyActivated, Severity, Term,
};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::subjects::{PAGES, POLICY, TERM};
use portcullis_schemas::{Stream, ids};

use super::Machine;
use super::event::{Log, Message, Now, Report};
use super::queue::Item;
use crate::isolation::NO_PREV;

impl Machine {
    pub(super) fn logged(&mut self, stream: Stream, message: Message, now: Now) {
        match stream {
            Stream::Orders => self.hold_or_take(Log::Orders, message, now),
            Stream::Decisions => self.hold_or_take(Log::Decisions, message, now),
            Stream::States => self.observe(Item::State(message)),
            Stream::Inventory => self.take_inventory(message),
            _ => {}
        }
    }

    /// What comes while this process appends to a log may be its own, and is known when the append is answered.
    pub(super) fn hold_or_take(&mut self, log: Log, message: Message, now: Now) {
        if message.sequence <= self.position(log) {
            return;
        }
        let is_appended = self.role.appends_to(log) || self.batch.as_ref().is_some_and(|batch| batch.appends_to(log));
        match is_appended || log == Log::Orders && self.is_overlaid() {
            true => self.held.push((log, message)),
            false => self.take(log, &message, now),
        }
    }

    pub(super) fn take_held(&mut self, now: Now) {
        for (log, message) in std::mem::take(&mut self.held) {
            self.hold_or_take(log, message, now);
        }
    }

    /// Takes a message of a log, wherever it was read. One that is known changes nothing.
    pub(super) fn take(&mut self, log: Log, message: &Message, now: Now) {
        match log {
            Log::Orders => self.take_order(message, now),
            Log::Decisions => self.take_decision(message),
        }
    }

    pub(super) fn take_order(&mut self, message: &Message, now: Now) {
        if message.sequence <= self.orders {
            return;
        }
        let follows = message.sequence == self.chain_at + 1;
        (self.orders, self.chain_at) = (message.sequence, message.sequence);
        let before = self.fleet.prev().to_owned();
        let sha256 = ids::sha256(&message.body);
        let prev = if self.prefix.rest(Stream::Orders.token(), &message.subject) == Some(TERM) {
            self.fleet.take_link(sha256);
            match envelope::decode::<Term>(message.headers(), &message.body) {
                Ok(event) => {
                    let prev = event.data.prev.clone();
                    self.take_term(event.data);
                    prev
                }
                Err(why) => return self.not_an_order(message, why),
            }
        } else {
            match envelope::decode::<Order>(message.headers(), &message.body) {
                Ok(event) => {
                    self.deadlines.follow(&event.data, now.boot, Some(now.broker));
                    let prev = event.data.prev.clone();
                    let _ = self.fleet.take_order(event.data, sha256);
                    Some(prev)
                }
                Err(why) => {
                    self.fleet.take_link(sha256);
                    return self.not_an_order(message, why);
                }
            }
        };
        if follows && (message.sequence > 1 || before == NO_PREV) && prev.as_ref() != Some(&before) {
            self.chain_broken(message.sequence, now);
        }
    }

    fn not_an_order(&mut self, message: &Message, why: Malformed) {
        self.report(Report::NotAnOrder { subject: message.subject.clone(), sequence: message.sequence, why });
    }

    pub(super) fn chain_broken(&mut self, sequence: u64, now: Now) {
        self.report(Report::ChainBroken { sequence });
        if self.is_leading() {
            let stream = self.prefix.stream(Stream::Orders);
            let text =
                format!("{stream}: message {sequence} does not follow from the one before it; another writer publishes there");
            let (kind, severity) = (NoticeKind::ChainBroken, Severity::High);
            self.notify([(Notice { kind, severity, host: None, incident: None, text, outputs: Vec::new() }, now.broker)], now);
        }
    }

    pub(super) fn take_decision(&mut self, message: &Message) {
        if message.sequence <= self.decisions {
            return;
        }
        self.decisions = message.sequence;
        // What cannot be read there was written by another program, and answers nothing.
        self.take_answer(message);
        self.unanswered.retain(|(stream, sequence), _| !self.answered.contains(*stream, *sequence));
    }

    pub(super) fn take_answer(&mut self, message: &Message) {
        match self.prefix.rest(Stream::Decisions.token(), &message.subject) {
            Some(TERM) => {
                if let Ok(event) = envelope::decode::<Term>(message.headers(), &message.body) {
                    self.take_term(event.data);
                }
            }
            Some(POLICY) => {
                if let Ok(event) = envelope::decode::<PolicyActivated>(message.headers(), &message.body) {
                    let at = event.time.unwrap_or(message.at);
                    self.take_activation(event.data, at);
                }
            }
            Some(PAGES) => {
                if let Ok(event) = envelope::decode::<Page>(message.headers(), &message.body) {
                    let of = |stream: &Stream| self.prefix.stream(*stream) == event.data.stream;
                    if let Some(stream) = Stream::ALL.into_iter().find(of) {
                        event.data.answered().for_each(|(first, last)| self.answered.insert(stream, first, last));
                    }
                    self.states_decided = self.states_decided.max(event.data.seen.states);
                    event.data.decisions.iter().for_each(|decision| self.take_one(decision, message.sequence));
                }
            }
            _ => {
                if let Ok(event) = envelope::decode::<Decision>(message.headers(), &message.body) {
                    if let (Some(stream), Some(sequence)) = (stream_of(event.data.input.kind), event.data.sequence) {
                        self.answered.insert(stream, sequence, sequence);
                    }
                    self.take_one(&event.data, message.sequence);
                    let states = event.data.facts.seen.map_or(0, |seen| seen.states);
                    self.states_decided = self.states_decided.max(states);
                }
            }
        }
    }

    pub(super) fn take_inventory(&mut self, message: Message) {
        self.inventory = self.inventory.max(message.sequence);
        // What cannot be read there was written by another program, and names no host.
        if let Ok(event) = envelope::decode::<Inventory>(message.headers(), &message.body) {
            let host = event.data.hello.host.clone();
            self.storing.remove(&host);
            self.words_due |= self.fleet.words_from().is_some();
            let (reported, at) = (event.data.hello.generation, message.at);
            self.fleet.take_inventory(event.data.clone(), at);
            self.look_for(&event.data);
            if self.fleet.host(&host).is_some_and(|known| reported > known.ordered()) {
                self.observe(Item::Inventory(message));
            }
        }
    }
}

/// The stream of inputs of a kind.
pub(crate) fn stream_of(kind: InputKind) -> Option<Stream> {
    match kind {
        InputKind::Detection => Some(Stream::Detections),
        InputKind::Request => Some(Stream::Requests),
        InputKind::ReleaseDue => Some(Stream::Releases),
        InputKind::State => Some(Stream::States),
        InputKind::Hello => Some(Stream::Inventory),
        InputKind::Stream | InputKind::Time => None,
    }
}
