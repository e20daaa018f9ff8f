//! `hosts`: the fleet in one table.

use portcullis_core::status::Status;
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Level, Posture, State};
use serde::Serialize;

use crate::client::{Client, HostView};
use crate::failure::{Exit, Failure};
use crate::screen::{Cell, Paint, Screen, plain};
use crate::words;

#[derive(clap::Args, Clone, Debug)]
pub struct HostsArgs {}

/// One host as programs see it.
#[derive(Serialize)]
pub struct Row {
    pub host: String,
    pub status: Status,
    /// Of the last order; without one, what the host reports.
    pub generation: Option<u64>,
    /// What the host enforces, by its own word.
    pub posture: Option<Posture>,
    pub ordered_posture: Option<Posture>,
    /// Since when it is so.
    pub since: Option<Timestamp>,
    pub release_at: Option<Timestamp>,
    pub hostname: Option<String>,
    pub addresses: Vec<String>,
    pub level: Option<Level>,
    pub agent_version: Option<String>,
    pub incident: Option<String>,
    pub silent_since: Option<Timestamp>,
}

#[derive(Serialize)]
struct Document {
    at: Timestamp,
    hosts: Vec<Row>,
    unreadable: Vec<String>,
}

pub async fn run<C: Client>(_: &HostsArgs, client: &C, screen: &mut Screen, now: Timestamp) -> Result<Exit, Failure> {
    let fleet = client.fleet().await?;
    let rows: Vec<Row> = fleet.hosts.iter().map(|view| row(view, now)).collect();
    if screen.is_json() {
        screen.document(&Document { at: now, hosts: rows, unreadable: fleet.unreadable })?;
        return Ok(Exit::Done);
    }
    for subject in &fleet.unreadable {
        screen.warn(&format!("the last message on {subject} cannot be understood, and is left out here"));
    }
    if rows.is_empty() {
        screen.line("No host is known yet: no agent has been heard of, and nothing was ordered.")?;
        return Ok(Exit::Done);
    }
    let head = ["HOST", "STATUS", "GEN", "POSTURE", "SINCE", "RELEASE", "NAME", "ADDRESSES", "LEVEL", "AGENT"];
    screen.table(&head, rows.iter().map(|row| cells(row, now)).collect())?;
    Ok(Exit::Done)
}

pub fn row(view: &HostView, now: Timestamp) -> Row {
    let hello = view.inventory.as_ref().map(|inventory| &inventory.hello);
    let silent_since = view.inventory.as_ref().and_then(|inventory| inventory.silent_since);
    let order = view.order.as_ref();
    let state = view.state.as_ref();
    let status = view.status(now);
    let held = order.and_then(|order| order.leases.iter().map(|lease| lease.since).min());
    let since = match status {
        Status::Unreachable => silent_since,
        Status::Isolated => held,
        Status::Open => state.map(State::enforced_at_by_broker),
        Status::Isolating | Status::Releasing | Status::Drift | Status::Failed => order.map(|order| order.issued_at),
    };
    Row {
        host: view.host.to_string(),
        status,
        generation: order
            .map(|order| order.generation)
            .or(state.map(|state| state.generation))
            .or(hello.map(|hello| hello.generation)),
        posture: view.posture(),
        ordered_posture: order.map(|order| order.posture),
        since,
        release_at: order.and_then(|order| order.release_at),
        hostname: view.hostname().map(str::to_owned),
        addresses: hello.map(|hello| hello.ips.clone()).unwrap_or_default(),
        level: state.map(|state| state.level).or(hello.map(|hello| hello.level)),
        agent_version: hello.map(|hello| hello.agent_version.clone()).or(state.map(|state| state.agent_version.clone())),
        incident: order.filter(|order| order.posture == Posture::Isolated).map(|order| order.incident.clone()),
        silent_since,
    }
}

/// When it opens again, in words.
pub fn release(row: &Row, now: Timestamp) -> String {
    match (row.ordered_posture, row.release_at) {
        (Some(Posture::Isolated), Some(at)) => words::due(now, at),
        (Some(Posture::Isolated), None) => "never".into(),
        _ => "-".into(),
    }
}

pub fn paint(status: Status) -> Paint {
    match status {
        Status::Open => Paint::Good,
        Status::Isolated | Status::Isolating | Status::Releasing => Paint::Warn,
        Status::Drift | Status::Failed => Paint::Bad,
        Status::Unreachable => Paint::Faint,
    }
}

fn cells(row: &Row, now: Timestamp) -> Vec<Cell> {
    let or_dash = |text: Option<&str>| plain(text.unwrap_or("-"));
    vec![
        (Paint::Strong, row.host.clone()),
        (paint(row.status), row.status.to_string()),
        plain(row.generation.map_or("-".into(), |generation| generation.to_string())),
        or_dash(row.posture.map(Posture::as_str)),
        plain(row.since.map_or("-".into(), |since| words::ago(now, since))),
        plain(release(row, now)),
        plain(words::short(row.hostname.as_deref().unwrap_or("-"), 40)),
        plain(addresses(&row.addresses)),
        or_dash(row.level.map(Level::as_str)),
        plain(words::short(row.agent_version.as_deref().unwrap_or("-"), 20)),
    ]
}

fn addresses(all: &[String]) -> String {
    const SHOWN: usize = 2;
    let first = all.iter().take(SHOWN).map(|address| words::short(address, 40)).collect::<Vec<_>>().join(", ");
    match all.len() {
        0 => "-".into(),
        count if count > SHOWN => format!("{first} +{}", count - SHOWN),
        _ => first,
    }
}
