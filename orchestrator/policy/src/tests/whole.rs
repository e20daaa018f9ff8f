//! A policy from its text to its judgement, its explanation, and thousands of broken ones.

use portcullis_schemas::exclusion::{Known, Remote};
use portcullis_schemas::time::Span;

use super::*;

const PRODUCT: &str = include_str!("../../../../deploy/policy.yaml");
const FULL: &str = include_str!("full.yaml");

#[test]
fn the_products_policy_parses_and_judges() {
    let policy = Policy::parse(PRODUCT).unwrap();
    assert_eq!(policy.rules().collect::<Vec<_>>(), ["ransomware", "c2", "critical", "rest"]);
    assert_eq!(*policy.terms(), Terms::default());
    assert_eq!((policy.warnings(), policy.failing_tests()), (&[][..], vec![]));
    assert!(policy.tests() > 3 && policy.table().is_small(), "{} rows", policy.table().rows.len());
    let isolate = Outcome::Isolate { release_after: For::Span(Span::hours(24)) };
    let judged = |detection: &Detection| {
        let judgement = judge(&policy, detection);
        (judgement.rule, judgement.outcome, judgement.audit)
    };
    assert_eq!(judged(&detection()), (Some("ransomware"), isolate, false));
    let mut c2 = detection();
    c2.techniques = vec!["T1071.001".into()];
    let isolate = Outcome::Isolate { release_after: For::Span(Span::hours(8)) };
    assert_eq!(judged(&c2), (Some("c2"), isolate, false));
    c2.rule.name = "test-beacon".into();
    assert_eq!(judged(&c2), (Some("rest"), Outcome::Observe, false));
}

#[test]
fn a_policy_is_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Policy>();
}

#[test]
fn unknown_severity_never_isolates_by_itself() {
    let policy = Policy::parse("version: 1\nrules:\n  - { name: a, match: { severity: unknown }, then: isolate }\n  - { name: b, match: { source: x }, then: ignore }\n  - { name: rest, then: isolate }\n").unwrap();
    let mut unknown = detection();
    unknown.severity = Severity::Unknown;
    assert_eq!(judge(&policy, &unknown).outcome, Outcome::UnknownSeverity);
    assert_eq!(judge(&policy, &unknown).rule, Some("a"));
    assert!(matches!(judge(&policy, &detection()).outcome, Outcome::Isolate { .. }));
}

#[test]
fn audit_by_mode_and_by_rule() {
    for (mode, rule, audit) in [("enforce", false, false), ("enforce", true, true), ("audit", false, true)] {
        let text = format!("version: 1\nmode: {mode}\nrules:\n  - {{ name: a, then: isolate, audit: {rule} }}\n");
        assert_eq!(judge(&Policy::parse(&text).unwrap(), &detection()).audit, audit, "{mode} {rule}");
    }
}

#[test]
fn match_and_when_must_both_hold() {
    for (source, when, rule) in
        [("elastic", "true", "r"), ("elastic", "false", "rest"), ("wazuh", "true", "rest"), ("wazuh", "1 / 0 == 1", "rest")]
    {
        let policy = Policy::parse(&with_rule(&format!("    match: {{ source: {source} }}\n    when: {when}"))).unwrap();
        assert_eq!(judge(&policy, &detection()).rule, Some(rule), "{source} {when}");
    }
}

#[test]
fn terms_of_a_policy() {
    let terms = Policy::parse(FULL).unwrap().terms().clone();
    assert_eq!(terms.stale_after, Span::seconds(1800));
    assert_eq!((terms.resolve_within, Terms::default().resolve_within), (Span::seconds(300), Span::seconds(120)));
    assert_eq!(terms.release_after, For::Span(Span::hours(12)));
    assert!(!terms.trust_local);
    assert_eq!(terms.manual, []);
    assert_eq!(
        terms.automatic.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
        ["dns-client", "dns-client", "ssh-jump", "ping", "falcon", "collector-eu", "backup", "backup", "heartbeat", "web"]
    );
    assert_eq!(terms.automatic[0].remote, Remote::Known(Known::Resolvers));
    let Remote::Cidrs(nets) = &terms.automatic[2].remote else { panic!("{:?}", terms.automatic[2]) };
    assert_eq!(nets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.5.10/32", "2001:db8:5::/48"]);
}

/// The policy that the design shows, as far as it is about what passes.
#[test]
fn profiles_and_exclusions_of_the_design() {
    let text = with_head(
        r#"lists:
  jump_hosts: [10.0.5.10/32, "2001:db8:5::10/128"]
profiles:
  ssh-jump: { extends: ssh-admin, from: $jump_hosts }
exclusions:
  automatic:      [dns-client, dns-server, dhcp-client, dhcp-server]
  manual_default: [dns-client, dns-server, dhcp-client, dhcp-server, ssh-jump]   # a host's own list replaces it"#,
    );
    let policy = Policy::parse(&text).unwrap();
    assert_eq!(policy.terms().automatic, default_exclusions());
    let (ssh, standard) = policy.terms().manual.split_last().unwrap();
    assert_eq!(standard, default_exclusions());
    assert_eq!(explain::exclusion(ssh), "ssh-jump: tcp in from 10.0.5.10/32, 2001:db8:5::10/128 to own port 22");
}

#[test]
fn the_explanation_stands_as_written() {
    let policy = Policy::parse(FULL).unwrap();
    let explained = policy.explain();
    assert_eq!(policy.hash().len(), 64);
    assert_eq!(explained.replace(policy.hash(), "HASH"), include_str!("full.txt"), "{explained}");
}

#[test]
fn the_hash_is_sha256_of_the_text() {
    let policy = Policy::parse("version: 1\nrules: [{ name: rest, then: observe }]\n").unwrap();
    assert_eq!(policy.hash(), "84a7fc92f5122444efcaaf1b3746582cf94d967b2fee3afbe42ffb35600857a7");
}

#[test]
fn mutated_policies_neither_panic_nor_hang() {
    const SNIPPETS: [&str; 24] = [
        "!", "&a ", "*a", "<<: ", "{", "}", "[", "]", "\"", "'", "|\n", "> ", "- ", ": ", "\t", "\n", "  ", "\u{0}", "é",
        "---\n", "not(", ")", "$x", "%",
    ];
    let mut dice = Dice(7);
    let (mut good, mut bad) = (0, 0);
    for round in 0..2000 {
        let source = if round % 2 == 0 { FULL } else { PRODUCT };
        let mut chars: Vec<char> = source.chars().collect();
        for _ in 0..=dice.below(4) {
            let at = dice.below(chars.len());
            match dice.below(4) {
                0 => drop(chars.remove(at)),
                1 => drop(chars.splice(at..at, SNIPPETS[dice.below(SNIPPETS.len())].chars())),
                2 => chars.truncate(at.max(1)),
                _ => {
                    let (from, length) = (dice.below(chars.len()), dice.below(40));
                    let copied: Vec<char> = chars[from..(from + length).min(chars.len())].to_vec();
                    drop(chars.splice(at..at, copied));
                }
            }
        }
        match Policy::parse(&chars.into_iter().collect::<String>()) {
            Ok(policy) => {
                good += 1;
                judge(&policy, &detection());
                judge(&policy, &bare());
                assert!(!policy.explain().is_empty());
            }
            Err(errors) => {
                bad += 1;
                assert!(!errors.is_empty());
                assert!(errors.iter().all(|error| error.line > 0 && error.column > 0 && !error.message.is_empty()));
            }
        }
    }
    assert!(good > 100 && bad > 500, "{good} good, {bad} bad");
}
