//! Many times of one thing, and what they come to.

use std::time::Duration;

use serde::Serialize;

/// Milliseconds of one thing, measured many times.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    pub n: usize,
    pub min: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Series {
    pub fn add(&mut self, time: Duration) {
        self.add_ms(time.as_secs_f64() * 1000.0);
    }

    pub fn add_ms(&mut self, milliseconds: f64) {
        self.0.push(milliseconds);
    }

    /// By nearest rank.
    pub fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied().map_or(f64::NAN, |value| (value * 1000.0).round() / 1000.0)
        };
        Summary { n: sorted.len(), min: at(0.0), p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}
