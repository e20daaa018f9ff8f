//! Wire types, subjects, ids and the CloudEvents envelope: the only room that knows the wire format.

pub mod address;
pub mod envelope;
pub mod events;
pub mod exclusion;
pub mod headers;
pub mod heartbeat;
pub mod host_id;
pub mod ids;
pub mod json;
pub mod rejected;
pub mod schema;
pub mod subjects;
pub mod terminal;
pub mod time;

pub use host_id::HostId;
pub use subjects::{Prefix, Stream};
pub use time::Timestamp;
