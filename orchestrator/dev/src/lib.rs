//! Everything on one machine: `up`, with a broker of its own, and `lab`, virtual hosts in network namespaces with real agents.
//!
//! A [`Lab`] is a bridge with hosts on it, a container behind each host, and an outside world with services. It lives in
//! namespaces of its own and touches nothing in the one that it was started from, so that several can run side by side.

// A test may panic: that is how it fails.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod agents;
mod dns;
mod door;
mod enter;
mod error;
mod ip;
mod keeper;
mod lab;
mod netns;
mod owner;
mod run;
mod services;
mod topology;
pub mod up;

pub use agents::{Agent, AgentConfig};
pub use enter::die_with_spawner;
pub use error::{Error, Result};
pub use lab::{Lab, LabConfig, clean_stale};
pub use netns::{Netns, in_netns};
pub use run::{LabArgs, run};
pub use topology::{
    BROKER_PORT, DNS_PORT, ECHO_PORT, HUB_V4, HUB_V6, OUTSIDE_V4, OUTSIDE_V6, RESOLVER_V4, RESOLVER_V6, VirtualHost,
};
