//! Detections that wait for their host: read again when it is known, ended when their time is over.

use std::collections::{BTreeSet, VecDeque};

use portcullis_schemas::events::{Decision, Inventory, Page, Seen, WaitEnd};
use portcullis_schemas::subjects::{PAGES, POLICY, TERM};
use portcullis_schemas::{Stream, Timestamp, envelope};

use super::Machine;
use super::event::{Command, Message, Now, Outgoing, Report, Ticket};
use super::queue::Item;
use crate::deadlines::Monotonic;
use crate::decide::Over;
use crate::resolve::resolve;

/// Texts that are read at once.
const AT_ONCE: usize = 64;
/// Before a text is read again.
const RETRY: Monotonic = Monotonic::from_secs(1);

/// What is under way for detections that wait, by their sequences.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    /// They wait since the last event, and their host may have come meanwhile.
    new: Vec<u64>,
    /// Their texts are to be read.
    to_read: VecDeque<u64>,
    reading: BTreeSet<u64>,
    /// To be read again from this time on.
    again: BTreeSet<(Monotonic, u64)>,
    /// When something is to be done next.
    pub wake_at: Option<Monotonic>,
}

impl Machine {
    /// How many detections wait for a host that is not known yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// From where on DECISIONS is to be handed in for all that waits to be known, by its last messages: of those that can tell, the last one counts.
    pub fn waits_from(&self, message: &Message) -> Option<u64> {
        let seen: Seen = match self.prefix.rest(Stream::Decisions.token(), &message.subject)? {
            TERM | POLICY => return None,
            PAGES => envelope::decode::<Page>(message.headers(), &message.body).ok()?.data.seen,
            _ => envelope::decode::<Decision>(message.headers(), &message.body).ok()?.data.facts.seen?,
        };
        // What was stored behind what it saw is not in it.
        Some(seen.waiting.unwrap_or(message.sequence).min(seen.decisions + 1))
    }

    /// Folds a stored decision.
    pub(super) fn take_one(&mut self, decision: &Decision, recorded: u64) {
        let _ = self.control.take(decision, recorded);
        self.words_due |= self.fleet.take_words(decision, recorded).is_some();
        if self.waiting.take(decision, recorded)
            && let Some(sequence) = decision.sequence
        {
            self.under_way.new.push(sequence);
        }
    }

    /// Folds records of this process as they are stored, from `first` on.
    pub(super) fn take_own_records(&mut self, records: &[Outgoing], first: u64) {
        for (Outgoing { subject, body }, recorded) in records.iter().zip(first..) {
            let decisions: Vec<Decision> = match self.prefix.rest(Stream::Decisions.token(), subject) {
                Some(PAGES) => {
                    envelope::decode::<Page>([].into_iter(), body).map(|event| event.data.decisions).unwrap_or_default()
                }
                _ => envelope::decode::<Decision>([].into_iter(), body).map(|event| vec![event.data]).unwrap_or_default(),
            };
            decisions.iter().for_each(|decision| self.take_one(decision, recorded));
        }
    }

    /// A stored inventory that the fleet has taken.
    pub(super) fn look_for(&mut self, inventory: &Inventory) {
        if self.is_leading() && !self.waiting.is_empty() {
            for sequence in self.waiting.meaning(inventory) {
                self.look(sequence);
            }
        }
    }

    /// Whatever waits was recorded by another leader.
    pub(super) fn look_for_all(&mut self) {
        self.under_way.new.clear();
        for sequence in self.waiting.all_free() {
            self.look(sequence);
        }
    }

    /// Has the text read, where exactly one host is meant by now.
    fn look(&mut self, sequence: u64) {
        let Some(wait) = self.waiting.free(sequence) else { return };
        if resolve(&self.fleet, &wait.host, wait.at).is_ok() {
            self.waiting.hold(sequence);
            self.under_way.to_read.push_back(sequence);
        }
    }

    /// Ends what is over, and goes on with what was found.
    pub(super) fn go_on_waiting(&mut self, now: Now) {
        if !self.is_leading() {
            return self.under_way.new.clear();
        }
        for sequence in std::mem::take(&mut self.under_way.new) {
            self.look(sequence);
        }
        for (sequence, wait, end) in self.waiting.ended(now.broker) {
            self.queue.push(Item::Over(Box::new(Over { sequence, wait, end })));
        }
        let UnderWay { to_read, reading, again, wake_at, .. } = &mut self.under_way;
        while again.first().is_some_and(|(at, _)| *at <= now.boot) {
            to_read.extend(again.pop_first().map(|(_, sequence)| sequence));
        }
        while reading.len() < AT_ONCE
            && let Some(sequence) = to_read.pop_front()
        {
            reading.insert(sequence);
            self.commands.push_back(Command::Fetch(Ticket { stream: Stream::Detections, sequence }));
        }
        let left = |until: Timestamp| now.boot + (until - now.broker).to_std().unwrap_or_default();
        let again = again.first().map(|(at, _)| *at);
        *wake_at = self.waiting.next_end().map(left).into_iter().chain(again).min();
    }

    pub(super) fn fetched(&mut self, ticket: Ticket, text: Result<Option<Message>, String>, now: Now) {
        if !self.under_way.reading.remove(&ticket.sequence) {
            return;
        }
        match text {
            Ok(Some(message)) => self.queue.push(Item::Known(message)),
            Ok(None) => self.end_wait(ticket.sequence, WaitEnd::Removed),
            Err(error) => {
                self.report(Report::Retry { step: "read a detection that waits", error, pause: RETRY });
                self.under_way.again.insert((now.boot + RETRY, ticket.sequence));
            }
        }
    }

    fn end_wait(&mut self, sequence: u64, end: WaitEnd) {
        if let Some(wait) = self.waiting.get(sequence).cloned() {
            self.queue.push(Item::Over(Box::new(Over { sequence, wait, end })));
        }
    }

    pub(super) fn stop_waiting(&mut self) {
        self.waiting.release_all();
        self.under_way = UnderWay::default();
    }
}
