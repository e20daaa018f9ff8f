//! `hosts`: the fleet in one table.

use portcullis_core::status::Status;
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{Level, Posture, State};
use portcullis_schemas::heartbeat::PolicyState;
use serde::Serialize;

use crate::client::{Beat, Client, HostView};
use crate::failure::{Exit, Failure};
use crate::screen::{Cell, Paint, Screen, plain};
use crate::{natural, words};

#[derive(clap::Args, Clone, Debug)]
pub struct HostsArgs {
    /// Show all columns, also where they need more than 80 characters
    #[arg(long)]
    pub wide: bool,
}

/// A terminal's usual width.
const WIDTH: usize = 80;
/// What is left of the two columns that may be cut.
const LEAST_HOST: usize = 20;
const LEAST_NAME: usize = 10;

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
    /// The host's last hello, where it is late or the host unreachable; absent where it came within some 40 s.
    pub heard_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct Document {
    at: Timestamp,
    orchestrator: Option<Orchestrator>,
    hosts: Vec<Row>,
    unreadable: Vec<String>,
}

/// The orchestrator as programs see it.
#[derive(Serialize)]
struct Orchestrator {
    heard_at: Timestamp,
    /// False: it is down, or cut off, and what is shown is as of then.
    is_current: bool,
    policy: PolicyState,
}

pub async fn run<C: Client>(
    args: &HostsArgs,
    client: &C,
    screen: &mut Screen,
    now: Timestamp,
    beat: Option<&Beat>,
) -> Result<Exit, Failure> {
    let mut fleet = client.fleet().await?;
    fleet.hosts.sort_by(|one, other| natural::compare(one.host.as_str(), other.host.as_str()));
    let rows: Vec<Row> = fleet.hosts.iter().map(|view| row(view, now, beat)).collect();
    if screen.is_json() {
        let orchestrator =
            beat.map(|beat| Orchestrator { heard_at: beat.at, is_current: beat.is_current(), policy: beat.said.policy.clone() });
        screen.document(&Document { at: now, orchestrator, hosts: rows, unreadable: fleet.unreadable })?;
        return Ok(Exit::Done);
    }
    for subject in &fleet.unreadable {
        screen
            .warn(&format!("last message on {subject} unreadable, or of another host: not shown, and its host may be isolated"));
    }
    if rows.is_empty() {
        screen.line("No host is known yet: no agent has sent a heartbeat, and nothing was ordered.")?;
        return Ok(Exit::Done);
    }
    if args.wide {
        let head =
            ["HOST", "STATUS", "SINCE", "OPENS IN", "HEARD", "NAME", "ADDRESSES", "LEVEL", "ORDER NO.", "HOST REPORTS", "AGENT"];
        screen.table(&head, rows.iter().map(|row| wide(row, now, beat)).collect())?;
    } else {
        let rows = rows.iter().map(|row| narrow(row, now, beat)).collect();
        screen.table(&["HOST", "STATUS", "FOR", "OPENS IN", "HEARD", "NAME"], fitted(rows))?;
    }
    Ok(Exit::Done)
}

pub fn row(view: &HostView, now: Timestamp, beat: Option<&Beat>) -> Row {
    let hello = view.inventory.as_ref().map(|inventory| &inventory.hello);
    let silent_since = view.inventory.as_ref().and_then(|inventory| inventory.silent_since);
    let order = view.order.as_ref();
    let state = view.state.as_ref();
    let status = view.status(now);
    let held = order.and_then(|order| order.holds.iter().map(|hold| hold.since).min());
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
        heard_at: silent_since.or_else(|| beat?.said.late.get(&view.host).copied()),
    }
}

/// The time of the host's last heartbeat, as far as is known.
pub fn heard(row: &Row, now: Timestamp, beat: Option<&Beat>) -> String {
    match (row.heard_at, beat) {
        (Some(at), _) => words::ago(now, at),
        (None, Some(beat)) if beat.is_current() => "<40s ago".into(),
        (None, _) => "?".into(),
    }
}

/// When it opens, in a word.
fn opens(row: &Row, now: Timestamp) -> String {
    match (row.ordered_posture, row.release_at) {
        (Some(Posture::Isolated), Some(at)) if at < now => "overdue".into(),
        (Some(Posture::Isolated), Some(at)) => words::span((at - now).num_seconds().unsigned_abs()),
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

fn narrow(row: &Row, now: Timestamp, beat: Option<&Beat>) -> Vec<Cell> {
    let lasts = |since: Timestamp| words::span(u64::try_from((now - since).num_seconds()).unwrap_or(0));
    vec![
        (Paint::Strong, row.host.clone()),
        (paint(row.status), row.status.to_string()),
        plain(row.since.map_or("-".into(), lasts)),
        plain(opens(row, now)),
        plain(heard(row, now, beat)),
        plain(row.hostname.as_deref().unwrap_or("-")),
    ]
}

/// Cuts ids and names so that a line fits; `--wide` has them whole.
fn fitted(mut rows: Vec<Vec<Cell>>) -> Vec<Vec<Cell>> {
    let width = |column: usize, least: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|(_, text)| text.chars().count()).max().unwrap_or(0).max(least)
    };
    // Each column but the last has two spaces behind it.
    let between = width(1, "STATUS".len()) + width(2, "FOR".len()) + width(3, "OPENS IN".len()) + width(4, "HEARD".len()) + 10;
    let both = WIDTH.saturating_sub(between);
    let host = width(0, "HOST".len()).min(both.saturating_sub(LEAST_NAME).max(LEAST_HOST));
    let name = both.saturating_sub(host).max("NAME".len());
    for row in &mut rows {
        for (column, most) in [(0, host), (5, name)] {
            if let Some((_, text)) = row.get_mut(column) {
                *text = words::short(text, most);
            }
        }
    }
    rows
}

fn wide(row: &Row, now: Timestamp, beat: Option<&Beat>) -> Vec<Cell> {
    let or_dash = |text: Option<&str>| plain(text.unwrap_or("-"));
    vec![
        (Paint::Strong, row.host.clone()),
        (paint(row.status), row.status.to_string()),
        plain(row.since.map_or("-".into(), |since| words::ago(now, since))),
        plain(opens(row, now)),
        plain(heard(row, now, beat)),
        plain(words::short(row.hostname.as_deref().unwrap_or("-"), 40)),
        plain(addresses(&row.addresses)),
        or_dash(row.level.map(Level::as_str)),
        plain(row.generation.map_or("-".into(), |generation| generation.to_string())),
        or_dash(row.posture.map(Posture::as_str)),
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
