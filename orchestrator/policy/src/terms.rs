//! The terms of an isolation: what the policy, or without one the product's default, lays down for every order.

use std::sync::LazyLock;

use portcullis_schemas::events::{For, LocalRelease, WhenUnreachable};
use portcullis_schemas::exclusion::Exclusion;
use portcullis_schemas::time::Span;

use crate::{Policy, default_exclusions};

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
            automatic: default_exclusions(),
            manual: default_exclusions(),
        }
    }
}
