//! The way to the broker: orders in, state events and heartbeats out, and what is known of its servers.

pub mod event;
pub mod heartbeat;
mod leader;
pub mod link;
mod orders;
pub mod outbox;
pub mod pending_orders;
pub mod relay;
pub mod servers;
pub mod session;
