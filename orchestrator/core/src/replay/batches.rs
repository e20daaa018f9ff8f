//! From the messages of DECISIONS to what was decided together, in the order in which it was.

use portcullis_schemas::events::{Decision, Page, Plain, Reason, Seen, WaitEnd};
use portcullis_schemas::subjects::{PAGES, POLICY, TERM};
use portcullis_schemas::{Stream, Timestamp};

use super::{Recording, read};
use crate::machine::{Message, is_more_urgent, stream_of};

/// What was decided together.
#[derive(Debug)]
pub(super) struct Batch<'r> {
    pub seen: Seen,
    /// The hash of the policy that decided.
    pub policy: Option<String>,
    /// What is stored in DECISIONS, one message behind the other.
    pub messages: Vec<&'r Message>,
    pub answered: Vec<Answered>,
    /// Whether orders came out of it.
    ordered: bool,
    /// Where it is in pages: the inputs of the last one.
    run: Option<(Stream, u64, u64)>,
}

/// One input of a batch.
#[derive(Clone, Debug)]
pub(super) enum Answered {
    Message {
        stream: Stream,
        sequence: u64,
    },
    /// A request that names a policy, with what was found wrong with its text: no log holds that.
    BadPolicy {
        stream: Stream,
        sequence: u64,
        problem: String,
    },
    /// `at`: when the loss was met.
    Lost {
        stream: Stream,
        first: u64,
        last: u64,
        at: Timestamp,
    },
    /// A detection that waited, and has its host by now.
    Known {
        sequence: u64,
    },
    /// A pending approval that ended.
    Ended {
        id: String,
    },
    /// The time of the pause was over.
    PauseOver {
        until: Timestamp,
    },
    /// A breaker was reset without an operator.
    BreakerOver {
        breaker: String,
        at: Timestamp,
    },
    /// A detection that waits no longer.
    Over {
        sequence: u64,
        end: WaitEnd,
    },
}

/// All batches of a recording, as a leader decides them: one after the other, while answers may be stored later than those of the batch behind.
pub(super) fn of(recording: &Recording) -> Vec<Batch<'_>> {
    let mut batches: Vec<Batch<'_>> = Vec::new();
    for message in recording.of(Stream::Decisions).values() {
        let Some(batch) = one(recording, message) else { continue };
        match batches.last_mut() {
            Some(last) if last.goes_on_with(&batch) => {
                last.messages.extend(batch.messages);
                last.answered.extend(batch.answered);
                last.ordered |= batch.ordered;
                last.run = batch.run;
            }
            _ => batches.push(batch),
        }
    }
    batches.sort_by_key(|batch| {
        let Seen { term, orders, decisions, inventory, states, .. } = batch.seen;
        // Behind orders nobody sees what was before them.
        (term, orders, decisions, inventory, states, batch.ordered)
    });
    batches
}

impl Batch<'_> {
    /// Pages of one batch are stored together and have seen the same: those of one stream, then those of a less urgent one.
    fn goes_on_with(&self, next: &Batch<'_>) -> bool {
        let follows =
            self.messages.last().map(|message| message.sequence + 1) == next.messages.first().map(|message| message.sequence);
        let is_next = self.run.zip(next.run).is_some_and(|(run, next)| run == next || is_more_urgent(run.0, next.0));
        is_next && follows && self.seen == next.seen
    }
}

/// The batch of one message; None where it is no answer.
fn one<'r>(recording: &Recording, message: &'r Message) -> Option<Batch<'r>> {
    let of = |seen, policy, run| Batch { seen, policy, messages: vec![message], answered: Vec::new(), ordered: false, run };
    match recording.token(Stream::Decisions, message) {
        TERM | POLICY => None,
        PAGES => {
            let page = read::<Page>(message)?.data;
            let stream = recording.stream_called(&page.stream)?;
            let mut batch = of(page.seen.clone(), page.policy.clone(), Some((stream, page.first, page.last)));
            let plain = page.plain.iter().flat_map(Plain::each);
            batch.answered.extend(plain.map(|sequence| Answered::Message { stream, sequence }));
            page.decisions.iter().for_each(|decision| batch.take(recording, decision));
            Some(batch)
        }
        _ => {
            let decision = read::<Decision>(message)?.data;
            let mut batch = of(decision.facts.seen.clone()?, decision.facts.policy.clone(), None);
            batch.take(recording, &decision);
            Some(batch)
        }
    }
}

impl Batch<'_> {
    fn take(&mut self, recording: &Recording, decision: &Decision) {
        self.ordered |= is_ordered(decision);
        let stored = stream_of(decision.input.kind).zip(decision.sequence);
        self.answered.extend(match (stored, &decision.reason) {
            _ if decision.asked => Some(Answered::Ended { id: decision.input.hash() }),
            (None, Reason::BelowLimit { breaker, .. }) => {
                Some(Answered::BreakerOver { breaker: breaker.clone(), at: decision.facts.now.unwrap_or_default() })
            }
            (None, Reason::PauseOver { until }) => Some(Answered::PauseOver { until: *until }),
            (Some((_, sequence)), Reason::Unresolved { ended: Some(end), .. }) => Some(Answered::Over { sequence, end: *end }),
            (Some((stream, sequence)), Reason::BadPolicy { problem, .. }) => {
                Some(Answered::BadPolicy { stream, sequence, problem: problem.clone() })
            }
            (Some((_, sequence)), _) if decision.waited => Some(Answered::Known { sequence }),
            (Some((stream, sequence)), _) => Some(Answered::Message { stream, sequence }),
            (None, Reason::InputsLost { first, last }) => {
                let at = decision.facts.now.unwrap_or_default();
                let stream = recording.stream_called(&decision.input.source);
                stream.map(|stream| Answered::Lost { stream, first: *first, last: *last, at })
            }
            (None, _) => None,
        });
    }
}

/// Whether it names the order that it made, and not one that was made before.
fn is_ordered(decision: &Decision) -> bool {
    decision.generation.is_some() && decision.reason != Reason::Settled
}
