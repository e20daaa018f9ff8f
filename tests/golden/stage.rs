//! The machine with its broker, and what a line of a story does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::Config;
use portcullis_core::machine::{Event, Machine, Ticket};
use portcullis_core::replay::{Recording, replay};
use portcullis_policy::Policy;
use portcullis_schemas::events::{Detection, Effect, Hello, InputKind, InputRef, Payload, Posture, Request, State, StateCause};
use portcullis_schemas::{HostId, Stream};
use serde_json::{Value, json};

use crate::broker::{Broker, event, prefix};
use crate::input::{Line, monday};
use crate::tell::Teller;

/// Agents say a word so often.
const HEARTBEAT: Duration = Duration::from_secs(30);

pub struct Stage {
    broker: Broker,
    machine: Machine,
    policy: Arc<Policy>,
    /// Hosts with an agent that can be heard, and what it says of itself.
    agents: BTreeMap<HostId, Hello>,
    silent: BTreeSet<HostId>,
    heartbeat: Duration,
    teller: Teller,
    /// Inputs by the names that the story gives them.
    inputs: BTreeMap<String, InputRef>,
    leaders: usize,
}

impl Stage {
    pub fn new(policy: &str) -> Result<Self, String> {
        let policy =
            Policy::parse(policy).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        let mut stage = Self {
            broker: Broker::default(),
            machine: Machine::new(prefix(), Config::default(), String::new()),
            policy: Arc::new(policy),
            agents: BTreeMap::new(),
            silent: BTreeSet::new(),
            heartbeat: HEARTBEAT,
            teller: Teller::default(),
            inputs: BTreeMap::new(),
            leaders: 0,
        };
        stage.lead();
        stage.teller.news(&stage.broker, &stage.inputs);
        Ok(stage)
    }

    /// Lets the time pass up to a line and does what it says: what came of the time, and of the line.
    pub fn play(&mut self, text: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let line = Line::read(text)?;
        let at = (line.at - monday()).to_std().map_err(|error| error.to_string())?;
        if at < self.broker.clock {
            return Err("it is earlier than the line before it".into());
        }
        let mut before = Vec::new();
        while self.broker.clock < at {
            self.pass(at);
            let clock = self.broker.now().broker.format("%a %H:%M:%S").to_string();
            before.extend(self.teller.news(&self.broker, &self.inputs).into_iter().map(|news| format!("{clock} {news}")));
        }
        self.act(&line)?;
        Ok((before, self.teller.news(&self.broker, &self.inputs)))
    }

    /// What the logs give when they are decided again.
    pub fn differences(&self) -> Vec<String> {
        let recording = Recording {
            prefix: prefix(),
            streams: self.broker.streams.clone(),
            policies: [(self.policy.hash().to_owned(), Arc::clone(&self.policy))].into(),
        };
        replay(&recording).differences.iter().map(|difference| format!("{difference:?}")).collect()
    }

    /// Goes on to whatever comes first, and not behind `until`.
    fn pass(&mut self, until: Duration) {
        let next = [Some(self.machine.next_wake()), self.broker.next_deferred(), Some(self.heartbeat)];
        let next = next.into_iter().flatten().min().unwrap_or(until).min(until);
        self.broker.clock = next.max(self.broker.clock);
        if self.heartbeat <= self.broker.clock {
            self.heartbeat += HEARTBEAT;
            for (host, hello) in self.agents.clone() {
                if !self.silent.contains(&host) {
                    self.say(&hello);
                }
            }
        }
        let again = self.broker.come_again();
        if !again.is_empty() {
            self.give(Event::Delivered(again));
        }
        self.give(Event::Tick);
    }

    fn act(&mut self, line: &Line) -> Result<(), String> {
        match line.verb.as_str() {
            "hosts" => line.words.iter().try_for_each(|host| self.introduce(host, line)),
            "detection" => {
                let (source, id) = (line.word(0, "source")?, line.word(1, "id")?);
                let data: Detection = serde_json::from_value(line.detection()?).map_err(|error| error.to_string())?;
                data.check()?;
                self.input(Stream::Detections, InputKind::Detection, source, id, format!("detection.{source}"), data);
                Ok(())
            }
            "request" => self.request(line),
            "silent" => {
                self.silent.insert(host(line.word(0, "host")?)?);
                Ok(())
            }
            "local-release" => self.opens_itself(line.word(0, "host")?),
            "takeover" => {
                self.lead();
                Ok(())
            }
            "later" => Ok(()),
            other => Err(format!("{other} is no verb of a story")),
        }
    }

    /// `request PRINCIPAL ID ACTION [HOST] [for=] [reason=] [ask=] [breaker=] [ticket=] [label.NAME=] [ssh-from=]`
    fn request(&mut self, line: &Line) -> Result<(), String> {
        let (principal, id, action) = (line.word(0, "principal")?, line.word(1, "id")?, line.word(2, "action")?);
        let mut data = json!({ "action": action, "operator": principal });
        if let Ok(host) = line.word(3, "host") {
            data["host"] = json!(host);
        }
        for (name, member) in [("for", "duration"), ("reason", "reason"), ("ticket", "ticket"), ("incident", "incident")] {
            if let Some(value) = line.get(name) {
                data[member] = json!(value);
            }
        }
        if let Some(asked) = line.get("ask") {
            data["decision"] = json!(self.inputs.get(asked).ok_or(format!("{asked} is no input"))?.hash());
        }
        if let Some(limit) = line.get("breaker") {
            data["breaker"] = json!(self.breaker(limit).ok_or(format!("no breaker of limit {limit} was tripped"))?);
        }
        if !line.labels().is_empty() {
            data["labels"] = json!(line.labels());
        }
        if let Some(from) = line.get("ssh-from") {
            data["change"] = json!({ "exclusions": [self.ssh(from, line)?] });
            data.as_object_mut().unwrap().remove("duration");
        }
        let data: Request = serde_json::from_value(data).map_err(|error| error.to_string())?;
        data.check()?;
        let subject = format!("request.{principal}.{}", line.word(3, "host").unwrap_or("_fleet"));
        self.input(Stream::Requests, InputKind::Request, principal, id, subject, data);
        Ok(())
    }

    fn ssh(&self, from: &str, line: &Line) -> Result<Value, String> {
        let mut exclusion =
            json!({ "name": "ssh", "direction": "in", "protocol": "tcp", "remote": { "cidrs": [from] }, "local_ports": ["22"] });
        if let Some(span) = line.get("for") {
            let span: portcullis_schemas::time::Span = span.parse().map_err(|error| format!("for: {error}"))?;
            exclusion["until"] = json!(line.at + span.delta());
        }
        Ok(exclusion)
    }

    fn breaker(&self, limit: &str) -> Option<String> {
        let tripped = |effect: &Effect| match effect {
            Effect::BreakerTripped(breaker) if breaker.limit == limit => Some(breaker.id.clone()),
            _ => None,
        };
        self.teller.effects().rev().find_map(tripped)
    }

    fn input<T: Payload>(&mut self, stream: Stream, kind: InputKind, token: &str, id: &str, subject: String, data: T) {
        let key = InputRef { kind, token: token.into(), source: format!("/{token}"), id: id.into() };
        self.inputs.insert(id.into(), key);
        let body = event(token, id, None, data);
        let sequence = self.broker.store(stream, format!("portcullis.{subject}"), body).sequence;
        let delivered = self.broker.delivered(Ticket { stream, sequence });
        self.give(Event::Delivered(vec![delivered]));
    }

    fn introduce(&mut self, name: &str, line: &Line) -> Result<(), String> {
        let id = host(name)?;
        let roles: Vec<&str> = line.get("role").into_iter().collect();
        let hello: Hello = serde_json::from_value(json!({
            "host": name, "hostname": format!("{name}.example"), "ips": [], "os": "Linux", "kernel": "6.12", "agent_version": "0.1.0",
            "boot_id": "one", "instance": name, "level": line.get("level").unwrap_or("full"), "labels": line.labels(), "roles": roles,
            "generation": 0, "posture": "open",
        }))
        .map_err(|error| error.to_string())?;
        self.agents.insert(id.clone(), hello.clone());
        self.silent.remove(&id);
        self.say(&hello);
        Ok(())
    }

    fn say(&mut self, hello: &Hello) {
        let message = self.broker.message(prefix().hello(&hello.host), event("agent", "hello", None, hello.clone()));
        self.give(Event::Hello(message));
    }

    /// Hands in an event; agents that can be heard take the orders that follow at once.
    fn give(&mut self, event: Event) {
        self.broker.give(&mut self.machine, event);
        for order in self.teller.untaken(&self.broker, &self.silent) {
            self.state(&order.host, order.generation, order.posture, StateCause::Order);
        }
    }

    fn opens_itself(&mut self, name: &str) -> Result<(), String> {
        let id = host(name)?;
        let generation = self.machine.fleet().host(&id).ok_or(format!("{name} is not known"))?.ordered();
        self.state(&id, generation, Posture::Open, StateCause::Local);
        Ok(())
    }

    fn state(&mut self, host: &HostId, generation: u64, posture: Posture, cause: StateCause) {
        let data: State = serde_json::from_value(json!({
            "host": host, "generation": generation, "posture": posture, "level": "full", "enforced_at": self.broker.now().broker,
            "evidence": { "readback_ok": true, "table_locked": true, "sockets_killed": 0, "flows_flushed": 0, "probes": [] }, "cause": cause, "boot_id": "one", "agent_version": "0.1.0",
        }))
        .unwrap();
        if let Some(hello) = self.agents.get_mut(host) {
            (hello.generation, hello.posture) = (generation, posture);
        }
        let id = format!("state of {host} at {:?}, order no. {generation}", self.broker.clock);
        let message = self.broker.store(Stream::States, format!("portcullis.state.{host}"), event("agent", &id, None, data));
        self.give(Event::Logged(Stream::States, message));
    }

    /// Another process takes over: it reads the logs, and leads.
    fn lead(&mut self) {
        self.leaders += 1;
        self.machine = Machine::new(prefix(), Config::default(), format!("orchestrator-{}", self.leaders));
        for stream in [Stream::Orders, Stream::Inventory, Stream::Decisions, Stream::States] {
            for message in self.broker.stream(stream).values().cloned().collect::<Vec<_>>() {
                self.machine.handle(Event::Logged(stream, message), self.broker.now());
            }
        }
        let last = |stream| self.broker.stream(stream).last_key_value().map_or(0, |(sequence, _)| *sequence);
        self.machine.begin(last(Stream::Orders), last(Stream::Decisions));
        self.give(Event::Policy(Arc::clone(&self.policy)));
        self.give(Event::Lead);
    }
}

fn host(name: &str) -> Result<HostId, String> {
    name.parse().map_err(|error| format!("{name}: {error}"))
}
