//! Why something was decided, in one sentence.

use portcullis_schemas::events::{Level, Reason, Verdict};

use super::{count, date};

pub fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Rule => "a rule of the policy matched".into(),
        Reason::Operator => "an operator asked".into(),
        Reason::Deadline { generation } => format!("the deadline of generation {generation} came"),
        Reason::OpenedByHost { generation } => format!("the host opened itself at generation {generation}"),
        Reason::PostureLost { generation } => {
            format!("the host lost its posture file; what was wanted at generation {generation} is ordered anew")
        }
        Reason::AgentAhead { reported, ordered } => {
            format!(
                "the host reports generation {reported}, above the last order's {ordered}; what is wanted is ordered above it"
            )
        }
        Reason::ImplausibleGeneration { reported, ordered } => {
            format!("the host claims generation {reported}, too far above the last order's {ordered} to be followed")
        }
        Reason::Joined { generation } => format!("it joined an isolation that stands, generation {generation}"),
        Reason::Settled => "it had its effect before".into(),
        Reason::Retracted => "its cause was retracted and nothing else holds the host".into(),
        Reason::NothingToRetract => "what it retracts does not hold the host; should that come, it is ignored".into(),
        Reason::RetractionNotAlone => {
            "a person isolated the host, or the detection is another sender's, so a retraction does not open it".into()
        }
        Reason::SupersededByRelease { released_at } => format!("the host was released after it, on {}", date(*released_at)),
        Reason::StaleGeneration { due, ordered } => {
            format!("it is the deadline of generation {due}, and generation {ordered} stands")
        }
        Reason::Stale { observed_at, limit } => {
            format!("it was observed on {}, and the limit is {}", date(*observed_at), date(*limit))
        }
        Reason::FromTheFuture { observed_at } => {
            format!("it says that it was observed on {}, after it arrived", date(*observed_at))
        }
        Reason::Unresolved { wanted, candidates } if candidates.is_empty() => format!("no host is called {wanted:?}"),
        Reason::Unresolved { wanted, candidates } => {
            let names: Vec<&str> = candidates.iter().map(AsRef::as_ref).collect();
            format!("several hosts are called {wanted:?}: {}", names.join(", "))
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
        Reason::AlreadyOpen => "the host is open already".into(),
        Reason::TooLong { limit } => format!("it is longer than the policy allows: at most {limit}"),
        Reason::NotSupported { action } => format!("this orchestrator cannot do {action:?} yet"),
        Reason::TooManyLeases { limit } => format!("{limit} causes hold the host already, and an order can hold no more"),
        Reason::OrderTooLarge { bytes, limit } => format!("the order would have {bytes} bytes; at most {limit} can be sent"),
        Reason::InputsLost { first, last } => {
            let lost = count(last.saturating_sub(*first).saturating_add(1), "input", "inputs");
            format!("{lost} ({first} to {last}) were removed from the stream before they could be read")
        }
    }
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
    }
}
