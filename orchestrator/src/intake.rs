//! What comes in: a consumer for each input stream, hellos of hosts, and stray messages.

mod hellos;
mod strays;

use portcullis_bus::{Arrival, Broker, Heard, consume};
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::mpsc;

/// Hellos that wait for the engine.
const HELLOS: usize = 1024;

pub struct Intake {
    pub releases: mpsc::Receiver<Arrival>,
    pub requests: mpsc::Receiver<Arrival>,
    pub detections: mpsc::Receiver<Arrival>,
    pub hellos: mpsc::Receiver<Heard>,
}

impl Intake {
    /// Begins to take what comes, for as long as it is kept.
    pub async fn open(broker: &Broker, prefix: &Prefix) -> anyhow::Result<Self> {
        let (to, hellos) = mpsc::channel(HELLOS);
        tokio::spawn(hellos::hear(broker.clone(), prefix.all_hello(), to));
        tokio::spawn(strays::hear(broker.clone(), prefix.clone()));
        Ok(Self {
            releases: consume(broker, prefix, Stream::Releases).await?,
            requests: consume(broker, prefix, Stream::Requests).await?,
            detections: consume(broker, prefix, Stream::Detections).await?,
            hellos,
        })
    }
}
