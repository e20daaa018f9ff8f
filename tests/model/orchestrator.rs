//! An orchestrator of the model: the machine itself, and a shell that executes its commands one at a time, in any order, badly.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::Config;
use portcullis_core::machine::{Appended, Command, Event, Kept, Log, Machine, Now, Report, Ticket};
use portcullis_policy::Policy;
use portcullis_schemas::events::{InputKind, Inventory};
use portcullis_schemas::rejected::Malformed;
use portcullis_schemas::{HostId, Stream, Timestamp};

use crate::Defect;
use crate::broker::{ACK_WAIT, Answer, Broker, POISON, prefix};
use crate::chance::Chance;

pub struct Orchestrator {
    who: usize,
    pub up: bool,
    machine: Machine,
    /// Its clock began at this moment of the world, when the broker said this.
    began: (i64, Timestamp),
    /// Inputs below this lay in their stream when it started.
    started: usize,
    /// What it has followed of each stream.
    orders: usize,
    decisions: usize,
    states: usize,
    inventories: usize,
    hellos: usize,
    /// Commands that are not executed yet.
    commands: Vec<Command>,
    in_hand: BTreeSet<Ticket>,
}

impl Orchestrator {
    /// Rebuilt from the logs, as after any start.
    pub fn start(who: usize, broker: &Broker, policy: &Arc<Policy>, config: &Config) -> Self {
        let mut fresh = Self {
            who,
            up: true,
            machine: Machine::new(prefix(), config.clone(), format!("o{who} of step {}", broker.step)),
            began: (broker.now, broker.wall()),
            started: broker.inputs.len(),
            orders: broker.order_log.len(),
            decisions: broker.decisions.len(),
            states: broker.states.len(),
            inventories: broker.inventories.len(),
            hellos: broker.hellos.len(),
            commands: Vec::new(),
            in_hand: BTreeSet::new(),
        };
        // Of each host the last one, as after any start: older ones may be gone.
        let orders = broker.read(Log::Orders, 0);
        for (at, message) in orders.iter().enumerate() {
            if !orders[at + 1..].iter().any(|later| later.subject == message.subject) {
                fresh.hear(Event::Logged(Stream::Orders, message.clone()), broker);
            }
        }
        for (at, (inventory, _)) in broker.inventories.iter().enumerate() {
            let of_host = |later: &(Inventory, Timestamp)| later.0.hello.host == inventory.hello.host;
            if !broker.inventories[at + 1..].iter().any(of_host) {
                fresh.hear(Event::Logged(Stream::Inventory, broker.inventory(at)), broker);
            }
        }
        for mut message in broker.read(Log::Decisions, 0) {
            if broker.defect == Defect::ForgetsApprovals {
                let text = String::from_utf8_lossy(&message.body).into_owned();
                message.body = text.replace("\"effects\":[{\"kind\":\"approved\"", "\"effects\":[{\"kind\":\"resumed\"").into();
            }
            fresh.hear(Event::Logged(Stream::Decisions, message), broker);
        }
        fresh.hear(Event::Policy(Arc::clone(policy)), broker);
        let all_from = fresh.machine.states_from() as usize;
        for index in 0..broker.states.len() {
            let host = &broker.states[index].1.host;
            if index >= all_from || !broker.states[index + 1..].iter().any(|(_, later, ..)| later.host == *host) {
                fresh.hear(Event::Logged(Stream::States, broker.state(index)), broker);
            }
        }
        fresh
    }

    pub fn idle(&self, broker: &Broker) -> bool {
        let due = self.leads() && broker.inputs.iter().any(|message| !message.acked && message.next <= broker.now);
        let is_deaf = broker.defect == Defect::StaleReads;
        let behind = !is_deaf && (self.orders < broker.order_log.len() || self.decisions < broker.decisions.len())
            || self.states < broker.states.len()
            || self.inventories < broker.inventories.len()
            || self.hellos < broker.hellos.len();
        self.commands.is_empty() && !due && !behind && self.machine.next_wake() > self.now(broker).boot
    }

    /// Does one thing.
    pub fn step(&mut self, broker: &mut Broker, chance: &mut Chance) {
        if !self.commands.is_empty() && chance.percent(60) {
            let next = chance.below(self.commands.len() as u64) as usize;
            let command = self.commands.remove(next);
            return self.execute(command, broker, chance);
        }
        let is_deaf = broker.defect == Defect::StaleReads;
        match chance.below(8) {
            0 if self.orders < broker.order_log.len() && !is_deaf => {
                self.orders += 1;
                let message = broker.order_message(self.orders - 1);
                self.hear(Event::Logged(Stream::Orders, message), broker);
            }
            1 if self.states < broker.states.len() && self.machine.has_room(Stream::States) => {
                self.states += 1;
                self.hear(Event::Logged(Stream::States, broker.state(self.states - 1)), broker);
            }
            2 if self.inventories < broker.inventories.len() => {
                self.inventories += 1;
                self.hear(Event::Logged(Stream::Inventory, broker.inventory(self.inventories - 1)), broker);
            }
            3 if self.hellos < broker.hellos.len() => {
                self.hellos += 1;
                self.hear(Event::Hello(broker.hello(self.hellos - 1)), broker);
            }
            4 => self.hear(Event::Tick, broker),
            5 if self.decisions < broker.decisions.len() && !is_deaf => {
                self.decisions += 1;
                let message = broker.decision_message(self.decisions - 1);
                self.hear(Event::Logged(Stream::Decisions, message), broker);
            }
            // A key says who tries first; the logs say who is right.
            6 if broker.faults && !self.leads() && chance.percent(10) => self.hear(Event::Lead, broker),
            7 if self.machine.can_decide_ahead() => self.hear(Event::Idle, broker),
            _ if self.leads() => self.take(broker, chance),
            _ => {}
        }
    }

    /// Takes inputs that are due, some of them together. One that is in hand is renewed.
    fn take(&mut self, broker: &mut Broker, chance: &mut Chance) {
        let now = broker.now;
        let mut waiting: Vec<usize> =
            (0..broker.inputs.len()).filter(|index| !broker.inputs[*index].acked && broker.inputs[*index].next <= now).collect();
        let mut delivered = Vec::new();
        for _ in 0..1 + chance.below(4) {
            if waiting.is_empty() {
                break;
            }
            let index = waiting.remove(chance.below(waiting.len() as u64) as usize);
            let ticket = broker.ticket(index);
            broker.inputs[index].next = now + ACK_WAIT;
            if broker.inputs[index].removed {
                self.find_gap(ticket, broker);
                continue;
            }
            if !self.machine.has_room(ticket.stream) || !self.in_hand.insert(ticket) {
                continue;
            }
            broker.inputs[index].delivered += 1;
            broker.say(|| format!("o{} received {index}", self.who));
            if broker.defect == Defect::AckFirst {
                broker.inputs[index].acked = true;
            }
            delivered.push(broker.delivered(index, index < self.started));
        }
        self.hear(Event::Delivered(delivered), broker);
    }

    /// What was removed is told until its loss is stored, where nobody answered it before.
    fn find_gap(&mut self, ticket: Ticket, broker: &mut Broker) {
        let (index, sequence) = (ticket.sequence as usize - 1, ticket.sequence);
        let is_about = |answer: &Answer| answer.input.kind == InputKind::Detection && answer.sequence == Some(sequence);
        let is_answered = broker.answers.iter().any(is_about);
        if is_answered || broker.lost.contains(&index) || broker.rejected.contains(&index) || broker.defect == Defect::PassesGaps
        {
            broker.inputs[index].acked = true;
        } else if self.in_hand.insert(ticket) {
            self.hear(Event::Lost { stream: ticket.stream, first: sequence, last: sequence }, broker);
        }
    }

    /// Tries to lead where nobody else does.
    pub fn lead(&mut self, broker: &mut Broker) {
        self.hear(Event::Lead, broker);
    }

    pub fn leads(&self) -> bool {
        self.machine.is_leading()
    }

    /// Another policy was read.
    pub fn reload(&mut self, policy: &Arc<Policy>, broker: &Broker) {
        self.hear(Event::Policy(Arc::clone(policy)), broker);
    }

    fn hear(&mut self, event: Event, broker: &Broker) {
        self.machine.handle(event, self.now(broker));
        while let Some(command) = self.machine.next_command() {
            match command {
                // It ends as it reads this, and nothing of what it was about is done.
                Command::Report(Report::Faults { id, .. }) if id.starts_with(POISON) => {
                    broker.say(|| format!("o{} is ended by {id}", self.who));
                    self.up = false;
                }
                Command::Report(_) => {}
                command => self.commands.push(command),
            }
        }
        if !self.up {
            self.commands.clear();
        }
    }

    fn execute(&mut self, command: Command, broker: &mut Broker, chance: &mut Chance) {
        let fails = broker.faults && chance.percent(4);
        match command {
            Command::Append { number, log, messages, expected } => {
                let appended = if broker.defect == Defect::PageBeforeOrder && log == Log::Orders && self.leads() {
                    broker.late.push((self.who, log, messages, expected));
                    Appended::Stored
                } else if fails && chance.percent(50) {
                    // It lies in a buffer, and may come late.
                    broker.late.push((self.who, log, messages, expected));
                    Appended::Unclear("no answer".into())
                } else if !fails && broker.append(self.who, log, &messages, expected) && !self.unanswered(log, broker, chance) {
                    Appended::Stored
                } else {
                    Appended::Unclear("refused, or its answer was lost".into())
                };
                self.hear(Event::Appended(number, appended), broker);
            }
            Command::Read { number, log, after } => {
                let read = match broker.defect {
                    Defect::StaleReads => Ok(Vec::new()),
                    _ if fails => Err("no answer".to_owned()),
                    _ => Ok(broker.read(log, after as usize)),
                };
                self.hear(Event::Read(number, read), broker);
            }
            Command::Mark(ticket) => {
                let begun = broker.marks.get(&ticket).copied().unwrap_or(0);
                let marked = if fails { Err("no answer".to_owned()) } else { Ok(begun) };
                if marked.is_ok() && broker.defect != Defect::ForgetsAttempts {
                    broker.marks.insert(ticket, begun + 1);
                }
                self.hear(Event::Marked(ticket, marked), broker);
            }
            Command::Ack(tickets) => {
                for ticket in tickets {
                    self.in_hand.remove(&ticket);
                    broker.marks.remove(&ticket);
                    // A lost acknowledgement only means that it comes again.
                    if !fails || chance.percent(50) {
                        broker.inputs[ticket.sequence as usize - 1].acked = true;
                    }
                }
            }
            Command::Defer(ticket, delay) => {
                self.in_hand.remove(&ticket);
                broker.marks.remove(&ticket);
                broker.inputs[ticket.sequence as usize - 1].next = broker.now + delay.as_millis() as i64;
            }
            Command::Reject { number, why, stored, .. } => {
                // Whoever was alone with an input as it died may not have died by it: it is kept all the same.
                match stored.filter(|ticket| matches!(why, Malformed::Poison(_)) && broker.marks.contains_key(ticket)) {
                    Some(ticket) => drop(broker.rejected.insert(ticket.sequence as usize - 1)),
                    None => broker.violated(format!("(e) an input was rejected: {why}")),
                }
                self.hear(Event::Kept(number, Kept::Stored), broker);
            }
            Command::Fetch(_) if broker.defect == Defect::LosesText => {}
            Command::Fetch(ticket) => {
                let index = ticket.sequence as usize - 1;
                let text = match fails {
                    true => Err("no answer".to_owned()),
                    false => Ok((!broker.inputs[index].removed).then(|| broker.delivered(index, true).message)),
                };
                self.hear(Event::Fetched(ticket, text), broker);
            }
            Command::FetchPolicy(hash) => {
                let text = if fails { Err("no answer".to_owned()) } else { Ok(broker.policies.get(&hash).cloned()) };
                self.hear(Event::PolicyFetched(hash, text), broker);
            }
            Command::StepDown => self.in_hand.clear(),
            Command::StoreInventories(messages) => {
                let stored = if fails { Err("no answer".to_owned()) } else { Ok(()) };
                if broker.defect == Defect::UnstoredNames {
                    for message in &messages {
                        broker.store_inventory(&message.body);
                        let message = broker.inventory(broker.inventories.len() - 1);
                        broker.inventories.pop();
                        self.hear(Event::Logged(Stream::Inventory, message), broker);
                    }
                } else if stored.is_ok() || chance.percent(30) {
                    messages.iter().for_each(|message| broker.store_inventory(&message.body));
                }
                self.hear(Event::InventoriesStored(stored), broker);
            }
            Command::ReleaseDue { host, generation, body, .. } => match broker.faults && chance.percent(15) {
                true => self.hear(Event::ReleaseRefused(host, generation), broker),
                false => broker.release_due(&body),
            },
            Command::Notify(_) | Command::Begin | Command::Report(_) => {}
        }
    }

    /// Whether the answer to an append is lost. Where a known defect stored another order, it is found by reading on.
    fn unanswered(&self, log: Log, broker: &Broker, chance: &mut Chance) -> bool {
        broker.defect == Defect::NoMemory && log == Log::Orders || broker.faults && chance.percent(10)
    }

    /// Its own clocks; with a known defect, the one is moved by a step of the wall clock.
    fn now(&self, broker: &Broker) -> Now {
        let passed = broker.now - self.began.0;
        let step = if broker.defect == Defect::WallClock { broker.machine } else { 0 };
        Now {
            boot: Duration::from_millis((passed + step).max(0) as u64),
            broker: self.began.1 + chrono::TimeDelta::milliseconds(passed),
        }
    }

    pub fn generation(&self, host: &HostId) -> u64 {
        self.machine.fleet().host(host).map_or(0, |host| host.ordered())
    }
}
