//! What the agent keeps on the disk, and the threads that write it.

pub mod brokers;
pub mod posture_file;
pub mod writer;
