//! The orchestrator's decisions, pure: same input, same time, same answer.

pub mod answered;
pub mod control;
pub mod deadlines;
pub mod decide;
mod exclusions;
pub mod fleet;
mod host;
pub mod inventory;
pub mod isolation;
pub mod joined;
pub mod machine;
pub mod notices;
pub mod replay;
pub mod resolve;
pub mod settled;
pub mod status;
mod subject;
pub mod tally;
#[cfg(test)]
mod testing;
pub mod waiting;
mod words;

pub use control::Control;
pub use decide::{Basis, Config, Input, Meta, Outcome, decide};
pub use fleet::Fleet;
