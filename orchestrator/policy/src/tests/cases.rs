//! `tests` of a policy: what passes, what fails, and how it says so.

use super::*;

const POLICY: &str = r#"version: 1
groups: { db: { match: { host.label.tier: db } } }
protected: [{ name: payment, match: { host.group: db } }]
limits: [{ name: fleet, isolated: 5% }, { name: dbs, match: { host.group: db }, isolated: 1 }]
sources: { test: { may_isolate: false } }
rules:
  - { name: office, match: { technique: T1486 }, during: { days: mon-fri, hours: 08:00-18:00, zone: Europe/Berlin }, then: ask, release_after: 2h }
  - { name: ransomware, match: { severity: ">= high", technique: T1486 }, then: isolate, release_after: 24h }
  - { name: broken, match: { product: broken }, when: 'int(detection.rule.id) > 3', then: isolate }
  - { name: noise, match: { confidence: "< 10" }, then: ignore }
  - { name: rest, then: observe }
tests:
"#;

/// What fails of one test with these parts.
fn failures(given: &str, expect: &str) -> Vec<String> {
    let text = format!("{POLICY}  - {{ name: t, given: {{ {given} }}, expect: {{ {expect} }} }}\n");
    let policy = Policy::parse(&text).unwrap_or_else(|errors| panic!("{text}{errors:#?}"));
    assert_eq!(policy.tests(), 1);
    policy.failing_tests().iter().map(|error| error.message.clone()).collect()
}

const NIGHT: &str = "at: 2026-11-30T22:00:00+01:00, technique: T1486";

#[test]
fn what_a_policy_says_is_compared_with_what_is_expected() {
    let night = |more: &str| format!("{NIGHT}, {more}");
    let db = "host: { label: { tier: db } }";
    for (given, expect) in [
        (night("severity: high"), "verdict: isolate, rule: ransomware, until: +24h, protected: [], limit: fleet"),
        (night("severity: high"), "until: 1d"),
        ("severity: high, technique: [T1003, T1486]".to_owned(), "verdict: ask, rule: office, until: +2h"),
        (night(&format!("severity: high, {db}")), "verdict: ask, rule: ransomware, protected: payment, limit: [fleet, dbs]"),
        (night("severity: high, source: test"), "verdict: ask, rule: ransomware"),
        (night("severity: high, host: { level: none }"), "verdict: ask, rule: ransomware"),
        (night("severity: low"), "verdict: ignore, rule: noise"),
        ("severity: low, confidence: 50".to_owned(), "verdict: observe, rule: rest"),
        ("severity: low, product: broken, rule: { id: \"4\" }".to_owned(), "verdict: isolate"),
        ("severity: unknown, product: broken, rule: { id: \"4\", name: x }".to_owned(), "verdict: ask, rule: broken"),
        ("severity: low, product: broken, rule: { id: x }".to_owned(), "verdict: ask, rule: broken"),
        (
            "severity: low, confidence: 50, indicator: { type: ip, value: 203.0.113.9 }, user: root, process: sh, host: { id: h, name: h.example, role: [router] }".to_owned(),
            "verdict: observe",
        ),
    ] {
        assert_eq!(failures(&given, expect), [""; 0], "{given} {expect}");
    }
    for (given, expect, said) in [
        (
            night("severity: high"),
            "verdict: observe",
            vec!["test \"t\": verdict observe was expected; it came to isolate by rule ransomware, until +1d"],
        ),
        (
            night(&format!("severity: high, {db}")),
            "verdict: isolate, rule: noise, until: +8h",
            vec![
                "test \"t\": verdict isolate was expected; it came to ask by rule ransomware (protected by payment), until +1d",
                "test \"t\": rule noise was expected; it came to ask by rule ransomware (protected by payment), until +1d",
                "test \"t\": until +8h was expected; it came to ask by rule ransomware (protected by payment), until +1d",
            ],
        ),
        (
            night("severity: high"),
            "protected: payment, limit: [fleet, dbs]",
            vec![
                "test \"t\": protection by payment was expected, and nothing protects it; it came to isolate by rule ransomware, until +1d",
                "test \"t\": limit dbs was expected to take the host; fleet do; it came to isolate by rule ransomware, until +1d",
            ],
        ),
        (
            "severity: low, confidence: 50".to_owned(),
            "until: +8h",
            vec!["test \"t\": until +8h was expected; it came to observe by rule rest"],
        ),
    ] {
        assert_eq!(failures(&given, expect), said, "{given} {expect}");
    }
}

#[test]
fn a_failing_test_has_the_place_of_its_expectation() {
    let text =
        format!("{POLICY}  - name: t\n    given: {{ severity: high }}\n    expect:\n      rule: rest\n      verdict: ask\n");
    let policy = Policy::parse(&text).unwrap();
    let places: Vec<(usize, usize)> = policy.failing_tests().iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(16, 13), (17, 16)], "{:?}", policy.failing_tests());
}

#[test]
fn more_tests_than_are_run() {
    let many: String =
        (0..1001).map(|n| format!("  - {{ name: t{n}, given: {{ severity: low }}, expect: {{ rule: noise }} }}\n")).collect();
    refused(&format!("{POLICY}{many}"), &[("13:3", "there are 1001 tests; at most 1000 are taken")]);
}
