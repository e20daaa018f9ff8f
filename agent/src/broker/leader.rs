//! What the server that leads the log of orders says: the time by which it stamps, and who it is.

use anyhow::Context as _;
use portcullis_agent_core::deadline::Anchor;
use portcullis_agent_core::relay::Server;
use portcullis_schemas::{Stream, Timestamp};
use serde::Deserialize;
use tokio::time::timeout;

use crate::broker::link::{Link, PATIENCE};
use crate::host::clock;

/// The part of a JetStream stream's info that is needed here.
#[derive(Debug, Deserialize)]
struct Info {
    ts: Option<Timestamp>,
    cluster: Option<Cluster>,
    error: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Cluster {
    leader: Option<String>,
    #[serde(default)]
    replicas: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    name: String,
}

/// Which server this is, and which ones keep the log of orders.
pub async fn server(link: &Link) -> anyhow::Result<Server> {
    let Cluster { leader, replicas } = ask(link).await?.cluster.unwrap_or_default();
    let name = link.client().server_info().server_name;
    Ok(Server { name, leader, replicas: replicas.into_iter().map(|peer| peer.name).collect() })
}

/// The broker's time. Asked only where an order cannot be judged without it: each question goes to one server of the cluster.
pub async fn time(link: &Link) -> anyhow::Result<Anchor> {
    let info = ask(link).await?;
    let broker = info.ts.context("the broker's answer has no time")?;
    Ok(Anchor { broker, boot_ms: clock::boot_ms() })
}

async fn ask(link: &Link) -> anyhow::Result<Info> {
    let subject = format!("$JS.API.STREAM.INFO.{}", link.prefix.stream(Stream::Orders));
    let client = link.client();
    let answer =
        timeout(PATIENCE, client.request(subject, bytes::Bytes::new())).await.context("the broker does not answer")??;
    let info: Info = serde_json::from_slice(&answer.payload).context("the broker's answer cannot be read")?;
    match info.error {
        Some(error) => anyhow::bail!("the broker refuses: {error}"),
        None => Ok(info),
    }
}
