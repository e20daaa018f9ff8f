//! Inventories and orders as an orchestrator would have stored them, by the ten thousand; and what a process takes.

use anyhow::Context;
use async_nats::HeaderMap;
use chrono::{TimeDelta, Utc};
use portcullis_schemas::events::{
    Cause, Claim, Hello, Hold, InputKind, InputRef, Inventory, LocalRelease, Order, Origin, Posture, Settled, WhenUnreachable,
};
use portcullis_schemas::subjects::TERM;
use portcullis_schemas::{Stream, Timestamp, envelope, ids};
use portcullis_tests::bus::{Bus, event, hello};
use portcullis_tests::place::unique;

/// Members of an atomic batch.
pub const BATCH: usize = 512;

pub fn name(n: usize) -> String {
    format!("Web-{n}.DC{}.corp.example.com", n % 7)
}

/// The hash of the last message of ORDERS, after the record of a term: orders follow from it.
pub async fn last_link(bus: &Bus) -> anyhow::Result<String> {
    let terms = bus.raw(Stream::Orders, &bus.prefix.of(Stream::Orders, TERM)).await?;
    Ok(ids::sha256(&terms.last().context("a term was begun")?.payload))
}

pub fn inventory(n: usize) -> anyhow::Result<Vec<u8>> {
    let (name, id) = (name(n), format!("h{n}"));
    let ips = vec![format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256), format!("2001:db8::{n:x}")];
    let labels = [("role", "web"), ("tier", "frontend"), ("site", "frankfurt-3")];
    let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let hello = Hello { labels, roles: vec!["container-host".into()], ..hello(&id, &name, &ips)? };
    let since = Utc::now() - TimeDelta::days(30);
    let values = ips.into_iter().chain([name.to_lowercase()]);
    let claims = values.map(|value| Claim { value, since, internal: false, left_at: None }).collect();
    Ok(envelope::encode(&event(
        format!("v{n}"),
        "/bench",
        Inventory { hello, claims, silent_since: None, roles_since: Default::default(), operator: None },
    ))?)
}

pub fn order(n: usize, until: Timestamp, prev: String) -> anyhow::Result<Vec<u8>> {
    let (now, input) = (Utc::now(), format!("d{n}"));
    let issued_by = InputRef { kind: InputKind::Detection, token: "siem".into(), source: "/bench".into(), id: input };
    let cause = Cause::from(issued_by.clone());
    let hold = Hold {
        rule: Some("ransomware".into()),
        origin: Origin::Automatic,
        causes: vec![cause],
        more: None,
        generation: 1,
        since: now,
        until: Some(until),
        reason: None,
        ticket: None,
        incident: None,
    };
    let order = Order {
        host: format!("h{n}").parse()?,
        generation: 1,
        posture: Posture::Isolated,
        holds: vec![hold],
        release_at: Some(until),
        exclusions: portcullis_policy::default_exclusions(),
        when_unreachable: WhenUnreachable::Release,
        local_release: LocalRelease::Root,
        incident: format!("incident {n}"),
        ticket: None,
        issued_at: now,
        issued_by: issued_by.clone(),
        reason: "rule ransomware on a detection by siem".into(),
        expires_at: Some(until),
        min_agent: None,
        settled: vec![Settled { hash: issued_by.hash(), at_ms: now.timestamp_millis(), generation: Some(1) }],
        settled_floor: None,
        released_at: None,
        last_release: None,
        last_isolation: None,
        asked_at_deadline: false,
        prev,
    };
    Ok(envelope::encode(&event(format!("o{n}"), "/bench", order))?)
}

/// One atomic batch (ADR-50).
pub async fn store_batch(bus: &Bus, batch: Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    let (id, count) = (unique(), batch.len());
    for (number, (subject, body)) in (1..).zip(batch) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Batch-Id", id.as_str());
        headers.insert("Nats-Batch-Sequence", number.to_string());
        if number < count {
            bus.client.publish_with_headers(subject, headers, body.into()).await?;
        } else {
            headers.insert("Nats-Batch-Commit", "1");
            bus.context.publish_with_headers(subject, headers, body.into()).await?.await?;
        }
    }
    Ok(())
}

/// What a process has taken of the processors, in seconds (proc(5): utime and stime, in hundredths).
pub fn processor(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let [user, system] = [11, 12].map(|at| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(f64::NAN));
    Ok((user + system) / 100.0)
}

/// Of a process, in MiB (proc(5)).
pub fn memory(pid: u32, what: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
