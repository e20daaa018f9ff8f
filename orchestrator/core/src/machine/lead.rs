//! Who leads: a record in both logs, DECISIONS first.
//!
//! From its first record on, the leader before it can store no decision, from the second no order: each is appended by compare-and-set, and so behind
//! everything that this process has folded. A leader that meets a higher term in a log follows from then on.

use portcullis_schemas::events::{Term, TermConfig};

use super::Machine;
use super::event::{Appended, Command, Log, Message, Now, Outgoing, Report};
use super::queue::Item;
use super::write;

/// Terms begin one after the other: a record further ahead than this was written by another program, and would leave no number to go on with.
const MOST_AHEAD: u64 = 1_000_000;
/// The same for a process that knows no term yet.
const HIGHEST_FIRST: u64 = 1 << 62;

#[derive(Debug)]
pub(super) enum Role {
    Following,
    /// The record of this term is appended to a log.
    Taking(Box<Taking>),
    Leading,
}

#[derive(Debug)]
pub(super) struct Taking {
    log: Log,
    term: Term,
    record: Outgoing,
}

impl Role {
    pub(super) fn is_leading(&self) -> bool {
        matches!(self, Role::Leading)
    }

    pub(super) fn appends_to(&self, log: Log) -> bool {
        matches!(self, Role::Taking(taking) if taking.log == log)
    }
}

impl Machine {
    /// Whether this process decides.
    pub fn is_leading(&self) -> bool {
        self.role.is_leading()
    }

    pub(super) fn try_to_lead(&mut self, now: Now) {
        if !matches!(self.role, Role::Following) {
            return;
        }
        let config = TermConfig {
            prefix: self.prefix.to_string(),
            protected: self.config.protected.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let term = Term { term: self.term + 1, who: self.who.clone(), since: now.broker, config, prev: None };
        self.append_term(Log::Decisions, term);
    }

    pub(super) fn append_term(&mut self, log: Log, term: Term) {
        let prev = (log == Log::Orders).then(|| self.fleet.prev().to_owned());
        let term = Term { prev, ..term };
        match write::term(&self.prefix, log, term.clone()) {
            Ok(record) => {
                self.append(log, vec![record.clone()]);
                self.role = Role::Taking(Box::new(Taking { log, term, record }));
            }
            Err(why) => self.give_up(why.to_string()),
        }
    }

    pub(super) fn term_appended(&mut self, log: Log, appended: Appended, now: Now) {
        match appended {
            Appended::Stored => self.term_stored(log, now),
            Appended::TooLarge => self.give_up("the record of a term is larger than the broker takes".to_owned()),
            Appended::Unclear(_) => self.read_on(log),
        }
    }

    /// The log was read on, since it was unclear whether the record is stored.
    pub(super) fn term_read(&mut self, log: Log, read: Result<Vec<Message>, String>, now: Now) {
        let messages = match read {
            Ok(messages) => messages,
            Err(error) => return self.give_up(error),
        };
        let Role::Taking(taking) = &self.role else { return };
        let (own, mut rest) = (taking.record.body.clone(), &messages[..]);
        if let [first, others @ ..] = rest
            && first.body == own
        {
            rest = others;
            self.term_stored(log, now);
        } else {
            // Behind what came, with a term above what came.
            self.give_up("another message was faster".to_owned());
        }
        for message in rest {
            self.take(log, message, now);
        }
    }

    fn term_stored(&mut self, log: Log, now: Now) {
        let Role::Taking(taking) = std::mem::replace(&mut self.role, Role::Following) else { return };
        let Taking { term, record, .. } = *taking;
        match log {
            Log::Decisions => {
                self.decisions += 1;
                (self.term, self.leader, self.leader_since) = (term.term, Some(term.who.clone()), Some(term.since));
                self.append_term(Log::Orders, term);
            }
            Log::Orders => {
                self.orders += 1;
                self.chain_at = self.orders;
                self.fleet.take_link(portcullis_schemas::ids::sha256(&record.body));
                self.begin_to_lead(now);
            }
        }
    }

    fn begin_to_lead(&mut self, now: Now) {
        self.role = Role::Leading;
        self.fleet.forgive_silence(now.broker);
        self.next_silence_check = now.boot + super::SILENCE_CHECK;
        self.report(Report::Leading { term: self.term });
        self.begin_with_policy();
        let unnoticed = std::mem::take(&mut self.unnoticed).into_values();
        for item in std::mem::take(&mut self.unanswered).into_values().chain(unnoticed) {
            self.observe(item);
        }
        self.look_for_all();
        self.words_due = true;
        self.commands.push_back(Command::Begin);
    }

    fn give_up(&mut self, why: String) {
        self.role = Role::Following;
        self.report(Report::NotLeading(why));
    }

    /// Takes the record of a term that another process wrote.
    pub(super) fn take_term(&mut self, term: Term) {
        let is_own = self.leader.as_ref() == Some(&term.who) && self.term == term.term;
        if term.term < self.term || is_own {
            return;
        }
        let most = if self.term == 0 { HIGHEST_FIRST } else { self.term.saturating_add(MOST_AHEAD) };
        if term.term > most {
            return self.report(Report::ForeignTerm(term.term));
        }
        (self.term, self.leader, self.leader_since) = (term.term, Some(term.who.clone()), Some(term.since));
        if term.who == self.who {
            return;
        }
        // At the start the logs tell of every leader that there ever was.
        if self.has_begun {
            self.report(Report::Following { term: term.term, leader: term.who });
        }
        if !matches!(self.role, Role::Following) {
            self.step_down();
        }
    }

    fn step_down(&mut self) {
        self.take_back();
        self.role = Role::Following;
        self.forget_policies();
        self.read_again_at = None;
        self.awaited.clear();
        let (mut items, parked) = self.queue.drain();
        for batch in parked.into_iter().chain(self.batch.take()).chain(self.ahead.take()) {
            items.extend(batch.dissolve());
        }
        self.rejections.clear();
        self.stop_waiting();
        self.stop_ending();
        for (host, _) in self.inventories.drain(..) {
            self.storing.remove(&host);
        }
        // What hosts say of themselves is a fact of the logs, whoever answers it.
        for item in items {
            if matches!(item, Item::State(_) | Item::Inventory(_)) {
                self.observe(item);
            }
        }
        self.commands.push_back(Command::StepDown);
    }
}
