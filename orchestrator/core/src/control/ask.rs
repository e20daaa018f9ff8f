//! One pending approval, and what ends it.

use portcullis_schemas::events::{Ask, Decision, InputKind, InputRef, Question};
use portcullis_schemas::{HostId, Timestamp};

/// So many detections behind one pending approval are told apart; where further ones came, no retraction ends it.
const MOST_CAUSES: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// The detection, request or deadline that waits for its answer, and where it is stored.
    pub input: InputRef,
    pub sequence: u64,
    pub host: HostId,
    pub rule: Option<String>,
    pub incident: Option<String>,
    pub ask: Ask,
    pub approvals: Vec<Approval>,
    /// None while people may answer.
    pub end: Option<End>,
    /// Hashes of the detections behind it that are not retracted.
    pub(super) causes: Vec<String>,
    /// Further ones came.
    more: bool,
    /// The time of the last one.
    last_at: Timestamp,
    pub(super) recorded: u64,
}

/// One principal's yes.
#[derive(Clone, Debug, PartialEq)]
pub struct Approval {
    pub by: String,
    pub at: Timestamp,
    /// The request.
    pub input: InputRef,
}

/// What ends a pending approval. Its input is decided once more then.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Enough people said yes, the last of them at this time.
    Approved {
        at: Timestamp,
    },
    Denied {
        at: Timestamp,
        by: String,
        reason: Option<String>,
    },
    Unanswered {
        until: Timestamp,
    },
    /// The last detection behind it was retracted.
    Retracted {
        at: Timestamp,
    },
    /// The host was released.
    Released {
        at: Timestamp,
    },
}

impl End {
    pub fn at(&self) -> Timestamp {
        match self {
            End::Approved { at } | End::Denied { at, .. } | End::Retracted { at } | End::Released { at } => *at,
            End::Unanswered { until } => *until,
        }
    }
}

impl Pending {
    pub(super) fn new(decision: &Decision, ask: &Ask, host: &HostId, recorded: u64) -> Self {
        Self {
            input: decision.input.clone(),
            sequence: decision.sequence.unwrap_or_default(),
            host: host.clone(),
            rule: decision.rule.clone(),
            incident: decision.incident.clone(),
            ask: ask.clone(),
            approvals: Vec::new(),
            end: None,
            causes: if decision.input.kind == InputKind::Detection { vec![ask.id.clone()] } else { Vec::new() },
            more: false,
            last_at: decision.facts.now.unwrap_or_default(),
            recorded,
        }
    }

    /// Whether an answer of `at` still counts.
    pub fn is_open(&self, at: Timestamp) -> bool {
        self.end.is_none() && self.ask.until.is_none_or(|until| until > at)
    }

    /// Whose request it is.
    pub fn asker(&self) -> Option<&str> {
        self.ask.request.is_some().then_some(self.input.token.as_str())
    }

    pub fn approved_by(&self) -> Vec<String> {
        self.approvals.iter().map(|approval| approval.by.clone()).collect()
    }

    /// Whether this principal may say yes.
    pub fn may_approve(&self, principal: &str) -> bool {
        self.asker() != Some(principal) && !self.approvals.iter().any(|approval| approval.by == principal)
    }

    /// When it ends by its time; the beginning of time where it has ended otherwise.
    pub(super) fn ends_at(&self) -> Timestamp {
        match (&self.end, self.ask.until) {
            (Some(_), _) => Timestamp::MIN_UTC,
            (None, until) => until.unwrap_or(Timestamp::MAX_UTC),
        }
    }

    pub(super) fn join(&mut self, cause: String, at: Timestamp) {
        self.last_at = self.last_at.max(at);
        if self.causes.contains(&cause) {
            return;
        }
        match self.causes.len() < MOST_CAUSES {
            true => self.causes.push(cause),
            false => self.more = true,
        }
    }

    pub(super) fn retract(&mut self, cause: &str, at: Timestamp) {
        self.causes.retain(|known| known != cause);
        if self.causes.is_empty() && !self.more {
            self.end.get_or_insert(End::Retracted { at });
        }
    }

    pub(super) fn released(&mut self, at: Timestamp, by_hand: bool) {
        let is_over = match self.ask.question {
            Question::Isolate => by_hand && self.last_at <= at,
            Question::Release => true,
        };
        if is_over {
            self.end.get_or_insert(End::Released { at });
        }
    }

    pub(super) fn approve(&mut self, approval: Approval) {
        if self.end.is_some() || !self.may_approve(&approval.by) {
            return;
        }
        let at = approval.at;
        self.approvals.push(approval);
        if self.approvals.len() >= usize::from(self.ask.approvals) {
            self.end = Some(End::Approved { at });
        }
    }

    pub(super) fn deny(&mut self, at: Timestamp, by: &str, reason: Option<&str>) {
        self.end.get_or_insert(End::Denied { at, by: by.to_owned(), reason: reason.map(str::to_owned) });
    }
}
