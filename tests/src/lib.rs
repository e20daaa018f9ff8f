//! The harness for flows, crash and model tests: real nats-server, real nftables, real agents.

pub mod bus;
pub mod http;
pub mod nats;
pub mod onlooker;
pub mod place;
pub mod probe;
pub mod process;
pub mod relay;
pub mod replay;
pub mod standby;
pub mod until;
pub mod way;
pub mod wire;
pub mod world;
