//! What the clocks of this host say.

use std::fs;
use std::time::Duration;

use portcullis_agent_core::deadline::Now;
use rustix::time::{ClockId, clock_gettime};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Clone, Debug)]
pub struct Clock {
    boot_id: String,
}

impl Clock {
    /// Without /proc there is no boot id; then every start counts as the same boot, whose clock restarts with the machine, so
    /// deadlines come late and never early.
    pub fn new() -> Self {
        let boot_id = fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default();
        Self { boot_id }
    }

    pub fn now(&self) -> Now {
        let boot = clock_gettime(ClockId::Boottime);
        let boot = Duration::new(boot.tv_sec.unsigned_abs(), u32::try_from(boot.tv_nsec).unwrap_or_default());
        Now {
            wall: chrono::Utc::now(),
            boot_ms: u64::try_from(boot.as_millis()).unwrap_or(u64::MAX),
            boot_id: self.boot_id.clone(),
        }
    }

    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
