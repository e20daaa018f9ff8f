//! The door: one input in, a decision with its facts out, and an order where the host's wanted state changes.

mod approval;
mod asked;
mod asking;
mod breaker;
mod detection;
mod held;
mod limits;
mod own;
mod pause;
mod policy;
mod report;
mod request;
mod words;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use portcullis_schemas::events::{
    Action, Decision, Detection, Doubtful, Facts, Hello, InputKind, InputRef, LastIsolation, Notice, NoticeKind, Order, Origin,
    Posture, Reason, ReleaseDue, Request, Severity, State, Verdict, WaitEnd,
};
use portcullis_schemas::{HostId, Timestamp};

use crate::control::{Control, Pending};
use crate::fleet::{Fleet, Host};
use crate::isolation::{self, Event, Making, Stays};
use crate::settled;
use crate::waiting::Wait;
pub use breaker::resets_by_itself;
pub use policy::PolicyText;
pub(crate) use policy::{notice as policy_notice, wants_text};
use portcullis_policy::Policy;
use portcullis_policy::Terms;

/// What the orchestrator's configuration lays down, beside the policy.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Hosts that are never isolated automatically, with what they are: `broker`, `orchestrator`.
    pub protected: BTreeMap<HostId, String>,
}

/// Whose input it is, and when it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    pub input: InputRef,
    /// The broker's time stamp of the message: the `now` of every rule, so that a retry and a replay decide alike.
    pub at: Timestamp,
    pub correlation: Option<String>,
    /// What could not be read in it and decides nothing; it stands in the facts.
    pub faults: Vec<String>,
}

/// Everything that can change a host's order.
#[derive(Clone, Debug)]
pub enum Input {
    Detection(Meta, Detection),
    /// A detection whose host could be read, and something else that decides could not.
    Doubtful(Meta, Doubtful),
    Request {
        meta: Meta,
        /// The host in the subject.
        host: String,
        request: Request,
    },
    /// A request to activate a policy, whose text was read.
    Activate {
        meta: Meta,
        host: String,
        request: Request,
        text: PolicyText,
        /// The hash of the policy that is active by the log.
        active: Option<String>,
    },
    ReleaseDue {
        meta: Meta,
        due: ReleaseDue,
        /// What is left of the deadline by the scheduler's clock; None where it waits for no such generation.
        rest: Option<Duration>,
    },
    /// A stored state event that the fleet has taken already.
    State(Meta, State),
    /// A heartbeat, which no stream keeps: it makes notices only.
    Hello(Meta, Hello),
    /// A stored inventory that the fleet has taken already.
    Inventory(Meta, Hello),
    /// A detection waits no longer for its host.
    Over(Meta, Over),
    /// A pending approval is answered, or is no longer waited for.
    Asked(Arc<Pending>),
    /// The time of the pause is over.
    PauseOver(Meta),
    /// A breaker is to be reset without an operator.
    BreakerOver(Meta, String),
    InputsLost {
        meta: Meta,
        first: u64,
        last: u64,
    },
}

/// The end of a wait.
#[derive(Clone, Debug)]
pub struct Over {
    /// Of the detection.
    pub sequence: u64,
    pub wait: Wait,
    pub end: WaitEnd,
}

/// What follows from an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub order: Option<Order>,
    /// None only for what is an observation and changes nothing (hello, state), and for what is too early.
    pub decision: Option<Decision>,
    pub notices: Vec<Notice>,
    /// Not now: the input is to come again after this long.
    pub again_in: Option<Duration>,
}

impl Outcome {
    /// The same for an input that waited for its host.
    pub(crate) fn after_a_wait(mut self) -> Self {
        if let Some(decision) = &mut self.decision {
            decision.waited = true;
        }
        self
    }
}

/// What decides beside the input. All of it follows from the logs.
#[derive(Clone, Copy)]
pub struct Basis<'a> {
    pub fleet: &'a Fleet,
    pub control: &'a Control,
    pub policy: Option<&'a Policy>,
    pub config: &'a Config,
    /// When the term of the leader began; None where there is none yet.
    pub leader_since: Option<Timestamp>,
}

/// Decides one input. Pure: nothing is changed; the fleet takes the order when it is stored.
pub fn decide(basis: Basis<'_>, input: &Input) -> Outcome {
    let door = Door { basis, terms: Terms::of(basis.policy) };
    match input {
        Input::Detection(meta, detection) => {
            let mut outcome = of_sender(detection::decide(door, meta, detection), detection.incident.as_deref());
            if let (Some(decision), Some(retracted)) = (&mut outcome.decision, &detection.retracts) {
                decision.retracts = Some(detection::retracted(meta, retracted).hash());
            }
            outcome
        }
        Input::Doubtful(meta, doubtful) => of_sender(detection::doubtful(door, meta, doubtful), doubtful.incident.as_deref()),
        Input::Request { meta, host, request } if request.action == Action::ActivatePolicy => {
            policy::without_text(door, meta, host, request)
        }
        Input::Request { meta, host, request } => {
            of_sender(request::decide(door, meta, host, request), request.incident.as_deref())
        }
        Input::Activate { meta, host, request, text, active } => {
            policy::activate(door, meta, host, request, text, active.as_deref())
        }
        Input::ReleaseDue { meta, due, rest } => release_due(door, meta, due, *rest),
        Input::State(meta, state) => report::state(door, meta, state),
        Input::Hello(meta, hello) => report::hello(door, meta, hello),
        Input::Inventory(meta, hello) => report::inventory(door, meta, hello),
        Input::Over(meta, over) => detection::over(door, meta, over).after_a_wait(),
        Input::Asked(pending) => asked::decide(door, pending),
        Input::PauseOver(meta) => pause::over(door, meta),
        Input::BreakerOver(meta, breaker) => breaker::over(door, meta, breaker),
        Input::InputsLost { meta, first, last } => {
            let reason = Reason::InputsLost { first: *first, last: *last };
            let text = format!(
                "{} inputs were removed from the stream {} before they were read: sequences {first} to {last}",
                last - first + 1,
                meta.input.source
            );
            let mut outcome = door.answer(meta, None, Verdict::Refuse, reason);
            outcome.notices.push(Notice {
                kind: NoticeKind::InputsLost,
                severity: Severity::High,
                host: None,
                incident: None,
                text,
                outputs: Vec::new(),
            });
            outcome
        }
    }
}

fn release_due(door: Door<'_>, meta: &Meta, due: &ReleaseDue, rest: Option<Duration>) -> Outcome {
    let Some(host) = door.fleet.host(&due.host) else {
        return door.unknown(meta, due.host.as_str());
    };
    if let Some(outcome) = door.settled(meta, &due.host, host) {
        return outcome;
    }
    let stands =
        host.order.as_deref().is_some_and(|order| order.generation == due.generation && isolation::next_end(order).is_some());
    if !stands {
        let reason = Reason::StaleGeneration { due: due.generation, ordered: host.ordered() };
        return door.answer(meta, Some(&due.host), Verdict::Ignore, reason);
    }
    match rest {
        Some(rest) if !rest.is_zero() => Outcome { again_in: Some(rest), ..Outcome::default() },
        // The log of orders is ahead of the scheduler's view by a moment at most.
        None => Outcome { again_in: Some(Duration::from_millis(100)), ..Outcome::default() },
        Some(_) => {
            let opens = host.order.as_deref().is_some_and(|order| isolation::next_end(order) == order.release_at);
            let (verdict, words) = match opens {
                true => (Verdict::Release, "the deadline came"),
                false => (Verdict::Isolate, "the manual isolation ended, and a rule holds the host on"),
            };
            door.order(meta, &due.host, &Event::Due, verdict, Reason::Deadline { generation: due.generation }, words)
        }
    }
}

/// What a decision is made from.
#[derive(Clone, Copy)]
struct Door<'a> {
    basis: Basis<'a>,
    terms: &'a Terms,
}

impl<'a> Deref for Door<'a> {
    type Target = Basis<'a>;

    fn deref(&self) -> &Self::Target {
        &self.basis
    }
}

impl Door<'_> {
    /// A decision that orders nothing.
    fn answer(&self, meta: &Meta, host: Option<&HostId>, verdict: Verdict, reason: Reason) -> Outcome {
        let known = host.and_then(|id| self.fleet.host(id));
        let facts = self.facts(meta, known);
        let decision = Decision {
            host: host.cloned(),
            incident: known.and_then(Host::incident).or_else(|| meta.correlation.clone()),
            ..Decision::new(meta.input.clone(), verdict, reason, facts)
        };
        Outcome { decision: Some(decision), ..Outcome::default() }
    }

    /// A decision with its order, or without one where the table says that nothing changes.
    fn order(&self, meta: &Meta, id: &HostId, event: &Event<'_>, verdict: Verdict, reason: Reason, words: &str) -> Outcome {
        let host = self.fleet.host(id);
        let standing = host.and_then(|host| host.order.as_deref());
        let passing = |origin, rules: &[&str]| match (host, origin) {
            (Some(host), Origin::Manual) => own::own_list(*self, id, host, rules).into_owned(),
            (Some(host), Origin::Automatic) => own::defaults(*self, id, host, origin, rules),
            (None, _) => Vec::new(),
        };
        let making = Making {
            host: id,
            input: &meta.input,
            at: meta.at,
            generation: host.map_or(1, Host::next_generation),
            reason: words,
            passing: &passing,
            joins: self.control.joins_of(id),
            when_unreachable: self.terms.when_unreachable,
            local_release: self.terms.local_release,
        };
        let generation = standing.map_or(0, |order| order.generation);
        match isolation::next(standing, event, making) {
            Ok(mut order) => {
                order.prev = self.fleet.prev().to_owned();
                order.last_isolation = last_isolation(standing, &order);
                if let Err(bytes) = limits::fit(&mut order) {
                    let reason = Reason::OrderTooLarge { bytes, limit: limits::MAX_BYTES };
                    return self.answer(meta, Some(id), Verdict::Refuse, reason);
                }
                let mut outcome = self.answer(meta, Some(id), verdict, reason);
                if let Some(decision) = &mut outcome.decision {
                    decision.generation = Some(order.generation);
                    decision.incident = Some(order.incident.clone());
                }
                outcome.notices.extend(changed(standing, &order));
                outcome.order = Some(order);
                outcome
            }
            Err(Stays::Joined { until }) => self.answer(meta, Some(id), verdict, Reason::Joined { generation, until }),
            Err(Stays::TooManyHolds) => {
                let reason = Reason::TooManyHolds { limit: portcullis_schemas::events::MAX_HOLDS as u64 };
                self.answer(meta, Some(id), Verdict::Observe, reason)
            }
            Err(Stays::NotIsolated) => self.answer(meta, Some(id), Verdict::Refuse, Reason::NotIsolated),
            Err(Stays::TooLong) => {
                let reason = Reason::TooLong { limit: self.terms.max_isolation.to_string() };
                self.answer(meta, Some(id), Verdict::Refuse, reason)
            }
            Err(Stays::NotAlone) => self.answer(meta, Some(id), Verdict::Ask, Reason::RetractionNotAlone),
            Err(Stays::Nothing) => self.answer(meta, Some(id), Verdict::Ignore, Reason::NothingToRetract),
        }
    }

    /// The answer to an input that has had its effect on this host already: the same verdict again, and no second order.
    fn settled(&self, meta: &Meta, id: &HostId, host: &Host) -> Option<Outcome> {
        let entry = settled::find(host.order.as_deref(), &meta.input)?;
        let verdict = match (meta.input.kind, entry.generation) {
            (_, None) => Verdict::Ignore,
            (InputKind::ReleaseDue, Some(_)) => Verdict::Release,
            (_, Some(made)) => {
                // Only the order that it made says which of the two it was; where a later one stands, the input's own kind must do.
                let standing = host.order.as_deref().filter(|order| order.generation == made);
                match standing.map(|order| order.posture) {
                    Some(Posture::Open) => Verdict::Release,
                    _ if meta.input.kind == InputKind::Detection => Verdict::Isolate,
                    Some(Posture::Isolated) => Verdict::Isolate,
                    None => Verdict::Observe,
                }
            }
        };
        let mut outcome = self.answer(meta, Some(id), verdict, Reason::Settled);
        if let Some(decision) = &mut outcome.decision {
            decision.generation = entry.generation;
        }
        Some(outcome)
    }

    fn unknown(&self, meta: &Meta, wanted: &str) -> Outcome {
        let reason =
            Reason::Unresolved { wanted: wanted.chars().take(400).collect(), candidates: Vec::new(), waits: None, ended: None };
        let verdict = if meta.input.kind == InputKind::Request { Verdict::Refuse } else { Verdict::Ask };
        self.answer(meta, None, verdict, reason)
    }

    fn facts(&self, meta: &Meta, host: Option<&Host>) -> Facts {
        let inventory = host.and_then(|host| host.inventory.as_deref());
        let hello = inventory.map(|inventory| &inventory.hello);
        Facts {
            labels: inventory.map(|inventory| inventory.labels().into_owned()).unwrap_or_default(),
            roles: hello.map(|hello| hello.roles.clone()).unwrap_or_default(),
            status: host.map(|host| host.status(meta.at).to_string()),
            level: hello.map(|hello| hello.level),
            counts: self.fleet.counts(),
            policy: self.policy.map(|policy| policy.hash().to_owned()),
            input_faults: meta.faults.clone(),
            now: Some(meta.at),
            seen: None,
        }
    }
}

/// The incident: the sender's, else the envelope's. A sender's text becomes an attribute of events, which holds no
/// control characters and is not empty: a line break at its end is no reason to leave a host open.
fn incident_of(meta: &Meta, given: Option<&str>) -> Option<String> {
    named(given).or_else(|| meta.correlation.clone())
}

/// The same, else the id of the input.
fn incident(meta: &Meta, given: Option<&str>) -> String {
    incident_of(meta, given).unwrap_or_else(|| meta.input.id.clone())
}

fn named(incident: Option<&str>) -> Option<String> {
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(256).collect::<String>().trim().to_owned();
    incident.map(clean).filter(|text| !text.is_empty())
}

/// A decision that belongs to no incident of the host is the sender's.
fn of_sender(mut outcome: Outcome, given: Option<&str>) -> Outcome {
    if let Some(decision) = &mut outcome.decision
        && decision.generation.is_none()
        && decision.incident.is_none()
    {
        decision.incident = named(given);
    }
    outcome
}

/// How the host was isolated last, as of this order.
fn last_isolation(standing: Option<&Order>, order: &Order) -> Option<LastIsolation> {
    let was_isolated = standing.is_some_and(|order| order.posture == Posture::Isolated);
    if was_isolated || order.posture == Posture::Open {
        return standing.and_then(|order| order.last_isolation.clone());
    }
    let by_policy = order.issued_by.kind == InputKind::Detection && order.holds.iter().any(|hold| hold.rule.is_some());
    let source = by_policy.then(|| order.issued_by.token.clone());
    Some(LastIsolation { at: order.issued_at, source })
}

/// The notice of a change between open and isolated.
fn changed(standing: Option<&Order>, order: &Order) -> Option<Notice> {
    let was = standing.map_or(Posture::Open, |order| order.posture);
    let (kind, severity) = match (was, order.posture) {
        (Posture::Open, Posture::Isolated) => (NoticeKind::Isolated, Severity::High),
        (Posture::Isolated, Posture::Open) => (NoticeKind::Released, Severity::Informational),
        _ => return None,
    };
    let what = match order.posture {
        Posture::Isolated => "is to be isolated",
        Posture::Open => "is to be opened",
    };
    let by_hand = order.holds.iter().any(|hold| hold.origin == Origin::Manual);
    let text = format!("{} {what} ({}{})", order.host, order.reason, if by_hand { ", manual" } else { "" });
    Some(Notice {
        kind,
        severity,
        host: Some(order.host.clone()),
        incident: Some(order.incident.clone()),
        text,
        outputs: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
