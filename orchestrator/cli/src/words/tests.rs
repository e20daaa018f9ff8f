//! Words.

use std::time::Duration;

use chrono::TimeDelta;
use portcullis_schemas::events::{HostClaim, Level, Reason, Verdict, WaitEnd, Waits};

use super::*;
use crate::fake::{at, id};

#[test]
fn spans_show_their_two_largest_units() {
    for (seconds, text) in
        [(0, "0s"), (45, "45s"), (60, "1m"), (125, "2m5s"), (28_700, "7h58m"), (3_600, "1h"), (3_605, "1h"), (273_600, "3d4h")]
    {
        assert_eq!(span(seconds), text);
    }
}

#[test]
fn times_are_said_from_now() {
    assert_eq!(ago(at(125), at(0)), "2m5s ago");
    assert_eq!(ago(at(0), at(3)), "3s ahead of this clock");
    assert_eq!(due(at(0), at(28_700)), "in 7h58m");
    assert_eq!(due(at(300), at(0)), "overdue by 5m");
    assert_eq!([clock(3_600), clock(-45)], ["1h ahead of the broker's", "45s behind the broker's"]);
    assert_eq!(moment(at(0) + TimeDelta::milliseconds(7)), "2026-11-22T12:00:00.007Z");
    assert_eq!(milliseconds(Duration::from_micros(12_345)), "12.3 ms");
    assert_eq!(milliseconds(Duration::from_millis(1_234)), "1234 ms");
}

#[test]
fn long_text_is_cut_and_says_so() {
    assert_eq!(short("abcdef", 4), "abc…");
    assert_eq!(short("abcd", 4), "abcd");
}

#[test]
fn every_reason_is_a_sentence_with_its_figures() {
    let (t, host) = (at(0), id("web1"));
    let text = String::from;
    let unresolved = |candidates, waits, ended| Reason::Unresolved { wanted: text("name web"), candidates, waits, ended };
    let table = [
        (Reason::Rule, "a policy rule matched"),
        (Reason::Operator, "an operator asked"),
        (Reason::Deadline { generation: 5 }, "the deadline of order no. 5 came"),
        (Reason::OpenedByHost { generation: 5 }, "opened itself while order no. 5 was in force"),
        (Reason::PostureLost { generation: 5 }, "it knew order no. 5"),
        (Reason::AgentAhead { reported: 9, ordered: 5 }, "reports order no. 9, above the last one, 5"),
        (Reason::ImplausibleGeneration { reported: 9_999, ordered: 5 }, "order no. 9999, too far above the last one, 5"),
        (Reason::Joined { generation: 5, until: None }, "already isolated by order no. 5; this cause was added"),
        (Reason::Settled, "already applied"),
        (Reason::Retracted, "retracted"),
        (Reason::NothingToRetract, "does not hold the host"),
        (Reason::RetractionNotAlone, "a person isolated the host"),
        (Reason::SupersededByRelease { released_at: t }, "released after it, on 2026-11-22 12:00:00 UTC"),
        (Reason::StaleGeneration { due: 4, ordered: 5 }, "the deadline of order no. 4 has no effect: order no. 5 came since"),
        (Reason::Stale { observed_at: t, limit: t }, "the limit is 2026-11-22 12:00:00 UTC"),
        (Reason::FromTheFuture { observed_at: t }, "after it arrived"),
        (unresolved(vec![], None, None), "no host has name web; it was not acted on"),
        (
            unresolved(vec![], Some(Box::new(Waits { until: t, host: HostClaim::default() })), None),
            "no host has name web yet; it waits until 2026-11-22 12:00:00 UTC",
        ),
        (unresolved(vec![], None, Some(WaitEnd::TimedOut)), "no host with name web came in time; it was not acted on"),
        (unresolved(vec![], None, Some(WaitEnd::PushedOut)), "too many others wait"),
        (unresolved(vec![], None, Some(WaitEnd::Retracted)), "it was retracted"),
        (unresolved(vec![], None, Some(WaitEnd::Removed)), "removed from its stream"),
        (unresolved(vec![host.clone(), host], None, None), "name web names no single host (web1, web1)"),
        (Reason::Audit { would: Verdict::Isolate }, "audit mode: the host would have been isolated"),
        (Reason::Protected { as_what: text("broker") }, "the host is protected: broker"),
        (Reason::CannotEnforce { level: Level::None }, "cannot enforce: level none"),
        (Reason::RuleError { message: text("no such key") }, "no such key"),
        (Reason::NoPolicy, "no valid policy"),
        (Reason::UnknownSeverity, "severity is unknown"),
        (
            Reason::Unreadable { member: text(".confidence"), problem: text("is 101") },
            "member .confidence cannot be read: is 101",
        ),
        (
            Reason::OperatorMismatch { operator: text("bob"), principal: text("eve") },
            "names \"bob\" as operator, and \"eve\" sent it",
        ),
        (Reason::HostMismatch { named: text("web2") }, "\"web2\""),
        (
            Reason::AlreadyIsolated { until: Some(t), by: text("ann"), incident: text("A"), ticket: None, generation: 5 },
            "already isolated until 2026-11-22 12:00:00 UTC by ann (incident A)",
        ),
        (
            Reason::AlreadyIsolated { until: None, by: text("ann"), incident: text("A"), ticket: None, generation: 5 },
            "already isolated until a person releases it by ann",
        ),
        (Reason::AlreadyOpen, "was open already"),
        (Reason::TooLong { limit: text("7d") }, "at most 7d"),
        (Reason::NotSupported { action: text("pause") }, "action \"pause\" is not built yet"),
        (Reason::TooManyHolds { limit: 32 }, "32 holds"),
        (Reason::OrderTooLarge { bytes: 40_000, limit: 32_768 }, "40000 bytes; at most 32768"),
        (Reason::InputsLost { first: 3, last: 5 }, "3 inputs (3 to 5)"),
        (
            Reason::BlastRadius {
                limit: text("site"),
                scope: Some(text("berlin")),
                isolated: 3,
                base: 12,
                most: 3,
                breaker: text("b1"),
            },
            "limit site of berlin: 3 hosts are isolated of 12, at most 3 (breaker b1)",
        ),
        (
            Reason::IsolationRate {
                limit: text("fleet"),
                scope: None,
                isolated: 20,
                most: 20,
                per: "10m".parse().expect("a span"),
                breaker: text("b2"),
            },
            "limit fleet: 20 hosts were isolated within 10m, at most 20 (breaker b2)",
        ),
        (
            Reason::Breaker { limit: text("fleet"), scope: None, since: t, breaker: text("b2") },
            "breaker b2 is tripped since 2026-11-22 12:00:00 UTC",
        ),
        (Reason::Paused { until: t, by: text("ann") }, "ann paused automatic isolation until 2026-11-22"),
        (Reason::StaleByDowntime { arrived_at: t, leader_since: t }, "no orchestrator decided until 2026-11-22"),
        (Reason::CoolDown { released_at: t, until: t, by: Some(text("ann")) }, "released by ann on 2026-11-22"),
        (Reason::SourceMayNotIsolate { source: text("lab") }, "no detection of source lab isolate"),
        (
            Reason::SourceRate { source: text("ids"), isolated: 1, most: 1, per: "1m".parse().expect("a span") },
            "source ids: 1 host was isolated for it within 1m, at most 1",
        ),
        (Reason::AskJoined { ask: text("a1") }, "the answer to a1 is for both"),
        (Reason::BelowThreshold { seen: 2, wanted: 5, per: "10m".parse().expect("a span") }, "2 of 5 detections within 10m"),
        (Reason::Approved { by: vec![text("ann"), text("bob")] }, "approved by ann and bob"),
        (Reason::Denied { by: text("bob"), reason: Some(text("a test")) }, "denied by bob: a test"),
        (Reason::Unanswered { until: t }, "no answer came until 2026-11-22"),
        (Reason::ApprovalsMissing { approved: 1, wanted: 2 }, "1 of 2 people approved"),
        (Reason::NotPending { ask: text("a1") }, "nothing is pending under a1"),
        (Reason::SamePerson { principal: text("ann") }, "another person must approve"),
        (Reason::NotIsolated, "is not isolated"),
        (Reason::NotPaused, "is not paused"),
        (Reason::NotTripped { breaker: text("b1") }, "no breaker b1 is tripped"),
        (Reason::Incomplete { member: text("labels"), problem: text("are missing") }, "the request's labels are missing"),
        (Reason::BadPolicy { hash: text("0123456789abcdef"), problem: text("line 3") }, "policy 0123456789ab cannot be taken"),
        (Reason::PolicyMoved { active: None, expected: Some(text("abc")) }, "policy none is active by now, and abc was"),
    ];
    for (what, part) in table {
        let sentence = reason(&what);
        assert!(sentence.contains(part), "{what:?}: {sentence}");
        assert!(!sentence.ends_with('.'), "it goes into the middle of a line: {sentence}");
    }
}
