//! What is told of tampering: each by itself, until there is so much of it that it is told together. So a storm neither hides nor floods.

use portcullis_schemas::events::Tamper;

/// So many are told one by one.
const BURST: u64 = 16;
/// After them, one word in so many milliseconds of the boot clock.
const INTERVAL_MS: u64 = 10_000;
/// What is named of a storm.
const NAMED: usize = 8;

/// What has been told, and what waits to be.
#[derive(Clone, Debug, Default)]
pub struct TamperReports {
    /// A leaky bucket: the time at which it will be empty.
    empty_ms: u64,
    held: Option<Tamper>,
}

impl TamperReports {
    /// Takes what was found. Some: to be told now.
    pub fn found(&mut self, tamper: Tamper, now_ms: u64) -> Option<Tamper> {
        match &mut self.held {
            Some(held) => merge(held, tamper),
            None => self.held = Some(tamper),
        }
        self.due(now_ms)
    }

    /// What waits, to be told before another order takes the place of the one that it belongs to.
    pub fn rest(&mut self) -> Option<Tamper> {
        self.held.take()
    }

    /// What has waited for its time.
    pub fn due(&mut self, now_ms: u64) -> Option<Tamper> {
        if self.wait_ms(now_ms)? > 0 {
            return None;
        }
        self.empty_ms = self.empty_ms.max(now_ms) + INTERVAL_MS;
        self.held.take()
    }

    /// How long until something is to be told. None: nothing waits.
    pub fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        self.held.as_ref()?;
        Some(self.empty_ms.saturating_sub(now_ms + (BURST - 1) * INTERVAL_MS))
    }
}

fn merge(held: &mut Tamper, more: Tamper) {
    for what in more.what {
        if held.what.len() < NAMED && !held.what.contains(&what) {
            held.what.push(what);
        }
    }
    for culprit in more.by {
        if held.by.len() < NAMED && !held.by.contains(&culprit) {
            held.by.push(culprit);
        }
    }
    held.times += more.times;
    held.restored &= more.restored;
    held.restored_in_ms = held.restored_in_ms.max(more.restored_in_ms);
}

#[cfg(test)]
mod tests {
    use portcullis_schemas::events::Culprit;

    use super::*;

    #[test]
    fn each_is_told_by_itself_and_a_storm_once_in_each_interval() {
        let mut telling = TamperReports::default();
        let mut told = Vec::new();
        for at in (0..30_000).step_by(10) {
            told.extend(telling.found(tamper(at), at).map(|tamper| (at, tamper.times)));
        }
        let (single, storm) = told.split_at(BURST as usize);
        assert!(single.iter().all(|(_, times)| *times == 1), "{single:?}");
        assert_eq!(storm, [(10_000, 985), (20_000, 1_000)]);
        // The rest of the storm is told when its interval ends, though nothing more happens.
        assert_eq!((telling.wait_ms(29_990), telling.due(29_999)), (Some(10), None));
        assert_eq!(telling.due(30_000).map(|tamper| tamper.times), Some(999));
        assert_eq!((telling.due(40_000), telling.wait_ms(40_000)), (None, None));
        // After a quiet time each counts for itself again.
        let quiet = 30_000 + (BURST + 1) * INTERVAL_MS;
        assert!((0..BURST).all(|n| telling.found(tamper(n), quiet).is_some()));
    }

    #[test]
    fn a_storm_is_told_with_the_worst_of_it_and_in_bounds() {
        let mut telling = TamperReports::default();
        while telling.found(tamper(0), 0).is_some() {}
        for at in 1..100 {
            telling.found(Tamper { restored: at != 50, restored_in_ms: Some(at % 60), ..tamper(at) }, at);
        }
        let told = telling.due(10_000).unwrap();
        assert_eq!((told.what.len(), told.by.len(), told.times), (NAMED, NAMED, 100));
        assert_eq!((told.restored, told.restored_in_ms), (false, Some(59)));
        // What waits is told at once where another order takes over.
        assert!(telling.found(tamper(1), 10_001).is_none());
        assert_eq!((telling.rest(), telling.rest()), (Some(tamper(1)), None));
    }

    fn tamper(n: u64) -> Tamper {
        Tamper {
            what: vec![format!("thing {n}")],
            by: vec![Culprit { pid: n as u32, program: "nft".into() }],
            times: 1,
            restored: true,
            restored_in_ms: Some(1),
        }
    }
}
