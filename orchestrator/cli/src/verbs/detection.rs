//! One detection, and what was decided about it.

use portcullis_schemas::Timestamp;
use serde::Serialize;

use super::lines::{self, Line};
use crate::client::{Client, Record, What};
use crate::failure::{Exit, Failure};
use crate::screen::{Paint, Screen, plain};
use crate::words;

#[derive(Serialize)]
struct Document {
    at: Timestamp,
    detection: Line,
    decisions: Vec<Line>,
}

pub async fn show<C: Client>(client: &C, found: &Record, screen: &mut Screen, now: Timestamp) -> Result<Exit, Failure> {
    let detection = lines::line(found);
    let mut decisions = Vec::new();
    for record in client.answers(found).await? {
        decisions.push(match &record.what {
            What::Plain(event) => {
                let key = client.keys(&event.data.stream, &[found.sequence]).await?.pop().flatten();
                lines::one(&record, event, found.sequence, key.as_ref())
            }
            _ => lines::line(&record),
        });
    }
    if screen.is_json() {
        screen.document(&Document { at: now, detection, decisions })?;
        return Ok(Exit::Done);
    }
    let id = detection.id.as_deref().map(|id| format!("{}, ", words::short(id, 80))).unwrap_or_default();
    screen.cells(&[(Paint::Strong, format!("detection {id}sequence {}", found.sequence))])?;
    let stored = format!("{}, {} on {}", words::moment(found.stored_at), words::ago(now, found.stored_at), found.subject);
    let fields = [
        ("stored", Some(stored)),
        ("source", detection.source),
        ("host", detection.host),
        ("what", Some(detection.text)),
        ("incident", detection.incident),
    ];
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        screen.cells(&[(Paint::Faint, format!("  {name:<10}  ")), plain(words::short(&value, 400))])?;
    }
    screen.cells(&[(Paint::Strong, "decisions".into())])?;
    if decisions.is_empty() {
        return screen.line("  none so far").map(|()| Exit::Done);
    }
    for line in decisions {
        let time = (Paint::Faint, format!("  {}  ", words::moment(line.stored_at)));
        screen.cells(&[time, plain(words::short(&line.text, 400))])?;
    }
    Ok(Exit::Done)
}
