//! The logs of a flow, as its broker has them at the end, decided again: see `portcullis_core::replay`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use portcullis_bus::{Broker, From, Patience, Reader, Servers, policies};
use portcullis_core::machine::Message;
use portcullis_core::replay::{Recording, Replayed, replay};
use portcullis_policy::Policy;
use portcullis_schemas::envelope;
use portcullis_schemas::events::PolicyActivated;
use portcullis_schemas::subjects::POLICY;
use portcullis_schemas::{Prefix, Stream};

use crate::bus::Bus;
use crate::nats::Nats;

/// DECISIONS first: what a decision saw was stored before it.
const STREAMS: [Stream; 7] = [
    Stream::Decisions,
    Stream::Orders,
    Stream::Inventory,
    Stream::States,
    Stream::Detections,
    Stream::Requests,
    Stream::Releases,
];
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(5), answer: Duration::from_secs(5), ack: Duration::from_secs(2) };
/// For all that is stored to be read.
const READ: Duration = Duration::from_secs(60);
/// So many differences are shown.
const SHOWN: usize = 5;

/// Reads the logs of the broker, whose servers are started again if need be, and decides them again. An error where anything comes out otherwise than it is stored.
pub fn check<'n>(servers: impl Iterator<Item = &'n mut Nats>, prefix: &Prefix) -> anyhow::Result<Replayed> {
    let servers: Vec<&mut Nats> = servers.collect();
    let is_cluster = servers.len() > 1;
    // A test's runtime stands still while its world is taken down.
    let read = std::thread::scope(|scope| {
        let read = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut urls = Vec::new();
                for nats in servers {
                    if !nats.is_up() {
                        nats.start_again().await?;
                    }
                    urls.push(nats.url());
                }
                let urls = urls.join(",");
                if is_cluster {
                    Bus::connect_to(&urls, prefix.clone()).await?.is_whole().await?;
                }
                tokio::time::timeout(READ, recording(&urls, prefix.clone())).await.context("logs not read in time")?
            })
        });
        read.join()
    });
    let recording = read.map_err(|_| anyhow::anyhow!("reading the logs panicked"))??;
    let replayed = replay(&recording);
    if !replayed.differences.is_empty() {
        let shown: Vec<String> = replayed.differences.iter().take(SHOWN).map(|one| format!("  {one}")).collect();
        bail!("{} differences from what is stored:\n{}", replayed.differences.len(), shown.join("\n"));
    }
    Ok(replayed)
}

async fn recording(url: &str, prefix: Prefix) -> anyhow::Result<Recording> {
    let broker = Broker::connect(Servers::parse(url, None, "portcullis-tests", PATIENCE)?).await?;
    let mut streams = BTreeMap::new();
    for stream in STREAMS {
        let mut reader = Reader::open(&broker, &prefix, stream, vec![prefix.all(stream)], From::Sequence(1)).await?;
        let mut messages: BTreeMap<u64, Message> = BTreeMap::new();
        while let Some(message) = reader.next_stored().await? {
            messages.insert(message.sequence, message);
        }
        reader.end().await;
        streams.insert(stream, messages);
    }
    let mut texts = BTreeMap::new();
    for hash in policies_in(&prefix, streams[&Stream::Decisions].values()) {
        if let Some(text) = policies::read(&broker, &prefix, &hash).await? {
            let policy = Policy::parse(&text).map_err(|_| anyhow::anyhow!("the text of policy {hash} is not valid"))?;
            texts.insert(hash, Arc::new(policy));
        }
    }
    Ok(Recording { prefix, streams, policies: texts })
}

fn policies_in<'m>(prefix: &Prefix, decisions: impl Iterator<Item = &'m Message>) -> BTreeSet<String> {
    let records = decisions.filter(|message| prefix.rest(Stream::Decisions.token(), &message.subject) == Some(POLICY));
    let read = records.filter_map(|message| envelope::decode::<PolicyActivated>(message.headers(), &message.body).ok());
    read.filter_map(|event| event.data.hash).collect()
}
