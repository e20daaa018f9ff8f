//! `tail`: what happens, as it happens.

use futures_util::StreamExt;
use portcullis_core::resolve::is_called;
use portcullis_schemas::time::Span;
use portcullis_schemas::{Stream, Timestamp};

use super::lines::{self, Line};
use crate::client::{Client, Follow, HostView, Record, What};
use crate::failure::{Exit, Failure};
use crate::find::find;
use crate::screen::{Paint, Screen, plain};
use crate::words;

#[derive(clap::Args, Clone, Debug)]
pub struct TailArgs {
    /// Of one host: its id, name or address
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Begin with what happened this long ago
    #[arg(long, value_name = "DURATION")]
    pub since: Option<Span>,
}

pub async fn run<C: Client>(args: &TailArgs, client: &C, screen: &mut Screen, now: Timestamp) -> Result<Exit, Failure> {
    let view = match &args.host {
        Some(wanted) => Some(find(client, wanted, now).await?),
        None => None,
    };
    let mut streams = vec![Stream::Detections, Stream::Decisions, Stream::Orders, Stream::States, Stream::Notices];
    // What could not be understood belongs to no host.
    streams.extend(args.host.is_none().then_some(Stream::Rejected));
    let follow =
        Follow { streams, host: view.as_ref().map(|view| view.host.clone()), since: args.since.map(|since| now - since.delta()) };
    let mut records = client.follow(&follow).await?;
    screen.progress("following; end with Ctrl-C");
    loop {
        tokio::select! {
            ended = tokio::signal::ctrl_c() => {
                return ended.map(|()| Exit::Done).map_err(|source| Failure::Io { what: "cannot hear Ctrl-C".into(), source });
            }
            record = records.next() => match record {
                Some(record) => {
                    let record = record?;
                    if view.as_ref().is_none_or(|view| concerns(&record, view)) {
                        match screen.is_json() {
                            true => lines::each(client, &[record], usize::MAX).await?.iter().try_for_each(|line| screen.json_line(line))?,
                            false => print(&lines::line(&record), screen)?,
                        }
                    }
                }
                None => return Ok(Exit::Done),
            },
        }
    }
}

/// Detections are kept by sender, so they are taken by the names that the sender uses for the host.
pub fn concerns(record: &Record, view: &HostView) -> bool {
    let What::Detection(event) = &record.what else {
        return record.is_about(&view.host);
    };
    let host = &event.data.host;
    host.id.as_deref().is_some_and(|id| id.eq_ignore_ascii_case(view.host.as_str()))
        || view.inventory.as_ref().is_some_and(|known| host.hostname.iter().chain(&host.ips).any(|name| is_called(known, name)))
}

fn print(line: &Line, screen: &mut Screen) -> Result<(), Failure> {
    let host = words::short(line.host.as_deref().unwrap_or("-"), 40);
    let incident = line.incident.as_deref().map(|incident| format!("  [{}]", words::short(incident, 40)));
    screen.cells(&[
        (Paint::Faint, words::moment(line.stored_at)),
        (line.paint, format!("  {:<10}", line.kind)),
        (Paint::Strong, format!("  {host:<16}  ")),
        plain(words::short(&line.text, 400)),
        (Paint::Faint, incident.unwrap_or_default()),
    ])
}
