//! The agent's shell: hears orders, keeps the posture file, enforces with nftables, reports.

// One function for all that reaches a terminal: `cli::screen`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod broker;
pub mod cli;
pub mod control;
pub mod disk;
pub mod doctor;
mod failpoint;
pub mod firewall;
pub mod host;
pub mod local;
mod netlink;
mod parallel;
pub mod sockets;
pub mod watch;

/// The version that orders and operators see.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
