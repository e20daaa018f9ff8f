//! Back-off: pauses between attempts, doubled up to a bound, and short again once an attempt has lasted.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    resumed: Instant,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first, resumed: Instant::now() }
    }

    /// Waits before the next attempt.
    pub async fn pause(&mut self) {
        let pause = self.after(self.resumed.elapsed());
        tokio::time::sleep(pause).await;
        self.resumed = Instant::now();
    }

    /// The pause behind an attempt of this length. One that outlasted the longest pause worked for a while: what ended it is no reason to wait.
    fn after(&mut self, attempt: Duration) -> Duration {
        let pause = if attempt > self.longest { self.first } else { self.next };
        self.next = (pause * 2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn pauses_grow_while_attempts_fail_and_are_short_again_after_one_that_lasted() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(200));
        let failing: Vec<Duration> = [0, 10, 200, 1].map(|attempt| backoff.after(ms(attempt))).into();
        assert_eq!(failing, [50, 100, 200, 200].map(ms));
        assert_eq!(backoff.after(ms(201)), ms(50));
        assert_eq!(backoff.after(ms(0)), ms(100));
    }
}
