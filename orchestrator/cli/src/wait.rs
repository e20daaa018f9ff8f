//! From a request to the host's own word: sends it, then reads the decision and the state that answer it.

use std::time::Duration;

use futures_util::StreamExt;
use portcullis_schemas::Stream;
use portcullis_schemas::envelope::Event;
use portcullis_schemas::events::{Decision, InputRef, Posture, Reason, Request, State, Verdict};
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, Follow, What};
use crate::failure::Failure;
use crate::screen::Screen;

/// What a request waits for.
pub struct Wanted<'a> {
    pub principal: &'a str,
    pub event: &'a Event<Request>,
    /// How the event is named in the decision that answers it.
    pub input: InputRef,
    pub posture: Posture,
    pub limit: Duration,
}

/// How it ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The host enforces it, and said so.
    Confirmed {
        generation: u64,
        ordered: Duration,
        enforced: Duration,
        state: Box<State>,
    },
    /// The host said that it cannot, or not wholly.
    Failed {
        generation: u64,
        ordered: Duration,
        error: String,
        state: Box<State>,
    },
    AlreadyOpen,
    Refused,
    Asked,
    /// Recorded, and nothing is ordered.
    NotDone,
    /// Ordered; no fitting word of the host in time.
    Unconfirmed {
        generation: u64,
        ordered: Duration,
        last: Option<Box<State>>,
    },
    /// No decision in time.
    Unanswered,
}

/// The end of the wait.
#[derive(Clone, Debug)]
pub struct Ended {
    pub outcome: Outcome,
    pub decision: Option<Decision>,
    /// By Ctrl-C.
    pub interrupted: bool,
}

/// What was heard so far.
struct Heard<'a> {
    wanted: &'a Wanted<'a>,
    decision: Option<(Duration, Decision)>,
    states: Vec<(Duration, State)>,
}

/// A host that reports without end does not fill the memory.
const MOST_STATES: usize = 1_024;
/// After this a person wants to know what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);

pub async fn send<C: Client>(client: &C, wanted: &Wanted<'_>, screen: &mut Screen) -> Result<Ended, Failure> {
    let host = wanted.event.data.host.clone();
    let follow = Follow { streams: vec![Stream::Decisions, Stream::States], host: host.clone(), since: None };
    let mut records = client.follow(&follow).await?;
    let start = Instant::now();
    // Whether it is stored the broker says within a time of its own.
    let stored = client.request(wanted.principal, wanted.event);
    let deadline = sleep_until(start + wanted.limit);
    let nudge = sleep_until(start + PATIENCE);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(deadline, nudge, stored, interrupt);
    let (mut is_stored, mut is_nudged) = (false, false);
    let mut heard = Heard { wanted, decision: None, states: Vec::new() };
    loop {
        tokio::select! {
            biased;
            sequence = &mut stored, if !is_stored => {
                sequence?;
                is_stored = true;
                deadline.as_mut().reset(Instant::now() + wanted.limit);
            }
            _ = &mut interrupt => {
                return if is_stored { Ok(heard.given_up(true)) } else { Err(Failure::Unstored("interrupted before it answered".into())) };
            }
            record = records.next() => match record {
                Some(record) => {
                    let decided = heard.decision.is_some();
                    heard.hear(record?.what, start.elapsed());
                    let joined = heard.decision.as_ref().is_some_and(|(_, decision)| matches!(decision.reason, Reason::Joined { .. }));
                    if let (false, true, Some(host)) = (decided, joined, &host) {
                        // The order was there before, so the host may have spoken before.
                        heard.states.extend(client.host(host).await?.state.map(|state| (start.elapsed(), state)));
                    }
                }
                None => return Err(Failure::Broker("it closed the connection".into())),
            },
            () = &mut deadline, if is_stored => return Ok(heard.given_up(false)),
            () = &mut nudge, if !is_nudged => {
                is_nudged = true;
                screen.progress(&heard.missing());
            }
        }
        if let Some(outcome) = heard.outcome() {
            let decision = heard.decision.map(|(_, decision)| decision);
            return Ok(Ended { outcome, decision, interrupted: false });
        }
    }
}

/// Sends a request that no host has to confirm, and waits for its decision. None: there was none in time.
pub async fn answer<C: Client>(
    client: &C,
    event: &Event<Request>,
    input: &InputRef,
    limit: Duration,
    screen: &mut Screen,
) -> Result<Option<Decision>, Failure> {
    let follow = Follow { streams: vec![Stream::Decisions], host: event.data.host.clone(), since: None };
    let mut records = client.follow(&follow).await?;
    client.request(&event.data.operator, event).await?;
    let deadline = sleep_until(Instant::now() + limit);
    let nudge = sleep_until(Instant::now() + PATIENCE);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(deadline, nudge, interrupt);
    let mut is_nudged = false;
    loop {
        tokio::select! {
            biased;
            _ = &mut interrupt => return Ok(None),
            record = records.next() => match record {
                Some(record) => match record?.what {
                    What::Decision(event) if event.data.input == *input => return Ok(Some(event.data)),
                    _ => {}
                },
                None => return Err(Failure::Broker("it closed the connection".into())),
            },
            () = &mut deadline => return Ok(None),
            () = &mut nudge, if !is_nudged => {
                is_nudged = true;
                screen.progress("stored; waiting for an orchestrator to decide …");
            }
        }
    }
}

impl Heard<'_> {
    fn hear(&mut self, what: What, after: Duration) {
        match what {
            // Of several decisions on one input the first stored counts.
            What::Decision(event) if self.decision.is_none() && event.data.input == self.wanted.input => {
                self.decision = Some((after, event.data));
            }
            What::State(event) => {
                if self.states.len() == MOST_STATES {
                    self.states.remove(0);
                }
                self.states.push((after, event.data));
            }
            _ => {}
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        let (ordered, decision) = self.decision.as_ref()?;
        let ordered = *ordered;
        match (decision.verdict, ordered_generation(decision)) {
            _ if matches!(decision.reason, Reason::AlreadyOpen) && self.wanted.posture == Posture::Open => {
                Some(Outcome::AlreadyOpen)
            }
            (Verdict::Refuse, _) => Some(Outcome::Refused),
            (Verdict::Ask, _) => Some(Outcome::Asked),
            (_, None) => Some(Outcome::NotDone),
            (_, Some(generation)) => {
                let (after, state) = self.states.iter().find(|(_, state)| self.answers(state, generation))?;
                let (enforced, error, state) = ((*after).max(ordered), state.error.clone(), Box::new(state.clone()));
                Some(match error {
                    Some(error) => Outcome::Failed { generation, ordered, error, state },
                    None => Outcome::Confirmed { generation, ordered, enforced, state },
                })
            }
        }
    }

    /// Is this the host's word on what was ordered? A later generation answers too, where its posture fits.
    fn answers(&self, state: &State, generation: u64) -> bool {
        if state.generation < generation {
            return false;
        }
        if state.error.is_some() {
            return state.generation == generation || state.posture != self.wanted.posture;
        }
        let proven = state.evidence.readback_ok || state.posture == Posture::Open;
        state.posture == self.wanted.posture && proven
    }

    fn given_up(self, interrupted: bool) -> Ended {
        let Some((ordered, decision)) = self.decision else {
            return Ended { outcome: Outcome::Unanswered, decision: None, interrupted };
        };
        let generation = ordered_generation(&decision).unwrap_or_default();
        let last = self.states.into_iter().next_back().map(|(_, state)| Box::new(state));
        Ended { outcome: Outcome::Unconfirmed { generation, ordered, last }, decision: Some(decision), interrupted }
    }

    fn missing(&self) -> String {
        match &self.decision {
            Some(_) => "ordered; waiting for the host to confirm …".into(),
            None => "stored; waiting for an orchestrator to decide …".into(),
        }
    }
}

fn ordered_generation(decision: &Decision) -> Option<u64> {
    match decision.reason {
        Reason::Joined { generation, .. } => Some(decision.generation.unwrap_or(generation)),
        _ => decision.generation,
    }
}
