//! What the broker has, for people who look for what is wrong: its version, its storage, the streams as they stand, who leads and who follows.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{DiscardPolicy, Info};
use futures_util::StreamExt as _;
use portcullis_schemas::{Prefix, Stream, Timestamp};

use crate::connection::Broker;
use crate::error::ApiError;
use crate::{leader, reader, stored, streams};

/// The server that this connection leads to.
#[derive(Clone, Debug)]
pub struct Server {
    pub shown: String,
    pub version: String,
    /// Why no orchestrator would start on it.
    pub refused: Option<String>,
}

pub fn server(broker: &Broker) -> Server {
    let version = broker.client.server_info().version;
    Server { shown: broker.shown(), version, refused: streams::check_server(broker).err().map(|error| error.to_string()) }
}

/// A stream as it stands.
#[derive(Clone, Debug)]
pub struct Held {
    pub name: String,
    /// What makes an orchestrator refuse it.
    pub refused: Option<String>,
    /// What it lacks of the protection that it was made with.
    pub lacks: Vec<String>,
    pub messages: u64,
    pub bytes: u64,
    /// None: no limit.
    pub max_bytes: Option<u64>,
    pub max_age: Duration,
    pub max_per_subject: u64,
    /// A full one takes no message, where others remove the oldest.
    pub is_full_for_good: bool,
    pub first: u64,
    pub last: u64,
    pub first_at: Timestamp,
    /// Removed between the first and the last.
    pub removed: u64,
    /// In a cluster: servers whose copy is behind or away.
    pub behind: Vec<String>,
}

/// # Errors
///
/// Where the broker does not answer, has no such stream or refuses.
pub async fn stream(broker: &Broker, prefix: &Prefix, stream: Stream) -> Result<Held, ApiError> {
    let handle = broker.context.get_stream(prefix.stream(stream)).await.map_err(|error| ApiError::of_stream(&error))?;
    let wanted = streams::config(prefix, stream, 1, broker.client.server_info().max_payload);
    Ok(held(&wanted, handle.cached_info()))
}

fn held(wanted: &jetstream::stream::Config, info: &Info) -> Held {
    let (found, state) = (&info.config, &info.state);
    let mut lacks = Vec::new();
    for (is_wanted, has, what) in [
        (wanted.deny_delete, found.deny_delete, "deny_delete: single messages can be deleted"),
        (wanted.deny_purge, found.deny_purge, "deny_purge: it can be emptied"),
        (true, found.max_bytes > 0, "max_bytes: a flood can fill the account, and orders are refused then"),
    ] {
        if is_wanted && !has {
            lacks.push(what.to_owned());
        }
    }
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let replicas = info.cluster.iter().flat_map(|cluster| &cluster.replicas);
    Held {
        name: found.name.clone(),
        refused: streams::check(wanted, info).err().map(|error| error.to_string()),
        lacks,
        messages: state.messages,
        bytes: state.bytes,
        max_bytes: Some(unsigned(found.max_bytes)).filter(|most| *most > 0),
        max_age: found.max_age,
        max_per_subject: unsigned(found.max_messages_per_subject),
        is_full_for_good: found.discard == DiscardPolicy::New,
        first: state.first_sequence,
        last: state.last_sequence,
        first_at: state.first_timestamp,
        removed: state.deleted_count.unwrap_or(0),
        behind: replicas.filter(|peer| !peer.current || peer.offline).map(|peer| peer.name.clone()).collect(),
    }
}

/// How much the account stores, and may store.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    pub used: u64,
    /// Of it and of what streams have reserved.
    pub reserved: u64,
    /// None: as much as the disk holds.
    pub limit: Option<u64>,
}

/// # Errors
///
/// Where the broker does not answer or refuses.
pub async fn storage(broker: &Broker) -> Result<Storage, ApiError> {
    let account = broker.context.query_account().await.map_err(|error| ApiError::silent(&error))?;
    let limit = account.limits.max_storage.and_then(|most| u64::try_from(most).ok());
    Ok(Storage { used: account.storage, reserved: account.reserved_storage, limit })
}

/// An orchestrator that follows the logs: the leader does as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Following {
    pub who: String,
    /// Messages of DECISIONS that it has not read.
    pub behind: u64,
}

/// Orchestrators that run. One that ended without a word is among them for another 30 s.
///
/// # Errors
///
/// Where the broker does not answer, has no such stream or refuses.
pub async fn orchestrators(broker: &Broker, prefix: &Prefix) -> Result<Vec<Following>, ApiError> {
    let name = prefix.stream(Stream::Decisions);
    let handle = broker.context.get_stream(name).await.map_err(|error| ApiError::of_stream(&error))?;
    let (mut consumers, mut found) = (handle.consumers(), Vec::new());
    while let Some(info) = consumers.next().await {
        let info = info.map_err(|error| ApiError::silent(&error))?;
        let who = info.config.description.as_deref().and_then(|text| text.strip_prefix(reader::FOLLOWS));
        found.extend(who.map(|who| Following { who: who.to_owned(), behind: info.num_pending }));
    }
    found.sort_by(|one, other| one.who.cmp(&other.who));
    found.dedup_by(|one, other| one.who == other.who);
    Ok(found)
}

/// Who holds the leader's key, and since when it is not renewed. None: nobody.
///
/// # Errors
///
/// Where the broker does not answer or refuses.
pub async fn leader(broker: &Broker, prefix: &Prefix) -> Result<Option<(String, Timestamp)>, ApiError> {
    let (stream, subject) = leader::place(prefix);
    let last = stored::last(broker, &stream, &subject).await?.filter(|last| !last.body.is_empty());
    Ok(last.map(|last| (String::from_utf8_lossy(&last.body).into_owned(), last.at)))
}
