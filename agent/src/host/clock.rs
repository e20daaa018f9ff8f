//! What the clocks of this host say.

use std::fs;
use std::time::Duration;

use portcullis_agent_core::deadline::{Anchor, Now};
use portcullis_schemas::Timestamp;
use rustix::time::{ClockId, clock_gettime};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Clone, Debug)]
pub struct Clock {
    boot_id: String,
    /// What was last learned of the broker's time.
    anchor: Option<Anchor>,
}

impl Clock {
    /// Without /proc there is no boot id; then every start counts as the same boot, whose clock restarts with the machine, so
    /// deadlines come late and never early.
    pub fn new() -> Self {
        let boot_id = fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned()).unwrap_or_default();
        Self { boot_id, anchor: None }
    }

    pub fn now(&self) -> Now {
        let boot_ms = boot_ms();
        Now { wall: wall(), broker: self.anchor.map(|anchor| anchor.at(boot_ms)), boot_ms, boot_id: self.boot_id.clone() }
    }

    /// Takes what the broker's time was at a moment of this boot.
    pub fn learn(&mut self, anchor: Anchor) {
        self.anchor = Some(anchor);
    }

    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }
}

/// CLOCK_BOOTTIME in milliseconds.
pub fn boot_ms() -> u64 {
    let boot = clock_gettime(ClockId::Boottime);
    let boot = Duration::new(boot.tv_sec.unsigned_abs(), u32::try_from(boot.tv_nsec).unwrap_or_default());
    u64::try_from(boot.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock, which can be set from outside: for people alone. Debug builds add what PORTCULLIS_CLOCK_AHEAD says, in seconds: tests cannot
/// set the clock of one host.
pub fn wall() -> Timestamp {
    let now = chrono::Utc::now();
    #[cfg(debug_assertions)]
    let now = {
        let ahead = std::env::var("PORTCULLIS_CLOCK_AHEAD").ok().and_then(|text| text.parse().ok());
        now + ahead.and_then(chrono::TimeDelta::try_seconds).unwrap_or_default()
    };
    now
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
