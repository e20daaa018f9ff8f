//! Deadlines as durations from the first receipt of an order, on a clock that counts suspend and that nobody can set. Whether an order has
//! expired is judged by the broker's time, never by this host's.

use std::time::Duration;

use chrono::TimeDelta;
use portcullis_schemas::Timestamp;
use portcullis_schemas::events::Order;
use serde::{Deserialize, Serialize};

/// Longest time without power that is believed of the wall clock.
const PLAUSIBLE: Duration = Duration::from_secs(7 * 86_400);

/// What is too little to be a clock that is off: an order is some time on its way.
const OFF: TimeDelta = TimeDelta::seconds(5);

/// What the clocks say, as an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// This host's wall clock: for people, and across a reboot.
    pub wall: Timestamp,
    /// The broker's time, as it was last learned, carried on by CLOCK_BOOTTIME; None where it was not learned yet.
    pub broker: Option<Timestamp>,
    /// CLOCK_BOOTTIME.
    pub boot_ms: u64,
    pub boot_id: String,
}

impl Now {
    /// By how much this host's wall clock is ahead of the broker's, or behind it (negative). None where they agree, or nothing is known.
    pub fn ahead(&self) -> Option<TimeDelta> {
        self.broker.map(|broker| self.wall - broker).filter(|ahead| ahead.abs() > OFF)
    }
}

/// The broker's time at one moment of CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub broker: Timestamp,
    pub boot_ms: u64,
}

impl Anchor {
    /// The broker's time when CLOCK_BOOTTIME says `boot_ms`.
    pub fn at(&self, boot_ms: u64) -> Timestamp {
        let since = i64::try_from(boot_ms.saturating_sub(self.boot_ms)).unwrap_or(i64::MAX);
        let delta = TimeDelta::try_milliseconds(since).unwrap_or(TimeDelta::MAX);
        self.broker.checked_add_signed(delta).unwrap_or(Timestamp::MAX_UTC)
    }
}

/// How long an order has stood, and when that was written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub elapsed_ms: u64,
    pub boot_id: String,
    pub boot_ms: u64,
    pub wall: Timestamp,
}

impl Mark {
    /// The first receipt.
    pub fn start(now: &Now) -> Self {
        Self { elapsed_ms: 0, boot_id: now.boot_id.clone(), boot_ms: now.boot_ms, wall: now.wall }
    }

    /// The time since the first receipt. The wall clock counts across a reboot only, where nothing else does, and only if it
    /// did not go back and the gap is plausible: whoever sets the clock cannot open the host.
    pub fn elapsed(&self, now: &Now) -> Duration {
        let since = if self.boot_id == now.boot_id {
            Duration::from_millis(now.boot_ms.saturating_sub(self.boot_ms))
        } else {
            let gap = (now.wall - self.wall).to_std().unwrap_or_default();
            if gap <= PLAUSIBLE { gap } else { Duration::ZERO }
        };
        Duration::from_millis(self.elapsed_ms).saturating_add(since)
    }

    /// The same order, marked again now.
    pub fn again(&self, now: &Now) -> Self {
        let elapsed_ms = u64::try_from(self.elapsed(now).as_millis()).unwrap_or(u64::MAX);
        Self { elapsed_ms, ..Self::start(now) }
    }

    /// How old the writing is; for marks of another boot the longest.
    pub fn age(&self, now: &Now) -> Duration {
        if self.boot_id == now.boot_id { Duration::from_millis(now.boot_ms.saturating_sub(self.boot_ms)) } else { Duration::MAX }
    }
}

/// From the first receipt to the deadline; None where a hold has no end.
pub fn due(order: &Order) -> Option<Duration> {
    order.release_at.map(|at| (at - order.issued_at).to_std().unwrap_or_default())
}

/// The order's own time: its broker's, carried on by the host's count. Temporary exclusions end by it.
pub fn order_time(order: &Order, elapsed: Duration) -> Timestamp {
    i64::try_from(elapsed.as_millis())
        .ok()
        .and_then(|ms| order.issued_at.checked_add_signed(chrono::TimeDelta::milliseconds(ms)))
        .unwrap_or(Timestamp::MAX_UTC)
}

/// Whether anything in this order ends by itself.
pub fn counts(order: &Order) -> bool {
    order.release_at.is_some() || order.exclusions.iter().any(|exclusion| exclusion.until.is_some())
}

/// How long until the next temporary exclusion ends.
pub fn next_end(order: &Order, elapsed: Duration) -> Option<Duration> {
    ends(order).filter_map(|end| end.checked_sub(elapsed)).filter(|rest| !rest.is_zero()).min()
}

/// Whether a temporary exclusion ended after `before` and up to `elapsed`.
pub fn ended(order: &Order, before: Duration, elapsed: Duration) -> bool {
    ends(order).any(|end| before < end && end <= elapsed)
}

fn ends(order: &Order) -> impl Iterator<Item = Duration> {
    order.exclusions.iter().filter_map(|exclusion| (exclusion.until? - order.issued_at).to_std().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn what_counts_as_time_since_the_first_receipt() {
        let mark = Mark { elapsed_ms: HOUR, boot_id: "one".into(), boot_ms: 5_000, wall: wall(1_000_000) };
        for (what, boot_id, boot_ms, at, hours) in [
            ("same boot: the boot clock", "one", 5_000 + HOUR, 1_000_000, 2),
            ("same boot: a wall step forward counts nothing", "one", 5_000, 1_000_000 + 86_400, 1),
            ("same boot: a wall step back counts nothing", "one", 5_000 + HOUR, 0, 2),
            ("reboot: the wall clock", "two", 10, 1_000_000 + 3_600, 2),
            ("reboot: a clock that went back counts nothing", "two", 10 * HOUR, 999_999, 1),
            ("reboot: seven days are believed", "two", 10, 1_000_000 + 7 * 86_400, 7 * 24 + 1),
            ("reboot: more is not", "two", 10, 1_000_001 + 7 * 86_400, 1),
        ] {
            let now = Now { wall: wall(at), broker: None, boot_ms, boot_id: boot_id.into() };
            assert_eq!(mark.elapsed(&now).as_secs() / 3_600, hours, "{what}");
            assert_eq!(mark.again(&now).elapsed(&now), mark.elapsed(&now), "{what}");
        }
    }

    #[test]
    fn the_brokers_time_goes_on_by_the_boot_clock_alone() {
        let anchor = Anchor { broker: wall(1_000), boot_ms: 5_000 };
        assert_eq!([5_000, 65_000, 4_000].map(|boot_ms| anchor.at(boot_ms)), [wall(1_000), wall(1_060), wall(1_000)]);
        assert_eq!(anchor.at(u64::MAX), Timestamp::MAX_UTC);
        let ahead = |at: i64, broker: Option<i64>| {
            Now { wall: wall(at), broker: broker.map(wall), boot_ms: 0, boot_id: String::new() }
                .ahead()
                .map(|ahead| ahead.num_seconds())
        };
        assert_eq!([ahead(3_600, Some(0)), ahead(0, Some(3_600))], [Some(3_600), Some(-3_600)]);
        assert_eq!([ahead(5, Some(0)), ahead(3_600, None)], [None, None]);
    }

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(seconds, 0).unwrap()
    }
}
