//! What cannot be understood or answered is kept whole, and acknowledged when that is stored. It holds up nobody.

use portcullis_schemas::Stream;
use portcullis_schemas::rejected::Malformed;

use super::Machine;
use super::batch::pause;
use super::event::{Command, Delivered, Kept, Message, Now, Report, Ticket};
use super::queue::Item;
use crate::deadlines::Monotonic;

#[derive(Debug)]
pub(super) struct Rejection {
    kind: &'static str,
    /// What is acknowledged in the end.
    ticket: Option<Ticket>,
    /// Where it is stored.
    stored: Option<Ticket>,
    message: Message,
    why: Malformed,
    failures: u32,
    retry_at: Option<Monotonic>,
}

impl Machine {
    pub(super) fn reject(&mut self, item: Item, why: Malformed) {
        let (kind, ticket, stored, message) = match item {
            Item::Delivered(Delivered { stream, message, .. }) => {
                let ticket = Some(Ticket { stream, sequence: message.sequence });
                (stream.token(), ticket, ticket, message)
            }
            Item::State(message) => {
                let stored = Ticket { stream: Stream::States, sequence: message.sequence };
                (Stream::States.token(), None, Some(stored), message)
            }
            Item::Known(message) => {
                self.waiting.remove(message.sequence);
                let stored = Ticket { stream: Stream::Detections, sequence: message.sequence };
                (Stream::Detections.token(), None, Some(stored), message)
            }
            Item::Activate(activate) => return self.reject(Item::Delivered(activate.delivered), why),
            Item::Over(over) => return self.waiting.remove(over.sequence),
            Item::Asked(pending) => return self.control.forget(&pending.ask.id),
            // Written by us, or by somebody who may write anything: it names no host and decides nothing.
            Item::Inventory(_) | Item::Lost { .. } | Item::PauseOver(_) | Item::BreakerOver(..) => return,
        };
        self.begin_rejection(Rejection { kind, ticket, stored, message, why, failures: 0, retry_at: None });
    }

    pub(super) fn reject_hello(&mut self, message: Message, why: Malformed) {
        self.begin_rejection(Rejection { kind: "hello", ticket: None, stored: None, message, why, failures: 0, retry_at: None });
    }

    fn begin_rejection(&mut self, rejection: Rejection) {
        self.rejection += 1;
        self.ask_to_keep(self.rejection, &rejection);
        self.rejections.insert(self.rejection, rejection);
    }

    fn ask_to_keep(&mut self, number: u64, rejection: &Rejection) {
        let Rejection { kind, stored, message, why, .. } = rejection;
        let (message, why) = (Box::new(message.clone()), why.clone());
        self.commands.push_back(Command::Reject { number, kind, stored: *stored, message, why });
    }

    pub(super) fn kept(&mut self, number: u64, kept: Kept, now: Now) {
        let Some(mut rejection) = self.rejections.remove(&number) else { return };
        match kept {
            Kept::Stored => self.report(Report::Rejected(rejection.why)),
            Kept::TooLarge => {
                let (subject, bytes) = (rejection.message.subject, rejection.message.body.len());
                self.report(Report::TooLargeToKeep { subject, bytes, why: rejection.why });
            }
            Kept::Failed(error) => {
                let pause = pause(rejection.failures);
                rejection.failures += 1;
                rejection.retry_at = Some(now.boot + pause);
                self.rejections.insert(number, rejection);
                return self.report(Report::Retry { step: "keep a rejected input", error, pause });
            }
        }
        self.commands.extend(rejection.ticket.map(|ticket| Command::Ack(vec![ticket])));
    }

    pub(super) fn retry_rejections(&mut self, now: Now) {
        let due = |rejection: &Rejection| rejection.retry_at.is_some_and(|at| at <= now.boot);
        let due: Vec<u64> = self.rejections.iter().filter(|(_, one)| due(one)).map(|(number, _)| *number).collect();
        for number in due {
            let Some(mut rejection) = self.rejections.remove(&number) else { continue };
            rejection.retry_at = None;
            self.ask_to_keep(number, &rejection);
            self.rejections.insert(number, rejection);
        }
    }

    pub(super) fn next_rejection(&self) -> Option<Monotonic> {
        self.rejections.values().filter_map(|rejection| rejection.retry_at).min()
    }
}
