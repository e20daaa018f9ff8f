//! Why something was decided, in one sentence.

use portcullis_schemas::events::{Level, Reason, Verdict, WaitEnd};

use super::{count, date};

pub fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Rule => "a policy rule matched".into(),
        Reason::Operator => "an operator asked".into(),
        Reason::Deadline { generation } => format!("the deadline of order no. {generation} came"),
        Reason::OpenedByHost { generation } => format!("the host opened itself while order no. {generation} was in force"),
        Reason::PostureLost { generation } => {
            format!("the host lost its posture file; its desired state is ordered again (it knew order no. {generation})")
        }
        Reason::AgentAhead { reported, ordered } => {
            format!(
                "the host reports order no. {reported}, above the last one, {ordered}; its desired state is ordered above that"
            )
        }
        Reason::ImplausibleGeneration { reported, ordered } => {
            format!("the host claims order no. {reported}, too far above the last one, {ordered}, to be followed")
        }
        Reason::Joined { generation, .. } => format!("already isolated by order no. {generation}; this cause was added"),
        Reason::Settled => "already applied".into(),
        Reason::Retracted => "its cause was retracted and nothing else holds the host".into(),
        Reason::NothingToRetract => "the detection that it retracts does not hold the host; it is ignored should it come".into(),
        Reason::RetractionNotAlone => {
            "a person isolated the host, or the detection is another sender's, so a retraction does not open it".into()
        }
        Reason::SupersededByRelease { released_at } => format!("the host was released after it, on {}", date(*released_at)),
        Reason::StaleGeneration { due, ordered } => {
            format!("the deadline of order no. {due} has no effect: order no. {ordered} came since")
        }
        Reason::Stale { observed_at, limit } => {
            format!("it was observed on {}, and the limit is {}", date(*observed_at), date(*limit))
        }
        Reason::FromTheFuture { observed_at } => {
            format!("it says that it was observed on {}, after it arrived", date(*observed_at))
        }
        Reason::Unresolved { wanted, waits: Some(waits), .. } => {
            format!("no host has {wanted} yet; it waits until {}", date(waits.until))
        }
        Reason::Unresolved { wanted, candidates, ended, .. } if candidates.is_empty() => match ended {
            None => format!("no host has {wanted}; it was not acted on"),
            Some(WaitEnd::TimedOut) => format!("no host with {wanted} came in time; it was not acted on"),
            Some(WaitEnd::PushedOut) => format!("no host has {wanted}, and too many others wait; it was not acted on"),
            Some(WaitEnd::Retracted) => format!("no host has {wanted}; it was retracted, or has retracted one that waited"),
            Some(WaitEnd::Removed) => {
                format!("the host with {wanted} came, and the alert was removed from its stream; it was not acted on")
            }
        },
        Reason::Unresolved { wanted, candidates, .. } => {
            let names: Vec<&str> = candidates.iter().map(AsRef::as_ref).collect();
            format!("{wanted} names no single host ({}); the alert was not acted on", names.join(", "))
        }
        Reason::Audit { would } => format!("audit mode: {}", would_have(*would)),
        Reason::Protected { as_what } => format!("the host is protected: {as_what}"),
        Reason::CannotEnforce { level } => format!("the host's agent cannot enforce: {}", level_words(*level)),
        Reason::RuleError { message } => format!("a condition of the policy could not be evaluated: {message}"),
        Reason::NoPolicy => "no valid policy is loaded".into(),
        Reason::Unreadable { member, problem } => format!("the detection's member {member} cannot be read: {problem}"),
        Reason::UnknownSeverity => "its severity is unknown".into(),
        Reason::OperatorMismatch { operator, principal } => {
            format!("it names {operator:?} as operator, and {principal:?} sent it")
        }
        Reason::HostMismatch { named } => format!("it names the host {named:?}, and was sent for another one"),
        Reason::AlreadyIsolated { until, by, incident, .. } => {
            let until = until.map_or("until a person releases it".to_owned(), |until| format!("until {}", date(until)));
            format!("already isolated {until} by {by} (incident {incident})")
        }
        Reason::AlreadyOpen => "the host was open already".into(),
        Reason::TooLong { limit } => format!("it is longer than the policy allows: at most {limit}"),
        Reason::NotSupported { action } => format!("action {action:?} is not built yet"),
        Reason::TooManyHolds { limit } => format!("the host has {limit} holds already, the most of one order"),
        Reason::OrderTooLarge { bytes, limit } => format!("the order would have {bytes} bytes; at most {limit} can be sent"),
        Reason::InputsLost { first, last } => {
            let lost = count(last.saturating_sub(*first).saturating_add(1), "input", "inputs");
            format!("{lost} ({first} to {last}) were removed from the stream before they could be read")
        }
        Reason::AskJoined { ask } => format!("the same rule asks about this host already; the answer to {ask} is for both"),
        Reason::Approved { by } => format!("approved by {}", by.join(" and ")),
        Reason::Denied { by, reason } => format!("denied by {by}{}", because(reason.as_deref())),
        Reason::Unanswered { until } => format!("no answer came until {}", date(*until)),
        Reason::ApprovalsMissing { approved, wanted } => format!("{approved} of {wanted} people approved; others must as well"),
        Reason::NotPending { ask } => format!("nothing is pending under {ask}"),
        Reason::SamePerson { principal } => {
            format!("{principal} asked for it or approved it already; another person must approve")
        }
        Reason::NotIsolated => "the host is not isolated".into(),
        Reason::PauseOver { until } => format!("the pause is over since {}", date(*until)),
        Reason::BelowLimit { limit, scope, breaker } => {
            format!("breaker {breaker} is reset: {} is no longer reached", of(limit, scope.as_deref()))
        }
        Reason::NotPaused => "automatic isolation is not paused".into(),
        Reason::NotTripped { breaker } => format!("no breaker {breaker} is tripped"),
        Reason::Incomplete { member, problem } => format!("the request's {member} {problem}"),
        Reason::BadPolicy { hash, problem } => format!("policy {} cannot be taken: {problem}", short(hash)),
        Reason::PolicyMoved { active, expected } => {
            let name = |hash: &Option<String>| hash.as_deref().map_or("none", short).to_owned();
            format!("policy {} is active by now, and {} was to be replaced", name(active), name(expected))
        }
        Reason::BlastRadius { limit, scope, isolated, base, most, breaker } => {
            let isolated = count(*isolated, "host is", "hosts are");
            format!("limit {}: {isolated} isolated of {base}, at most {most} (breaker {breaker})", of(limit, scope.as_deref()))
        }
        Reason::IsolationRate { limit, scope, isolated, most, per, breaker } => {
            let isolated = count(*isolated, "host was", "hosts were");
            format!("limit {}: {isolated} isolated within {per}, at most {most} (breaker {breaker})", of(limit, scope.as_deref()))
        }
        Reason::Breaker { limit, scope, since, breaker } => {
            format!("limit {}: its breaker {breaker} is tripped since {}", of(limit, scope.as_deref()), date(*since))
        }
        Reason::Paused { until, by } => format!("{by} paused automatic isolation until {}", date(*until)),
        Reason::StaleByDowntime { arrived_at, leader_since } => {
            format!("it arrived on {}, and no orchestrator decided until {}", date(*arrived_at), date(*leader_since))
        }
        Reason::CoolDown { released_at, until, by } => {
            let by = by.as_deref().map_or_else(String::new, |by| format!(" by {by}"));
            format!("the host was released{by} on {}; the cool-down ends on {}", date(*released_at), date(*until))
        }
        Reason::SourceMayNotIsolate { source } => format!("the policy lets no detection of source {source} isolate"),
        Reason::SourceRate { source, isolated, most, per } => {
            let isolated = count(*isolated, "host was", "hosts were");
            format!("source {source}: {isolated} isolated for it within {per}, at most {most}")
        }
        Reason::BelowThreshold { seen, wanted, per } => format!("{seen} of {wanted} detections within {per}"),
    }
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

fn of(limit: &str, scope: Option<&str>) -> String {
    scope.map_or_else(|| limit.to_owned(), |scope| format!("{limit} of {scope}"))
}

/// Enough of a hash to tell it.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// How much a host can hold.
pub fn level_words(level: Level) -> &'static str {
    match level {
        Level::None => "level none, nothing is held",
        Level::Inet => "level inet, frames of raw sockets and bridged traffic pass",
        Level::Partial => "level partial, no egress hook on the devices",
        Level::Full => "level full",
    }
}

fn would_have(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Isolate => "the host would have been isolated",
        Verdict::Release => "the host would have been released",
        Verdict::Ask => "a person would have been asked",
        Verdict::Observe => "it would have been observed",
        Verdict::Ignore => "it would have been ignored",
        Verdict::Refuse => "it would have been refused",
        Verdict::Apply => "it would have been carried out",
    }
}
