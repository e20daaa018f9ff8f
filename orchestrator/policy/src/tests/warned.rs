//! What is valid and hardly meant: warnings, each with its place.

use super::*;

fn policy_of(rules: &str) -> Policy {
    let text = format!("version: 1\nrules:\n{rules}{REST}");
    Policy::parse(&text).unwrap_or_else(|errors| panic!("in:\n{text}\n{errors:#?}"))
}

fn shown(found: &[PolicyError]) -> Vec<String> {
    found.iter().map(|one| format!("{}:{} {}", one.line, one.column, one.message)).collect()
}

#[test]
fn a_severity_that_lets_what_is_worse_fall_through() {
    let high =
        "severity high is exactly high: this rule does not take critical; write \">= high\", or \"= high\" if that is meant";
    let low = "severity low is exactly low: this rule does not take medium or critical; write \">= low\", or \"= low\" if that is meant";
    for (rules, warnings) in [
        ("  - { name: r, match: { severity: high }, then: isolate }\n", vec![format!("3:35 {}", high)]),
        ("  - { name: r, match: { severity: [high] }, then: isolate, audit: true }\n", vec![format!("3:35 {}", high)]),
        ("  - { name: r, match: { severity: [low, high] }, then: isolate }\n", vec![format!("3:35 {}", low)]),
        ("  - { name: r, match: { severity: '>= high' }, then: isolate }\n", vec![]),
        ("  - { name: r, match: { severity: '= high' }, then: isolate }\n", vec![]),
        ("  - { name: r, match: { severity: [high, critical] }, then: isolate }\n", vec![]),
        ("  - { name: r, match: { severity: critical }, then: isolate }\n", vec![]),
        ("  - { name: r, match: { severity: low }, then: ignore }\n", vec![]),
        // Another rule has what is worse.
        (
            "  - { name: c, match: { severity: critical }, then: isolate, release_after: 24h }\n  - { name: r, match: { severity: high }, then: isolate }\n",
            vec![],
        ),
    ] {
        assert_eq!(shown(policy_of(rules).warnings()), warnings, "{rules}");
    }
}

#[test]
fn a_source_that_is_no_senders_name() {
    let no = |written: &str, how: &str| {
        format!(
            "source {written:?} {how} a sender's name: that is SOURCE of the subject portcullis.detection.SOURCE, and not the event's own source"
        )
    };
    for (rules, warnings) in [
        (
            "  - { name: r, match: { source: /my/siem }, then: ignore }\n",
            vec![format!("3:33 {}", no("/my/siem", "does not look like"))],
        ),
        (
            "  - { name: r, match: { source: [elastic, 'my siem'] }, then: ignore }\n",
            vec![format!("3:43 {}", no("my siem", "is never"))],
        ),
        (
            "  - { name: r, when: 'source == \"https://siem\"', then: ignore }\n",
            vec![format!("3:33 when: {}", no("https://siem", "does not look like"))],
        ),
        (
            "  - { name: r, when: 'source in [\"edr\", \"/my/siem\"]', then: ignore }\n",
            vec![format!("3:41 when: {}", no("/my/siem", "does not look like"))],
        ),
        ("  - { name: r, match: { source: [elastic, 'siem.*'] }, then: ignore }\n", vec![]),
        ("  - { name: r, match: { product: /my/siem }, when: 'detection.product != \"/my\"', then: ignore }\n", vec![]),
    ] {
        assert_eq!(shown(policy_of(rules).warnings()), warnings, "{rules}");
    }
}

#[test]
fn names_that_no_host_and_no_sender_has() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let used = InUse {
        sources: set(&["edr", "siem"]),
        roles: set(&["router"]),
        labels: BTreeMap::from([("tier".to_owned(), set(&["web", "db"]))]),
    };
    for (rule, warnings) in [
        ("match: { source: elastic }", vec!["3:33 no detection came from source \"elastic\" yet; came from \"edr\" or \"siem\""]),
        ("match: { source: ['e*', SIEM] }", vec![]),
        ("match: { host.role: dc }", vec!["3:36 no known host has the role \"dc\"; roles are \"router\""]),
        (
            "match: { host.label.tier: prod }",
            vec!["3:42 no known host has \"prod\" as its label tier; values are \"db\" or \"web\""],
        ),
        ("match: { host.label.tier: 'W*' }", vec![]),
        ("match: { host.label.env: prod }", vec!["3:25 no known host has a label \"env\"; labels are \"tier\""]),
        ("when: 'host.label.env == \"prod\"'", vec!["3:33 when: no known host has a label \"env\"; labels are \"tier\""]),
        (
            "when: 'host.label[\"env\"] == \"\" && \"tier\" in host.label'",
            vec!["3:34 no known host has a label \"env\"; labels are \"tier\""],
        ),
        ("when: '\"dc\" in host.roles'", vec!["3:23 no known host has the role \"dc\"; roles are \"router\""]),
        (
            "when: 'source != \"elastic\"'",
            vec!["3:33 no detection came from source \"elastic\" yet; came from \"edr\" or \"siem\""],
        ),
    ] {
        let policy = policy_of(&format!("  - {{ name: r, {rule}, then: ignore }}\n"));
        let warnings: Vec<String> = warnings.into_iter().map(|warning| warning.replace("when: ", "")).collect();
        assert_eq!(shown(&policy.unknown(&used, 2)), warnings, "{rule}");
        assert_eq!(shown(&policy.unknown(&InUse::default(), 0)), [""; 0], "{rule}: nothing is known yet");
        assert_eq!(shown(policy.warnings()), [""; 0], "{rule}");
    }
}

#[test]
fn an_equals_sign_that_compares_nothing() {
    for (when, place) in
        [("detection.confidence = 80", "4:33"), ("source=\"siem\"", "4:18"), ("detection.confidence === 80", "4:35")]
    {
        refused(&with_rule(&format!("    when: '{when}'")), &[(place, "when: = does not compare; write ==")]);
    }
    assert_eq!(errors(&with_rule("    when: 'detection.confidence <= 80 && source != \"a=b\"'")), [""; 0]);
}
