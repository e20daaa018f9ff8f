//! The terms of an isolation: what the policy, or without one the product's default, lays down for every order.

use std::sync::LazyLock;

use portcullis_schemas::events::{For, IfUnanswered, LocalRelease, WhenUnreachable};
use portcullis_schemas::exclusion::Exclusion;
use portcullis_schemas::time::Span;

use crate::question::OnDeadline;
use crate::{Policy, default_exclusions};

/// What `defaults` and the top of a policy say.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    pub release_after: For,
    pub max_isolation: For,
    pub when_unreachable: WhenUnreachable,
    pub local_release: LocalRelease,
    pub trust_local: bool,
    pub stale_after: Span,
    /// How long a detection waits for a host that is not known yet.
    pub resolve_within: Span,
    /// For what a rule says nothing else of.
    pub on_deadline: OnDeadline,
    /// How long a question waits for its answer.
    pub ask_for: Span,
    /// What becomes of the question of a rule with `then: ask`. What a limit, protection or another reason holds back is never isolated unanswered.
    pub if_unanswered: IfUnanswered,
    /// After an operator's release, what would isolate the host by a rule that had held it is ignored for so long, and by another one asked. Zero: off.
    pub cool_down: Span,
    /// After any release, an alert that would isolate the host by a rule that had held it is ignored for so long. Zero: off.
    pub hold_off: Span,
    /// A notice comes so long before a deadline. Zero: none.
    pub warn_before_release: Span,
    pub automatic: Vec<Exclusion>,
    pub manual: Vec<Exclusion>,
}

impl Terms {
    /// Releases, deadlines and manual isolation go on without a policy, on the product's defaults.
    pub fn of(policy: Option<&Policy>) -> &Self {
        static DEFAULT: LazyLock<Terms> = LazyLock::new(Terms::default);
        policy.map_or_else(|| &*DEFAULT, Policy::terms)
    }

    /// `wanted` cut to what `max_isolation` allows. None where `never` is wanted and not allowed.
    pub fn bound(&self, wanted: For) -> Option<For> {
        match (wanted, self.max_isolation) {
            (wanted, For::Never) => Some(wanted),
            (For::Never, For::Span(_)) => None,
            (For::Span(wanted), For::Span(most)) => Some(For::Span(wanted.min(most))),
        }
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            release_after: For::Span(Span::hours(8)),
            max_isolation: For::Span(Span::hours(7 * 24)),
            when_unreachable: WhenUnreachable::Release,
            local_release: LocalRelease::Root,
            trust_local: true,
            stale_after: Span::hours(1),
            resolve_within: Span::seconds(120),
            on_deadline: OnDeadline::Release,
            ask_for: Span::seconds(30 * 60),
            if_unanswered: IfUnanswered::Observe,
            // Whoever released by hand has judged what the host was held for; a machine that isolates it again at once works against him.
            cool_down: Span::hours(1),
            // Off: an alert that comes again after a deadline says that the host is still compromised, and to ignore it would not be the safe side.
            hold_off: Span::seconds(0),
            warn_before_release: Span::seconds(30 * 60),
            automatic: default_exclusions(),
            manual: default_exclusions(),
        }
    }
}
