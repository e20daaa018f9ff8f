//! The orchestrator's shell: takes inputs from NATS, lets the core decide, stores and publishes, wakes deadlines.

mod clock;
mod commit;
mod engine;
mod failpoint;
mod http;
mod intake;
mod lead;
mod metrics;
mod policy_file;
mod schedule;
pub mod serve;
