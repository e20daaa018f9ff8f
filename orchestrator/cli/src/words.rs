//! Sentences for people: reasons and times.

mod reason;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::SecondsFormat;
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::{InputKind, InputRef};

pub use reason::{level_words, reason};

/// At most `most` characters of it.
pub fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A span by its two largest units: `7h58m`, `3d4h`, `45s`.
pub fn span(seconds: u64) -> String {
    let units = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let Some(first) = units.iter().position(|(count, _)| *count > 0) else { return "0s".into() };
    let two = units.iter().skip(first).take(2).filter(|(count, _)| *count > 0);
    two.map(|(count, unit)| format!("{count}{unit}")).collect()
}

pub fn ago(now: Timestamp, then: Timestamp) -> String {
    match u64::try_from((now - then).num_seconds()) {
        Ok(seconds) => format!("{} ago", span(seconds)),
        Err(_) => format!("{} ahead of this clock", span((then - now).num_seconds().unsigned_abs())),
    }
}

/// A time to come: `in 7h58m`, or `overdue by 5m`.
pub fn due(now: Timestamp, then: Timestamp) -> String {
    match u64::try_from((then - now).num_seconds()) {
        Ok(seconds) => format!("in {}", span(seconds)),
        Err(_) => format!("overdue by {}", span((now - then).num_seconds().unsigned_abs())),
    }
}

/// What a host's clock is off by.
pub fn clock(ahead_seconds: i64) -> String {
    let way = if ahead_seconds < 0 { "behind" } else { "ahead of" };
    format!("{} {way} the broker's", span(ahead_seconds.unsigned_abs()))
}

/// With milliseconds, for lines that follow each other closely.
pub fn moment(time: Timestamp) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub fn date(time: Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

pub fn milliseconds(span: Duration) -> String {
    let ms = millis(span);
    if ms < 1_000.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// To a tenth of a millisecond.
pub fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}

pub fn count(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// What kind of input, whose, and which.
pub fn input(input: &InputRef) -> String {
    let kind = match input.kind {
        InputKind::Detection => "detection",
        InputKind::Request => "request",
        InputKind::ReleaseDue => "release-due",
        InputKind::State => "state",
        InputKind::Hello => "hello",
        InputKind::Stream => "stream",
        InputKind::Time => "time",
    };
    format!("{kind} {} by {}", short(&input.id, 40), short(&input.token, 40))
}
