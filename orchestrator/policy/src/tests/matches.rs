//! `match`, key by key.

use super::*;

#[track_caller]
fn holds(rule: &str, detection: &Detection) -> bool {
    let text = with_rule(&format!("    match: {rule}"));
    let policy = Policy::parse(&text).unwrap_or_else(|errors| panic!("{rule}: {errors:#?}"));
    judge(&policy, detection).rule == Some("r")
}

#[test]
fn each_key() {
    for (rule, expected) in [
        (r#"{ severity: high }"#, true),
        (r#"{ severity: ">= high" }"#, true),
        (r#"{ severity: "> high" }"#, false),
        (r#"{ severity: "<= medium" }"#, false),
        (r#"{ severity: "<critical" }"#, true),
        (r#"{ severity: [low, critical] }"#, false),
        (r#"{ severity: [low, ">= high"] }"#, true),
        (r#"{ confidence: ">= 80" }"#, true),
        (r#"{ confidence: "< 50" }"#, false),
        (r#"{ confidence: 85 }"#, true),
        (r#"{ confidence: "= 84" }"#, false),
        (r#"{ confidence: [1, "> 84"] }"#, true),
        (r#"{ technique: T1486 }"#, true),
        (r#"{ technique: t1486 }"#, true),
        (r#"{ technique: T1059 }"#, false),
        (r#"{ technique: "T1059*" }"#, true),
        (r#"{ technique: [T1490, T1059.001] }"#, true),
        (r#"{ source: elastic }"#, true),
        (r#"{ source: [wazuh, "el*"] }"#, true),
        (r#"{ source: wazuh }"#, false),
        (r#"{ product: Elastic }"#, true),
        (r#"{ product: "ela" }"#, false),
        (r#"{ rule.id: 5710 }"#, true),
        (r#"{ rule.id: [1, 2] }"#, false),
        (r#"{ rule.name: "*encryption" }"#, true),
        (r#"{ rule.name: "test-*" }"#, false),
        (r#"{ indicator.type: [ip, domain] }"#, true),
        (r#"{ indicator.value: 203.0.113.9 }"#, true),
        (r#"{ indicator.value: "203.0.*" }"#, true),
        (r#"{ indicator.value: "198.*" }"#, false),
        (r#"{ host.id: web-1 }"#, true),
        (r#"{ host.id: web }"#, false),
        (r#"{ host.name: "*.corp.example" }"#, true),
        (r#"{ host.role: [hypervisor, router] }"#, true),
        (r#"{ host.role: hypervisor }"#, false),
        (r#"{ host.level: full }"#, true),
        (r#"{ host.level: [none, inet] }"#, false),
        (r#"{ host.label.tier: payment }"#, true),
        (r#"{ host.label.tier: shop }"#, false),
        (r#"{ host.label.kubernetes.io/role: node }"#, true),
        (r#"{ host.label.absent: "" }"#, true),
        (r#"{ host.label.absent: "*" }"#, true),
        (r#"{ severity: high, source: elastic, confidence: ">= 80" }"#, true),
        (r#"{ severity: high, source: wazuh }"#, false),
    ] {
        assert_eq!(holds(rule, &detection()), expected, "{rule}");
    }
}

#[test]
fn missing_data_is_empty_and_never_fails() {
    for (rule, expected) in [
        (r#"{ confidence: 0 }"#, true),
        (r#"{ confidence: "< 50" }"#, true),
        (r#"{ confidence: ">= 1" }"#, false),
        (r#"{ technique: "*" }"#, false),
        (r#"{ product: "" }"#, true),
        (r#"{ indicator.type: "" }"#, true),
        (r#"{ indicator.value: "*" }"#, true),
        (r#"{ rule.name: x }"#, false),
    ] {
        assert_eq!(holds(rule, &bare()), expected, "{rule}");
    }
}

#[test]
fn lists_by_name() {
    let policy = |list: &str| {
        format!(
            "version: 1\nlists:\n  bad: {list}\nrules:\n  - name: r\n    match: {{ indicator.value: [x, $bad] }}\n    then: isolate\n  - {{ name: rest, then: observe }}\n"
        )
    };
    let found = Policy::parse(&policy("[198.51.100.1, 203.0.113.9]")).unwrap();
    assert_eq!(judge(&found, &detection()).rule, Some("r"));
    refused(&policy("[203.0.113.0/24]"), &[("6:35", "compares text, and $bad holds the network 203.0.113.0/24 (line 3)")]);
    refused(&policy("[]"), &[("6:35", "an empty list")]);
    refused(&policy("[$worse]"), &[("3:9", "names another list")]);
    refused(&with_rule("    match: { source: $sensor }"), &[("4:22", "lists has no such list")]);
}

#[test]
fn wrong_values() {
    for (rule, place, words) in [
        (r#"{ severty: high }"#, "4:14", "did you mean severity?"),
        (r#"{ host.label.: x }"#, "4:14", "is no key of match"),
        (r#"{ severity: ">= hihg" }"#, "4:24", "did you mean high?"),
        (r#"{ severity: "> critical" }"#, "4:24", "never holds"),
        (r#"{ confidence: "< 0" }"#, "4:26", "never holds"),
        (r#"{ confidence: 101 }"#, "4:26", "a number from 0 to 100"),
        (r#"{ confidence: "!= 3" }"#, "4:26", "a number from 0 to 100"),
        (r#"{ technique: [] }"#, "4:25", "an empty list"),
        (r#"{ technique: TA0040 }"#, "4:25", "no ATT&CK technique"),
        (r#"{ technique: [[T1486]] }"#, "4:26", "a list inside a list"),
        (r#"{ source: { a: b } }"#, "4:22", "source is a mapping"),
        (r#"{ host.level: best }"#, "4:26", "full, partial, inet or none"),
        (r#"{}"#, "4:12", "match is empty"),
        (r#"[severity]"#, "4:12", "match is a list"),
    ] {
        refused(&with_rule(&format!("    match: {rule}")), &[(place, words)]);
    }
}
