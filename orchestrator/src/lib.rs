//! The orchestrator's shell: takes inputs from NATS, lets the core decide, stores and publishes, wakes deadlines.

mod attempts;
mod broker;
mod clock;
mod delivery;
mod engine;
mod figures;
mod follow;
mod heart;
mod http;
mod ingress;
mod log;
mod policy_file;
mod rejected;
mod scheduler;
pub mod serve;
mod steps;
mod strays;
mod streams;
