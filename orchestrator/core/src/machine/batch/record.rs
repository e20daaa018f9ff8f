//! The answers of a batch: written, appended to DECISIONS, then acknowledged. The record of a policy goes the same way.

use portcullis_schemas::events::{PolicyActivated, Reason};

use super::{Activation, Batch, Decided, Entry, Record, Step};
use crate::machine::Machine;
use crate::machine::event::{Command, Log, Now, Report, Ticket};
use crate::machine::page;
use crate::machine::page::Answer;
use crate::machine::write;

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
        let policy = self.policy.as_ref().map(|policy| policy.hash().to_owned());
        let record = Record { answers, seen: decided.seen, policy, messages: Vec::new(), shortened: false, activates: None };
        self.append_record(Batch { step: Step::Record { record: Box::new(record), unclear: None }, ..batch }, now);
    }

    /// Appends what answers the batch, behind what is known of the log by now.
    pub(super) fn append_record(&mut self, mut batch: Batch, now: Now) {
        let Step::Record { record, unclear } = &mut batch.step else { return };
        *unclear = None;
        let is_answer = record.activates.is_none();
        if record.activates.is_none() {
            let Record { answers, seen, policy, shortened, .. } = record.as_ref();
            match page::messages(&self.prefix, answers, seen, policy.as_deref(), *shortened) {
                Ok(messages) => record.messages = messages,
                Err(_) if !*shortened => {
                    record.shortened = true;
                    return self.append_record(batch, now);
                }
                Err(_) => return self.too_large(batch, now),
            }
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
        if let Some(activation) = record.activates.filter(|own| self.is_activating(own)) {
            self.active_policy = activation.hash().map(str::to_owned);
            self.activated();
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
        if let Some(activation) = &record.activates {
            return !self.is_activating(activation);
        }
        // All of it is stored at once, or nothing.
        let mut told = record.answers.iter().filter_map(is_stored).peekable();
        told.peek().is_some() && told.all(|is_stored| is_stored)
    }

    /// A policy decides from its record on.
    pub(in crate::machine) fn activate(&mut self, activation: Activation, now: Now) {
        let hash = activation.hash().map(str::to_owned);
        if hash == self.active_policy {
            self.decide_by(activation.0);
            return;
        }
        let reason = hash.is_none().then(|| "the leader has no valid policy".to_owned());
        let data = PolicyActivated { hash: hash.clone(), activated_by: "file".into(), reason, term: self.term };
        match write::policy(&self.prefix, data, now.broker) {
            Ok(message) => {
                self.activating = Some(activation.clone());
                let record = Record {
                    answers: Vec::new(),
                    seen: self.positions(),
                    policy: hash,
                    messages: vec![message],
                    shortened: true,
                    activates: Some(activation),
                };
                let step = Step::Record { record: Box::new(record), unclear: None };
                self.append_record(Batch::of(Vec::new(), step, 0), now);
            }
            Err(why) => self.report(Report::Unanswerable { token: "policy".into(), why }),
        }
    }

    /// What is on its way to its record decides, where that is the active policy by the log.
    pub(in crate::machine) fn activated(&mut self) {
        let active = self.active_policy.clone();
        if let Some(Activation(policy)) = self.activating.take_if(|next| next.hash() == active.as_deref()) {
            self.decide_by(policy);
            self.report(Report::PolicyActivated { hash: active });
        }
    }

    pub(super) fn is_activating(&self, activation: &Activation) -> bool {
        self.activating.as_ref().is_some_and(|next| next.hash() == activation.hash())
    }
}
