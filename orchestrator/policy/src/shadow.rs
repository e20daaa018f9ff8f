//! Rules that can never match, since an earlier one takes all that they would, or that never isolate.

use portcullis_schemas::events::Severity;

use super::error::{At, Errors};
use super::matching::Condition;
use super::rule::{Rule, Then};

/// A warning for each such rule; `places` are those of their names.
pub(super) fn warn(rules: &[Rule], places: &[At], errors: &mut Errors) {
    for (at, (rule, place)) in rules.iter().zip(places).enumerate() {
        let unknown_alone = |condition: &Condition| {
            condition.takes(Severity::Unknown) == Some(true)
                && Severity::ALL[1..].iter().all(|s| condition.takes(*s) == Some(false))
        };
        if matches!(rule.then, Then::Isolate { .. }) && rule.matching.iter().any(unknown_alone) {
            let message = format!(
                "rule {:?} never isolates: it takes severity unknown alone, about which a person is asked; write then: ask if that is meant",
                rule.name
            );
            errors.warn(*place, message);
        }
        // A last rule for everything is reached by what an earlier one cannot tell.
        if rule.takes_everything() {
            continue;
        }
        let earlier = rules[..at].iter().zip(places).find(|(earlier, _)| takes_all(earlier, rule));
        if let Some((earlier, first)) = earlier {
            let message = format!(
                "rule {:?} can never match: rule {:?} on line {} comes first and takes all that it would; move this one up, or remove it",
                rule.name, earlier.name, first.line
            );
            errors.warn(*place, message);
        }
    }
}

/// Whether `wide` takes whatever `narrow` takes: by its match alone, and wider or the same in each of its keys.
fn takes_all(wide: &Rule, narrow: &Rule) -> bool {
    let covers = |condition: &Condition| narrow.matching.iter().any(|other| condition.covers(other));
    wide.when.is_none() && wide.during.is_empty() && wide.matching.iter().all(covers)
}
