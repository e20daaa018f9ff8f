//! Streams and the KV bucket: made where they are missing, read back, and refused where they differ in what correctness rests on.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, Republish, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode, kv};
use futures_util::StreamExt as _;
use portcullis_schemas::{Prefix, Stream};

use crate::connection::Broker;
use crate::error::ApiError;
use crate::stored;

/// Oldest server that keeps every promise made here (2.10 for `sync_interval`, 2.12 for atomic batches).
const OLDEST_SERVER: (u64, u64) = (2, 12);

/// A message in an input stream is this much smaller than the largest payload, so that it fits into REJECTED with its reason.
const HEADROOM: usize = 8 * 1024;

const ASK_AGAIN: u32 = 10;
/// How often it is noted where the logs end.
const LOOK: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(500);

const MIB: i64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    #[error("nats-server {found} at {url} is too old: {}.{} or newer is needed; on older ones a stream silently lacks what Portcullis relies on", OLDEST_SERVER.0, OLDEST_SERVER.1)]
    ServerTooOld { found: String, url: String },
    #[error("nats-server at {0} has no JetStream; start it with -js or a jetstream section")]
    NoJetStream(String),
    #[error("stream {name} cannot be made or read")]
    Stream {
        name: String,
        #[source]
        source: async_nats::Error,
    },
    #[error(
        "{name} cannot have {replicas} replicas; give --replicas no more than the cluster has servers, and 1 for a single one"
    )]
    TooFewServers {
        name: String,
        replicas: usize,
        /// Further servers may come.
        is_cluster: bool,
        #[source]
        source: async_nats::Error,
    },
    #[error("stream {name} has {what}; {wanted} is needed. Change it with `nats stream edit {name}`, or use another --prefix")]
    Differs { name: String, what: String, wanted: String },
    #[error("KV bucket {name} cannot be made or read")]
    Bucket {
        name: String,
        #[source]
        source: async_nats::Error,
    },
}

impl StreamsError {
    fn stream(name: String, replicas: usize, source: CreateStreamError) -> Self {
        let code = match source.kind() {
            CreateStreamErrorKind::JetStream(error) => Some(error.error_code()),
            _ => None,
        };
        let is_cluster = code == Some(ErrorCode::CLUSTER_NO_PEERS);
        let source = source.into();
        match is_cluster || code == Some(ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED) {
            true => Self::TooFewServers { name, replicas, is_cluster, source },
            false => Self::Stream { name, source },
        }
    }

    /// Does it pass by itself? A broker that has just started may not serve JetStream yet, and the servers of a cluster come one by one.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Stream { .. } | Self::Bucket { .. } | Self::TooFewServers { is_cluster: true, .. })
    }
}

/// Refuses a server that is too old or has no JetStream.
pub fn check_server(broker: &Broker) -> Result<(), StreamsError> {
    let info = broker.client.server_info();
    if !info.version.is_empty() && version(&info.version).is_none_or(|found| found < OLDEST_SERVER) {
        return Err(StreamsError::ServerTooOld { found: info.version, url: broker.shown() });
    }
    if !info.jetstream {
        return Err(StreamsError::NoJetStream(broker.shown()));
    }
    Ok(())
}

/// Makes what is missing and reads all of it back.
pub async fn ensure(broker: &Broker, prefix: &Prefix, replicas: usize) -> Result<(), StreamsError> {
    let context = &broker.context;
    let max_payload = broker.client.server_info().max_payload;
    for stream in Stream::ALL {
        let wanted = config(prefix, stream, replicas, max_payload);
        let name = wanted.name.clone();
        let found = context
            .get_or_create_stream(wanted.clone())
            .await
            .map_err(|error| StreamsError::stream(name.clone(), replicas, error))?;
        check(&wanted, found.cached_info())?;
    }
    let name = prefix.bucket();
    let bucket = kv::Config {
        bucket: name.clone(),
        description: "Portcullis: texts of policies, the leader's key and heartbeat, attempts at inputs that came again".into(),
        history: 1,
        max_bytes: 16 * MIB,
        num_replicas: replicas,
        ..kv::Config::default()
    };
    match context.get_key_value(&name).await {
        Ok(found) => match found.stream.cached_info().config.num_replicas {
            copies if copies < replicas => Err(StreamsError::Differs {
                name: format!("KV_{name}"),
                what: format!("{copies} replicas"),
                wanted: format!("{replicas}, as --replicas says,"),
            }),
            _ => Ok(()),
        },
        Err(_) => match context.create_key_value(bucket).await {
            Ok(_) => Ok(()),
            Err(error) => Err(StreamsError::Bucket { name, source: error.into() }),
        },
    }
}

pub(crate) fn config(prefix: &Prefix, stream: Stream, replicas: usize, max_payload: usize) -> Config {
    let input = |size: usize| i32::try_from(size.saturating_sub(HEADROOM)).unwrap_or(i32::MAX);
    let base = Config {
        name: prefix.stream(stream),
        subjects: vec![prefix.all(stream)],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: replicas,
        discard: DiscardPolicy::Old,
        // Ids count for a whole stream: the window in which one sender could swallow another's event is the smallest there is.
        duplicate_window: Duration::from_millis(100),
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        max_messages: -1,
        // What is decided together is stored together.
        allow_atomic_publish: matches!(stream, Stream::Orders | Stream::Decisions | Stream::Inventory | Stream::Notices),
        ..Config::default()
    };
    match stream {
        Stream::Orders => {
            let (source, destination) = prefix.republish();
            Config {
                description: Some("The desired state of each host; the log that is the truth".into()),
                max_messages_per_subject: 1024,
                max_bytes: 512 * MIB,
                // A full log of orders fails loudly: making room would take the last order of some host.
                discard: DiscardPolicy::New,
                republish: Some(Republish { source, destination, headers_only: false }),
                ..base
            }
        }
        Stream::Requests => Config {
            description: Some("What operators and pipelines ask for".into()),
            max_bytes: 64 * MIB,
            max_age: YEAR,
            max_message_size: input(max_payload),
            ..base
        },
        Stream::Releases => Config {
            description: Some("Deadlines that have come".into()),
            max_bytes: 32 * MIB,
            max_age: 30 * DAY,
            max_message_size: input(max_payload),
            ..base
        },
        Stream::Decisions => Config {
            description: Some("The answer to every input, with its reason and facts".into()),
            max_bytes: 256 * MIB,
            max_age: YEAR,
            ..base
        },
        Stream::States => Config {
            description: Some("What hosts enforce, with evidence".into()),
            max_bytes: 128 * MIB,
            max_age: YEAR,
            max_message_size: input(max_payload),
            ..base
        },
        Stream::Inventory => Config {
            description: Some("What hosts say of themselves".into()),
            max_messages_per_subject: 64,
            // A large fleet must fit in: what is pushed out is some host's last word.
            max_bytes: 512 * MIB,
            ..base
        },
        Stream::Notices => Config { description: Some("Events for people".into()), max_bytes: 32 * MIB, max_age: YEAR, ..base },
        Stream::Detections => Config {
            description: Some("Claims that an indicator of compromise was seen; the replay log".into()),
            // By sender first, so that one that floods pushes out its own.
            max_messages_per_subject: 100_000,
            max_bytes: 512 * MIB,
            max_age: 30 * DAY,
            max_message_size: input(max_payload),
            ..base
        },
        Stream::Rejected => Config {
            description: Some("What could not be understood, whole, with its reason".into()),
            max_messages_per_subject: 20_000,
            max_bytes: 128 * MIB,
            max_age: 30 * DAY,
            // Written by Portcullis alone, with ids from stream and sequence: a retry is no second copy.
            duplicate_window: Duration::from_secs(120),
            ..base
        },
    }
}

/// Compares what correctness rests on. Sizes and ages are the operator's to change.
pub(crate) fn check(wanted: &Config, info: &Info) -> Result<(), StreamsError> {
    let found = &info.config;
    let differs = |what: String, needed: String| Err(StreamsError::Differs { name: wanted.name.clone(), what, wanted: needed });
    if found.subjects != wanted.subjects {
        return differs(format!("subjects {:?}", found.subjects), format!("{:?}", wanted.subjects));
    }
    if found.retention != wanted.retention {
        return differs(format!("retention {:?}", found.retention), "Limits".into());
    }
    if found.storage != wanted.storage {
        return differs(format!("storage {:?}", found.storage), "File".into());
    }
    if found.allow_direct != wanted.allow_direct {
        return differs("allow_direct off".into(), "allow_direct on".into());
    }
    if wanted.allow_atomic_publish && !found.allow_atomic_publish {
        return differs("allow_atomic off".into(), "allow_atomic on".into());
    }
    // More of them do no harm: another orchestrator may have been told so.
    if found.num_replicas < wanted.num_replicas {
        return differs(format!("{} replicas", found.num_replicas), format!("{}, as --replicas says,", wanted.num_replicas));
    }
    if found.sealed || found.no_ack {
        return differs("sealed or no_ack set".into(), "a stream that takes messages and acknowledges them".into());
    }
    if wanted.republish.is_some() {
        let pair = |config: &Config| config.republish.as_ref().map(|r| (r.source.clone(), r.destination.clone(), r.headers_only));
        if pair(found) != pair(wanted) {
            return differs(format!("republish {:?}", pair(found)), format!("{:?}", pair(wanted)));
        }
        if found.max_age != Duration::ZERO {
            return differs(
                format!("max_age {:?}", found.max_age),
                "no age limit (it would remove the last order of a host)".into(),
            );
        }
        if found.discard != DiscardPolicy::New {
            return differs("discard old".into(), "discard new (a full log must not lose an order)".into());
        }
    }
    Ok(())
}

/// Returns when, after a reconnection, a stream is gone, another one is in its place, or a log is shorter than it was: what this process knows
/// of it is worth nothing then, and its start reads what there is.
pub async fn lost(broker: &Broker, prefix: &Prefix) -> anyhow::Result<std::convert::Infallible> {
    let (context, mut connected) = (&broker.context, broker.link());
    let mut made = BTreeMap::new();
    for stream in Stream::ALL {
        let name = prefix.stream(stream);
        made.insert(name.clone(), context.get_stream(&name).await?.cached_info().created);
    }
    let logs = [Stream::Orders, Stream::Decisions].map(|log| prefix.stream(log));
    let mut ends = BTreeMap::new();
    loop {
        tokio::select! {
            changed = connected.changed() => changed?,
            () = tokio::time::sleep(LOOK) => {
                for name in &logs {
                    if let Ok(last) = stored::last_sequence(broker, name).await {
                        let end = ends.entry(name.clone()).or_insert(0);
                        *end = last.max(*end);
                    }
                }
                continue;
            }
        }
        connected.wait_for(|up| *up).await?;
        for (name, made) in &made {
            let end = ends.get(name).copied().unwrap_or(0);
            // A server that has just started may not know its streams yet, or not all of them.
            for asked in 1u32.. {
                match context.get_stream(name).await {
                    Ok(stream) if stream.cached_info().created == *made && stream.cached_info().state.last_sequence >= end => {
                        break;
                    }
                    Err(error) if !is_missing(&error) => break,
                    _ if asked < ASK_AGAIN => tokio::time::sleep(ASK_EVERY).await,
                    Ok(stream) if stream.cached_info().created == *made => {
                        let last = stream.cached_info().state.last_sequence;
                        anyhow::bail!(
                            "the broker has an older copy of the stream {name}: it ends at {last}, and ended at {end}; start again: hosts report what they hold"
                        )
                    }
                    _ => anyhow::bail!("the broker has lost the stream {name}; start again: hosts report what they hold"),
                }
            }
        }
    }
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    let code = match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code(),
        _ => return false,
    };
    code == ErrorCode::STREAM_NOT_FOUND
}

/// The subjects that a stream holds messages of, and how many of each.
///
/// # Errors
///
/// Where the broker does not answer, has no such stream or refuses.
pub async fn subjects(broker: &Broker, stream: &str, filter: &str) -> Result<Vec<(String, u64)>, ApiError> {
    let late = |_| ApiError::Silent("a read timed out".to_owned());
    let handle = broker.context.get_stream(stream).await.map_err(|error| ApiError::of_stream(&error))?;
    let mut found = handle.info_with_subjects(filter).await.map_err(|error| ApiError::silent(&error))?;
    let mut subjects = Vec::new();
    while let Some(subject) = tokio::time::timeout(broker.servers().answer(), found.next()).await.map_err(late)? {
        let (subject, count) = subject.map_err(|error| ApiError::silent(&error))?;
        subjects.push((subject, count as u64));
    }
    Ok(subjects)
}

/// Major and minor number of a version such as `2.15.1-beta`.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.trim_start_matches('v').split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version("2.9.10").is_some_and(|found| found < super::OLDEST_SERVER));
        assert!(version("2.11.9").is_some_and(|found| found < super::OLDEST_SERVER));
        assert!(version("v2.12.0-RC.2").is_some_and(|found| found >= super::OLDEST_SERVER));
        assert!(version("2.15.1").is_some_and(|found| found >= super::OLDEST_SERVER));
        assert_eq!(version("unknown"), None);
    }
}
