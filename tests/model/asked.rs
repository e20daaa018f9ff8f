//! What people were asked and said, by the log and by the inputs themselves, and how many hosts may be isolated.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_core::Input;
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Decision, Effect, InputKind, Order, Posture, Reason, Verdict};

use crate::broker::{Broker, word};

/// So many hosts the policy isolates at once.
pub const MOST: usize = 2;

/// What became of each question, by its id.
#[derive(Default)]
pub struct Asked {
    asks: BTreeMap<String, Question>,
}

struct Question {
    approvals: usize,
    until: Option<Timestamp>,
    /// Who said yes, by the requests themselves.
    approved: BTreeSet<String>,
    denied: bool,
    ended: bool,
}

impl Asked {
    /// Takes a decision as it is stored; what is wrong with it.
    pub fn take(&mut self, decision: &Decision, said_by: Option<&str>) -> Option<String> {
        if let Some(ask) = &decision.ask {
            let approvals = usize::from(ask.approvals);
            let question = Question { approvals, until: ask.until, approved: BTreeSet::new(), denied: false, ended: false };
            // A later copy of the same detection is asked about anew, once the first question has ended.
            match self.asks.get(&ask.id).is_none_or(|known| known.ended) {
                true => drop(self.asks.insert(ask.id.clone(), question)),
                false => return Some(format!("(m) {} is asked about twice at once", word(&decision.input))),
            }
        }
        for effect in &decision.effects {
            let (asks, is_yes) = match effect {
                Effect::Approved { asks, .. } => (asks, true),
                Effect::Denied { asks, .. } => (asks, false),
                _ => continue,
            };
            for id in asks {
                let Some(question) = self.asks.get_mut(id) else { continue };
                match is_yes {
                    true => question.approved.extend(said_by.map(str::to_owned)),
                    false => question.denied |= !question.is_approved(),
                }
            }
        }
        if !decision.asked {
            return None;
        }
        let Some(question) = self.asks.get_mut(&decision.input.hash()) else {
            return Some(format!("(m) {} ends a question that nobody asked", word(&decision.input)));
        };
        let again = std::mem::replace(&mut question.ended, true);
        let isolated = decision.verdict == Verdict::Isolate;
        let is_unheard = matches!(decision.reason, Reason::Unanswered { .. }) && question.is_approved();
        // What settled it was an order, which was looked at itself.
        let is_unasked =
            isolated && decision.reason != Reason::Settled && !question.is_approved() && !question.is_over(decision.facts.now);
        let wrong = again || is_unheard || is_unasked;
        wrong
            .then(|| format!("(m) {} ended as {:?}, approved by {:?}", word(&decision.input), decision.reason, question.approved))
    }

    pub fn unended(&self) -> Option<&str> {
        self.asks.iter().find(|(_, question)| !question.ended).map(|(id, _)| id.as_str())
    }

    /// Whether people said yes to what an order does, or kept silent where the rule isolates then.
    fn allows(&self, order: &Order) -> bool {
        self.asks.get(&order.issued_by.hash()).is_some_and(Question::is_approved)
    }

    fn was_over(&self, order: &Order) -> bool {
        self.asks.get(&order.issued_by.hash()).is_some_and(|question| question.is_over(Some(order.issued_at)))
    }
}

impl Question {
    fn is_approved(&self) -> bool {
        !self.denied && self.approved.len() >= self.approvals
    }

    fn is_over(&self, now: Option<Timestamp>) -> bool {
        !self.denied && self.until.zip(now).is_some_and(|(until, now)| until <= now)
    }
}

/// What is wrong with an order by the limits, and by what people said.
pub fn wrong(broker: &Broker, order: &Order) -> Option<String> {
    let last = |host| broker.last_order(host).map(|stored| stored.order.posture);
    let by_detection = order.issued_by.kind == InputKind::Detection && order.posture == Posture::Isolated;
    if !by_detection || last(&order.host) == Some(Posture::Isolated) || broker.asked.allows(order) {
        return None;
    }
    let rule = broker.inputs.iter().find_map(|message| match &message.input {
        Input::Detection(_, data) if message.key == order.issued_by => Some(data.rule.id.as_str()),
        _ => None,
    });
    let is_asked = matches!(rule, Some("ask" | "two")) && !(rule == Some("two") && broker.asked.was_over(order));
    if is_asked {
        return Some(format!("(m) {} isolates {}, and not enough people said yes", word(&order.issued_by), order.host));
    }
    let hosts: BTreeSet<_> = broker.orders.iter().map(|stored| &stored.order.host).collect();
    let isolated = hosts.into_iter().filter(|host| last(host) == Some(Posture::Isolated)).count();
    (isolated >= MOST).then(|| format!("(l) {} isolates {} beside {isolated} others", word(&order.issued_by), order.host))
}
