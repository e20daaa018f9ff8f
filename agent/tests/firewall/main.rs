//! The firewall and the severing of sockets against the real kernel, in network namespaces. Needs root, nft and iproute2.
#![allow(clippy::unwrap_used)]

mod bound;
mod change;
mod control;
mod cost;
mod cut;
mod devices;
mod errors;
mod exclusions;
mod frames;
mod kernel;
mod layers;
mod leases;
mod lock;
mod meddle;
mod name_server;
mod net;
mod oracle;
mod own_frames;
mod rows;
mod sever;
mod sniff;
mod untracked;
