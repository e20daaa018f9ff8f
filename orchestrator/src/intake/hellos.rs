//! Hellos of hosts, which no stream keeps. Whoever begins to listen calls the roll.

use std::time::Duration;

use portcullis_bus::{Backoff, Broker, Heard, Subscription, random_id};
use portcullis_schemas::Prefix;
use portcullis_schemas::envelope::{self, Event};
use portcullis_schemas::events::Rollcall;
use portcullis_schemas::time::Span;
use tokio::sync::mpsc;

use crate::metrics;

/// The answers of a roll call are spread so that at most this many come in a second. Agents take a minute at the longest.
const HELLOS_A_SECOND: u64 = 2_000;

/// Hears hosts, for as long as the engine does.
pub async fn hear(broker: Broker, prefix: Prefix, hosts: u64, to: mpsc::Sender<Heard>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    while !to.is_closed() {
        let before = broker.snapshot();
        if let Err(error) = listen(&broker, &prefix, hosts, &to).await {
            broker.note_end(before, "hello", &error);
            backoff.pause().await;
            broker.up().await;
        }
    }
}

async fn listen(broker: &Broker, prefix: &Prefix, hosts: u64, to: &mpsc::Sender<Heard>) -> anyhow::Result<()> {
    let mut hellos = Subscription::open(broker.servers(), prefix.all_hello()).await?;
    // What hosts said while nobody listened is said again.
    call_the_roll(broker, prefix, hosts).await?;
    let mut dropped = 0u64;
    loop {
        let hello = tokio::select! {
            biased;
            () = to.closed() => return Ok(()),
            hello = hellos.next() => hello?,
        };
        // A flood of hellos delays hellos and nothing else.
        match to.try_send(hello) {
            Ok(()) => dropped = 0,
            Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                metrics::hello_dropped();
                if dropped == 0 {
                    tracing::warn!("hellos dropped: too many wait; each host says another within 36 s");
                }
                dropped += 1;
            }
        }
    }
}

async fn call_the_roll(broker: &Broker, prefix: &Prefix, hosts: u64) -> anyhow::Result<()> {
    let event = Event {
        id: random_id(),
        source: "/portcullis/orchestrator".into(),
        subject: None,
        time: None,
        traceparent: None,
        correlation: None,
        causation: None,
        data: Rollcall { after: Span::seconds((hosts / HELLOS_A_SECOND).min(60)) },
    };
    broker.send(&prefix.rollcall(), envelope::encode(&event)?.into()).await
}
