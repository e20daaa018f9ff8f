//! What the machine itself takes for each input, without a broker: read, decide, write. `just bench decide`; it prints, and judges nothing.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use portcullis_core::Config;
use portcullis_core::machine::{Appended, Command, Delivered, Event, Machine, Message, Now};
use portcullis_policy::Policy;
use portcullis_schemas::events::{Detection, Inventory, Severity};
use portcullis_schemas::{Prefix, Stream, envelope};
use portcullis_tests::bus::{by_id, event, known, ransomware};
use portcullis_tests::world::POLICY;

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
                other => bail!("{other:?} is not known; it takes --count N and --only plain|isolating"),
            }
        }
        println!("{:44} {:>12} {:>10}", "inputs", "a second", "µs each");
        let plain = Detection { severity: Severity::Low, product: "x".repeat(500), ..ransomware(by_id("h1")) };
        if only.as_deref() != Some("isolating") {
            print("detections that isolate nothing, 1 KiB", count, measure(1, count, |_| plain.clone())?);
        }
        if only.as_deref() != Some("plain") {
            print("detections that isolate a host each", count, measure(count, count, |n| ransomware(by_id(&format!("h{n}"))))?);
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

fn measure(hosts: usize, count: usize, detection: impl Fn(usize) -> Detection) -> anyhow::Result<Duration> {
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
    desk.give(Event::Policy(Policy::parse(POLICY).map_err(|error| anyhow::anyhow!("{error:?}"))?.into()));
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
