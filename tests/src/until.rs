//! Waiting for a condition, and never for a time.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// Asks until `question` has an answer; an error when it has none within `most`.
pub async fn until<T, F>(what: &str, most: Duration, mut question: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let end = Instant::now() + most;
    let mut again = interval(Duration::from_millis(10));
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        again.tick().await;
        match timeout_at(end, question()).await {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) => {}
            // What cannot be asked yet may be asked later; the last reason is told when it never could.
            Ok(Err(error)) => last = format!(": {error:#}"),
            Err(_) => last = format!("{last}; the last question had no answer yet"),
        }
        if Instant::now() > end {
            bail!("{what}: not within {most:?}{last}");
        }
    }
}
