//! What hosts say of themselves: states and hellos. They are observations, and most change nothing.
//!
//! Every reaction is a function of the host's last word and the last order, and undoes its own condition: heard twice, or after a restart,
//! it orders nothing more.

use portcullis_schemas::events::{
    Hello, LastOrder, Notice, NoticeKind, Posture, Reason, ReleasedBy, Severity, State, StateCause, Verdict,
};
use portcullis_schemas::{HostId, Timestamp};

use super::{Door, Meta, Outcome};
use crate::fleet::{Host, PLAUSIBLE_LEAD};
use crate::isolation::Event;
use crate::{inventory, resolve, settled};

pub fn state(door: Door<'_>, meta: &Meta, state: &State) -> Outcome {
    let Some(host) = door.fleet.host(&state.host) else {
        return Outcome::default();
    };
    // The order stands, and its decision may not: the orchestrator may have died in between.
    if let Some(outcome) = door.settled(meta, &state.host, host) {
        return with_notices(outcome, state, host);
    }
    let own = state.posture == Posture::Open && matches!(state.cause, StateCause::Deadline | StateCause::Local);
    let outcome = if state.cause == StateCause::PostureLost {
        posture_lost(door, meta, host, state)
    } else if own {
        opened(door, meta, host, state)
    } else if host.state.as_deref().is_some_and(|last| last.generation > state.generation) {
        // A later one of the host is answered instead: after a loss of the log both are read again, and this one tells of a posture that is over.
        Outcome::default()
    } else {
        let said = Said { generation: state.generation, posture: state.posture, last_order: state.last_order.as_deref() };
        ahead(door, meta, &state.host, host, &said)
    };
    with_notices(outcome, state, host)
}

pub fn hello(door: Door<'_>, meta: &Meta, hello: &Hello) -> Outcome {
    if let Some(known) = door.fleet.spelled_otherwise(&hello.host) {
        let text = format!("an agent calls itself {}, which differs from {known} in case only; it is not taken", hello.host);
        return notice(NoticeKind::Contested, Severity::High, Some(known), text);
    }
    let mut notices = contested(door, hello, meta.at);
    notices.extend(two_at_once(door, hello));
    notices.extend(door.fleet.host(&hello.host).and_then(|host| implausible(&hello.host, hello.generation, host.ordered())));
    Outcome { notices, ..Outcome::default() }
}

/// A stored inventory that the fleet has taken: the host may be ahead of the log of orders.
pub fn inventory(door: Door<'_>, meta: &Meta, hello: &Hello) -> Outcome {
    match door.fleet.host(&hello.host) {
        // What it isolates for comes in a state event: a guess here would be faster, and take its place.
        Some(_) if hello.tells_last_order && hello.posture == Posture::Isolated => Outcome::default(),
        Some(host) => {
            let said = Said { generation: hello.generation, posture: hello.posture, last_order: None };
            ahead(door, meta, &hello.host, host, &said)
        }
        None => Outcome::default(),
    }
}

/// The host opened itself: the holds that stood then are over, where the policy trusts the host.
fn opened(door: Door<'_>, meta: &Meta, host: &Host, state: &State) -> Outcome {
    let trusted = door.terms.trust_local || state.cause == StateCause::Deadline;
    let held = host.order.as_deref().is_some_and(|order| order.holds.iter().any(|hold| hold.generation <= state.generation));
    if !trusted || !held {
        return Outcome::default();
    }
    let (by, words) = match state.cause {
        StateCause::Deadline => (ReleasedBy::Deadline, "the host opened itself at its deadline"),
        _ => (ReleasedBy::Host, "opened on the host itself"),
    };
    let reason = Reason::OpenedByHost { generation: state.generation };
    door.order(meta, &state.host, &Event::Opened { opened: state.generation, by }, Verdict::Release, reason, words)
}

/// The host no longer knows what stood: the wanted posture is ordered anew, one generation up. An order that came after the loss was said
/// is answer enough.
fn posture_lost(door: Door<'_>, meta: &Meta, host: &Host, state: &State) -> Outcome {
    let answered = host.order.as_deref().is_some_and(|order| order.issued_at >= meta.at);
    // The same event is stored again where its acknowledgement was lost.
    if answered || settled::find(host.order.as_deref(), &meta.input).is_some() {
        return Outcome::default();
    }
    let verdict = wanted(host);
    let reason = Reason::PostureLost { generation: state.generation };
    door.order(meta, &state.host, &Event::Reissue, verdict, reason, "the host lost its posture file")
}

/// What a host says of its order.
struct Said<'a> {
    generation: u64,
    posture: Posture,
    last_order: Option<&'a LastOrder>,
}

/// The host knows a generation above the log's: the log was lost or restored. The wanted posture is ordered above it.
fn ahead(door: Door<'_>, meta: &Meta, id: &HostId, host: &Host, said: &Said<'_>) -> Outcome {
    let (reported, ordered) = (said.generation, host.ordered());
    if reported <= ordered {
        return Outcome::default();
    }
    if let Some(notice) = implausible(id, reported, ordered) {
        return Outcome { notices: vec![notice], ..Outcome::default() };
    }
    let reason = Reason::AgentAhead { reported, ordered };
    let words = "the host was ahead of the log of orders";
    if let (Some(claim), Posture::Isolated) = (said.last_order, said.posture) {
        let longest = door.terms.max_isolation.span().map(|span| span.delta());
        let event = Event::Restore { claim, ordered, longest };
        let mut outcome = door.order(meta, id, &event, Verdict::Isolate, reason, words);
        if outcome.order.as_ref().is_some_and(|order| order.posture == Posture::Open)
            && let Some(decision) = &mut outcome.decision
        {
            decision.verdict = Verdict::Release;
        }
        return outcome;
    }
    match (&host.order, said.posture) {
        (Some(_), _) => door.order(meta, id, &Event::Reissue, wanted(host), reason, words),
        // With nothing in the log an isolated host stays so, for the default time: opening it would be a guess.
        (None, Posture::Isolated) => {
            let until = door.terms.release_after.span().map(|span| meta.at + span.delta());
            door.order(meta, id, &Event::Recover { until }, Verdict::Isolate, reason, words)
        }
        (None, Posture::Open) => Outcome::default(),
    }
}

fn wanted(host: &Host) -> Verdict {
    match host.order.as_deref().map(|order| order.posture) {
        Some(Posture::Isolated) => Verdict::Isolate,
        _ => Verdict::Release,
    }
}

fn with_notices(mut outcome: Outcome, state: &State, host: &Host) -> Outcome {
    let mut say = |kind, severity, text| {
        let incident = state.incident.clone().or_else(|| host.incident());
        outcome.notices.push(Notice { kind, severity, host: Some(state.host.clone()), incident, text, outputs: Vec::new() });
    };
    if state.cause == StateCause::Local && state.posture == Posture::Open {
        let by = state.by.as_ref().map_or_else(String::new, |by| {
            format!(
                " by uid {} (login uid {}, tty {}, parent {})",
                by.uid,
                by.login_uid.map_or_else(|| "unknown".into(), |uid| uid.to_string()),
                by.tty.as_deref().unwrap_or("none"),
                by.parent.as_deref().unwrap_or("unknown")
            )
        });
        say(NoticeKind::LocalRelease, Severity::High, format!("{} was opened on the host itself{by}", state.host));
    }
    if state.cause == StateCause::PostureLost {
        say(NoticeKind::PostureLost, Severity::High, format!("{} lost its posture file and isolated itself", state.host));
    }
    if let Some(tamper) = &state.tamper {
        let by: Vec<String> = tamper.by.iter().map(|by| format!("{} (pid {})", by.program, by.pid)).collect();
        let by = if by.is_empty() { "an unknown process".to_owned() } else { by.join(", ") };
        let times = if tamper.times > 1 { format!(" {} times", tamper.times) } else { String::new() };
        let then = match (tamper.restored, tamper.restored_in_ms) {
            (true, Some(milliseconds)) => format!("reverted within {milliseconds} ms"),
            (true, None) => "reverted".to_owned(),
            (false, _) => "NOT reverted: look at the host, or cut it off at the switch".to_owned(),
        };
        let text = format!("tamper detected on {}{times}, attributed to {by}: {}; {then}", state.host, tamper.what.join("; "));
        say(NoticeKind::Tamper, Severity::High, text);
    }
    if let Some(error) = &state.error {
        say(
            NoticeKind::Drift,
            Severity::High,
            format!("{} is degraded under order no. {}: {error}", state.host, state.generation),
        );
    }
    outcome
}

fn implausible(id: &HostId, reported: u64, ordered: u64) -> Option<Notice> {
    let text = format!("{id} claims order no. {reported}, far above the last one, {ordered}; the claim is ignored");
    let (kind, severity, host) = (NoticeKind::ImplausibleGeneration, Severity::High, Some(id.clone()));
    (reported > ordered + PLAUSIBLE_LEAD).then_some(Notice { kind, severity, host, incident: None, text, outputs: Vec::new() })
}

/// A process that is heard again after another one spoke under its id: both live. One that was restarted is not heard again.
fn two_at_once(door: Door<'_>, hello: &Hello) -> Option<Notice> {
    let host = door.fleet.host(&hello.host)?;
    let last = &host.inventory.as_deref()?.hello.instance;
    let again = host.instance_before.as_ref() == Some(&hello.instance) && *last != hello.instance;
    let text = format!("two agents call themselves {}: what one of them confirms may not hold for the other", hello.host);
    let host = Some(hello.host.clone());
    again.then_some(Notice {
        kind: NoticeKind::Contested,
        severity: Severity::High,
        host,
        incident: None,
        text,
        outputs: Vec::new(),
    })
}

/// A name or an address that another host holds. Internal addresses are expected on many hosts, and nothing is lost by them.
fn contested(door: Door<'_>, hello: &Hello, at: Timestamp) -> Vec<Notice> {
    let Some(inventory) = door.fleet.inventory_for(hello, at) else {
        return Vec::new();
    };
    let new = inventory.claims.iter().filter(|claim| claim.since == at);
    new.filter_map(|claim| {
        let is_internal = |id: &HostId| {
            let inventory = door.fleet.host(id).and_then(|host| host.inventory.as_deref());
            inventory.is_some_and(|other| inventory::claims(other).any(|other| other.value == claim.value && other.internal))
        };
        let others = door.fleet.claimants(&claim.value).iter();
        let others: Vec<&HostId> = others.filter(|other| **other != hello.host && !is_internal(other)).collect();
        let holder = others.first()?;
        let then = match resolve::keeper(door.fleet, &claim.value, at) {
            Some((keeper, kept)) => {
                let until = at + resolve::PROBATION;
                let [since, until] = [kept.since, until].map(|time| time.format("%Y-%m-%d %H:%M UTC"));
                format!("{keeper} has held it since {since}; it names {keeper} until {until}, and neither from then on")
            }
            None => format!("so does {holder}; it names neither of them"),
        };
        let text = format!("{} claims {}; {then}", hello.host, claim.value);
        let host = Some(hello.host.clone());
        Some(Notice { kind: NoticeKind::Contested, severity: Severity::Medium, host, incident: None, text, outputs: Vec::new() })
    })
    .collect()
}

fn notice(kind: NoticeKind, severity: Severity, host: Option<&HostId>, text: String) -> Outcome {
    let notices = vec![Notice { kind, severity, host: host.cloned(), incident: None, text, outputs: Vec::new() }];
    Outcome { notices, ..Outcome::default() }
}
