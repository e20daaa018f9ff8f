//! An orchestrator of the model: the shell's order of steps around the core, one at a time, so that it can die after each.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use portcullis_core::deadlines::Deadlines;
use portcullis_core::policy::Policy;
use portcullis_core::{Config, Fleet, Input, Meta, Outcome, decide};
use portcullis_schemas::events::{InputKind, InputRef, ReleaseDue};
use portcullis_schemas::{HostId, Timestamp};

use crate::Defect;
use crate::broker::{ACK_WAIT, Broker, encode, meta};
use crate::chance::Chance;

pub struct Orchestrator {
    who: usize,
    pub up: bool,
    fleet: Fleet,
    recent: HashSet<String>,
    deadlines: Deadlines,
    /// Its clock began at this moment of the world, when the broker said this.
    began: (i64, Timestamp),
    orders: usize,
    decisions: usize,
    states: VecDeque<usize>,
    followed: usize,
    hellos: usize,
    work: Option<Work>,
}

/// One input on its way: received, decided, order stored, decision stored, acknowledged.
struct Work {
    input: Input,
    message: Option<usize>,
    step: Step,
}

enum Step {
    Received,
    Decided(Box<Outcome>),
    Ordered(Box<Outcome>),
    Recorded,
}

impl Orchestrator {
    /// Rebuilt from the logs, as after any start.
    pub fn start(who: usize, broker: &Broker) -> Self {
        let mut fresh = Self {
            who,
            up: true,
            fleet: Fleet::default(),
            recent: HashSet::new(),
            deadlines: Deadlines::default(),
            began: (broker.now, broker.wall()),
            orders: 0,
            decisions: 0,
            states: VecDeque::new(),
            followed: broker.states.len(),
            hellos: broker.hellos.len(),
            work: None,
        };
        for (inventory, at) in &broker.inventories {
            fresh.fleet.take_inventory(inventory.clone(), *at);
        }
        fresh.read_orders(broker);
        fresh.read_decisions(broker);
        for (index, (_, state, ..)) in broker.states.iter().enumerate() {
            if !broker.states[index + 1..].iter().any(|(_, later, ..)| later.host == state.host) {
                fresh.states.push_back(index);
            }
        }
        fresh
    }

    pub fn idle(&self, broker: &Broker) -> bool {
        let due = broker.inputs.iter().any(|message| !message.acked && message.next <= broker.now);
        let behind =
            self.orders < broker.orders.len() || self.followed < broker.states.len() || self.hellos < broker.hellos.len();
        let said = self.deadlines.next().is_some_and(|next| next <= self.clock(broker));
        self.work.is_none() && self.states.is_empty() && !due && !behind && !said
    }

    /// Does one thing.
    pub fn step(&mut self, broker: &mut Broker, policy: &Policy, config: &Config, chance: &mut Chance) {
        match self.work.take() {
            Some(work) => self.work = self.go_on(work, broker, policy, config, chance),
            None => self.listen(broker, chance),
        }
    }

    fn listen(&mut self, broker: &mut Broker, chance: &mut Chance) {
        match chance.below(5) {
            0 => self.follow_order(broker),
            1 => self.follow_state(broker),
            2 => self.sweep(broker, chance),
            3 if self.hellos < broker.hellos.len() => {
                let (key, hello, at) = broker.hellos[self.hellos].clone();
                self.hellos += 1;
                self.fleet.hear(&hello, at);
                let input = Input::Hello(Meta { input: key, at, correlation: None, faults: Vec::new() }, hello);
                self.work = Some(Work { input, message: None, step: Step::Received });
            }
            _ => {
                let now = broker.now;
                let waiting: Vec<usize> = (0..broker.inputs.len())
                    .filter(|index| !broker.inputs[*index].acked && broker.inputs[*index].next <= now)
                    .collect();
                if !waiting.is_empty() {
                    let index = waiting[chance.below(waiting.len() as u64) as usize];
                    broker.inputs[index].next = now + ACK_WAIT;
                    broker.inputs[index].delivered += 1;
                    // It came before: another orchestrator may have answered it since the tail was read.
                    if broker.inputs[index].delivered > 1 && broker.defect != Defect::StaleDecisions {
                        self.read_decisions(broker);
                    }
                    broker.say(|| format!("o{} received {index}", self.who));
                    let input = broker.inputs[index].input.clone();
                    self.work = Some(Work { input, message: Some(index), step: Step::Received });
                }
            }
        }
    }

    fn go_on(&mut self, work: Work, broker: &mut Broker, policy: &Policy, config: &Config, chance: &mut Chance) -> Option<Work> {
        let Work { input, message, step } = work;
        let key = meta(&input).input.clone();
        let answered = message.is_some() || matches!(input, Input::State(..));
        let next = match step {
            Step::Received if answered && self.recent.contains(&key.hash()) => Step::Recorded,
            Step::Received => {
                let outcome = decide(&self.fleet, Some(policy), config, &self.with_rest(&input, broker));
                if let Some(wait) = outcome.again_in {
                    let index = message.expect("only what was delivered can come again");
                    broker.inputs[index].next = broker.now + wait.as_millis() as i64;
                    return None;
                }
                Step::Decided(Box::new(outcome))
            }
            Step::Decided(outcome) => self.store_order(outcome, broker, chance),
            Step::Ordered(outcome) => self.store_decision(outcome, &key, broker),
            Step::Recorded => {
                // A lost acknowledgement only means that it comes again.
                if let Some(index) = message.filter(|_| !chance.percent(5)) {
                    broker.inputs[index].acked = true;
                }
                return None;
            }
        };
        Some(Work { input, message, step: next })
    }

    fn store_order(&mut self, outcome: Box<Outcome>, broker: &mut Broker, chance: &mut Chance) -> Step {
        let Some(order) = &outcome.order else {
            // What orders nothing is no compare-and-set: it holds only if all orders up to now were known.
            if self.orders < broker.orders.len() && broker.defect != Defect::StaleDecisions {
                self.read_orders(broker);
                return Step::Received;
            }
            return Step::Ordered(outcome);
        };
        let sha256 = encode(order);
        if !broker.append_order(self.who, order, sha256.clone(), self.orders) {
            self.read_orders(broker);
            return Step::Received;
        }
        // The acknowledgement may be lost: then it is found by reading on.
        if chance.percent(90) && broker.defect != Defect::NoCompareAndSet {
            self.deadlines.follow(order, self.clock(broker), None);
            self.take_order(order.clone(), sha256, broker);
            self.orders += 1;
        } else {
            self.read_orders(broker);
        }
        Step::Ordered(outcome)
    }

    fn store_decision(&mut self, outcome: Box<Outcome>, key: &InputRef, broker: &mut Broker) -> Step {
        let Some(decision) = &outcome.decision else { return Step::Recorded };
        if broker.append_decision(self.who, decision, self.decisions) {
            self.read_decisions(broker);
            return Step::Recorded;
        }
        self.read_decisions(broker);
        match (self.recent.contains(&key.hash()), &outcome.order) {
            (true, _) => Step::Recorded,
            (false, None) if broker.defect != Defect::StaleDecisions => Step::Received,
            _ => Step::Ordered(outcome),
        }
    }

    fn follow_order(&mut self, broker: &Broker) {
        if let Some(stored) = broker.orders.get(self.orders) {
            let carried = self.began.1 + chrono::TimeDelta::milliseconds(broker.now - self.began.0);
            self.deadlines.follow(&stored.order, self.clock(broker), Some(carried));
            self.take_order(stored.order.clone(), stored.sha256.clone(), broker);
            self.orders += 1;
        }
    }

    fn take_order(&mut self, mut order: portcullis_schemas::events::Order, sha256: String, broker: &Broker) {
        if broker.defect == Defect::NoMemory {
            order.settled.clear();
        }
        self.fleet.take_order(order, sha256);
    }

    fn follow_state(&mut self, broker: &Broker) {
        self.states.extend(self.followed..broker.states.len());
        self.followed = broker.states.len();
        let Some(index) = self.states.pop_front() else { return };
        let (key, state, at, _) = broker.states[index].clone();
        self.fleet.take_state(state.clone(), at);
        let input = Input::State(Meta { input: key, at, correlation: None, faults: Vec::new() }, state);
        self.work = Some(Work { input, message: None, step: Step::Received });
    }

    fn sweep(&mut self, broker: &mut Broker, chance: &mut Chance) {
        let now = self.clock(broker);
        for due in self.deadlines.due(now) {
            if chance.percent(15) {
                self.deadlines.again(&due.host, due.generation, now + Duration::from_secs(1));
                continue;
            }
            let id = portcullis_schemas::ids::digest(["release-due", due.host.as_str(), &due.generation.to_string()]);
            let key = InputRef { kind: InputKind::ReleaseDue, token: due.host.to_string(), source: "/scheduler".into(), id };
            let meta = Meta { input: key, at: broker.wall(), correlation: None, faults: Vec::new() };
            let due = ReleaseDue { host: due.host, generation: due.generation, due_at: due.due_at };
            broker.put(Input::ReleaseDue { meta, due, rest: None }, 0);
        }
    }

    fn with_rest(&self, input: &Input, broker: &Broker) -> Input {
        match input {
            Input::ReleaseDue { meta, due, .. } => {
                let rest = self.deadlines.rest(&due.host, due.generation, self.clock(broker));
                Input::ReleaseDue { meta: meta.clone(), due: due.clone(), rest }
            }
            other => other.clone(),
        }
    }

    fn read_orders(&mut self, broker: &Broker) {
        while self.orders < broker.orders.len() {
            self.follow_order(broker);
        }
    }

    fn read_decisions(&mut self, broker: &Broker) {
        self.recent.extend(broker.decisions[self.decisions..].iter().map(|decision| decision.input.hash()));
        self.decisions = broker.decisions.len();
    }

    /// Its own clock; with a known defect, one that a step of the wall clock moves.
    fn clock(&self, broker: &Broker) -> Duration {
        let step = if broker.defect == Defect::WallClock { broker.machine } else { 0 };
        Duration::from_millis((broker.now - self.began.0 + step).max(0) as u64)
    }

    pub fn generation(&self, host: &HostId) -> u64 {
        self.fleet.host(host).map_or(0, |host| host.ordered())
    }
}
