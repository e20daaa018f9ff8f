//! The orchestrator's shell: takes inputs from NATS, lets the core decide, stores and publishes, wakes deadlines.

mod clock;
mod engine;
mod figures;
mod http;
mod policy_file;
mod scheduler;
pub mod serve;
mod steps;
mod strays;
