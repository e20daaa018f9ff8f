//! What the orchestrator made, line by line: orders, decisions, notices.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_schemas::events::{
    Ask, Decision, Effect, Hold, InputRef, Notice, Order, Origin, Page, Payload, PolicyActivated, Reason,
};
use portcullis_schemas::subjects::{PAGES, POLICY, TERM};
use portcullis_schemas::{HostId, Stream, Timestamp, envelope};
use serde_json::Value;

use crate::broker::Broker;

#[derive(Default)]
pub struct Teller {
    /// The last sequences that were told, and that agents took.
    told: BTreeMap<Stream, u64>,
    taken: u64,
    notices: usize,
    effects: Vec<Effect>,
    /// Hashes of inputs and breakers, and the names of the story for them.
    names: BTreeMap<String, String>,
    exclusions: BTreeMap<HostId, Vec<String>>,
}

impl Teller {
    /// Orders that no agent has taken yet, of hosts that can be heard.
    pub fn untaken(&mut self, broker: &Broker, silent: &BTreeSet<HostId>) -> Vec<Order> {
        let orders = broker.stream(Stream::Orders).range(self.taken + 1..);
        let found: Vec<Order> = orders.filter_map(|(_, message)| read(&message.body)).collect();
        self.taken = broker.stream(Stream::Orders).last_key_value().map_or(0, |(sequence, _)| *sequence);
        found.into_iter().filter(|order| !silent.contains(&order.host)).collect()
    }

    /// What decisions made hold so far.
    pub fn effects(&self) -> impl DoubleEndedIterator<Item = &Effect> {
        self.effects.iter()
    }

    pub fn news(&mut self, broker: &Broker, inputs: &BTreeMap<String, InputRef>) -> Vec<String> {
        self.names.extend(inputs.iter().map(|(name, input)| (input.hash(), name.clone())));
        let mut news = Vec::new();
        let decided = self.new_of(broker, Stream::Decisions);
        for (subject, body) in &decided {
            let decisions: Vec<Decision> = match subject.rsplit('.').next() {
                Some(TERM) => Vec::new(),
                Some(POLICY) => {
                    let record = read::<PolicyActivated>(body);
                    news.extend(record.map(|record| format!("policy: {}", record.hash.map_or("none", |_| "active"))));
                    Vec::new()
                }
                Some(PAGES) => {
                    let page: Option<Page> = read(body);
                    news.extend(page.iter().flat_map(|page| &page.plain).map(|plain| {
                        format!("{} of {}: {} by rule {}", plain.count, plain.host, plain.verdict.as_str(), plain.rule)
                    }));
                    page.map(|page| page.into_decisions().collect()).unwrap_or_default()
                }
                _ => read(body).into_iter().collect(),
            };
            for decision in decisions {
                for effect in &decision.effects {
                    if let Effect::BreakerTripped(breaker) = effect {
                        self.names.insert(breaker.id.clone(), format!("breaker of {}", breaker.limit));
                    }
                }
                self.effects.extend(decision.effects.iter().cloned());
                news.push(self.decision(&decision));
            }
        }
        for (_, body) in self.new_of(broker, Stream::Orders) {
            news.extend(read::<Order>(&body).map(|order| self.order(&order)));
        }
        for notice in &broker.notices[self.notices..] {
            let Some(notice) = read::<Notice>(&notice.body) else { continue };
            let (kind, severity) = (word(&notice.kind), word(&notice.severity));
            let outputs = if notice.outputs.is_empty() { String::new() } else { format!(" to {}", notice.outputs.join(", ")) };
            news.push(format!("notice {kind}, {severity}{outputs}: {}", self.named(&notice.text)));
        }
        self.notices = broker.notices.len();
        news
    }

    fn new_of(&mut self, broker: &Broker, stream: Stream) -> Vec<(String, Vec<u8>)> {
        let told = self.told.entry(stream).or_default();
        let new = broker.stream(stream).range(*told + 1..);
        let found = new.map(|(_, message)| (message.subject.clone(), message.body.to_vec())).collect();
        *told = broker.stream(stream).last_key_value().map_or(0, |(sequence, _)| *sequence);
        found
    }

    fn decision(&self, decision: &Decision) -> String {
        let input = match self.names.get(&decision.input.hash()) {
            Some(name) => name.clone(),
            None => format!("{} of {}", word(&decision.input.kind).replace('_', "-"), decision.input.token),
        };
        let rule = decision.rule.as_ref().map(|rule| format!(" by rule {rule}")).unwrap_or_default();
        let reasons = std::iter::once(&decision.reason).chain(&decision.further).filter(|reason| **reason != Reason::Rule);
        let reasons: Vec<String> = reasons.map(|reason| self.reason(reason)).collect();
        let why = if reasons.is_empty() { String::new() } else { format!(", {}", reasons.join(" and ")) };
        let mut parts = vec![format!("{input}: {}{rule}{why}", decision.verdict.as_str())];
        parts.extend(decision.ask.as_ref().map(|ask| self.ask(ask)));
        parts.extend(decision.effects.iter().map(|effect| self.value(&serde_json::to_value(effect).unwrap())));
        parts.join("; ")
    }

    fn ask(&self, ask: &Ask) -> String {
        let until = ask.until.map(|until| format!(" until {}", time(until))).unwrap_or_default();
        let approvals = if ask.approvals == 1 { "1 approval".to_owned() } else { format!("{} approvals", ask.approvals) };
        format!("pending{until}, {approvals} to {}, if unanswered {}", word(&ask.question), word(&ask.if_unanswered))
    }

    fn reason(&self, reason: &Reason) -> String {
        self.value(&serde_json::to_value(reason).unwrap())
    }

    /// A tagged value in words: its kind, and its members in brackets.
    fn value(&self, value: &Value) -> String {
        let kind = value["kind"].as_str().unwrap_or_default().replace('_', "-");
        let members: Vec<String> = value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| *name != "kind")
            .map(|(name, value)| format!("{name} {}", self.named(&plain(value))))
            .collect();
        if members.is_empty() { kind } else { format!("{kind} ({})", members.join(", ")) }
    }

    fn order(&mut self, order: &Order) -> String {
        let end = order.release_at.map_or("without an end".to_owned(), |at| format!("until {}", time(at)));
        let holds: Vec<String> = order.holds.iter().map(|hold| self.hold(hold)).collect();
        let mut exclusions: Vec<String> = order.exclusions.iter().map(|exclusion| exclusion.name.clone()).collect();
        exclusions.dedup();
        let mut text = format!("order {} no. {}: {}", order.host, order.generation, order.posture.as_str());
        if !holds.is_empty() {
            text.push_str(&format!(" {end}, held by {}", holds.join(" and ")));
        }
        let before = self.exclusions.insert(order.host.clone(), exclusions.clone()).unwrap_or_default();
        let new: Vec<&str> = exclusions.iter().filter(|name| !before.contains(name)).map(String::as_str).collect();
        if !new.is_empty() {
            text.push_str(&format!("; passes: {}", new.join(", ")));
        }
        text
    }

    fn hold(&self, hold: &Hold) -> String {
        let causes: Vec<String> =
            hold.causes.iter().map(|cause| self.names.get(&cause.hash()).cloned().unwrap_or_else(|| cause.id.clone())).collect();
        let whose = match (&hold.rule, hold.origin) {
            (Some(rule), _) => format!("rule {rule}"),
            (None, Origin::Manual) => "an operator".to_owned(),
            (None, Origin::Automatic) => "the host's report".to_owned(),
        };
        let more = hold.more.map(|more| format!(" and {more} more")).unwrap_or_default();
        format!("{whose} for {}{more}", causes.join(", "))
    }

    /// Hashes are told by the names of the story.
    fn named(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (hash, name)| text.replace(hash, &format!("<{name}>")))
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.parse::<Timestamp>().map_or_else(|_| text.clone(), time),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(members) => {
            members.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn time(time: Timestamp) -> String {
    time.format("%a %H:%M:%S").to_string()
}

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap_or_default().to_owned()
}

fn read<T: Payload>(body: &[u8]) -> Option<T> {
    envelope::decode::<T>(std::iter::empty(), body).ok().map(|event| event.data)
}
