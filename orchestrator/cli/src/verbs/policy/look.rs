//! `policy show`, `diff`, `history` and `explain`: what is active, what was, and what differs.

use portcullis_policy::Policy;
use portcullis_schemas::Timestamp;
use serde::Serialize;
use similar::TextDiff;

use super::texts::{self, Activated, Text, short};
use super::{difference, invalid};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::screen::{Paint, Screen, plain};
use crate::words;

#[derive(clap::Args, Clone, Debug)]
pub struct WhichArgs {
    /// A hash or the beginning of it, a file, or active
    #[arg(value_name = "HASH|FILE", default_value = "active")]
    pub which: String,
}

#[derive(clap::Args, Clone, Debug)]
pub struct DiffArgs {
    /// The older one: a hash, a file, or active. Alone: what it would change against the active one
    #[arg(value_name = "A")]
    pub one: Option<String>,
    /// The newer one. Without both: what the active one changed against the one before
    #[arg(value_name = "B")]
    pub other: Option<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    hash: &'a str,
    active: bool,
    text: &'a str,
}

#[derive(Serialize)]
struct Differs<'a> {
    from: &'a str,
    to: &'a str,
    changes: Vec<String>,
    diff: String,
}

#[derive(Serialize)]
struct Row<'a> {
    at: Timestamp,
    hash: Option<&'a str>,
    by: &'a str,
    reason: Option<&'a str>,
    term: u64,
    active: bool,
}

pub async fn show<C: Client>(args: &WhichArgs, client: &C, screen: &mut Screen) -> Result<Exit, Failure> {
    let history = texts::history(client).await?;
    let found = texts::find(client, &history, &args.which).await?;
    let active = texts::active(&history) == Some(&found.hash);
    if screen.is_json() {
        screen.document(&Shown { name: &found.name, hash: &found.hash, active, text: &found.text })?;
        return Ok(Exit::Done);
    }
    // The text alone, so that it can be kept as a file.
    screen.progress(&since(&history, &found));
    found.text.lines().try_for_each(|line| screen.line(line))?;
    Ok(Exit::Done)
}

fn since(history: &[Activated], found: &Text) -> String {
    match history.iter().rev().find(|one| one.record.hash.as_ref() == Some(&found.hash)) {
        Some(Activated { at, record }) => {
            let active = texts::active(history) == Some(&found.hash);
            let reason = record.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let word = if active { "active since" } else { "last activated on" };
            format!("policy {}, {word} {}, by {}{reason}", found.hash, words::date(*at), record.activated_by)
        }
        None => format!("policy {}, never active", found.hash),
    }
}

pub async fn explain<C: Client>(args: &WhichArgs, client: &C, screen: &mut Screen) -> Result<Exit, Failure> {
    let history = texts::history(client).await?;
    let found = texts::find(client, &history, &args.which).await?;
    let policy = match Policy::parse(&found.text) {
        Ok(policy) => policy,
        Err(errors) => return invalid(&found.name, &errors, screen),
    };
    let explained = policy.explain();
    if screen.is_json() {
        let active = texts::active(&history) == Some(&found.hash);
        screen.document(&Shown { name: &found.name, hash: &found.hash, active, text: &explained })?;
        return Ok(Exit::Done);
    }
    screen.progress(&since(&history, &found));
    explained.lines().try_for_each(|line| screen.line(line))?;
    Ok(Exit::Done)
}

pub async fn diff<C: Client>(args: &DiffArgs, client: &C, screen: &mut Screen) -> Result<Exit, Failure> {
    let history = texts::history(client).await?;
    let before = || {
        let before = texts::before(&history, texts::active(&history));
        before.map(str::to_owned).ok_or_else(|| Failure::NoPolicy("no other policy was active before".into()))
    };
    let (one, other) = match (&args.one, &args.other) {
        (None, _) => (before()?, "active".to_owned()),
        (Some(one), None) => ("active".to_owned(), one.clone()),
        (Some(one), Some(other)) => (one.clone(), other.clone()),
    };
    let (one, other) = (texts::find(client, &history, &one).await?, texts::find(client, &history, &other).await?);
    let changes = match (one.policy(), other.policy()) {
        (Some(old), Some(new)) => difference::words(&old, &new),
        (old, _) => {
            let invalid = if old.is_none() { &one } else { &other };
            screen.warn(&format!("{} is not valid: only its text is compared", invalid.name));
            Vec::new()
        }
    };
    let diff = TextDiff::from_lines(&one.text, &other.text);
    let diff = diff.unified_diff().header(&one.name, &other.name).to_string();
    if screen.is_json() {
        screen.document(&Differs { from: &one.hash, to: &other.hash, changes, diff })?;
        return Ok(Exit::Done);
    }
    if diff.is_empty() {
        return screen.line(&format!("{} and {} are the same", one.name, other.name)).map(|()| Exit::Done);
    }
    match changes.is_empty() {
        true if one.policy().is_some() && other.policy().is_some() => {
            screen.line("no rule, limit or term differs: only the text does")?
        }
        _ => changes.iter().try_for_each(|line| screen.line(line))?,
    }
    screen.line("")?;
    for line in diff.lines() {
        let paint = match line.as_bytes().first() {
            Some(b'+') => Paint::Good,
            Some(b'-') => Paint::Bad,
            Some(b'@') => Paint::Faint,
            _ => Paint::Plain,
        };
        screen.cells(&[(paint, line.to_owned())])?;
    }
    Ok(Exit::Done)
}

pub async fn history<C: Client>(client: &C, screen: &mut Screen) -> Result<Exit, Failure> {
    let history = texts::history(client).await?;
    let last = history.len().saturating_sub(1);
    let rows: Vec<Row<'_>> = history
        .iter()
        .enumerate()
        .rev()
        .map(|(at, one)| Row {
            at: one.at,
            hash: one.record.hash.as_deref(),
            by: &one.record.activated_by,
            reason: one.record.reason.as_deref(),
            term: one.record.term,
            active: at == last,
        })
        .collect();
    if screen.is_json() {
        screen.document(&rows)?;
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        screen.line("No policy was active yet: `portcullis policy apply FILE` activates one.")?;
        return Ok(Exit::Done);
    }
    let cells = |row: Row<'_>| {
        let paint = if row.active { Paint::Strong } else { Paint::Plain };
        vec![
            plain(words::moment(row.at)),
            (paint, row.hash.map_or("none", short).to_owned()),
            plain(if row.active { "active" } else { "-" }),
            plain(words::short(row.by, 40)),
            plain(words::short(row.reason.unwrap_or("-"), 200)),
        ]
    };
    screen.table(&["TIME", "POLICY", "", "BY", "REASON"], rows.into_iter().map(cells).collect())?;
    Ok(Exit::Done)
}
