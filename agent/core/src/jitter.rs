//! Spreads a fleet over time, from a hash of host and occasion: no two hosts come together, and a test can foretell it.

use std::time::Duration;

use portcullis_schemas::{HostId, ids};

/// A point between `from` and `to`.
pub fn between(host: &HostId, occasion: &str, attempt: u64, from: Duration, to: Duration) -> Duration {
    let digest = ids::digest([host.as_str(), occasion, &attempt.to_string()]);
    let share = u32::from_str_radix(&digest[..8], 16).unwrap_or_default();
    from + to.saturating_sub(from).mul_f64(f64::from(share) / f64::from(u32::MAX))
}

/// The delay before try `attempt`, from 0: nothing first, then doubling from `first` to `most`, each time between half and all.
pub fn back_off(host: &HostId, occasion: &str, attempt: u64, first: Duration, most: Duration) -> Duration {
    let Some(doublings) = attempt.checked_sub(1) else { return Duration::ZERO };
    let whole = first.saturating_mul(1 << doublings.min(20)).min(most);
    between(host, occasion, attempt, whole / 2, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_stay_in_bounds_and_differ_by_host() {
        let (a, b): (HostId, HostId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let of = |host, attempt| back_off(host, "x", attempt, Duration::from_millis(100), Duration::from_secs(4));
        assert_eq!(of(&a, 0), Duration::ZERO);
        assert!((50..=100).contains(&of(&a, 1).as_millis()));
        assert!((2_000..=4_000).contains(&of(&a, 1_000_000).as_millis()));
        assert_ne!(of(&a, 5), of(&b, 5));
        assert_eq!(of(&a, 5), of(&a, 5));
    }
}
