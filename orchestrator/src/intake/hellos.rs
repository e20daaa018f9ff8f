//! Hellos of hosts, which no stream keeps.

use std::time::Duration;

use portcullis_bus::{Backoff, Broker, Heard, Subscription};
use tokio::sync::mpsc;

/// Hears hosts, for as long as the engine does. What is said between two connections is said again in 30 s.
pub async fn hear(broker: Broker, subject: String, to: mpsc::Sender<Heard>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    while !to.is_closed() {
        let before = broker.snapshot();
        if let Err(error) = listen(&broker, &subject, &to).await {
            broker.note_end(before, "hello", &error);
            backoff.pause().await;
            broker.up().await;
        }
    }
}

async fn listen(broker: &Broker, subject: &str, to: &mpsc::Sender<Heard>) -> anyhow::Result<()> {
    let mut hellos = Subscription::open(broker.servers(), subject.to_owned()).await?;
    loop {
        let hello = hellos.next().await?;
        // A flood of hellos delays hellos and nothing else: what finds no room is said again in 30 s.
        if let Err(mpsc::error::TrySendError::Closed(_)) = to.try_send(hello) {
            return Ok(());
        }
    }
}
