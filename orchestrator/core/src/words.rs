//! What operators say of hosts, from its decision until an inventory holds it.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_schemas::HostId;
use portcullis_schemas::events::{Decision, Effect, OperatorWord};

/// Where a decision is recorded that is not stored yet.
pub const NOT_RECORDED: u64 = u64::MAX;

#[derive(Debug, Default)]
pub struct Words {
    unstored: BTreeMap<HostId, Vec<(Effect, u64)>>,
    /// Where their records begin.
    records: BTreeSet<(u64, HostId)>,
}

/// What stood before a decision changed it.
#[derive(Debug)]
#[must_use]
pub struct Said {
    host: HostId,
    before: Vec<(Effect, u64)>,
}

impl Said {
    pub fn host(&self) -> &HostId {
        &self.host
    }
}

impl Words {
    /// `stored`: what the host's inventory holds by now.
    pub fn take(&mut self, decision: &Decision, recorded: u64, stored: Option<&OperatorWord>) -> Option<Said> {
        let host = decision.host.as_ref().filter(|_| is_newer(recorded, stored))?;
        let is_word = |effect: &&Effect| matches!(effect, Effect::Labelled { .. } | Effect::OwnExclusions { .. });
        let words: Vec<(Effect, u64)> =
            decision.effects.iter().filter(is_word).map(|effect| (effect.clone(), recorded)).collect();
        if words.is_empty() {
            return None;
        }
        let before = self.unstored.get(host).cloned().unwrap_or_default();
        let all = [before.as_slice(), &words].concat();
        self.put(host, all);
        Some(Said { host: host.clone(), before })
    }

    /// `stored`: what the host's inventory holds by now.
    pub fn put_back(&mut self, said: Said, stored: Option<&OperatorWord>) {
        let Said { host, mut before } = said;
        before.retain(|(_, recorded)| is_newer(*recorded, stored));
        self.put(&host, before);
    }

    /// An inventory is stored that holds this.
    pub fn stored(&mut self, host: &HostId, word: Option<&OperatorWord>) {
        if let Some(unstored) = self.unstored.get(host) {
            let left = unstored.iter().filter(|(_, recorded)| is_newer(*recorded, word)).cloned().collect();
            self.put(host, left);
        }
    }

    /// What is stored, with what is not yet laid over it.
    pub fn with(&self, host: &HostId, stored: Option<&OperatorWord>) -> Option<OperatorWord> {
        self.up_to(host, stored, NOT_RECORDED)
    }

    /// The same, as far as its decisions are stored.
    pub fn recorded(&self, host: &HostId, stored: Option<&OperatorWord>) -> Option<OperatorWord> {
        self.up_to(host, stored, NOT_RECORDED - 1)
    }

    fn up_to(&self, host: &HostId, stored: Option<&OperatorWord>, last: u64) -> Option<OperatorWord> {
        let unstored = self.unstored.get(host).map(Vec::as_slice).unwrap_or_default();
        let mut unstored = unstored.iter().filter(|(_, recorded)| *recorded <= last).peekable();
        if unstored.peek().is_none() {
            return stored.cloned();
        }
        let mut word = stored.cloned().unwrap_or_default();
        for (effect, recorded) in unstored {
            match effect {
                Effect::Labelled { labels } => word.labels.extend(labels.clone()),
                Effect::OwnExclusions { exclusions } => word.exclusions.clone_from(exclusions),
                _ => {}
            }
            word.decision = word.decision.max(*recorded);
        }
        Some(word)
    }

    /// Hosts of which something is recorded and in no inventory.
    pub fn hosts(&self) -> impl Iterator<Item = &HostId> {
        let is_recorded = |said: &[(Effect, u64)]| said.iter().any(|(_, recorded)| *recorded != NOT_RECORDED);
        self.unstored.iter().filter(move |(_, said)| is_recorded(said)).map(|(host, _)| host)
    }

    pub fn recorded_from(&self) -> Option<u64> {
        self.records.first().map(|(recorded, _)| *recorded)
    }

    fn put(&mut self, host: &HostId, said: Vec<(Effect, u64)>) {
        let first = |said: &[(Effect, u64)]| said.first().map(|(_, recorded)| *recorded);
        if let Some(was) = self.unstored.get(host).and_then(|said| first(said)) {
            self.records.remove(&(was, host.clone()));
        }
        match first(&said) {
            Some(recorded) => {
                self.records.insert((recorded, host.clone()));
                self.unstored.insert(host.clone(), said);
            }
            None => drop(self.unstored.remove(host)),
        }
    }
}

/// What is not recorded yet is newer than everything.
fn is_newer(recorded: u64, stored: Option<&OperatorWord>) -> bool {
    stored.is_none_or(|word| recorded > word.decision)
}

#[cfg(test)]
mod tests {
    use portcullis_schemas::events::{Facts, InputKind, Reason, Verdict};

    use super::*;
    use crate::testing::{id, key};

    #[test]
    fn what_is_said_counts_from_its_decision_until_an_inventory_holds_it() {
        let mut words = Words::default();
        let _ = words.take(&labelled(&[("tier", Some("db")), ("site", Some("a"))]), 5, None).expect("it is said");
        let _ = words.take(&labelled(&[("site", None)]), 7, None).expect("it is said");
        let word = words.with(&id("h1"), None).expect("a word");
        assert_eq!((shown(&word), word.decision, words.recorded_from()), ("site=- tier=db".to_owned(), 7, Some(5)));
        let older = OperatorWord { decision: 5, ..labels(&[("tier", Some("db")), ("site", Some("a"))]) };
        words.stored(&id("h1"), Some(&older));
        assert_eq!(words.with(&id("h1"), Some(&older)).map(|word| shown(&word)), Some("site=- tier=db".into()));
        assert_eq!(words.recorded_from(), Some(7));
        words.stored(&id("h1"), Some(&word));
        assert_eq!((words.with(&id("h1"), Some(&word)), words.recorded_from()), (Some(word), None));
        assert_eq!(words.hosts().count(), 0);
    }

    #[test]
    fn an_old_decision_that_is_read_again_changes_nothing() {
        let mut words = Words::default();
        let stored = OperatorWord { decision: 9, ..labels(&[("tier", Some("web"))]) };
        let _ = words.take(&labelled(&[("tier", Some("db"))]), 5, None);
        words.stored(&id("h1"), Some(&stored));
        assert_eq!((words.with(&id("h1"), Some(&stored)), words.recorded_from()), (Some(stored.clone()), None));
        assert!(words.take(&labelled(&[("tier", Some("db"))]), 5, Some(&stored)).is_none());
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace_also_where_an_inventory_came_between() {
        let mut words = Words::default();
        let _ = words.take(&labelled(&[("tier", Some("db"))]), 5, None);
        let said = words.take(&labelled(&[("tier", Some("web"))]), NOT_RECORDED, None).expect("it is said");
        let recorded = words.recorded(&id("h1"), None).expect("a word");
        assert_eq!((shown(&recorded), recorded.decision), ("tier=db".into(), 5), "nothing is stored that is not recorded");
        let stored = OperatorWord { decision: 5, ..labels(&[("tier", Some("db"))]) };
        words.stored(&id("h1"), Some(&stored));
        assert_eq!(words.with(&id("h1"), Some(&stored)).map(|word| shown(&word)), Some("tier=web".into()));
        words.put_back(said, Some(&stored));
        assert_eq!((words.with(&id("h1"), Some(&stored)), words.recorded_from()), (Some(stored), None));
    }

    fn labels(labels: &[(&str, Option<&str>)]) -> OperatorWord {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
        OperatorWord { labels, ..OperatorWord::default() }
    }

    fn labelled(said: &[(&str, Option<&str>)]) -> Decision {
        let input = key(InputKind::Request, "ann", "r1");
        Decision {
            host: Some(id("h1")),
            effects: vec![Effect::Labelled { labels: labels(said).labels }],
            ..Decision::new(input, Verdict::Apply, Reason::Operator, Facts::default())
        }
    }

    fn shown(word: &OperatorWord) -> String {
        let one = |(name, value): (&String, &Option<String>)| format!("{name}={}", value.as_deref().unwrap_or("-"));
        word.labels.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}
