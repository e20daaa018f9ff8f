//! The replay: recorded logs are decided again by the machine, and what it makes is compared with what was stored, byte for byte.
//!
//! Each batch is decided on the logs up to the positions that its answers say they saw, under the policy that they name. So a difference is a fact that is
//! not in the logs, or logs that were changed.

mod batches;
mod difference;

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_policy::Policy;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::{Order, Payload, PolicyActivated, Seen, Term};
use portcullis_schemas::subjects::{POLICY, TERM};
use portcullis_schemas::{Prefix, Stream};

use crate::decide::PolicyText;
use crate::machine::{Log, Machine, Message, Outgoing, Recorded, stream_of};
use batches::{Answered, Batch};
pub use difference::{Difference, Problem};

/// What the streams hold.
#[derive(Debug)]
pub struct Recording {
    pub prefix: Prefix,
    /// The messages of each stream by their sequences.
    pub streams: BTreeMap<Stream, BTreeMap<u64, Message>>,
    /// Policies by the hash of their text.
    pub policies: BTreeMap<String, Arc<Policy>>,
}

/// What was decided again.
#[derive(Debug, Default)]
pub struct Replayed {
    pub terms: u64,
    pub batches: u64,
    pub inputs: u64,
    /// Messages of ORDERS that came out of a batch, and those whose batch has no answer in DECISIONS.
    pub orders: u64,
    pub unanswered_orders: u64,
    /// Messages of DECISIONS.
    pub answers: u64,
    /// What came out otherwise than it is stored.
    pub differences: Vec<Difference>,
}

/// Decides everything again that is recorded.
pub fn replay(recording: &Recording) -> Replayed {
    let mut replay = Replay {
        recording,
        machine: Machine::of_a_replay(recording.prefix.clone()),
        era: 0,
        terms: BTreeMap::new(),
        ordering: None,
        reached: BTreeMap::new(),
        done: Replayed::default(),
    };
    for batch in batches::of(recording) {
        replay.batch(batch);
    }
    let end = |stream| recording.of(stream).last_key_value().map_or(0, |(sequence, _)| *sequence);
    replay.fold_to(&Seen {
        term: u64::MAX,
        orders: end(Stream::Orders),
        decisions: end(Stream::Decisions),
        inventory: end(Stream::Inventory),
        states: end(Stream::States),
        waiting: None,
    });
    replay.done
}

impl Recording {
    fn of(&self, stream: Stream) -> &BTreeMap<u64, Message> {
        static NONE: BTreeMap<u64, Message> = BTreeMap::new();
        self.streams.get(&stream).unwrap_or(&NONE)
    }

    fn stream_called(&self, name: &str) -> Option<Stream> {
        Stream::ALL.into_iter().find(|stream| self.prefix.stream(*stream) == name)
    }

    /// The last token of a subject in a log: of whom the message is.
    fn token<'m>(&self, stream: Stream, message: &'m Message) -> &'m str {
        self.prefix.rest(stream.token(), &message.subject).unwrap_or_default()
    }
}

struct Replay<'r> {
    recording: &'r Recording,
    machine: Machine,
    /// Counts what is done: each time on the machine's clock is later than every deadline before it.
    era: u32,
    /// As they stand in DECISIONS.
    terms: BTreeMap<u64, Term>,
    /// The term that began last in ORDERS.
    ordering: Option<Term>,
    /// The last message of each stream that was taken.
    reached: BTreeMap<Stream, u64>,
    done: Replayed,
}

impl<'r> Replay<'r> {
    fn batch(&mut self, batch: Batch<'r>) {
        self.fold_to(&batch.seen);
        self.done.batches += 1;
        let (stream, first) = (Stream::Decisions, batch.messages.first().map_or(0, |message| message.sequence));
        if let Some(term) = self.terms.get(&batch.seen.term) {
            self.machine.configure(term);
        }
        if self.machine.seen() != batch.seen {
            let (seen, reached) = (batch.seen, self.machine.seen());
            return self.differs(stream, first, Problem::Positions { seen, reached });
        }
        if let Err(problem) = self.decide_under(batch.policy.as_deref()) {
            return self.differs(stream, first, problem);
        }
        let inputs = match batch.answered.iter().map(|answered| self.input(answered)).collect::<Result<Vec<_>, _>>() {
            Ok(inputs) => inputs,
            Err(problem) => return self.differs(stream, first, problem),
        };
        self.done.inputs += inputs.len() as u64;
        self.era += 1;
        let is_stored =
            |made: &[Outgoing]| made.iter().map(|made| &made.body).eq(batch.messages.iter().map(|stored| &stored.body));
        let made = self.machine.decide_again(inputs, self.era, is_stored);
        self.done.orders += made.orders.len() as u64;
        for (sequence, made) in (batch.seen.orders + 1..).zip(&made.orders) {
            self.compare(Stream::Orders, sequence, Some(made));
        }
        for (number, stored) in batch.messages.iter().enumerate() {
            self.done.answers += 1;
            self.compare(Stream::Decisions, stored.sequence, made.answers.get(number));
        }
        if made.answers.len() > batch.messages.len() {
            self.differs(stream, first, Problem::More { stored: batch.messages.len(), made: made.answers.len() });
        }
    }

    /// The policy that a batch names: the active one, or none while that of its leader waits for its record.
    fn decide_under(&mut self, hash: Option<&str>) -> Result<(), Problem> {
        let active = self.machine.active_policy();
        if hash.is_some() && hash != active {
            return Err(Problem::Inactive { policy: hash.map(str::to_owned), active: active.map(str::to_owned) });
        }
        let policy = match hash {
            Some(hash) => Some(self.recording.policies.get(hash).ok_or_else(|| Problem::NoText(hash.to_owned()))?),
            None => None,
        };
        self.machine.decide_under(policy.cloned());
        Ok(())
    }

    fn input(&self, answered: &Answered) -> Result<Recorded, Problem> {
        match answered.clone() {
            Answered::Ended { id } => self.machine.recorded_end(&id).ok_or(Problem::NotPending(id)),
            Answered::BreakerOver { breaker, at } => Ok(Recorded::breaker_over(breaker, at)),
            Answered::PauseOver { until } => Ok(Recorded::pause_over(until)),
            Answered::Lost { stream, first, last, at } => Ok(Recorded::lost(stream, first, last, at)),
            Answered::Over { sequence, end } => self.machine.recorded_over(sequence, end).ok_or(Problem::NoWait { sequence }),
            Answered::Known { sequence } => self.message(Stream::Detections, sequence).map(Recorded::known),
            Answered::BadPolicy { stream, sequence, problem } => {
                let message = self.message(stream, sequence)?;
                let recorded = Recorded::of(stream, message).ok_or(Problem::NoInput { stream, sequence })?;
                Ok(recorded.activation(Err(problem)))
            }
            Answered::Message { stream, sequence } => {
                let message = self.message(stream, sequence)?;
                let wanted = self.machine.text_wanted_by(stream, &message);
                let recorded = Recorded::of(stream, message).ok_or(Problem::NoInput { stream, sequence })?;
                Ok(match wanted {
                    Some(hash) => recorded.activation(self.text(&hash)),
                    None => recorded,
                })
            }
        }
    }

    /// The policy that a request names. Where its text is not kept, the answer does not rest on it.
    fn text(&self, hash: &str) -> PolicyText {
        self.recording.policies.get(hash).cloned().ok_or_else(String::new)
    }

    fn message(&self, stream: Stream, sequence: u64) -> Result<Message, Problem> {
        self.recording.of(stream).get(&sequence).cloned().ok_or(Problem::NoInput { stream, sequence })
    }

    /// Takes the logs up to these positions.
    fn fold_to(&mut self, seen: &Seen) {
        self.fold_orders(seen);
        for stream in [Stream::Inventory, Stream::States, Stream::Decisions] {
            while let Some(message) = self.next_of(stream, position(seen, stream)) {
                self.fold(stream, message);
            }
        }
    }

    /// An order that is not known by now was made by no batch with an answer: its leader ended before the answers were stored.
    fn fold_orders(&mut self, seen: &Seen) {
        while let Some(message) = self.next_of(Stream::Orders, seen.orders) {
            if self.recording.token(Stream::Orders, message) == TERM {
                // Its record in DECISIONS comes before.
                let term = read::<Term>(message).map(|event| event.data.term);
                while self.terms.last_key_value().map(|(number, _)| *number) < term
                    && let Some(decision) = self.next_of(Stream::Decisions, seen.decisions)
                {
                    self.fold(Stream::Decisions, decision);
                }
            } else if let Some(order) = read::<Order>(message) {
                self.order(message, &order.data, seen);
            }
            self.fold(Stream::Orders, message);
        }
    }

    /// Its batch is not known, and needs not be: an order sees those before it in the log. How far the other logs were seen is looked for between what is
    /// known to have been seen before it and `seen`.
    fn order(&mut self, message: &Message, order: &Order, seen: &Seen) {
        self.done.unanswered_orders += 1;
        let input = self.input_of(order);
        // What a host says of itself decides once it is known.
        while let Some((stream @ (Stream::States | Stream::Inventory), input)) = input
            && let Some(before) = self.next_of(stream, input.sequence)
        {
            self.fold(stream, before);
        }
        if let Some(term) = &self.ordering {
            self.machine.configure(term);
        }
        let mut first = None;
        loop {
            for policy in [self.machine.active_policy().map(str::to_owned), None] {
                if self.decide_under(policy.as_deref()).is_err() {
                    continue;
                }
                self.era += 1;
                // An order that was asked for is made when the asking ends, and not by its input.
                let inputs =
                    [self.machine.recorded_end_of(order), input.and_then(|(stream, input)| Recorded::of(stream, input.clone()))];
                for input in inputs.into_iter().flatten() {
                    let made = self.machine.order_again(input, self.era);
                    if made.as_ref().is_some_and(|made| made.body == message.body) {
                        return;
                    }
                    first = first.or(made);
                }
            }
            let next = [Stream::Inventory, Stream::States, Stream::Decisions]
                .into_iter()
                .filter_map(|stream| Some((stream, self.next_of(stream, position(seen, stream))?)))
                .filter(|(stream, message)| self.recording.token(*stream, message) != TERM)
                .min_by_key(|(_, message)| message.at);
            match next {
                Some((stream, message)) => self.fold(stream, message),
                None if first.is_none() && input.is_none() => {
                    let problem = Problem::NoCause(order.issued_by.clone());
                    return self.differs(Stream::Orders, message.sequence, problem);
                }
                None => return self.compare(Stream::Orders, message.sequence, first.as_ref()),
            }
        }
    }

    /// The message that an order names as its cause.
    fn input_of(&self, order: &Order) -> Option<(Stream, &'r Message)> {
        let stream = stream_of(order.issued_by.kind)?;
        let mut same_time = self.recording.of(stream).values().filter(|message| message.at == order.issued_at);
        let input = same_time.find(|message| self.machine.key_of(stream, message).as_ref() == Some(&order.issued_by))?;
        Some((stream, input))
    }

    /// Takes one message. What a leader writes of itself is written again first.
    fn fold(&mut self, stream: Stream, message: &'r Message) {
        self.era += 1;
        match (stream, self.recording.token(stream, message)) {
            (Stream::Decisions, TERM) => {
                if let Some(event) = read::<Term>(message) {
                    let made = self.machine.term_again(Log::Decisions, &event.data);
                    self.compare(stream, message.sequence, made.first());
                    self.done.terms += 1;
                    self.terms.insert(event.data.term, event.data);
                }
            }
            (Stream::Orders, TERM) => {
                let begun = read::<Term>(message).and_then(|event| self.terms.get(&event.data.term)).cloned();
                let made = begun.as_ref().map(|term| self.machine.term_again(Log::Orders, term)).unwrap_or_default();
                self.compare(stream, message.sequence, made.first());
                self.ordering = begun;
            }
            (Stream::Decisions, POLICY) => {
                if let Some(event) = read::<PolicyActivated>(message) {
                    let made = self.machine.policy_again(&event.data, event.time.unwrap_or_default());
                    self.compare(stream, message.sequence, made.first());
                }
            }
            _ => {}
        }
        self.machine.fold(stream, message, self.era);
        self.reached.insert(stream, message.sequence);
    }

    /// The next message of a stream that is not taken yet, up to a sequence.
    fn next_of(&self, stream: Stream, until: u64) -> Option<&'r Message> {
        let reached = self.reached.get(&stream).copied().unwrap_or(0).max(position(&self.machine.seen(), stream));
        let (_, message) = self.recording.of(stream).range(reached + 1..).next()?;
        (message.sequence <= until).then_some(message)
    }

    fn compare(&mut self, stream: Stream, sequence: u64, made: Option<&Outgoing>) {
        let stored = self.recording.of(stream).get(&sequence);
        let of = |subject: &str, body: &[u8]| (subject.to_owned(), String::from_utf8_lossy(body).into_owned());
        let is_same = stored.zip(made).is_some_and(|(stored, made)| stored.body == made.body && stored.subject == made.subject);
        if !is_same {
            let stored = stored.map(|stored| of(&stored.subject, &stored.body));
            let made = made.map(|made| of(&made.subject, &made.body));
            self.differs(stream, sequence, Problem::Unequal { stored, made });
        }
    }

    fn differs(&mut self, stream: Stream, sequence: u64, problem: Problem) {
        self.done.differences.push(Difference { stream, sequence, problem });
    }
}

fn position(seen: &Seen, stream: Stream) -> u64 {
    match stream {
        Stream::Orders => seen.orders,
        Stream::Decisions => seen.decisions,
        Stream::Inventory => seen.inventory,
        Stream::States => seen.states,
        _ => 0,
    }
}

fn read<T: Payload>(message: &Message) -> Option<Event<T>> {
    envelope::decode(message.headers(), &message.body).ok()
}

#[cfg(test)]
mod tests;
