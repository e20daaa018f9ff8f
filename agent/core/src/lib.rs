//! The agent's decisions, pure: order to posture, posture and exclusions to an nftables ruleset.

pub mod compiled;
pub mod deadline;
pub mod exclusions;
pub mod gate;
pub mod jitter;
pub mod level;
pub mod lower;
pub mod machine;
pub mod record;
pub mod relay;
pub mod ruleset;
pub mod sever;
pub mod tamper;
pub mod verify;

mod cells;
