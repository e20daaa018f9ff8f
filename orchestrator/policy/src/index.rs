//! Rules by what is cheap to see: most detections meet few of them.

use portcullis_schemas::events::Severity;

use super::rule::Rule;

/// For each severity the rules that may take it, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    by_severity: [Vec<u32>; Severity::ALL.len()],
}

impl Index {
    pub fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (severity, found) in Severity::ALL.into_iter().zip(&mut index.by_severity) {
            let takes = |rule: &Rule| rule.matching.iter().all(|condition| condition.takes(severity) != Some(false));
            found.extend((0u32..).zip(rules).filter(|(_, rule)| takes(rule)).map(|(at, _)| at));
        }
        index
    }

    /// The first of `rules` that may take this severity, and those behind it.
    pub fn rules<'p>(&self, rules: &'p [Rule], severity: Severity) -> impl Iterator<Item = &'p Rule> {
        let at = Severity::ALL.iter().position(|known| *known == severity).unwrap_or_default();
        self.by_severity[at].iter().filter_map(|at| rules.get(*at as usize))
    }
}
