//! Which inputs are answered, by their sequences: exact, however many there are, and as small as the holes are few.

use std::collections::BTreeMap;
use std::ops::Bound;

use portcullis_schemas::Stream;

#[derive(Debug, Default)]
pub struct Answered {
    streams: BTreeMap<Stream, Ranges>,
}

impl Answered {
    pub fn contains(&self, stream: Stream, sequence: u64) -> bool {
        self.streams.get(&stream).is_some_and(|ranges| ranges.contains(sequence))
    }

    /// Those from `first` to `last` that are not, as ranges.
    pub fn missing(&self, stream: Stream, first: u64, last: u64) -> Vec<(u64, u64)> {
        self.streams.get(&stream).map_or_else(|| vec![(first, last)], |ranges| ranges.missing(first, last))
    }

    /// Notes that the inputs from `first` to `last`, both included, are answered.
    pub fn insert(&mut self, stream: Stream, first: u64, last: u64) {
        self.streams.entry(stream).or_default().insert(first, last);
    }
}

/// Ranges from first to last that do not touch one another.
#[derive(Debug, Default)]
pub struct Ranges {
    by_first: BTreeMap<u64, u64>,
}

impl Ranges {
    pub fn contains(&self, sequence: u64) -> bool {
        self.by_first.range(..=sequence).next_back().is_some_and(|(_, last)| *last >= sequence)
    }

    /// What lies between them from `first` to `last`, as ranges.
    pub fn missing(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut at = first;
        let before = self.by_first.range(..=first).next_back();
        for (begin, end) in before.into_iter().chain(self.by_first.range((Bound::Excluded(first), Bound::Included(last)))) {
            if *begin > at {
                missing.push((at, begin - 1));
            }
            at = at.max(end.saturating_add(1));
        }
        if at <= last {
            missing.push((at, last));
        }
        missing
    }

    pub fn insert(&mut self, mut first: u64, mut last: u64) {
        if let Some((before, end)) = self.by_first.range(..=first).next_back().map(|(before, end)| (*before, *end))
            && end.saturating_add(1) >= first
        {
            (first, last) = (before, last.max(end));
        }
        while let Some((next, end)) = self.by_first.range(first..=last.saturating_add(1)).next().map(|(next, end)| (*next, *end))
        {
            self.by_first.remove(&next);
            last = last.max(end);
        }
        self.by_first.insert(first, last);
    }

    pub fn into_vec(self) -> Vec<(u64, u64)> {
        self.by_first.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Ranges;

    proptest! {
        #[test]
        fn ranges_hold_what_was_put_in_and_never_touch(put in prop::collection::vec((1u64..60, 0u64..6), 0..40)) {
            let (mut ranges, mut wanted) = (Ranges::default(), BTreeSet::new());
            for (first, more) in put {
                ranges.insert(first, first + more);
                wanted.extend(first..=first + more);
            }
            let held: BTreeSet<u64> = (0..80).filter(|sequence| ranges.contains(*sequence)).collect();
            prop_assert_eq!(&held, &wanted);
            for (first, last) in [(0, 79), (7, 7), (20, 41)] {
                let gaps = ranges.missing(first, last);
                prop_assert!(gaps.windows(2).all(|two| two[0].1 + 1 < two[1].0), "{:?}", gaps);
                let missing: Vec<u64> = gaps.into_iter().flat_map(|(first, last)| first..=last).collect();
                prop_assert_eq!(missing, (first..=last).filter(|sequence| !held.contains(sequence)).collect::<Vec<_>>());
            }
            let all = ranges.into_vec();
            prop_assert!(all.windows(2).all(|two| two[0].1 + 1 < two[1].0), "{:?}", all);
        }
    }
}
