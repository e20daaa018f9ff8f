//! What `status` and `exclusions` show, from a running agent or from its posture file.

use std::fmt::{self, Write};

use portcullis_agent_core::deadline::{self, Now};
use portcullis_agent_core::gate::{Connection, Gate, Pass};
use portcullis_agent_core::record::StoredRecord;
use portcullis_agent_core::verify::Passed;
use portcullis_schemas::events::{Level, Posture, WhenUnreachable};
use portcullis_schemas::exclusion::measure::{Opens, TooMuch};
use portcullis_schemas::terminal::clean;
use portcullis_schemas::time::Span;
use portcullis_schemas::{HostId, Timestamp};
use serde::{Deserialize, Serialize};

/// Said until enrolment is built.
pub const UNSIGNED: &str = "orders are not signed yet (require_signature off)";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub host: HostId,
    pub running: bool,
    /// What the kernel holds; where the agent does not run, what the posture file wants.
    pub posture: Posture,
    pub desired: Posture,
    pub generation: u64,
    /// Absent where the agent does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// Until the deadline of the order, by this host's count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_unreachable: Option<WhenUnreachable>,
    /// The generation at which this host opened itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<u64>,
    /// State events that no broker has stored yet.
    #[serde(default)]
    pub unsent: usize,
    #[serde(default)]
    pub problems: Vec<String>,
    pub require_signature: bool,
    pub agent_version: String,
}

impl Status {
    /// As far as the record tells it.
    pub fn of(me: &HostId, stored: &StoredRecord, now: &Now) -> Self {
        let record = stored.record();
        let isolated = stored.posture() == Posture::Isolated;
        let order = record.and_then(|record| record.order.as_ref()).filter(|_| isolated);
        let rest = record
            .zip(order)
            .and_then(|(record, order)| Some(deadline::due(order)?.saturating_sub(record.mark.elapsed(now)).as_secs()));
        Self {
            host: me.clone(),
            running: false,
            posture: stored.posture(),
            desired: stored.posture(),
            generation: stored.generation(me),
            level: None,
            since: None,
            connected: None,
            reason: order.map(|order| order.reason.clone()),
            incident: order.map(|order| order.incident.clone()),
            remaining_seconds: rest,
            when_unreachable: order.map(|order| order.when_unreachable),
            opened: record.and_then(|record| record.opened.as_ref()).map(|opened| opened.generation),
            unsent: 0,
            problems: Vec::new(),
            require_signature: false,
            agent_version: crate::VERSION.to_owned(),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(f, "{name:<12}{}", clean(&text));
        line("host", self.host.to_string())?;
        let mut posture = format!("{}, order no. {}", self.posture.as_str(), self.generation);
        if self.posture != self.desired {
            let _ = write!(posture, " (desired: {})", self.desired.as_str());
        }
        if let Some(since) = self.since {
            let _ = write!(posture, ", since {}", since.format("%Y-%m-%d %H:%M:%SZ"));
        }
        line("posture", posture)?;
        if let Some(reason) = &self.reason {
            line("reason", reason.clone())?;
        }
        if let Some(incident) = &self.incident {
            line("incident", incident.clone())?;
        }
        if let Some(rest) = self.remaining_seconds {
            let then = match self.when_unreachable {
                Some(WhenUnreachable::Stay) => "then it stays isolated until an order opens it",
                _ => "then it opens, even without the broker",
            };
            line("deadline", format!("in {}; {then}", Span::seconds(rest)))?;
        }
        if let Some(generation) = self.opened {
            line("opened", format!("locally, after order no. {generation}"))?;
        }
        if let Some(level) = self.level {
            line("level", level.as_str().to_owned())?;
        }
        if let Some(connected) = self.connected {
            line("broker", if connected { "connected" } else { "not connected" }.to_owned())?;
        }
        if self.unsent > 0 {
            line("unsent", format!("{} state event(s) wait for the broker", self.unsent))?;
        }
        line("agent", format!("{}, {}", self.agent_version, if self.running { "running" } else { "not running" }))?;
        if !self.require_signature {
            line("signatures", UNSIGNED.to_owned())?;
        }
        self.problems.iter().try_for_each(|problem| line("problem", problem.clone()))
    }
}

/// An exclusion as it is in force, and what it has let pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passing {
    #[serde(flatten)]
    pub pass: Pass,
    /// Since the rules were last written; absent where they could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<Passed>,
}

/// What passes now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exclusions {
    pub posture: Posture,
    pub generation: u64,
    /// The brokers, for the agent's own user only.
    pub control: Vec<std::net::SocketAddr>,
    pub passes: Vec<Passing>,
    /// Connections that stood before and were let stand.
    pub standing: Vec<Connection>,
    /// Exclusions that could not be resolved.
    pub left_out: Vec<String>,
    /// What the exclusions open of all addresses and ports.
    #[serde(default)]
    pub opens: Opens,
    /// Chains of others that exempt packets from conntrack: these pass by address and port, whoever begins.
    #[serde(default)]
    pub untracked: Vec<String>,
}

impl Exclusions {
    pub fn of(
        me: &HostId,
        stored: &StoredRecord,
        gate: Gate,
        passed: &[Option<Passed>],
        left_out: Vec<String>,
        opens: Opens,
    ) -> Self {
        let passing = |(place, pass)| Passing { pass, passed: passed.get(place).copied().flatten() };
        Self {
            posture: stored.posture(),
            generation: stored.generation(me),
            control: gate.control,
            passes: gate.passes.into_iter().enumerate().map(passing).collect(),
            standing: gate.standing,
            left_out,
            opens,
            untracked: Vec::new(),
        }
    }
}

impl fmt::Display for Exclusions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.posture == Posture::Open {
            return writeln!(f, "This host is open: everything passes.");
        }
        for address in &self.control {
            writeln!(f, "control         out tcp  {address}, the agent only")?;
        }
        for Passing { pass, passed } in &self.passes {
            let direction = wire(&pass.direction);
            let protocol = pass.protocol;
            let remotes = list(&pass.remotes);
            write!(f, "{:<15} {direction:<3} {:<4} {remotes}", clean(&pass.name), protocol.to_string())?;
            for (what, ports) in [("remote", &pass.remote_ports), ("local", &pass.local_ports)] {
                if !ports.is_empty() {
                    write!(f, ", {what} port {}", list(ports))?;
                }
            }
            for kind in &pass.icmp_types {
                write!(f, ", {}", wire(kind))?;
            }
            if let Some(uid) = pass.local.uid {
                write!(f, ", user {uid} only")?;
            }
            if let Some(group) = &pass.local.group {
                write!(f, ", unit {} only", clean(&group.path))?;
            }
            match passed {
                Some(passed) => writeln!(f, "; {} packets, {} bytes", passed.packets, passed.bytes)?,
                None => writeln!(f)?,
            }
        }
        for connection in &self.standing {
            let protocol = wire(&connection.protocol);
            writeln!(f, "established         {protocol:<4} {} with {}", connection.local, connection.remote)?;
        }
        writeln!(f, "open of all addresses and ports: {}", self.opens)?;
        if self.opens.is_wide() {
            writeln!(f, "{}", TooMuch::Open { opens: self.opens })?;
        }
        if !self.untracked.is_empty() {
            let chains = clean(&self.untracked.join(", "));
            writeln!(f, "exempt from conntrack by {chains}: passes by address and port alone, in both directions")?;
        }
        self.left_out.iter().try_for_each(|problem| writeln!(f, "{}", clean(problem)))
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn wire<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use portcullis_schemas::terminal::is_hostile;
    use serde_json::json;

    use super::{Exclusions, Status};

    const HOSTILE: &str = "a\u{1b}[2J\u{9b}\u{202e}gpj\u{2028}line\n\u{200b}\u{e0041}z";

    #[test]
    fn what_an_order_says_does_nothing_to_the_terminal_of_who_looks_at_the_status() {
        let status: Status = serde_json::from_value(json!({
            "host": "h1", "running": true, "posture": "isolated", "desired": "isolated", "generation": 3,
            "reason": HOSTILE, "incident": HOSTILE, "problems": [HOSTILE], "require_signature": false, "agent_version": "0.1.0",
        }))
        .unwrap();
        let exclusions: Exclusions = serde_json::from_value(json!({
            "posture": "isolated", "generation": 3, "control": [], "passes": [], "standing": [], "left_out": [HOSTILE],
        }))
        .unwrap();
        for text in [status.to_string(), exclusions.to_string()] {
            let found: Vec<char> = text.chars().filter(|c| *c != '\n' && is_hostile(*c)).collect();
            assert!(found.is_empty(), "{found:?} in {text:?}");
            assert!(
                text.contains("gpj\u{fffd}line \u{fffd}\u{fffd}z\n"),
                "a line break in it makes no line of its own: {text:?}"
            );
        }
    }
}
