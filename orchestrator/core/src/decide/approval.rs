//! What operators answer to pending approvals: yes or no, to one of them, to all of a host, or to all that a breaker held.

use std::sync::Arc;

use portcullis_schemas::events::{Action, Effect, Reason, Request, Verdict};

use super::words::why;
use super::{Door, Meta, Outcome};
use crate::control::Pending;

pub fn decide(door: Door<'_>, meta: &Meta, request: &Request) -> Outcome {
    let about = match about(door, request) {
        Ok(about) => about,
        Err(reason) => return door.answer(meta, request.host.as_ref(), Verdict::Refuse, reason),
    };
    let open: Vec<Arc<Pending>> = about.asks.into_iter().filter(|pending| pending.is_open(meta.at)).collect();
    if open.is_empty() {
        return door.answer(meta, request.host.as_ref(), Verdict::Refuse, Reason::NotPending { ask: about.named });
    }
    let (by, reason) = (request.operator.clone(), why(request));
    let asks: Vec<Arc<Pending>> = match request.action {
        Action::Deny => open,
        _ => open.into_iter().filter(|pending| pending.may_approve(&by)).collect(),
    };
    let [first, ..] = asks.as_slice() else {
        return door.answer(meta, request.host.as_ref(), Verdict::Refuse, Reason::SamePerson { principal: by });
    };
    let missing = asks.iter().find_map(|pending| {
        let (approved, wanted) = (pending.approvals.len() as u64 + 1, u64::from(pending.ask.approvals));
        (request.action == Action::Approve && approved < wanted).then_some(Reason::ApprovalsMissing { approved, wanted })
    });
    let host = asks.iter().all(|pending| pending.host == first.host).then_some(&first.host);
    let mut outcome = door.answer(meta, host, Verdict::Apply, missing.unwrap_or(Reason::Operator));
    if let Some(decision) = &mut outcome.decision {
        if let [only] = asks.as_slice() {
            decision.incident.clone_from(&only.incident);
            decision.rule.clone_from(&only.rule);
        }
        let asks = asks.iter().map(|pending| pending.ask.id.clone()).collect();
        decision.effects.push(match request.action {
            Action::Deny => Effect::Denied { asks, by, reason },
            _ => Effect::Approved { asks, by, reason },
        });
    }
    outcome
}

struct About {
    asks: Vec<Arc<Pending>>,
    /// As the operator named them.
    named: String,
}

fn about(door: Door<'_>, request: &Request) -> Result<About, Reason> {
    let of_host = |pending: &&Arc<Pending>| request.host.as_ref().is_none_or(|host| pending.host == *host);
    let (asks, named): (Vec<_>, String) = match (&request.decision, &request.breaker, &request.host) {
        (Some(id), _, _) => (door.control.ask(id).into_iter().filter(of_host).cloned().collect(), id.clone()),
        (None, Some(breaker), _) => {
            let held = |pending: &&Arc<Pending>| pending.ask.breakers.contains(breaker);
            (door.control.asks().filter(of_host).filter(held).cloned().collect(), breaker.clone())
        }
        (None, None, Some(host)) => (door.control.asks_of(host).cloned().collect(), host.to_string()),
        (None, None, None) => {
            let problem = "name the pending approval by its id, a breaker, or a host; `portcullis approvals` lists them";
            return Err(Reason::Incomplete { member: "decision".to_owned(), problem: problem.to_owned() });
        }
    };
    Ok(About { asks, named })
}
