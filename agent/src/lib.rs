//! The agent's shell: hears orders, keeps the posture file, enforces with nftables, reports.

// One function for all that reaches a terminal: `screen`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod addresses;
pub mod af_xdp;
pub mod agent;
pub mod brokers;
pub mod cli;
pub mod clock;
pub mod devices;
pub mod dns;
pub mod doctor;
pub mod door;
pub mod enforce;
pub mod facts;
pub mod firewall;
pub mod guardian;
pub mod hello;
pub mod input;
mod leader;
pub mod links;
pub mod memory;
pub mod nats;
pub mod parallel;
pub mod places;
pub mod posture_file;
pub mod privileges;
pub mod probes;
pub mod programs;
pub mod publish;
mod relay;
pub mod render;
pub mod report;
pub mod restore;
pub mod routes;
pub mod run;
pub mod screen;
pub mod sockets;
pub mod steps;
pub mod view;
pub mod waiting;
pub mod worker;
pub mod writer;

mod netlink;

/// The version that orders and operators see.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
