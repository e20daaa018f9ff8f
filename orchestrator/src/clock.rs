//! Clocks: the boot clock for deadlines, and the broker's time where a deadline is read back.

use std::time::Duration;

use async_nats::jetstream;
use chrono::{DateTime, Utc};
use portcullis_core::deadlines::Monotonic;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Time since boot, suspension included. No step of the wall clock moves it.
pub fn monotonic() -> Monotonic {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The broker's time, from its answer about a stream. It is taken as the time at which the answer arrived, and so is late by half a round
/// trip and never early.
pub async fn broker_now(context: &jetstream::Context, stream: &str) -> anyhow::Result<DateTime<Utc>> {
    let answer: Value = context.request(format!("STREAM.INFO.{stream}"), &json!({})).await?;
    let text = answer
        .get("ts")
        .and_then(Value::as_str)
        .ok_or_else(|| anyhow::anyhow!("stream {stream}: the server's answer holds no time"))?;
    Ok(DateTime::parse_from_rfc3339(text)?.to_utc())
}
