//! Decides once more what the logs say was decided, for the replay: by the protocol of a live leader, with nothing appended. What stands in the logs is
//! handed in by their own messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use portcullis_policy::Policy;
use portcullis_schemas::events::{InputRef, Order, PolicyActivated, Seen, Term, WaitEnd};
use portcullis_schemas::subjects::POLICY;
use portcullis_schemas::{Prefix, Stream, Timestamp};

use super::batch::Batch;
use super::event::{Appended, Command, Delivered, Log, Message, Now, Outgoing};
use super::lead::Role;
use super::queue::{self, Activate, Item};
use super::{Machine, read};
use crate::Config;
use crate::control::Pending;
use crate::decide::{Over, PolicyText};

/// Further apart than any deadline lies ahead: a deadline that was answered had come, on a clock that the logs do not hold.
const ERA: Duration = Duration::from_secs(1_000 * 365 * 86_400);

/// An input of a recorded batch.
pub(crate) struct Recorded(Item);

impl Recorded {
    /// A stored message; None where its stream holds no inputs.
    pub(crate) fn of(stream: Stream, message: Message) -> Option<Self> {
        Some(Self(match stream {
            Stream::Detections | Stream::Requests | Stream::Releases => {
                Item::Delivered(Delivered { stream, deliveries: 1, waited: false, message })
            }
            Stream::States => Item::State(message),
            Stream::Inventory => Item::Inventory(message),
            _ => return None,
        }))
    }

    /// A detection that waited, and has its host by now.
    pub(crate) fn known(message: Message) -> Self {
        Self(Item::Known(message))
    }

    /// The end of the pause by its time.
    pub(crate) fn pause_over(until: Timestamp) -> Self {
        Self(Item::PauseOver(until))
    }

    /// The reset of a breaker without an operator.
    pub(crate) fn breaker_over(breaker: String, at: Timestamp) -> Self {
        Self(Item::BreakerOver(breaker, at))
    }

    /// A request to activate a policy, with its text as it was read.
    pub(crate) fn activation(self, text: PolicyText) -> Self {
        match self.0 {
            Item::Delivered(delivered) => Self(Item::Activate(Box::new(Activate { delivered, text }))),
            other => Self(other),
        }
    }

    pub(crate) fn lost(stream: Stream, first: u64, last: u64, at: Timestamp) -> Self {
        Self(Item::Lost { stream, first, last, at })
    }
}

/// What a batch makes.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub orders: Vec<Outgoing>,
    pub answers: Vec<Outgoing>,
}

impl Machine {
    /// A machine that only decides again.
    pub(crate) fn of_a_replay(prefix: Prefix) -> Self {
        Self::new(prefix, Config::default(), String::new())
    }

    pub(crate) fn seen(&self) -> Seen {
        self.positions()
    }

    /// The configuration that decides from here on.
    pub(crate) fn configure(&mut self, term: &Term) {
        self.config = Config { protected: term.config.protected.clone() };
        self.leader_since = Some(term.since);
    }

    pub(crate) fn decide_under(&mut self, policy: Option<Arc<Policy>>) {
        self.decide_by(policy);
    }

    /// Takes a message of a log, and answers nothing.
    pub(crate) fn fold(&mut self, stream: Stream, message: &Message, era: u32) {
        let now = now(era, message.at);
        self.logged(stream, message.clone(), now);
        self.go_on_waiting(now);
        self.commands.clear();
    }

    /// The record with which `term` begins in a log, behind what is folded.
    pub(crate) fn term_again(&mut self, log: Log, term: &Term) -> Vec<Outgoing> {
        self.who.clone_from(&term.who);
        self.configure(term);
        let number = if log == Log::Decisions { self.term + 1 } else { term.term };
        self.append_term(log, Term { term: number, ..term.clone() });
        self.role = Role::Following;
        self.appended(log)
    }

    /// The record of a policy that was activated at `at`.
    pub(crate) fn policy_again(&mut self, record: &PolicyActivated, at: Timestamp) -> Vec<Outgoing> {
        let record = PolicyActivated { term: self.term, ..record.clone() };
        super::write::policy(&self.prefix, record, at).into_iter().collect()
    }

    /// Decides inputs together. Answers that are not as they were stored are tried without what senders wrote of
    /// themselves: the broker may not have taken the whole.
    pub(crate) fn decide_again(&mut self, inputs: Vec<Recorded>, era: u32, is_stored: impl Fn(&[Outgoing]) -> bool) -> Made {
        let mut items: Vec<Item> = inputs.into_iter().map(|input| input.0).collect();
        queue::sort(&mut items);
        let now = now(era, Timestamp::default());
        self.decide_batch(Batch::new(items), now);
        let mut made = Made { orders: self.appended(Log::Orders), ..Made::default() };
        if !made.orders.is_empty() {
            self.batch_appended(Log::Orders, Appended::Stored, now);
        }
        made.answers = self.answers();
        if !is_stored(&made.answers) {
            self.batch_appended(Log::Decisions, Appended::TooLarge, now);
            let shortened = self.answers();
            if is_stored(&shortened) {
                made.answers = shortened;
            }
        }
        // As it is folded when its messages are.
        self.take_back();
        self.batch = None;
        self.give_up_activation();
        self.commands.clear();
        self.awaited.clear();
        made
    }

    /// The hash of the policy whose text a request could not be answered without.
    pub(crate) fn text_wanted_by(&self, stream: Stream, message: &Message) -> Option<String> {
        read::input(&self.prefix, stream, message).ok().and_then(|decoded| self.wants_text(&decoded.input))
    }

    /// The order that an input makes. It is not taken.
    pub(crate) fn order_again(&mut self, input: Recorded, era: u32) -> Option<Outgoing> {
        self.decide_batch(Batch::new(vec![input.0]), now(era, Timestamp::default()));
        let made = self.appended(Log::Orders);
        self.take_back();
        self.batch = None;
        self.awaited.clear();
        made.into_iter().next()
    }

    /// The key of an input; None where it cannot be read.
    pub(crate) fn key_of(&self, stream: Stream, message: &Message) -> Option<InputRef> {
        let decoded = match stream {
            Stream::Inventory => read::inventory(&self.prefix, message),
            stream => read::input(&self.prefix, stream, message),
        };
        decoded.ok().map(|decoded| decoded.key)
    }

    /// A detection that waits by the logs, as an input at the end of its wait.
    pub(crate) fn recorded_over(&self, sequence: u64, end: WaitEnd) -> Option<Recorded> {
        let wait = self.waiting.get(sequence)?.clone();
        Some(Recorded(Item::Over(Box::new(Over { sequence, wait, end }))))
    }

    /// A pending approval by the logs, as an input at its end.
    pub(crate) fn recorded_end(&self, ask: &str) -> Option<Recorded> {
        self.control.ask(ask).map(|pending| Recorded(Item::Asked(Arc::clone(pending))))
    }

    /// The same for the one whose end makes this order.
    pub(crate) fn recorded_end_of(&self, order: &Order) -> Option<Recorded> {
        let makes = |pending: &&Arc<Pending>| {
            let last = pending.approvals.last().map(|approval| &approval.input);
            pending.input == order.issued_by || last == Some(&order.issued_by)
        };
        self.control.asks_of(&order.host).find(makes).map(|pending| Recorded(Item::Asked(Arc::clone(pending))))
    }

    /// What was just appended to DECISIONS. The record of a policy is written again when its own turn comes.
    fn answers(&mut self) -> Vec<Outgoing> {
        let mut answers = self.appended(Log::Decisions);
        answers.retain(|answer| self.prefix.rest(Stream::Decisions.token(), &answer.subject) != Some(POLICY));
        answers
    }

    /// What was just appended to a log.
    fn appended(&mut self, to: Log) -> Vec<Outgoing> {
        let is_wanted = |command: &Command| matches!(command, Command::Append { log, .. } if *log == to);
        let (wanted, others) = std::mem::take(&mut self.commands).into_iter().partition(is_wanted);
        self.commands = others;
        let messages = |command| match command {
            Command::Append { messages, .. } => messages,
            _ => Vec::new(),
        };
        VecDeque::into_iter(wanted).flat_map(messages).collect()
    }
}

fn now(era: u32, broker: Timestamp) -> Now {
    Now { boot: ERA * era, broker }
}
