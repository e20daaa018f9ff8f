//! Detections of one rule on one host that count towards its threshold.

use std::collections::BTreeSet;

use portcullis_schemas::{HostId, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub host: HostId,
    pub rule: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Counter {
    /// Until when each counts, what has to be distinct in it, and where it is recorded.
    counts: Vec<(Timestamp, Option<String>, u64)>,
}

impl Counter {
    /// One more, of which `wanted` need to be remembered. The same value counts once, for as long as the last one does.
    pub fn count(&mut self, value: Option<&str>, until: Timestamp, wanted: u64, recorded: u64) {
        if value.is_some() {
            self.counts.retain(|(_, known, _)| known.as_deref() != value);
        }
        self.counts.push((until, value.map(str::to_owned), recorded));
        let most = usize::try_from(wanted).unwrap_or(usize::MAX).max(1);
        if self.counts.len() > most {
            self.counts.sort_by_key(|(until, ..)| *until);
            self.counts.drain(..self.counts.len() - most);
        }
    }

    /// How many count at `now`, with one more of this value.
    pub fn with(&self, value: Option<&str>, now: Timestamp) -> u64 {
        let live = self.counts.iter().filter(|(until, ..)| *until > now);
        match value {
            None => live.count() as u64 + 1,
            Some(value) => {
                let others: BTreeSet<&str> =
                    live.filter_map(|(_, known, _)| known.as_deref()).filter(|known| *known != value).collect();
                others.len() as u64 + 1
            }
        }
    }

    /// The oldest record, and when the last one is over.
    pub fn span(&self) -> Option<(u64, Timestamp)> {
        let recorded = self.counts.iter().map(|(.., recorded)| *recorded).min()?;
        Some((recorded, self.counts.iter().map(|(until, ..)| *until).max()?))
    }
}
