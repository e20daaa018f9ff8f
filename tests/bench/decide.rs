//! What the machine itself takes for each input, without a broker: read, decide, write. `just bench decide`; it prints, and judges nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use portcullis_core::Config;
use portcullis_core::machine::{Appended, Command, Delivered, Event, Machine, Message, Now};
use portcullis_policy::{HostView, Policy, Subject};
use portcullis_schemas::events::{Detection, Indicator, Inventory, Level, Severity};
use portcullis_schemas::{Prefix, Stream, envelope};
use portcullis_tests::bus::{by_id, event, known, ransomware};
use portcullis_tests::world::POLICY;

/// Ten rules with conditions on severity, technique, source and label, two of them with an expression.
const TEN: &str = r#"version: 1
groups: { servers: { match: { host.label.kind: [server, database] } } }
rules:
  - { name: tests, match: { source: "test-*" }, then: ignore }
  - { name: ransomware, match: { severity: ">= high", technique: [T1486, T1490, "T1561*"], source: [elastic, wazuh, siem] }, then: isolate }
  - { name: wiper, match: { severity: critical, technique: T1485, host.label.kind: workstation }, then: isolate }
  - name: c2
    match: { severity: ">= medium", technique: ["T1071*", "T1090*", T1095, T1571, "T1573*"] }
    when: |
      detection.confidence >= 80 && not(detection.rule.name.startsWith("test-")) && host.label.tier != "lab"
        && host.level == "full" && (detection.indicator.type in ["ip", "domain"] || detection.severity_rank >= 5)
    then: isolate
  - { name: payment, match: { severity: ">= medium", host.label.tier: payment }, then: ask, approvals: 2 }
  - name: lateral
    match: { severity: ">= low" }
    when: |
      detection.techniques.exists(t, t.startsWith("T1021") || t.startsWith("T1570"))
        && detection.product != "scanner" && source in ["elastic", "siem"] && detection.age < 3600
    then: ask
  - { name: servers, match: { severity: critical, host.group: servers }, then: ask }
  - { name: sure, match: { severity: ">= high", confidence: ">= 95", source: elastic }, then: ask }
  - { name: noise, match: { severity: "<= low", technique: [T1595, T1046] }, then: ignore }
  - { name: rest, then: observe }
"#;

/// Inputs that the shell hands in at once.
const AT_ONCE: usize = 512;

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let (mut count, mut only) = (20_000, None);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // Cargo says it to every bench.
                "--bench" => {}
                "--count" => count = arguments.next().context("--count N")?.parse().context("--count N")?,
                "--only" => only = arguments.next(),
                other => bail!("{other:?} is not known; it takes --count N and --only plain|isolating|policy"),
            }
        }
        println!("{:44} {:>12} {:>10}", "inputs", "a second", "µs each");
        let plain = Detection { severity: Severity::Low, product: "x".repeat(500), ..ransomware(by_id("h1")) };
        let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
        if wanted("plain") {
            print("detections that isolate nothing, 1 KiB", count, measure(POLICY, 1, count, |_| plain.clone())?);
        }
        if wanted("isolating") {
            let took = measure(POLICY, count, count, |n| ransomware(by_id(&format!("h{n}"))))?;
            print("detections that isolate a host each", count, took);
        }
        if wanted("policy") {
            print("the same, none isolates, ten rules", count, measure(TEN, 1, count, |n| varied(n, &plain))?);
            print("ten rules alone", 10 * count, judged(10 * count, &plain)?);
        }
        Ok(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("decide: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(name: &str, count: usize, took: Duration) {
    let each = took.as_secs_f64() / count as f64;
    println!("{name:44} {:>12.0} {:>10.1}", 1.0 / each, each * 1e6);
}

/// Detections that no rule of the ten isolates for; each goes through other ones of them.
fn varied(n: usize, plain: &Detection) -> Detection {
    let severities = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
    let techniques = ["T1003", "T1071.001", "T1059.001", "T1110", "T1105"];
    let indicator = Indicator { kind: "ip".into(), value: "203.0.113.9".into() };
    Detection {
        severity: severities[n % severities.len()],
        techniques: vec![techniques[n % techniques.len()].into(), "T1204.002".into()],
        confidence: Some(60),
        indicator: Some(indicator),
        ..plain.clone()
    }
}

/// The policy's judgement, without reading an input and writing a decision.
fn judged(count: usize, plain: &Detection) -> anyhow::Result<Duration> {
    let policy = Policy::parse(TEN).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let detections: Vec<Detection> = (0..20).map(|n| varied(n, plain)).collect();
    let labels = [("kind".to_owned(), "server".to_owned()), ("tier".to_owned(), "web".to_owned())].into();
    let host = HostView { id: "h1", name: "h1.example.org", labels: &labels, roles: &[], level: Level::Full };
    let at = chrono::Utc::now();
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    let start = Instant::now();
    for n in 0..count {
        let detection = &detections[n % detections.len()];
        let judgement = policy.judge(&Subject { detection, source: "siem", host, at });
        *rules.entry(judgement.rule.unwrap_or_default()).or_default() += 1;
    }
    let took = start.elapsed();
    anyhow::ensure!(rules.len() > 1, "all by one rule: {rules:?}");
    Ok(took)
}

fn measure(policy: &str, hosts: usize, count: usize, detection: impl Fn(usize) -> Detection) -> anyhow::Result<Duration> {
    let prefix = Prefix::new("portcullis")?;
    let mut desk = Desk { machine: Machine::new(prefix.clone(), Config::default(), "bench".into()), answered: 0 };
    for n in 1..=hosts {
        let host = format!("h{n}");
        let inventory = Inventory {
            hello: known(&host)?,
            claims: Vec::new(),
            silent_since: None,
            roles_since: Default::default(),
            operator: None,
        };
        let body = envelope::encode(&event(format!("v{n}"), "/bench", inventory))?.into();
        desk.give(Event::Logged(Stream::Inventory, message(prefix.of(Stream::Inventory, &host), body, n as u64)));
    }
    desk.give(Event::Policy(Policy::parse(policy).map_err(|error| anyhow::anyhow!("{error:?}"))?.into()));
    desk.give(Event::Lead);
    let subject = prefix.of(Stream::Detections, "siem");
    let mut delivered = Vec::new();
    for n in 1..=count {
        let body = envelope::encode(&event(format!("d{n}"), "/bench", detection(n)))?.into();
        let message = message(subject.clone(), body, n as u64);
        delivered.push(Delivered { stream: Stream::Detections, deliveries: 1, waited: false, message });
    }
    let start = Instant::now();
    while !delivered.is_empty() {
        let rest = delivered.split_off(delivered.len().min(AT_ONCE));
        desk.give(Event::Delivered(std::mem::replace(&mut delivered, rest)));
    }
    let took = start.elapsed();
    anyhow::ensure!(desk.answered == count, "{} of {count} were answered", desk.answered);
    Ok(took)
}

/// A shell to which everything succeeds at once.
struct Desk {
    machine: Machine,
    answered: usize,
}

impl Desk {
    fn give(&mut self, event: Event) {
        let now = || {
            let broker = chrono::Utc::now();
            Now { boot: Duration::from_secs(1), broker }
        };
        self.machine.handle(event, now());
        while let Some(command) = self.machine.next_command() {
            match command {
                Command::Append { number, .. } => self.machine.handle(Event::Appended(number, Appended::Stored), now()),
                Command::Ack(tickets) => self.answered += tickets.len(),
                _ => {}
            }
        }
    }
}

fn message(subject: String, body: Bytes, sequence: u64) -> Message {
    let headers = vec![("Content-Type".to_owned(), envelope::CONTENT_TYPE.to_owned())];
    Message { subject, headers, malformed: None, body, at: chrono::Utc::now(), sequence }
}
