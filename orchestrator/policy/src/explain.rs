//! A policy printed back as it was understood.

use std::fmt::{Display, Write};

use portcullis_schemas::events::{For, IfUnanswered};
use portcullis_schemas::exclusion::{Direction, Exclusion, Known, PortRange, Protocol, Remote};
use portcullis_schemas::time::Span;

use super::question::{OnDeadline, Question};
use super::rule::{Rule, Then};
use super::{Mode, Policy, metadata};

pub(super) fn explain(policy: &Policy) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(policy, &mut out);
    out
}

fn write(policy: &Policy, out: &mut String) -> std::fmt::Result {
    let terms = &policy.terms;
    writeln!(out, "policy {}", policy.hash)?;
    writeln!(
        out,
        "mode: {}",
        match policy.mode {
            Mode::Enforce => "enforce",
            Mode::Audit => "audit (decides and records everything, orders nothing)",
        }
    )?;
    writeln!(out, "released after: {}; longest: {}", lasting(terms.release_after), lasting(terms.max_isolation))?;
    let on_deadline = at_deadline(terms.on_deadline);
    writeln!(out, "at the deadline: {on_deadline}; when the broker is unreachable: {}", word(&terms.when_unreachable))?;
    let trust = if terms.trust_local { "ends the isolation" } else { "does not end the isolation" };
    writeln!(out, "release on the host itself: {}, and it {trust}", word(&terms.local_release))?;
    writeln!(out, "stale: a detection that arrives over {} after it was observed", terms.stale_after)?;
    writeln!(out, "unknown host: a detection waits {} for it, then a person is asked", terms.resolve_within)?;
    writeln!(out, "a question waits {} for its answer; unanswered: {}", terms.ask_for, unanswered(terms.if_unanswered))?;
    let off = |span: Span, what: &str| if span.as_secs() == 0 { "off".to_owned() } else { format!("{span}{what}") };
    writeln!(out, "cool-down after an operator's release: {}", off(terms.cool_down, "; the same rules are ignored, others ask"))?;
    writeln!(out, "hold-off after any release: {}", off(terms.hold_off, "; alerts of the same rules are ignored"))?;
    writeln!(out, "warning before a deadline: {}", off(terms.warn_before_release, ""))?;
    hosts(policy, out)?;
    for (title, exclusions) in [("automatic isolation", &terms.automatic), ("manual isolation", &terms.manual)] {
        writeln!(out, "\npasses during {title}:")?;
        if exclusions.is_empty() {
            writeln!(out, "  nothing but the agent's own")?;
        }
        for exclusion in exclusions {
            writeln!(out, "  {}", self::exclusion(exclusion))?;
        }
    }
    for (number, entry) in policy.by_host.entries.iter().enumerate() {
        writeln!(out, "\npasses too, of hosts by entry {} of by_host:", number + 1)?;
        conditions(entry.hosts.words(), out)?;
        for (title, exclusions) in [("automatic", &entry.automatic), ("manual", &entry.manual)] {
            for exclusion in exclusions {
                writeln!(out, "  {title}: {}", self::exclusion(exclusion))?;
            }
        }
    }
    for (number, rule) in policy.rules.iter().enumerate() {
        writeln!(out, "\nrule {}, {:?}: {}", number + 1, rule.name, then(rule))?;
        if rule.takes_everything() {
            writeln!(out, "  takes everything that is left")?;
        }
        let when = rule.when.iter().map(ToString::to_string);
        let during = rule.during.iter().map(ToString::to_string);
        conditions(rule.matching.iter().map(ToString::to_string).chain(when).chain(during), out)?;
        if let Some(threshold) = &rule.threshold {
            writeln!(out, "  from {threshold}; until then observe")?;
        }
        if !rule.notify.is_empty() {
            writeln!(out, "  notifies {} alone", rule.notify.join(", "))?;
        }
        for exclusion in rule.exclusions.iter().flatten() {
            writeln!(out, "  passes: {}", self::exclusion(exclusion))?;
        }
        if rule.exclusions.as_ref().is_some_and(Vec::is_empty) {
            writeln!(out, "  passes: nothing but the agent's own")?;
        }
    }
    Ok(())
}

/// Groups, protected hosts, limits and sources.
fn hosts(policy: &Policy, out: &mut String) -> std::fmt::Result {
    for (name, hosts) in policy.groups.iter() {
        writeln!(out, "\ngroup {name}:")?;
        conditions(hosts.words(), out)?;
    }
    for entry in &policy.protected {
        writeln!(out, "\nprotected, {:?}: automatic isolation is asked about", entry.name)?;
        conditions(entry.hosts.words(), out)?;
    }
    for limit in &policy.limits {
        writeln!(out, "\nlimit {:?}: {limit}", limit.name())?;
        if limit.hosts.is_all() {
            writeln!(out, "  of all hosts")?;
        }
        conditions(limit.hosts.words(), out)?;
    }
    for (at, (pattern, terms)) in policy.sources.iter().enumerate() {
        let may = if terms.may_isolate { "may isolate" } else { "may not isolate: what it would isolate is asked about" };
        let rate = terms.rate.map(|rate| format!(", at most {} hosts in {}", rate.count, rate.per)).unwrap_or_default();
        writeln!(out, "{}source {pattern}: {may}{rate}", if at == 0 { "\n" } else { "" })?;
    }
    Ok(())
}

fn conditions(conditions: impl Iterator<Item = String>, out: &mut String) -> std::fmt::Result {
    for (at, condition) in conditions.enumerate() {
        writeln!(out, "  {} {condition}", if at == 0 { "if " } else { "and" })?;
    }
    Ok(())
}

fn then(rule: &Rule) -> String {
    let then = match rule.then {
        Then::Isolate { release_after } => isolate(release_after),
        Then::Ask(question) => asks(question),
        Then::Observe => "observe (record and notify)".to_owned(),
        Then::Ignore => "ignore (record)".to_owned(),
    };
    let asks = matches!(rule.then, Then::Isolate { .. } | Then::Ask(_)) && rule.on_deadline == OnDeadline::Ask;
    let then = if asks { format!("{then}, at the deadline ask") } else { then };
    if rule.audit { format!("{then}, in audit: recorded, not ordered") } else { then }
}

fn isolate(release_after: For) -> String {
    match release_after {
        For::Never => "isolate until a person releases it".to_owned(),
        For::Span(span) => format!("isolate for {span}"),
    }
}

fn asks(question: Question) -> String {
    let Question { approvals, ask_for, if_unanswered, release_after } = question;
    let who = if approvals == 1 { "a person".to_owned() } else { format!("{approvals} people") };
    let isolate = isolate(release_after);
    format!("ask {who} whether to {isolate}, for {ask_for}; unanswered: {}", unanswered(if_unanswered))
}

fn unanswered(if_unanswered: IfUnanswered) -> &'static str {
    match if_unanswered {
        IfUnanswered::Observe => "observe",
        IfUnanswered::Isolate => "isolate",
    }
}

fn at_deadline(on_deadline: OnDeadline) -> &'static str {
    match on_deadline {
        OnDeadline::Release => "release",
        OnDeadline::Ask => "ask",
    }
}

fn lasting(lasting: For) -> String {
    match lasting {
        For::Span(span) => span.to_string(),
        For::Never => "no end".to_owned(),
    }
}

/// The word that stands on the wire.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// One exclusion in words.
pub(super) fn exclusion(exclusion: &Exclusion) -> String {
    let protocol = match exclusion.protocol {
        Protocol::Any => "any protocol".to_owned(),
        named if named.to_string().starts_with(|c: char| c.is_ascii_digit()) => format!("protocol {named}"),
        named => named.to_string(),
    };
    let remote = match &exclusion.remote {
        Remote::Cidrs(nets) => joined(nets),
        Remote::Names(names) => format!("{} by name", joined(names)),
        Remote::Known(Known::Resolvers) => "the host's resolvers".to_owned(),
        Remote::Known(Known::DhcpServers) => "the host's DHCP servers".to_owned(),
        Remote::Any => "anybody".to_owned(),
    };
    let ports = |ports: &[PortRange]| if ports.is_empty() { String::new() } else { format!(" port {}", joined(ports)) };
    let (remote_ports, local_ports) = (ports(&exclusion.remote_ports), ports(&exclusion.local_ports));
    let mut line = match exclusion.direction {
        Direction::Out => format!("{}: {protocol} out to {remote}{remote_ports}", exclusion.name),
        Direction::In => format!("{}: {protocol} in from {remote}{remote_ports}", exclusion.name),
    };
    if !local_ports.is_empty() {
        let own = if exclusion.direction == Direction::Out { "from" } else { "to" };
        let _ = write!(line, " {own} own{local_ports}");
    }
    if !exclusion.icmp_types.is_empty() {
        let types: Vec<String> = exclusion.icmp_types.iter().map(word).collect();
        let _ = write!(line, ", {} only", types.join(", "));
    }
    if let Some(user) = &exclusion.user {
        let _ = write!(line, ", user {user} only");
    }
    if let Some(unit) = &exclusion.unit {
        let _ = write!(line, ", unit {unit} only");
    }
    if exclusion.if_listening {
        line.push_str(", if something listens there");
    }
    if !is_one_host(&exclusion.remote)
        && let Some(service) = metadata::opened(exclusion)
    {
        let _ = write!(line, ", {service} included: the metadata service of a cloud");
    }
    line
}

/// Whoever names single addresses knows what is there.
fn is_one_host(remote: &Remote) -> bool {
    matches!(remote, Remote::Cidrs(nets) if nets.iter().all(|net| net.prefix_len() == net.max_prefix_len()))
}

fn joined(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
