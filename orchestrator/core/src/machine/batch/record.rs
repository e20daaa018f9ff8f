//! The answers of a batch: written, appended to DECISIONS, then acknowledged. The record of a policy goes the same way.

use portcullis_schemas::events::Reason;

use super::{Activates, Batch, Decided, Entry, Record, Step};
use crate::machine::Machine;
use crate::machine::event::{Command, Log, Now, Report, Ticket};
use crate::machine::page;
use crate::machine::page::Answer;

impl Machine {
    pub(super) fn record(&mut self, batch: Batch, decided: Decided, now: Now) {
        let (mut answers, mut notices) = (Vec::new(), Vec::new());
        for (entry, outcome) in batch.entries.iter().zip(decided.outcomes) {
            let at = outcome.decision.as_ref().and_then(|decision| decision.facts.now).unwrap_or(now.broker);
            if let Some(decision) = outcome.decision {
                let (stream, sequence) = (entry.item.stream(), entry.item.sequence());
                answers.push(Answer::new(stream, sequence, decision, &outcome.notices, entry.trace()));
            }
            notices.extend(outcome.notices.into_iter().map(|notice| (notice, at)));
        }
        self.notify(notices, now);
        let activates = match (batch.entries.as_slice(), answers.first()) {
            ([entry], Some(answer)) => self.asked_for(&entry.item, &answer.decision, now),
            _ => None,
        };
        let record =
            Record { answers, seen: decided.seen, policy: decided.policy, messages: Vec::new(), shortened: false, activates };
        self.append_record(Batch { step: Step::Record { record: Box::new(record), unclear: None }, ..batch }, now);
    }

    /// Appends what answers the batch, behind what is known of the log by now.
    pub(super) fn append_record(&mut self, mut batch: Batch, now: Now) {
        let Step::Record { record, unclear } = &mut batch.step else { return };
        *unclear = None;
        let is_answer = record.activates.is_none();
        let Record { answers, seen, policy, shortened, .. } = record.as_ref();
        match page::messages(&self.prefix, answers, seen, policy.as_deref(), *shortened) {
            Ok(messages) => record.messages = messages,
            Err(_) if !*shortened => {
                record.shortened = true;
                return self.append_record(batch, now);
            }
            Err(_) => return self.too_large(batch, now),
        }
        // In one atomic batch with the answer to who asked for it.
        if let Some(activates) = &record.activates {
            record.messages.insert(0, activates.record.clone());
        }
        if record.messages.is_empty() {
            return self.recorded(batch);
        }
        self.append(Log::Decisions, record.messages.clone());
        if is_answer {
            self.lay(&mut batch);
        }
        self.batch = Some(batch);
    }

    pub(super) fn recorded(&mut self, mut batch: Batch) {
        let Step::Record { record, .. } = std::mem::replace(&mut batch.step, Step::Open) else { return };
        for answer in &record.answers {
            self.report(Report::Verdict(answer.decision.verdict));
            if let Some(sequence) = answer.sequence {
                self.answered.insert(answer.stream, sequence, sequence);
            }
        }
        // Where it was seen in the log before, it decides already, or another one by now.
        if let Some(Activates { data, at, .. }) = record.activates.filter(|own| self.is_activating(own)) {
            self.take_activation(data, at);
        }
        self.ended(&batch);
        let tickets: Vec<Ticket> = batch.entries.iter().filter_map(Entry::ticket).collect();
        if !tickets.is_empty() {
            self.commands.push_back(Command::Ack(tickets));
        }
    }

    /// Whether its answers came to be stored while it was put off.
    pub(super) fn is_recorded(&self, batch: &Batch) -> bool {
        let Step::Record { record, .. } = &batch.step else { return false };
        // None where nothing tells.
        let is_stored = |answer: &Answer| match (answer.sequence, &answer.decision.reason) {
            (Some(sequence), _) if answer.decision.waited => Some(!self.waiting.contains(sequence)),
            (Some(_), _) if answer.decision.asked => Some(self.control.ask(&answer.decision.input.hash()).is_none()),
            (Some(sequence), _) => Some(self.answered.contains(answer.stream, sequence)),
            (None, Reason::PauseOver { until }) => Some(self.control.pause().is_none_or(|pause| pause.until != *until)),
            (None, Reason::BelowLimit { breaker, .. }) => Some(self.control.breaker(breaker).is_none()),
            (None, _) => None,
        };
        if let Some(activates) = &record.activates {
            return !self.is_activating(activates);
        }
        // All of it is stored at once, or nothing.
        let mut told = record.answers.iter().filter_map(is_stored).peekable();
        told.peek().is_some() && told.all(|is_stored| is_stored)
    }

    /// Appends the record of a policy that nobody asked for.
    pub(in crate::machine) fn record_activation(&mut self, activates: Activates, now: Now) {
        let record = Record {
            answers: Vec::new(),
            seen: self.positions(),
            policy: None,
            messages: Vec::new(),
            shortened: true,
            activates: Some(activates),
        };
        let step = Step::Record { record: Box::new(record), unclear: None };
        self.append_record(Batch::of(Vec::new(), step, 0), now);
    }
}
