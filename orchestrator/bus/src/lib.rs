//! NATS: connection, consumers, the logs by compare-and-set, followers, stored messages; the only room that knows the client library.

mod attempts;
mod backoff;
mod connection;
mod consumer;
mod delivery;
mod error;
mod follow;
mod gaps;
mod heartbeat;
mod leader;
pub mod log;
pub mod policies;
mod publish;
mod reader;
pub mod rejected;
mod sources;
pub mod stored;
pub mod streams;
mod subject;
mod subscription;
pub mod survey;
mod window;

pub use attempts::Attempts;
pub use backoff::Backoff;
pub use connection::{Broker, ConnectError, Link, Patience, Servers, Snapshot, quiet_client_panics};
pub use consumer::{Arrival, consume};
pub use delivery::{AckHandle, Delivery};
pub use error::ApiError;
pub use follow::{Follower, Stored};
pub use heartbeat::{HeartbeatStore, last_heartbeat};
pub use leader::{LeaderKey, RENEW as LEADER_RENEWS};
pub use publish::{PublishError, publish, random_id};
pub use reader::{From, Reader};
pub use sources::{LiveSources, consume_detections};
pub use subscription::{Heard, Subscription};
