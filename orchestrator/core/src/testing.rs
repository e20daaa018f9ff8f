//! A small world for the tests of the core: builders, and an outcome as one line in which nothing is left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portcullis_schemas::events::{
    Action, Detection, Evidence, Hello, Hold, InputKind, InputRef, Level, Order, Payload, Posture, Reason, ReleaseDue, Request,
    Severity, State, StateCause,
};
use portcullis_schemas::{HostId, Timestamp, ids};

use crate::control::Control;
use crate::decide::{Basis, Config, Input, Meta, Outcome, decide};
use crate::fleet::Fleet;
use portcullis_policy::Policy;

pub mod run;
pub mod site;

pub const HOUR: i64 = 3_600;

/// Two rules that isolate, for 8 and for 24 hours, and one of each other kind.
pub const POLICY: &str = "
version: 1
# Other tests are about calm after a release.
cool_down_after_manual_release: 0s
rules:
  - { name: a, match: { rule.id: a }, then: isolate }
  - { name: b, match: { rule.id: b }, then: isolate, release_after: 24h }
  - { name: dry, match: { rule.id: dry }, then: isolate, audit: true }
  - { name: noise, match: { rule.id: noise }, then: ignore }
  - { name: broken, match: { rule.id: broken }, when: 1 / 0 == 1, then: isolate }
  - { name: ask, match: { rule.id: ask }, then: ask }
  - { name: two, match: { rule.id: two }, then: ask, approvals: 2, ask_for: 10m, if_unanswered: isolate, release_after: 2h }
  - { name: many, match: { rule.id: many }, then: isolate, threshold: { count: 3, per: 10m } }
  - { name: rest, then: observe }
";

pub struct World {
    pub fleet: Fleet,
    pub control: Control,
    pub leader_since: Option<Timestamp>,
    /// Where the next decision is stored.
    pub records: u64,
    pub policy: Option<Arc<Policy>>,
    pub config: Config,
}

impl World {
    /// One open host, `h1`, under [`POLICY`].
    pub fn new() -> Self {
        Self::under(POLICY)
    }

    pub fn under(text: &str) -> Self {
        let policy = Arc::new(Policy::parse(text).expect("the test's policy is valid"));
        let mut world = Self {
            fleet: Fleet::default(),
            control: Control::default(),
            leader_since: None,
            records: 1,
            policy: Some(policy),
            config: Config::default(),
        };
        world.fleet.count_by(world.policy.as_ref().expect("it was read"));
        world.says(hello("h1"), 0);
        world
    }

    /// Decides, stores what follows as the shell does, and says it in one line.
    pub fn give(&mut self, input: &Input) -> String {
        let outcome = self.decide(input);
        if let Some(order) = &outcome.order {
            self.store(order.clone());
        }
        if let Some(decision) = &outcome.decision {
            let _ = self.control.take(decision, self.records);
            let _ = self.fleet.take_words(decision, self.records);
            self.records += 1;
        }
        line(&outcome)
    }

    fn basis(&self) -> Basis<'_> {
        let Self { fleet, control, policy, config, leader_since, .. } = self;
        Basis { fleet, control, policy: policy.as_deref(), config, leader_since: *leader_since }
    }

    pub fn decide(&self, input: &Input) -> Outcome {
        let outcome = decide(self.basis(), input);
        assert_eq!(outcome, decide(self.basis(), input), "the same input, the same answer");
        if let Some(order) = &outcome.order {
            assert_eq!(order.prev, self.fleet.prev());
            assert_eq!(order.check(), Ok(()));
            assert!(order.generation > self.fleet.host(&order.host).map_or(0, |host| host.ordered()));
            let decision = outcome.decision.as_ref().expect("an order has its decision");
            assert_eq!(decision.generation, Some(order.generation));
            assert!(crate::settled::find(Some(order), &order.issued_by).is_some(), "an order remembers its input");
        }
        outcome
    }

    pub fn store(&mut self, order: Order) {
        let body = serde_json::to_vec(&order).expect("an order is written");
        let _ = self.fleet.take_order(order, ids::sha256(&body));
    }

    pub fn detect(&mut self, rule: &str, name: &str, second: i64) -> String {
        self.give(&seen("h1", rule, name, second))
    }

    pub fn retract(&mut self, what: &str, name: &str, second: i64) -> String {
        let data = Detection { retracts: Some(what.into()), ..detection("h1", "a", second) };
        self.give(&Input::Detection(meta(InputKind::Detection, "edr", name, second), data))
    }

    /// What `operator` asks for, by the request of this name.
    pub fn ask_as(&mut self, operator: &str, name: &str, second: i64, request: Request) -> String {
        let host = request.host.as_ref().map_or("_fleet".to_owned(), ToString::to_string);
        let request = Request { operator: operator.into(), ..request };
        self.give(&Input::Request { meta: meta(InputKind::Request, operator, name, second), host, request })
    }

    /// The id of the approval that a detection by this name waits for.
    pub fn ask_id(&self, name: &str) -> String {
        key(InputKind::Detection, "edr", name).hash()
    }

    pub fn approve(&mut self, operator: &str, name: &str, second: i64) -> String {
        let decision = Some(self.ask_id(name));
        self.ask_as(
            operator,
            &format!("{operator}-{second}"),
            second,
            Request { decision, host: None, ..request(Action::Approve) },
        )
    }

    pub fn deny(&mut self, operator: &str, name: &str, second: i64) -> String {
        let decision = Some(self.ask_id(name));
        self.ask_as(operator, &format!("{operator}-{second}"), second, Request { decision, host: None, ..request(Action::Deny) })
    }

    /// Ends what is over by then, as the machine does.
    pub fn ends(&mut self, second: i64) -> Vec<String> {
        let ended: Vec<_> = self.control.ended(at(second)).cloned().collect();
        ended.into_iter().map(|pending| self.give(&Input::Asked(pending))).collect()
    }

    pub fn isolate(&mut self, name: &str, second: i64) -> String {
        self.give(&asked(request(Action::Isolate), name, second))
    }

    pub fn release(&mut self, name: &str, second: i64) -> String {
        self.give(&asked(request(Action::Release), name, second))
    }

    /// The deadline of a generation, with what the scheduler says is left of it.
    pub fn due(&mut self, generation: u64, rest: Option<Duration>, second: i64) -> String {
        let due = ReleaseDue { host: id("h1"), generation, due_at: at(second) };
        let meta = meta(InputKind::ReleaseDue, "h1", &format!("due-{generation}"), second);
        self.give(&Input::ReleaseDue { meta, due, rest })
    }

    /// A stored state event, as the follower hears it.
    pub fn state(&mut self, state: State, second: i64) -> String {
        self.fleet.take_state(state.clone(), at(second));
        let name = format!("state-{second}");
        self.give(&Input::State(meta(InputKind::State, state.host.clone().as_str(), &name, second), state))
    }

    /// A hello, as the machine takes it: what is new in it is stored, and decided on then.
    pub fn says(&mut self, hello: Hello, second: i64) -> String {
        let inventory = self.fleet.inventory_for(&hello, at(second));
        let refused = self.fleet.spelled_otherwise(&hello.host).is_some();
        let meta = meta(InputKind::Hello, hello.host.clone().as_str(), &format!("hello-{second}"), second);
        let of_hello = self.give(&Input::Hello(meta.clone(), hello.clone()));
        if refused {
            return of_hello;
        }
        self.fleet.hear(&hello.host, at(second));
        let Some(inventory) = inventory else { return of_hello };
        self.fleet.take_inventory(inventory, at(second));
        match (of_hello.as_str(), self.give(&Input::Inventory(meta, hello))) {
            ("nothing", of_inventory) => of_inventory,
            (_, of_inventory) if of_inventory == "nothing" => of_hello,
            (_, of_inventory) => format!("{of_inventory} {of_hello}"),
        }
    }

    /// A hello that says nothing new.
    pub fn hears(&mut self, host: &str, second: i64) {
        let known = self.fleet.host(&id(host)).and_then(|host| host.inventory.as_deref()).expect("the host is known");
        let hello = known.hello.clone();
        self.says(hello, second);
    }

    /// Notes who is silent by now.
    pub fn silence(&mut self, second: i64) {
        for inventory in self.fleet.fallen_silent(at(second)) {
            self.fleet.take_inventory(inventory, at(0));
        }
    }

    pub fn order(&self) -> &Order {
        self.fleet.host(&id("h1")).and_then(|host| host.order.as_deref()).expect("h1 has an order")
    }
}

pub fn id(text: &str) -> HostId {
    text.parse().expect("the test's host id is valid")
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000 + second, 0).expect("the test's time is one")
}

pub fn second(time: Timestamp) -> i64 {
    (time - at(0)).num_seconds()
}

pub fn key(kind: InputKind, token: &str, name: &str) -> InputRef {
    InputRef { kind, token: token.into(), source: format!("/{token}"), id: name.into() }
}

pub fn meta(kind: InputKind, token: &str, name: &str, second: i64) -> Meta {
    Meta { input: key(kind, token, name), at: at(second), correlation: None, faults: Vec::new() }
}

pub fn detection(host: &str, rule: &str, observed: i64) -> Detection {
    serde_json::from_value(serde_json::json!({
        "host": { "id": host }, "severity": "high", "rule": { "id": rule, "name": rule }, "product": "edr", "observed_at": at(observed),
    }))
    .expect("the test's detection is valid")
}

/// A detection that was observed as it was stored.
pub fn seen(host: &str, rule: &str, name: &str, second: i64) -> Input {
    Input::Detection(meta(InputKind::Detection, "edr", name, second), detection(host, rule, second))
}

pub fn request(action: Action) -> Request {
    serde_json::from_value(serde_json::json!({ "action": action, "host": "h1", "operator": "ann" }))
        .expect("the test's request is valid")
}

pub fn asked(request: Request, name: &str, second: i64) -> Input {
    let host = request.host.as_ref().map_or("_fleet".to_owned(), ToString::to_string);
    Input::Request { meta: meta(InputKind::Request, "ann", name, second), host, request }
}

pub fn hello(host: &str) -> Hello {
    Hello {
        host: id(host),
        hostname: format!("{host}.corp.example"),
        ips: Vec::new(),
        internal_ips: Vec::new(),
        os: "Linux".into(),
        kernel: "6.12".into(),
        agent_version: "0.1.0".into(),
        boot_id: "one".into(),
        instance: "x".into(),
        level: Level::Full,
        leaks: vec![],
        labels: BTreeMap::new(),
        roles: Vec::new(),
        generation: 0,
        posture: Posture::Open,
        tells_last_order: false,
    }
}

pub fn state(generation: u64, posture: Posture, cause: StateCause) -> State {
    State {
        host: id("h1"),
        generation,
        posture,
        level: Level::Full,
        leaks: vec![],
        enforced_at: at(0),
        clock_ahead_seconds: None,
        evidence: Evidence { readback_ok: true, ..Evidence::default() },
        cause,
        by: None,
        tamper: None,
        last_order: None,
        error: None,
        boot_id: "one".into(),
        agent_version: "0.1.0".into(),
        incident: None,
    }
}

/// The whole outcome: verdict, reason, generation, order with its holds, notices, and when it is to come again.
pub fn line(outcome: &Outcome) -> String {
    let mut parts = Vec::new();
    if let Some(decision) = &outcome.decision {
        parts.push(format!("{} {}", decision.verdict.as_str(), kind(&decision.reason)));
        parts.extend(decision.generation.map(|generation| format!("#{generation}")));
    }
    if let Some(order) = &outcome.order {
        let holds: Vec<String> = order.holds.iter().map(hold).collect();
        parts.push(format!("-> {} {} [{}]", order.generation, order.posture.as_str(), holds.join(", ")));
        parts.extend(order.release_at.map(|at| format!("till {}", second(at))));
    }
    for notice in &outcome.notices {
        let severity = if notice.severity >= Severity::High { "!!" } else { "!" };
        parts.push(format!("{severity}{}", word(&notice.kind)));
    }
    parts.extend(outcome.again_in.map(|wait| format!("again in {} ms", wait.as_millis())));
    if parts.is_empty() { "nothing".into() } else { parts.join(" ") }
}

fn hold(hold: &Hold) -> String {
    let rule = hold.rule.clone().unwrap_or_else(|| word(&hold.origin));
    let more = hold.more.map(|more| format!("+{more}")).unwrap_or_default();
    let until = hold.until.map_or("never".into(), |until| second(until).to_string());
    format!("{rule}*{}{more} {}..{until}", hold.causes.len(), second(hold.since))
}

fn kind(reason: &Reason) -> String {
    let value = serde_json::to_value(reason).expect("a reason is written");
    value["kind"].as_str().expect("a reason has a kind").to_owned()
}

fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).expect("a word is written");
    value.as_str().expect("it is a word").to_owned()
}
