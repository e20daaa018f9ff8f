//! What comes in: a consumer for each input stream and for each source of detections, hellos of hosts, and stray messages.

mod hellos;
pub mod strays;

use portcullis_bus::{Arrival, Broker, Heard, LiveSources, consume, consume_detections};
use portcullis_schemas::{Prefix, Stream};
use tokio::sync::mpsc;

/// Hellos that wait for the engine: those of a large fleet that comes back at once.
const HELLOS: usize = 65_536;

pub struct Intake {
    pub releases: mpsc::Receiver<Arrival>,
    pub requests: mpsc::Receiver<Arrival>,
    pub detections: mpsc::Receiver<Arrival>,
    pub hellos: mpsc::Receiver<Heard>,
}

impl Intake {
    /// Begins to take what comes, for as long as it is kept. `hosts` are known already.
    pub async fn open(broker: &Broker, prefix: &Prefix, hosts: u64, live: LiveSources) -> anyhow::Result<Self> {
        let (to, hellos) = mpsc::channel(HELLOS);
        tokio::spawn(hellos::hear(broker.clone(), prefix.clone(), hosts, to));
        Ok(Self {
            releases: consume(broker, prefix, Stream::Releases).await?,
            requests: consume(broker, prefix, Stream::Requests).await?,
            detections: consume_detections(broker, prefix, live).await?,
            hellos,
        })
    }
}
