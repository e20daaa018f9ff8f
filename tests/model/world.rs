//! The world of the model: two orchestrators, their agents, a broker, and chance that loses, doubles, delays and kills.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use portcullis_core::{Config, Input, Meta};
use portcullis_policy::Policy;
use portcullis_schemas::events::{Detection, InputKind, InputRef, Inventory, Posture, Reason, Request};
use portcullis_schemas::{HostId, ids};

use crate::Defect;
use crate::agent::Agent;
use crate::broker::{Broker, POISON, Stored, is_poison, time, word};
use crate::chance::Chance;
use crate::logs;
use crate::oracle;
use crate::orchestrator::Orchestrator;

pub const PROTECTED: &str = "h3";
/// Its first hello may come late, or never.
const LATE: &str = "h4";
/// It is of one host, then of another.
const ADDRESS: &str = "10.0.0.7";
const STEPS: u64 = 300;

const POLICY: &str = "
version: 1
cool_down_after_manual_release: 0s
defaults: { release_after: 10m, max_isolation: 1h }
exclusions: { automatic: [], manual_default: [] }
limits:
  - { name: fleet, isolated: 2 }
rules:
  - { name: a, match: { rule.id: a }, then: isolate }
  - { name: b, match: { rule.id: b }, then: isolate, release_after: 30m }
  - { name: ask, match: { rule.id: ask }, then: ask, ask_for: 3m }
  - { name: two, match: { rule.id: two }, then: ask, approvals: 2, ask_for: 5m, if_unanswered: isolate }
  - { name: rest, then: observe }
";

/// For how long a rule isolates, in milliseconds.
pub fn span_of(rule: &str) -> Option<i64> {
    match rule {
        "a" => Some(600_000),
        "b" => Some(1_800_000),
        "ask" | "two" => Some(600_000),
        _ => None,
    }
}

pub struct World {
    broker: Broker,
    orchestrators: Vec<Orchestrator>,
    agents: Vec<Agent>,
    config: Config,
    /// The policy that everybody is given.
    policy: usize,
    chance: Chance,
    /// Orders that went out on the live subject.
    published: usize,
    count: u64,
}

/// Runs one seed to its end: the first thing that went wrong, if any did.
pub fn run(seed: u64, defect: Defect, traced: bool) -> Result<(), String> {
    let mut world = World::new(seed, defect, traced);
    for _ in 0..STEPS {
        world.anything();
        world.whole()?;
    }
    world.rest()?;
    world.let_time_pass()?;
    logs::replayed(&world.broker, policies())
}

impl World {
    fn new(seed: u64, defect: Defect, traced: bool) -> Self {
        let mut broker = Broker::new(defect, traced);
        broker.policies = texts().map(|text| (ids::sha256(text.as_bytes()), text)).into();
        let mut chance = Chance::new(seed);
        let agents: Vec<Agent> = ["h1", "h2", PROTECTED, LATE].map(|name| Agent::new(host(name))).into();
        for agent in &agents[..3] {
            let inventory = Inventory {
                hello: agent.hello(&broker).1,
                claims: Vec::new(),
                silent_since: None,
                roles_since: Default::default(),
                operator: None,
            };
            broker.inventories.push((inventory, time(0)));
        }
        let config = Config { protected: [(host(PROTECTED), "broker".to_owned())].into() };
        let count = 1 + chance.below(2) as usize;
        let orchestrators = (0..count).map(|who| Orchestrator::start(who, &broker, &policies()[0], &config)).collect();
        let mut world = Self { broker, orchestrators, agents, config, policy: 0, chance, published: 0, count: 0 };
        world.orchestrators[0].lead(&mut world.broker);
        world
    }

    /// One step of anybody's.
    fn anything(&mut self) {
        let millis = match self.chance.below(100) {
            0 => self.chance.below(600_000),
            1..4 => self.chance.below(60_000),
            4..20 => self.chance.below(3_000),
            _ => self.chance.below(100),
        };
        self.broker.pass(millis as i64);
        match self.chance.below(100) {
            0 if !self.broker.late.is_empty() => {
                let late = self.chance.below(self.broker.late.len() as u64) as usize;
                self.broker.deliver_late(late);
            }
            0..50 => self.orchestrator(),
            50..80 => self.agent(),
            80..90 => self.input(),
            90..95 => self.hello(),
            _ => self.fault(),
        }
        self.publish();
    }

    fn orchestrator(&mut self) {
        let who = self.chance.below(self.orchestrators.len() as u64) as usize;
        if self.orchestrators[who].up {
            self.orchestrators[who].step(&mut self.broker, &mut self.chance);
        } else if self.chance.percent(30) {
            self.orchestrators[who] = Orchestrator::start(who, &self.broker, &policies()[self.policy], &self.config);
        }
    }

    fn agent(&mut self) {
        let which = self.chance.below(self.agents.len() as u64) as usize;
        let agent = &mut self.agents[which];
        if agent.up {
            agent.step(&mut self.broker, &mut self.chance, false);
        } else if self.chance.percent(40) {
            agent.restart(&self.broker);
        }
    }

    fn hello(&mut self) {
        let which = self.chance.below(self.agents.len() as u64) as usize;
        if self.agents[which].up {
            let (key, hello) = self.agents[which].hello(&self.broker);
            let at = self.broker.wall();
            self.broker.hellos.push((key, hello, at));
        }
    }

    fn fault(&mut self) {
        match self.chance.below(16) {
            0..4 => {
                let who = self.chance.below(self.orchestrators.len() as u64) as usize;
                self.broker.say(|| format!("o{who} dies"));
                self.orchestrators[who].up = false;
            }
            4..7 => {
                let which = self.chance.below(self.agents.len() as u64) as usize;
                let (reboot, harm) = (self.chance.percent(50), self.chance.below(12));
                if self.agents[which].up {
                    self.agents[which].crash(reboot, harm, &self.broker);
                }
            }
            7 => {
                let which = self.chance.below(self.agents.len() as u64) as usize;
                self.agents[which].local_release(&self.broker);
            }
            8 => {
                let which = self.chance.below(self.agents.len() as u64) as usize;
                self.agents[which].offset = self.chance.below(1_200_000) as i64 - 600_000;
                self.broker.machine = self.chance.below(1_200_000) as i64 - 600_000;
            }
            9..11 => self.reload(),
            11..13 => self.move_address(),
            13..15 => self.remove(),
            _ => {
                self.broker.offset += self.chance.below(600_000) as i64 - 300_000;
                self.broker.say(|| format!("the broker's clock is off by {} ms", self.broker.offset));
            }
        }
    }

    /// Another policy that isolates for the same: what was decided names the one that decided.
    fn reload(&mut self) {
        self.policy = if self.broker.defect == Defect::LosesLimits { 2 } else { 1 - self.policy };
        for orchestrator in self.orchestrators.iter_mut().filter(|orchestrator| orchestrator.up) {
            orchestrator.reload(&policies()[self.policy], &self.broker);
        }
    }

    /// An address goes to another host.
    fn move_address(&mut self) {
        let to = self.chance.below(2) as usize;
        self.agents[1 - to].ips.clear();
        self.agents[to].ips = vec![ADDRESS.to_owned()];
        self.broker.say(|| format!("{ADDRESS} is now of {}", self.agents[to].me()));
    }

    /// A flood pushes the oldest detection out that nobody has acknowledged, or any other.
    fn remove(&mut self) {
        let is_detection = |index: &usize| matches!(self.broker.inputs[*index].input, Input::Detection(..));
        let all: Vec<usize> = (0..self.broker.inputs.len()).filter(is_detection).collect();
        let waiting = all.iter().find(|index| !self.broker.inputs[**index].acked).filter(|_| self.chance.percent(70));
        let Some(index) = waiting.or_else(|| all.first()).copied() else { return };
        self.broker.say(|| format!("{index} is pushed out of its stream"));
        self.broker.inputs[index].removed = true;
    }

    /// A new input, or a copy of one.
    fn input(&mut self) {
        self.count += 1;
        let (name, now) = (format!("i{}", self.count), self.broker.wall());
        let host = ["h1", "h1", "h2", "h2", PROTECTED, LATE, LATE, "nobody"][self.chance.below(8) as usize];
        let delay = if self.chance.percent(70) { 0 } else { self.chance.below(5_000) as i64 };
        // What names an address is sent once: the address may be another host's by the second time.
        let names_host = |message: &&Stored| !matches!(&message.input, Input::Detection(_, data) if data.host.id.is_none());
        let sent =
            self.broker.inputs.iter().filter(|message| message.key.kind != InputKind::ReleaseDue && !is_poison(&message.key));
        let sent = sent.filter(names_host);
        let sent: Vec<&Input> = sent.map(|message| &message.input).collect();
        let input = match self.chance.below(100) {
            0..12 if !sent.is_empty() => sent[self.chance.below(sent.len() as u64) as usize].clone(),
            12..22 => {
                // Of one that was seen, or of one that is still to come.
                let retracted = format!("i{}", 1 + self.chance.below(self.count + 1));
                let token = if self.chance.percent(85) { "edr" } else { "siem" };
                detection(token, &name, host, "a", now, Some(retracted))
            }
            22..24 => detection("edr", &format!("{POISON}-{name}"), "h1", "a", now, None),
            24..30 => detection("edr", &name, ADDRESS, "a", now, None),
            30..56 => {
                let rule = ["a", "a", "b", "rest", "ask", "two"][self.chance.below(6) as usize];
                detection("edr", &name, host, rule, now, None)
            }
            56..68 => {
                let span = ["5m", "10m", "40m"][self.chance.below(3) as usize];
                let operator = if self.chance.percent(95) { "ann" } else { "bob" };
                let forced = self.chance.percent(50);
                request(
                    "ann",
                    &name,
                    serde_json::json!({
                        "action": "isolate", "host": host, "operator": operator, "duration": span, "override_protected": forced,
                    }),
                )
            }
            68..80 => request("ann", &name, serde_json::json!({ "action": "release", "host": host, "operator": "ann" })),
            80..94 => {
                let (by, action) = (
                    ["ann", "bob"][self.chance.below(2) as usize],
                    ["approve", "approve", "deny"][self.chance.below(3) as usize],
                );
                request(by, &name, serde_json::json!({ "action": action, "host": host, "operator": by }))
            }
            choice @ 94..97 => {
                let action = if choice < 96 { "pause" } else { "resume" };
                let data = serde_json::json!({ "action": action, "operator": "ann", "duration": "2m", "reason": "drill" });
                request("ann", &name, data)
            }
            _ => {
                // Of two that are kept and one that is not, in place of any or of one of them.
                let hash = |which: u64| match which {
                    0 | 1 => policies()[which as usize].hash().to_owned(),
                    _ => ids::sha256(b"not kept"),
                };
                let (policy, replaces) =
                    (hash(self.chance.below(3)), self.chance.percent(50).then(|| hash(self.chance.below(2))));
                request(
                    "ann",
                    &name,
                    serde_json::json!({
                        "action": "activate_policy", "operator": "ann", "policy": policy, "replaces": replaces,
                    }),
                )
            }
        };
        self.broker.put(input, delay);
    }

    /// What ORDERS has stored goes out live: lost, doubled, late, in any order.
    fn publish(&mut self) {
        for index in self.published..self.broker.orders.len() {
            let to = self.broker.orders[index].order.host.clone();
            let Some(agent) = self.agents.iter_mut().find(|agent| *agent.me() == to && agent.up) else { continue };
            for _ in 0..[0, 1, 1, 1, 2][self.chance.below(5) as usize] {
                let late = if self.chance.percent(10) { 60_000 } else { 300 };
                agent.live.push((self.broker.now + self.chance.below(late) as i64, index));
            }
        }
        self.published = self.broker.orders.len();
    }

    fn whole(&mut self) -> Result<(), String> {
        for text in self.agents.iter_mut().flat_map(Agent::violations) {
            self.broker.violated(text);
        }
        self.broker.violations.first().map_or(Ok(()), |text| Err(text.clone()))
    }

    /// Everybody is up and connected, and nothing new comes: invariants (b), (e) and (g).
    fn rest(&mut self) -> Result<(), String> {
        self.broker.say(|| "nothing new comes".to_owned());
        self.broker.faults = false;
        while !self.broker.late.is_empty() {
            self.broker.deliver_late(0);
        }
        for who in 0..self.orchestrators.len() {
            if !self.orchestrators[who].up {
                self.orchestrators[who] = Orchestrator::start(who, &self.broker, &policies()[self.policy], &self.config);
            }
        }
        for agent in &mut self.agents {
            if !agent.up {
                agent.restart(&self.broker);
            }
        }
        for _ in 0..20 {
            self.calm(1_000);
        }
        for _ in 0..3 {
            self.calm(0);
        }
        self.whole()?;
        for agent in &self.agents {
            let last = self.broker.last_order(agent.me()).map(|stored| &stored.order);
            let wanted = last.map_or((0, Posture::Open), |order| (order.generation, order.posture));
            let enforced = (agent.generation(), agent.kernel);
            // An isolation that is over by the wall clock is on its way to its end: it is not taken any more.
            let over = last.and_then(|order| order.expires_at).is_some_and(|at| at <= self.broker.wall());
            if enforced != wanted && !over {
                return Err(format!("(b) {} enforces {enforced:?} and its last order is {wanted:?}", agent.me()));
            }
            let expected = oracle::expected(&self.broker, agent.me());
            if expected.is_some_and(|expected| expected != agent.kernel) && !over {
                return Err(format!("(b) {} is {enforced:?} and the inputs say {expected:?}", agent.me()));
            }
            if self.orchestrators.iter().any(|orchestrator| orchestrator.generation(agent.me()) != wanted.0) {
                return Err(format!("(g) the orchestrators disagree on {}", agent.me()));
            }
        }
        self.answered(false)
    }

    /// Invariants (d) and (h): with everybody connected, nobody stays isolated, and the posture file says so.
    fn let_time_pass(&mut self) -> Result<(), String> {
        // The longest isolation, the repeat of a release that is due, and the grace time.
        for _ in 0..24 {
            self.calm(300_000);
            self.calm(100);
            self.whole()?;
        }
        for agent in &self.agents {
            let last = self.broker.last_order(agent.me()).map_or(Posture::Open, |stored| stored.order.posture);
            if (agent.kernel, last) != (Posture::Open, Posture::Open) {
                return Err(format!("(d) {} is {} and ordered {}", agent.me(), agent.kernel.as_str(), last.as_str()));
            }
            if let Some(behind) = agent.unrecorded() {
                return Err(format!("(h) {behind}"));
            }
        }
        self.answered(true)
    }

    /// Some time passes, and everybody finishes what there is to do.
    fn calm(&mut self, millis: i64) {
        self.broker.pass(millis);
        // One that lost the race to another one that died meanwhile tries again.
        for _ in 0..3 {
            self.finish();
            if self.orchestrators.iter().any(Orchestrator::leads) {
                break;
            }
            self.orchestrators[0].lead(&mut self.broker);
        }
        self.finish();
        for agent in &mut self.agents {
            agent.poll(&mut self.broker, &mut self.chance);
        }
        self.finish();
    }

    fn finish(&mut self) {
        for _ in 0..5_000 {
            let now = self.broker.now;
            // By an input that ends whoever reads it.
            for who in 0..self.orchestrators.len() {
                if !self.orchestrators[who].up {
                    self.orchestrators[who] = Orchestrator::start(who, &self.broker, &policies()[self.policy], &self.config);
                }
            }
            let busy = self.orchestrators.iter().position(|orchestrator| !orchestrator.idle(&self.broker));
            if let Some(who) = busy {
                let who = if self.chance.percent(50) { who } else { self.chance.below(self.orchestrators.len() as u64) as usize };
                self.orchestrators[who].step(&mut self.broker, &mut self.chance);
            } else if let Some(agent) = self.agents.iter_mut().find(|agent| !agent.idle(now)) {
                agent.step(&mut self.broker, &mut self.chance, true);
            } else {
                return;
            }
            self.publish();
        }
        self.broker.violated("(d) there is no end to what is to be done".to_owned());
    }

    /// Invariants (e) and (g): each message of an input stream has one answer, which says what its order says.
    fn answered(&self, finally: bool) -> Result<(), String> {
        let mut by_sequence = HashMap::new();
        for answer in &self.broker.answers {
            let key = (answer.input.kind, answer.sequence, answer.waited, answer.asked);
            if let Some(known) = answer.sequence.and_then(|_| by_sequence.insert(key, answer)) {
                let (by, one, other) = (word(&answer.input), &known.reason, &answer.reason);
                return Err(format!("(g) {by} was answered twice: {one:?} and {other:?}"));
            }
            let made = self.broker.orders.iter().find(|stored| {
                Some(&stored.order.host) == answer.host.as_ref() && Some(stored.order.generation) == answer.generation
            });
            let fits = made.is_some_and(|made| made.order.issued_by == answer.input);
            if answer.generation.is_some() && !fits && !matches!(answer.reason, Reason::Joined { .. }) {
                let (by, generation) = (word(&answer.input), answer.generation);
                return Err(format!("(e) {by} names generation {generation:?}, which it did not make"));
            }
        }
        if let Some(id) = self.broker.asked.unended().filter(|_| finally) {
            return Err(format!("(m) approval {id} is pending for ever"));
        }
        for (index, message) in self.broker.inputs.iter().enumerate() {
            if self.broker.lost.contains(&index) || self.broker.rejected.contains(&index) {
                continue;
            }
            // What was put off has its answer at the end.
            let answer = by_sequence.get(&(message.key.kind, Some(index as u64 + 1), false, false));
            if answer.is_none() && (finally || message.next <= self.broker.now) {
                return Err(format!("(e) {} has no answer", word(&message.key)));
            }
            // A copy waits with the first one.
            let waits = answer.is_some_and(|answer| matches!(answer.reason, Reason::Unresolved { waits: Some(_), .. }));
            let has_ended = self.broker.answers.iter().any(|answer| answer.waited && answer.input == message.key);
            if waits && !has_ended && (finally || self.broker.is_known(&message.input)) {
                return Err(format!("(j) {} waits for its host for ever", word(&message.key)));
            }
        }
        for stored in &self.broker.orders {
            let by = &stored.order.issued_by;
            let mut answers = self.broker.answers.iter().filter(|answer| answer.input == *by).peekable();
            // A sender's second copy has a time of its own, and may be judged at the same moment.
            let copies = self.broker.inputs.iter().filter(|message| message.key == *by).count();
            if answers.peek().is_some()
                && copies <= 1
                && !answers.any(|answer| answer.generation == Some(stored.order.generation))
            {
                return Err(format!("(g) {} made generation {} and its answer names another", word(by), stored.order.generation));
            }
        }
        Ok(())
    }
}

fn detection(
    token: &str,
    name: &str,
    host: &str,
    rule: &str,
    at: portcullis_schemas::Timestamp,
    retracts: Option<String>,
) -> Input {
    let about = if host == ADDRESS { serde_json::json!({ "ips": [host] }) } else { serde_json::json!({ "id": host }) };
    let data: Detection = serde_json::from_value(serde_json::json!({
        "host": about, "severity": "high", "rule": { "id": rule, "name": "" }, "product": "", "observed_at": at, "retracts": retracts,
    }))
    .expect("the model's detection is valid");
    Input::Detection(meta(InputKind::Detection, token, name), data)
}

fn request(by: &str, name: &str, data: serde_json::Value) -> Input {
    let request: Request = serde_json::from_value(data).expect("the model's request is valid");
    let host = request.host.as_ref().map_or_else(|| "_fleet".to_owned(), ToString::to_string);
    Input::Request { meta: meta(InputKind::Request, by, name), host, request }
}

fn meta(kind: InputKind, token: &str, name: &str) -> Meta {
    let input = InputRef { kind, token: token.into(), source: "/model".into(), id: name.into() };
    Meta { input, at: time(0), correlation: None, faults: Vec::new() }
}

fn host(name: &str) -> HostId {
    name.parse().expect("the model's host id is valid")
}

/// Two that decide alike, and one that a known defect loads.
fn policies() -> &'static [Arc<Policy>; 3] {
    static READ: OnceLock<[Arc<Policy>; 3]> = OnceLock::new();
    READ.get_or_init(|| texts().map(|text| Arc::new(Policy::parse(&text).expect("the model's policy is valid"))))
}

fn texts() -> [String; 3] {
    [POLICY.to_owned(), POLICY.replace("rest", "others"), POLICY.replace("isolated: 2", "isolated: 100")]
}
