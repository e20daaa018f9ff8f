//! What is no policy: the traps of YAML, keys of a later day, and slips, each with its place.

use super::*;

#[test]
fn traps_of_yaml() {
    for (text, expected) in [
        (with_rule("    when: !a && b"), vec![("4:11", "a tag (!name) is not taken"), ("4:17", "an anchor")]),
        (with_rule("    when: !(a) == b"), vec![("4:11", "a tag (!name) is not taken")]),
        (with_rule("    when: ! a"), vec![("4:11", "a tag (!name) is not taken")]),
        (with_rule("    match: { severity: !!str high }"), vec![("4:24", "a tag")]),
        (with_head("mode: &m audit"), vec![("2:", "an anchor")]),
        (with_head("mode: *m"), vec![("2:7", "an alias")]),
        (with_head("mode: &m audit\nstale_after: *m"), vec![("2:", "an anchor"), ("3:14", "an alias")]),
        (with_head("defaults: { <<: { release_after: 1h } }"), vec![("2:13", "a merge key")]),
        (with_head("<<: *base"), vec![("2:1", "a merge key"), ("2:5", "an alias")]),
        (with_head("mode: audit\nmode: enforce"), vec![("3:1", "a second time, first on line 2")]),
        (with_head("defaults: { trust_local: true, trust_local: false }"), vec![("2:32", "a second time")]),
        (format!("{}---\nversion: 1\n", with_head("")), vec![("5:1", "a second document")]),
        (format!("%YAML 1.1\n---\n{}", with_head("")), vec![("1:1", "this is no YAML")]),
        (with_head("? [a, b]\n: c"), vec![("2:3", "a key is a list")]),
        (with_head("mode: \"open"), vec![("3:1", "this is no YAML")]),
        (with_rule("    match: { severity: >= high }"), vec![("4:24", "this is no YAML")]),
        (with_head("\tmode: audit"), vec![("2:1", "this is no YAML: a tab indents this line; indent with spaces")]),
        (with_rule("  \twhen: true"), vec![("4:3", "a tab indents this line")]),
        (with_head(&format!("{}: x", "k".repeat(129))), vec![("2:1", "a key is longer")]),
        (with_head("\"mode\\e[2J\": x"), vec![("2:1", "a key has characters")]),
        (String::new(), vec![("1:1", "the policy is empty")]),
        ("# nothing\n".to_owned(), vec![("1:1", "the policy is empty")]),
        ("[]".to_owned(), vec![("1:1", "the policy is a list")]),
    ] {
        let found = errors(&text);
        let fits = found.len() == expected.len()
            && found.iter().zip(&expected).all(|(found, (place, words))| found.starts_with(place) && found.contains(words));
        assert!(fits, "in:\n{text}\nwanted {expected:#?}\nfound {found:#?}");
    }
}

#[test]
fn unquoted_text_that_others_read_otherwise() {
    for (value, otherwise) in [
        ("no", "a truth value"),
        ("On", "a truth value"),
        ("true", "a truth value"),
        ("~", "nothing"),
        ("null", "nothing"),
        ("", "nothing"),
        ("007", "a number"),
        ("1.10", "a number"),
        ("1e5", "a number"),
        ("0x1F", "a number"),
        ("1_000", "a number"),
        ("-5", "a number"),
        ("12:30:00", "a number"),
        ("00:11:22:33:44:55", "a number"),
        (".inf", "a number"),
        ("1234567890123456", "a number"),
        ("2026-11-22", "a date"),
    ] {
        refused(
            &with_rule(&format!("    match:\n      host.label.x: {value}")),
            &[(if value.is_empty() { "5:19" } else { "5:21" }, otherwise)],
        );
        let quoted = with_rule(&format!("    match:\n      host.label.x: \"{value}\""));
        assert_eq!(errors(&quoted), [""; 0], "{value}");
    }
    for value in ["5710", "0", "10.0.0.7", "nodes", "e5", "a:b", "T1486", "v1.2", "2026-Q1", "1.2.3"] {
        assert_eq!(errors(&with_rule(&format!("    match:\n      host.label.x: {value}"))), [""; 0], "{value}");
    }
}

#[test]
fn defaults_and_deadlines() {
    for (head, place, words) in [
        ("mode: audti", "2:7", "did you mean audit?"),
        ("moed: audit", "2:1", "did you mean mode?"),
        ("stale_after: 90", "2:14", "write a duration"),
        ("stale_after: 0s", "2:14", "is zero"),
        ("stale_after: never", "2:14", "write a duration"),
        ("resolve_within: 0s", "2:17", "is zero"),
        ("resolve_within: never", "2:17", "write a duration"),
        ("resolve_within: 61m", "2:17", "1h1m is too long; write at most 1h"),
        ("defaults: { release_after: never }", "2:28", "needs max_isolation: never"),
        ("defaults: { release_after: 8d }", "2:28", "longer than max_isolation 7d"),
        ("defaults: { max_isolation: 1h }", "2:28", "release_after 8h is longer than max_isolation 1h"),
        ("defaults: { trust_local: yes }", "2:26", "write true or false"),
        ("defaults: { local_release: nobody }", "2:28", "root, token or off"),
        ("defaults: { when_unreachable: [stay] }", "2:31", "is a list"),
        ("defaults: { on_deadline: stay }", "2:26", "write release or ask"),
        ("defaults: 8h", "2:11", "defaults is text"),
    ] {
        refused(&with_head(head), &[(place, words)]);
    }
    refused("version: 2\nrules:\n  - { name: rest, then: observe }\n", &[("1:10", "knows 1")]);
    refused("rules:\n  - { name: rest, then: observe }\n", &[("1:1", "version is missing")]);
    refused(&with_rule("    match: { source: x }\n    release_after: never"), &[("5:20", "needs max_isolation: never")]);
    refused(&with_rule("    match: { source: x }\n    release_after: 30d"), &[("5:20", "longer than max_isolation")]);
    assert_eq!(errors(&with_head("defaults: { max_isolation: never, release_after: never, local_release: off }")), [""; 0]);
}

#[test]
fn rules_and_their_order() {
    for (rules, place, words) in [
        ("  - { name: a, match: { severity: high }, then: isolate }\n", "3:5", "does not take everything"),
        ("  []\n", "3:3", "there are no rules"),
        ("  - { then: observe }\n", "3:5", "has no name"),
        ("  - { name: a }\n", "3:5", "has no then"),
        ("  - { name: a, then: isloate }\n", "3:22", "did you mean isolate?"),
        ("  - { name: a, then: refuse }\n", "3:22", "write isolate, ask, observe or ignore"),
        ("  - { name: a, then: observe, release_after: 1h }\n", "3:31", "does not isolate"),
        ("  - { name: a, then: observe, audit: maybe }\n", "3:38", "true or false"),
        ("  - { name: a, then: observe, wehn: x }\n", "3:31", "did you mean when?"),
        ("  - { name: \"a\\e[2J\", then: observe }\n", "3:13", "do not print"),
        ("  - { name: \"\", then: observe }\n", "3:13", "is empty"),
        ("  - { name: on, then: observe }\n", "3:13", "a truth value"),
        ("  - { name: a, then: observe }\n  - { name: b, then: observe }\n", "4:5", "never reached: the one on line 3"),
        (
            "  - { name: a, match: { source: x }, then: observe }\n  - { name: a, then: observe }\n",
            "4:13",
            "is on line 3 already",
        ),
        ("  - just text\n", "3:5", "a rule is text"),
    ] {
        let found = errors(&format!("version: 1\nrules:\n{rules}"));
        assert!(found.iter().any(|found| found.starts_with(place) && found.contains(words)), "{rules}: {found:#?}");
    }
    let many = "  - { name: NAME, match: { source: x }, then: observe }\n";
    let many: String = (0..1000).map(|n| many.replace("NAME", &format!("r{n}"))).collect();
    refused(&format!("version: 1\nrules:\n{many}{REST}"), &[("3:3", "at most 1000")]);
    let long = format!("  - name: NAME\n    when: '{}true'\n    then: observe\n", "false || ".repeat(400));
    let long: String = (0..40).map(|n| long.replace("NAME", &format!("r{n}"))).collect();
    let found = errors(&format!("version: 1\nrules:\n{long}{REST}"));
    assert!(found.iter().any(|found| found.starts_with("112:11 all when together")), "{found:#?}");
    refused(&"#".repeat((1 << 20) + 1), &[("1:1", "1048576")]);
}

#[test]
fn all_errors_at_once_in_the_order_of_the_text() {
    let text = "version: 3\nmoed: audit\ndefaults: { release_after: 9d }\nexclusions: { automatic: [dsn-client] }\nrules:\n  - name: a\n    match: { severity: hgih, technique: x }\n    when: detection.product == 3\n    then: isolat\n  - name: a b\n    when: !x\n    then: observe\n";
    let found = errors(text);
    let places: Vec<&str> = found.iter().filter_map(|found| found.split_once(' ')).map(|(place, _)| place).collect();
    assert_eq!(places, ["1:10", "2:1", "3:28", "4:27", "7:24", "7:41", "8:29", "9:11", "10:5", "11:11"], "{found:#?}");
}
