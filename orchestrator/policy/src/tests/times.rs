//! What is about time and people: windows of the week, questions, deadlines, thresholds, spans.

use portcullis_schemas::time::Span;

use super::*;

/// The rule that speaks at a time, of a policy whose first rule has these keys.
fn rule_at(keys: &str, time: &str) -> String {
    let text = format!("version: 1\nrules:\n  - {{ name: r, {keys}, then: isolate }}\n{REST}");
    let policy = Policy::parse(&text).unwrap_or_else(|errors| panic!("{text}{errors:#?}"));
    let host = Known::new("h", &[], &[]);
    let at = time.parse().unwrap();
    policy.judge(&Subject { detection: &detection(), source: "siem", host: host.view(), at }).rule.unwrap().to_owned()
}

#[test]
fn rules_by_day_and_hour() {
    let office = "{ days: [mon-fri], hours: 08:00-18:00, zone: Europe/Berlin }";
    let night = "{ hours: 22:00-06:00, days: [fri, sat], zone: UTC }";
    for (window, time, during) in [
        // A Monday in winter, one hour before UTC.
        (office, "2026-11-30T06:59:59Z", false),
        (office, "2026-11-30T07:00:00Z", true),
        (office, "2026-11-30T16:59:59Z", true),
        (office, "2026-11-30T17:00:00Z", false),
        // In summer, two hours.
        (office, "2026-06-01T06:00:00Z", true),
        (office, "2026-06-01T05:59:00Z", false),
        (office, "2026-11-29T10:00:00Z", false),
        // Over midnight: the day is that on which it begins.
        (night, "2026-11-27T22:00:00Z", true),
        (night, "2026-11-28T05:59:00Z", true),
        (night, "2026-11-28T06:00:00Z", false),
        (night, "2026-11-29T05:00:00Z", true),
        (night, "2026-11-29T23:00:00Z", false),
        (night, "2026-11-27T05:00:00Z", false),
        ("{ days: sat-mon, zone: UTC }", "2026-11-29T12:00:00Z", true),
        ("{ days: sat-mon, zone: UTC }", "2026-12-01T12:00:00Z", false),
        ("{ hours: 18:00-24:00, zone: UTC }", "2026-12-01T23:59:59Z", true),
        ("{ hours: 18:00-24:00, zone: UTC }", "2026-12-01T00:00:00Z", false),
        ("{ hours: 18:00-00:00, zone: UTC }", "2026-12-01T23:59:59Z", true),
        ("{ hours: 18:00-00:00, zone: UTC }", "2026-12-01T00:00:00Z", false),
        // The clock of Berlin goes from 2:00 to 3:00 on that Sunday: the hour is not there.
        ("{ hours: 02:00-03:00, zone: Europe/Berlin }", "2026-03-29T00:59:59Z", false),
        ("{ hours: 02:00-03:00, zone: Europe/Berlin }", "2026-03-29T01:00:00Z", false),
        // And from 3:00 back to 2:00 on this one: it is there twice.
        ("{ hours: 02:00-03:00, zone: Europe/Berlin }", "2026-10-25T00:30:00Z", true),
        ("{ hours: 02:00-03:00, zone: Europe/Berlin }", "2026-10-25T01:30:00Z", true),
        ("[{ days: sun, zone: UTC }, { hours: 20:00-06:00, zone: UTC }]", "2026-11-29T12:00:00Z", true),
        ("[{ days: sun, zone: UTC }, { hours: 20:00-06:00, zone: UTC }]", "2026-11-30T21:00:00Z", true),
        ("[{ days: sun, zone: UTC }, { hours: 20:00-06:00, zone: UTC }]", "2026-11-30T12:00:00Z", false),
    ] {
        assert_eq!(rule_at(&format!("during: {window}"), time) == "r", during, "during {window} at {time}");
        assert_eq!(rule_at(&format!("outside: {window}"), time) == "r", !during, "outside {window} at {time}");
    }
    let both = "during: { days: mon-fri, zone: UTC }, outside: { hours: 12:00-13:00, zone: UTC }";
    assert_eq!(rule_at(both, "2026-11-30T11:00:00Z"), "r");
    assert_eq!(rule_at(both, "2026-11-30T12:00:00Z"), "rest");
}

#[test]
fn the_broker_time_and_the_age_are_seen_by_expressions() {
    for (when, holds) in [
        (r#"now == "2026-11-22T10:00:05Z""#, true),
        (r#"now > "2026-11-22""#, true),
        ("detection.age == 5", true),
        ("detection.age > 60", false),
    ] {
        assert_eq!(rule_at(&format!("when: '{when}'"), "2026-11-22T10:00:05Z") == "r", holds, "{when}");
    }
}

#[test]
fn questions_have_their_terms_from_the_rule_or_the_defaults() {
    let outcome = |head: &str, keys: &str, severity| {
        let text = format!("version: 1\n{head}\nrules:\n  - {{ name: r, then: ask{keys} }}\n");
        let policy = Policy::parse(&text).unwrap_or_else(|errors| panic!("{text}{errors:#?}"));
        match judge(&policy, &Detection { severity, ..detection() }).outcome {
            Outcome::Ask(question) => question,
            other => panic!("{other:?}"),
        }
    };
    let plain = Question {
        approvals: 1,
        ask_for: Span::seconds(1800),
        if_unanswered: IfUnanswered::Observe,
        release_after: For::Span(Span::hours(8)),
    };
    assert_eq!(outcome("mode: enforce", "", Severity::High), plain);
    let defaults = "defaults: { ask_for: 2h, if_unanswered: isolate, release_after: 1h }";
    let isolated = Question {
        ask_for: Span::hours(2),
        if_unanswered: IfUnanswered::Isolate,
        release_after: For::Span(Span::hours(1)),
        ..plain
    };
    assert_eq!(outcome(defaults, "", Severity::High), isolated);
    // Unknown severity never isolates by itself, so not unanswered either.
    assert_eq!(outcome(defaults, "", Severity::Unknown), Question { if_unanswered: IfUnanswered::Observe, ..isolated });
    let own = ", approvals: 2, ask_for: 7d, if_unanswered: observe, release_after: 2h";
    let written = Question {
        approvals: 2,
        ask_for: Span::hours(7 * 24),
        if_unanswered: IfUnanswered::Observe,
        release_after: For::Span(Span::hours(2)),
    };
    assert_eq!(outcome(defaults, own, Severity::High), written);
}

#[test]
fn an_isolation_without_an_answer_is_named() {
    for text in [
        with_head("defaults: { if_unanswered: isolate }"),
        "version: 1\nrules:\n  - { name: r, then: ask, if_unanswered: isolate }\n".to_owned(),
    ] {
        let policy = Policy::parse(&text).unwrap();
        let found: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
        assert!(found.len() == 1 && found[0].contains("although no person answered"), "{found:?}");
    }
}

#[test]
fn deadlines_ask_where_one_rule_says_so() {
    let text = "version: 1\ndefaults: { on_deadline: ask }\nrules:\n  - { name: a, match: { source: x }, then: isolate, on_deadline: release }\n  - { name: b, match: { source: b }, then: isolate }\n  - { name: c, match: { source: z }, then: isolate, on_deadline: release }\n  - { name: rest, then: observe }\n";
    let policy = Policy::parse(text).unwrap();
    for (rules, on_deadline) in [
        (&["a"][..], OnDeadline::Release),
        (&["a", "c"], OnDeadline::Release),
        (&["a", "b"], OnDeadline::Ask),
        (&[], OnDeadline::Ask),
        (&["gone"], OnDeadline::Ask),
        (&["gone", "a"], OnDeadline::Release),
    ] {
        assert_eq!(policy.on_deadline(rules), on_deadline, "{rules:?}");
    }
}

#[test]
fn thresholds_and_outputs_come_with_the_judgement() {
    let text = "version: 1\nrules:\n  - { name: r, then: isolate, threshold: { count: 5, per: 10m, distinct: indicator.value }, notify: [pager, soc-chat] }\n";
    let policy = Policy::parse(text).unwrap();
    let judgement = judge(&policy, &detection());
    assert_eq!(judgement.notify, ["pager", "soc-chat"]);
    let threshold = judgement.threshold.unwrap();
    assert_eq!((threshold.count, threshold.per), (5, Span::seconds(600)));
    assert_eq!(threshold.distinct.unwrap().of(&detection(), "siem"), "203.0.113.9");
    assert_eq!(threshold.distinct.unwrap().of(&bare(), "siem"), "");
    assert_eq!(Distinct::Source.of(&bare(), "siem"), "siem");
}

#[test]
fn spans_after_and_before_a_release() {
    let terms = |head: &str| {
        let policy = Policy::parse(&with_head(head)).unwrap();
        let Terms { cool_down, hold_off, warn_before_release, .. } = *policy.terms();
        [cool_down, hold_off, warn_before_release].map(Span::as_secs)
    };
    assert_eq!(terms("mode: enforce"), [3600, 0, 1800]);
    assert_eq!(terms("cool_down_after_manual_release: 0s\nhold_off_after_release: 10m\nwarn_before_release: 0s"), [0, 600, 0]);
}
