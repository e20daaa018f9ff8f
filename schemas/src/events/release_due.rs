//! Release due: the scheduler's word that an order's deadline has come.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Payload, check_generation};
use crate::host_id::HostId;
use crate::time::{self, Timestamp};

/// `io.portcullis.release-due.v1`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseDue {
    /// Whose deadline it is; the same as in the subject.
    pub host: HostId,
    /// The order whose deadline it is.
    #[schemars(range(min = 1, max = super::MAX_GENERATION))]
    pub generation: u64,
    /// That order's `release_at`.
    pub due_at: Timestamp,
}

impl Payload for ReleaseDue {
    const TYPE: &'static str = "io.portcullis.release-due.v1";
    const NAME: &'static str = "release-due";

    fn check(&self) -> Result<(), String> {
        check_generation(self.generation, 1)?;
        time::check("due_at", self.due_at)
    }
}
