//! `show`: all that is known of one host, or of one detection.

use chrono::TimeDelta;
use futures_util::future::try_join;
use portcullis_core::status::Status;
use portcullis_schemas::events::{Hold, Inventory, Order, Origin, Posture};
use portcullis_schemas::{Stream, Timestamp};
use serde::Serialize;

use super::lines::{self, Line};
use super::{detection, hosts};
use crate::client::{Beat, Client, DetectionName, Query};
use crate::failure::{Exit, Failure};
use crate::find::find;
use crate::screen::{Paint, Screen, plain};
use crate::words;

/// How far back its states and decisions are shown, and how many of each.
const BACK: TimeDelta = TimeDelta::days(7);
const NEWEST: usize = 5;

#[derive(clap::Args, Clone, Debug)]
pub struct ShowArgs {
    /// Host id, name or address; or a detection: its id, or seq:N with its sequence in the stream
    #[arg(value_name = "HOST|DETECTION")]
    pub what: String,
}

#[derive(Serialize)]
struct Document<'a> {
    at: Timestamp,
    host: &'a str,
    status: Status,
    /// As in `hosts`.
    heard_at: Option<Timestamp>,
    order: Option<&'a Order>,
    state: Option<&'a portcullis_schemas::events::State>,
    inventory: Option<&'a Inventory>,
    states: Vec<Line>,
    decisions: Vec<Line>,
}

pub async fn run<C: Client>(
    args: &ShowArgs,
    client: &C,
    screen: &mut Screen,
    now: Timestamp,
    beat: Option<&Beat>,
) -> Result<Exit, Failure> {
    if let Some(sequence) = args.what.strip_prefix("seq:").and_then(|sequence| sequence.parse().ok()) {
        let found = client.detection(&DetectionName::Sequence(sequence), now - BACK).await?;
        return detection::show(client, &found.ok_or(Failure::NoDetection { sequence })?, screen, now).await;
    }
    let view = match find(client, &args.what, now).await {
        Ok(view) => view,
        Err(failure @ Failure::NoHost { .. }) => {
            let found = client.detection(&DetectionName::Id(args.what.clone()), now - BACK).await?;
            return detection::show(client, &found.ok_or(failure)?, screen, now).await;
        }
        Err(failure) => return Err(failure),
    };
    let query = |stream| Query { stream, host: Some(view.host.clone()), since: now - BACK, limit: NEWEST };
    let (of_states, of_decisions) = (query(Stream::States), query(Stream::Decisions));
    let (states, decisions) = try_join(client.history(&of_states), client.history(&of_decisions)).await?;
    let states: Vec<Line> = states.records.iter().map(lines::line).collect();
    let older = decisions.from.map(|from| format!("  those before {} were not read", words::date(from)));
    let decisions: Vec<Line> = match screen.is_json() {
        true => lines::each(client, &decisions.records, NEWEST).await?,
        false => decisions.records.iter().map(lines::line).collect(),
    };
    let status = view.status(now);
    let row = hosts::row(&view, now, beat);
    if screen.is_json() {
        screen.document(&Document {
            at: now,
            host: view.host.as_str(),
            status,
            heard_at: row.heard_at,
            order: view.order.as_ref(),
            state: view.state.as_ref(),
            inventory: view.inventory.as_ref(),
            states,
            decisions,
        })?;
        return Ok(Exit::Done);
    }
    let since = row.since.map(|since| format!(" {}", words::ago(now, since))).unwrap_or_default();
    screen.cells(&[
        (Paint::Strong, view.host.to_string()),
        plain("  "),
        (hosts::paint(status), status.to_string()),
        plain(since),
    ])?;
    let heard = row.heard_at.map(|at| format!(" ({})", words::date(at))).unwrap_or_default();
    field(screen, "last heard", &format!("{}{heard}", hosts::heard(&row, now, beat)))?;
    if let Some(inventory) = &view.inventory {
        about(inventory, screen)?;
    }
    if let Some(ahead) = view.state.as_ref().and_then(|state| state.clock_ahead_seconds) {
        field(screen, "clock", &words::clock(ahead))?;
    }
    match &view.order {
        Some(order) => ordered(order, screen, now)?,
        None => field(screen, "order", "none so far")?,
    }
    section(screen, "last states", &states)?;
    section(screen, "last decisions", &decisions)?;
    older.iter().try_for_each(|older| screen.line(older))?;
    Ok(Exit::Done)
}

fn about(inventory: &Inventory, screen: &mut Screen) -> Result<(), Failure> {
    let hello = &inventory.hello;
    field(screen, "name", &hello.hostname)?;
    field(screen, "addresses", &hello.ips.join(", "))?;
    field(screen, "agent", &format!("{}, {}", hello.agent_version, words::level_words(hello.level)))?;
    field(screen, "system", &format!("{}, kernel {}", hello.os, hello.kernel))?;
    if !hello.labels.is_empty() {
        let labels: Vec<String> = hello.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        field(screen, "labels", &labels.join(", "))?;
    }
    if !hello.roles.is_empty() {
        field(screen, "roles", &hello.roles.join(", "))?;
    }
    Ok(())
}

fn ordered(order: &Order, screen: &mut Screen, now: Timestamp) -> Result<(), Failure> {
    let when = words::ago(now, order.issued_at);
    let what =
        format!("{}, order no. {}, {when}, on {}", order.posture.as_str(), order.generation, words::input(&order.issued_by));
    field(screen, "order", &what)?;
    field(screen, "reason", &order.reason)?;
    field(screen, "incident", &order.incident)?;
    if let Some(ticket) = &order.ticket {
        field(screen, "ticket", ticket)?;
    }
    if order.posture == Posture::Open {
        return Ok(());
    }
    let release = match order.release_at {
        Some(at) => format!("{} ({})", words::due(now, at), words::date(at)),
        None => "never; a person releases it".into(),
    };
    field(screen, "release", &release)?;
    let mut passing: Vec<&str> = order.exclusions.iter().map(|exclusion| exclusion.name.as_str()).collect();
    passing.dedup();
    field(screen, "passes", if passing.is_empty() { "nothing".to_owned() } else { passing.join(", ") }.as_str())?;
    screen.cells(&[(Paint::Strong, "holds".into())])?;
    order.holds.iter().try_for_each(|hold| held(hold, screen, now))
}

fn held(hold: &Hold, screen: &mut Screen, now: Timestamp) -> Result<(), Failure> {
    let whose = match (hold.origin, &hold.rule) {
        (Origin::Manual, _) => "manual".to_owned(),
        (Origin::Automatic, Some(rule)) => format!("rule {rule}"),
        (Origin::Automatic, None) => "automatic".to_owned(),
    };
    let until = hold.until.map_or("no deadline".into(), |until| format!("ends {}", words::due(now, until)));
    screen.line(&format!("  {whose}, since {}, {until}", words::ago(now, hold.since)))?;
    for cause in &hold.causes {
        screen.line(&format!("    {} ({})", words::input(cause), words::short(&cause.source, 60)))?;
    }
    match hold.more {
        Some(more) => screen.line(&format!("    and {}", words::count(more, "more cause", "more causes"))),
        None => Ok(()),
    }
}

fn section(screen: &mut Screen, title: &str, lines: &[Line]) -> Result<(), Failure> {
    screen.cells(&[(Paint::Strong, title.to_owned())])?;
    if lines.is_empty() {
        return screen.line(&format!("  none in the last {} days", BACK.num_days()));
    }
    lines.iter().try_for_each(|line| {
        let time = (Paint::Faint, format!("  {}  ", words::moment(line.stored_at)));
        screen.cells(&[time, plain(words::short(&line.text, 400))])
    })
}

fn field(screen: &mut Screen, name: &str, value: &str) -> Result<(), Failure> {
    screen.cells(&[(Paint::Faint, format!("  {name:<10}  ")), plain(words::short(value, 400))])
}
