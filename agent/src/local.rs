//! The local socket, and what its answers show.

pub mod door;
pub mod view;
