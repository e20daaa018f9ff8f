//! The boot clock, for deadlines.

use std::time::Duration;

use portcullis_core::deadlines::Monotonic;
use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspension included. No step of the wall clock moves it.
pub fn monotonic() -> Monotonic {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
