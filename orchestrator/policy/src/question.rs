//! `ask`: what is put to people, for how long, and what becomes of it unanswered.

use portcullis_schemas::events::{For, IfUnanswered};
use portcullis_schemas::time::Span;

/// What a rule with `then: ask` puts to people: isolate this host?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// So many different people must approve, 1 to 5.
    pub approvals: u8,
    /// How long it waits for an answer.
    pub ask_for: Span,
    pub if_unanswered: IfUnanswered,
    /// How long the isolation lasts, from its approval.
    pub release_after: For,
}

/// What happens at the deadline of an isolation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeadline {
    #[default]
    Release,
    /// A person is asked, and the host stays isolated for as long as that may take.
    Ask,
}
