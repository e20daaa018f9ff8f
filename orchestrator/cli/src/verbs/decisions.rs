//! `decisions`: what was decided, and why.

use portcullis_schemas::time::Span;
use portcullis_schemas::{Stream, Timestamp};
use serde::Serialize;

use super::lines::{self, Line};
use crate::client::{Client, History, Query, Record, What};
use crate::failure::{Exit, Failure};
use crate::find::find;
use crate::screen::{Cell, Screen, plain};
use crate::words;

#[derive(clap::Args, Clone, Debug)]
pub struct DecisionsArgs {
    /// Of one host: its id, name or address
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub since: Span,
    /// The newest N of them
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

#[derive(Serialize)]
struct Document {
    since: Timestamp,
    host: Option<String>,
    decisions: Vec<Line>,
}

pub async fn run<C: Client>(args: &DecisionsArgs, client: &C, screen: &mut Screen, now: Timestamp) -> Result<Exit, Failure> {
    let host = match &args.host {
        Some(wanted) => Some(find(client, wanted, now).await?.host),
        None => None,
    };
    let since = now - args.since.delta();
    let query = Query { stream: Stream::Decisions, host: host.clone(), since, limit: args.limit as usize };
    let History { records, from } = client.history(&query).await?;
    if let Some(from) = from {
        screen.warn(&format!("decisions before {} were not read: reading takes long; --since narrows it", words::date(from)));
    }
    if screen.is_json() {
        let decisions = lines::each(client, &records, query.limit).await?;
        screen.document(&Document { since, host: host.map(|host| host.to_string()), decisions })?;
        return Ok(Exit::Done);
    }
    if records.is_empty() {
        screen.line(&format!("Nothing was decided in the last {}.", args.since))?;
        return Ok(Exit::Done);
    }
    let rows = records.iter().map(cells).collect();
    screen.table(&["TIME", "HOST", "VERDICT", "INCIDENT", "WHY"], rows)?;
    if records.len() == query.limit {
        screen.warn(&format!("these are the newest {}; --limit shows more", args.limit));
    }
    Ok(Exit::Done)
}

fn cells(record: &Record) -> Vec<Cell> {
    let line = lines::line(record);
    let (verdict, why) = match &record.what {
        What::Decision(event) => (event.data.verdict.as_str(), lines::why(&event.data)),
        What::Plain(event) => {
            let plain = &event.data.plain;
            (plain.verdict.as_str(), format!("rule {}; {}", plain.rule, lines::inputs(plain)))
        }
        _ => ("?", line.text.clone()),
    };
    vec![
        plain(words::moment(line.stored_at)),
        plain(line.host.unwrap_or_else(|| "-".into())),
        (line.paint, verdict.to_owned()),
        plain(words::short(line.incident.as_deref().unwrap_or("-"), 40)),
        plain(words::short(&why, 400)),
    ]
}
