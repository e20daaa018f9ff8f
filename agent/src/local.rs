//! The local socket, and what its answers show.

pub mod socket;
pub mod status;
