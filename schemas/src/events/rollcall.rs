//! Roll call: an orchestrator that begins to listen asks all agents for a hello.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Payload;
use crate::time::Span;

/// `io.portcullis.rollcall.v1`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rollcall {
    /// Each agent answers at a point of its own within this span, which is to grow with the fleet. Agents take at most a minute.
    pub after: Span,
}

impl Payload for Rollcall {
    const TYPE: &'static str = "io.portcullis.rollcall.v1";
    const NAME: &'static str = "rollcall";
}
