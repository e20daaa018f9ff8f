//! The boot clock, and the broker's time carried on by it.

use std::time::Duration;

use portcullis_core::deadlines::Monotonic;
use portcullis_core::machine::Now;
use portcullis_schemas::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspension included. No step of the wall clock moves it.
pub fn monotonic() -> Monotonic {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Both clocks: the broker's time is asked once, and carried on by the boot clock.
#[derive(Clone, Debug)]
pub struct Clock {
    anchor: Now,
}

impl Clock {
    /// `broker_now` is the broker's time at this moment.
    pub fn new(broker_now: Timestamp) -> Self {
        Self { anchor: Now { boot: monotonic(), broker: broker_now } }
    }

    pub fn now(&self) -> Now {
        let boot = monotonic();
        Now { boot, broker: self.anchor.broker + boot.saturating_sub(self.anchor.boot) }
    }
}
