//! `when`: what CEL sees, what is refused when the policy is read, and what is left to fail.

use super::*;

fn policy(expression: &str) -> Policy {
    let text = with_rule(&format!("    when: |\n      {expression}"));
    Policy::parse(&text).unwrap_or_else(|errors| panic!("{expression}: {errors:#?}"))
}

fn outcome(expression: &str, detection: &Detection) -> Outcome {
    judge(&policy(expression), detection).outcome
}

fn holds(expression: &str, detection: &Detection) -> bool {
    match outcome(expression, detection) {
        Outcome::Isolate { .. } => true,
        Outcome::Observe => false,
        other => panic!("{expression}: {other:?}"),
    }
}

#[test]
fn every_field_and_function() {
    for expression in [
        r#"detection.severity == "high" && detection.severity_rank == 4"#,
        r#"detection.severity in ["high", "critical"]"#,
        r#"detection.confidence >= 80 && detection.has_confidence"#,
        r#"detection.rule.id == "5710" && detection.rule.name.startsWith("Mass")"#,
        r#"detection.rule.name.lowerAscii().contains("encryption")"#,
        r#"detection.techniques.exists(t, t.startsWith("T1059"))"#,
        r#"detection.techniques.all(t, t.size() > 4) && size(detection.techniques) == 2"#,
        r#"detection.techniques.exists_one(t, t == "T1486")"#,
        r#""T1486" in detection.techniques && detection.techniques[0] == "T1486""#,
        r#"detection.product == source"#,
        r#"detection.indicator.type == "ip" && detection.indicator.value.endsWith(".9")"#,
        r#"detection.host.hostname == "db1" && detection.host.id == "" && "10.0.0.7" in detection.host.ips"#,
        r#"detection.observed_at == "2026-11-22T10:00:00Z" && detection.observed_at > "2026-01-01""#,
        r#"host.id == "web-1" && host.name.endsWith(".corp.example") && host.level == "full""#,
        r#"host.label.tier == "payment" && host.label["kubernetes.io/role"] == "node""#,
        r#""tier" in host.label && not("owner" in host.label)"#,
        r#""router" in host.roles && host.roles.exists(r, r == "dns-server")"#,
        r#"not(false) && !false && not(not(true))"#,
        r#"(host.label.tier == "x" ? 1 : 2) == 2"#,
        r#"int("7") + 1 == 8 && string(7) == "7" && 7 % 4 == 3 && -1 < 0 && 1.5 < 2.0"#,
        r#"detection.confidence in [85, 90] // a comment, with "quotes"#,
        r#"'single' == "single" && "a\"b" != "é""#,
    ] {
        assert!(holds(expression, &detection()), "{expression}");
    }
    assert!(!holds("not(true)", &detection()));
}

#[test]
fn missing_data_reads_as_empty() {
    for expression in [
        r#"host.label.absent == """#,
        r#"host.label["absent"].startsWith("x") == false"#,
        r#"detection.confidence == 0 && not(detection.has_confidence)"#,
        r#"detection.indicator.type == "" && detection.indicator.value == """#,
        r#"detection.incident + detection.url + detection.user + detection.process + detection.retracts == """#,
        r#"detection.techniques.size() == 0 && detection.host.hostname == """#,
    ] {
        assert!(holds(expression, &bare()), "{expression}");
    }
}

#[test]
fn a_failing_condition_is_an_error_of_its_rule_and_never_falls_through() {
    for (expression, words) in [
        ("1 / detection.host.ips.size() == 1", "division by zero"),
        ("detection.techniques[7] == \"T1486\"", "the list has no entry 7"),
        ("int(detection.product) > 3", "int(): \"elastic\" is no whole number"),
        (
            "9223372036854775807 + detection.confidence > 0 || 9223372036854775807 + detection.severity_rank > 0",
            "a number is out of range",
        ),
    ] {
        let mut detection = detection();
        detection.host.ips.clear();
        let policy = policy(expression);
        let judgement = judge(&policy, &detection);
        assert_eq!(judgement.rule, Some("r"), "{expression}");
        assert!(
            matches!(&judgement.outcome, Outcome::RuleError(message) if message.contains(words)),
            "{expression}: {judgement:?}"
        );
    }
    let mut long = detection();
    long.techniques = vec!["T1486".to_owned(); 1001];
    let first = outcome("detection.techniques[0] == \"T1486\"", &long);
    assert!(matches!(&first, Outcome::RuleError(message) if message.contains("has 1001 entries")), "{first:?}");
    assert!(matches!(outcome("true", &long), Outcome::Isolate { .. }), "a list that is not looked at");
}

#[test]
fn an_error_message_is_short_and_on_one_line() {
    let mut detection = detection();
    detection.product = "\u{1b}[2J\n".repeat(1000);
    let Outcome::RuleError(message) = outcome("int(detection.product) > 3", &detection) else { panic!("no error") };
    assert!(message.chars().count() <= 301 && !message.chars().any(char::is_control), "{message:?}");
}

#[test]
fn what_would_never_hold_or_fail_is_refused_with_its_place() {
    let mut missed = Vec::new();
    for (expression, place, words) in [
        ("detection.severty == \"high\"", "5:16", "did you mean severity?"),
        ("true && detecton.product == \"x\"", "5:15", "did you mean detection?"),
        ("detection.severity == \"hihg\"", "5:29", "did you mean high?"),
        ("detection.severity in [\"low\", \"hi\"]", "5:37", "is none of"),
        ("host.level == \"all\"", "5:21", "is none of"),
        ("detection.severity >= \"high\"", "5:26", "severity_rank"),
        ("detection.confidence == \"80\"", "5:28", "a whole number never equals text"),
        ("detection.confidence > \"80\"", "5:28", "cannot be compared"),
        ("80 in detection.techniques", "5:10", "is never in"),
        ("detection.product", "5:16", "is text, not a truth value"),
        ("detection.product && true", "5:16", "&& wants a truth value"),
        ("not(detection.product)", "5:10", "takes one truth value"),
        ("host.label == \"x\"", "5:18", "never equals"),
        ("has(host.label.tier)", "5:10", "has() is not needed"),
        ("detection.product.matches(\"a+\")", "5:32", "regular expressions are not taken"),
        ("detection.techniques.map(t, t) == [\"x\"]", "5:31", "write exists or all"),
        ("detection.product.trim() == \"x\"", "5:29", "there is no function \"trim\""),
        ("now() > 3", "5:10", "there is no function \"now\""),
        ("startswith(detection.product, \"a\")", "5:17", "did you mean startsWith?"),
        ("detection.techniques.exists(t, detection.host.ips.exists(i, i == t))", "5:52", "inside each other"),
        ("detection.techniques.exists(host, true)", "5:35", "a name for one entry"),
        ("detection.product.exists(t, true)", "5:16", "walk a list"),
        ("detection.raw == null", "5:16", "has no field \"raw\""),
        ("{\"a\": 1}[\"a\"] == 1", "5:7", "maps and structs"),
        ("[1, \"a\"] == [1]", "5:7", "one kind of them"),
        ("detection.?severity == \"high\"", "5:", ""),
        ("r\"raw\" == \"raw\"", "5:8", "a letter before its quote"),
        ("\"\"\"a\"\"\" == \"a\"", "5:7", "three quotes"),
        ("\"open == 3", "5:7", "has no end"),
        ("detection.confidence >= ", "5:", "write CEL"),
        ("true &&& false", "5:", "write CEL"),
        ("", "5:", ""),
    ] {
        let text = with_rule(&format!("    when: |\n      {expression}"));
        let found = errors(&text);
        if !found.iter().any(|found| found.starts_with(place) && found.contains(words)) {
            missed.push((expression, place, words, found));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn places_in_blocks_quotes_and_plain_scalars() {
    for (rule, place) in [
        ("    when: |\n\n        true &&\n          bad", "7:11"),
        ("    when: >-\n      true &&\n      bad", "5:7"),
        ("    when: true && bad", "4:19"),
        ("    when: \"true && bad\"", "4:20"),
        ("    when: 'true && bad'", "4:20"),
        ("    when: true &&\n      bad", "4:11"),
        ("    when: |\n      \"é\" == \"é\" && bad", "5:21"),
        ("    when: | # CEL\n      \"é\" == \"é\" &&\n      bad", "6:7"),
    ] {
        refused(&with_rule(rule), &[(place, "there is no variable \"bad\"")]);
    }
}

#[test]
fn a_hostile_expression_neither_hangs_nor_uses_up_the_stack() {
    let deep =
        |open: &str, middle: &str, close: &str, times: usize| format!("{}{middle}{}", open.repeat(times), close.repeat(times));
    for expression in [
        deep("(", "true", ")", 2000),
        deep("[", "1", "]", 2000),
        deep("not(", "true", ")", 1000),
        deep("!", "true", "", 4000),
        deep("-", "1", "", 4000),
        deep("true ? true : ", "true", "", 290),
        deep("(true ? (", "true", ") : true)", 200),
        deep("1 + ", "1", "", 1000),
        deep("1 == ", "1", "", 800),
        format!("detection{} == 1", ".a".repeat(2000)),
        format!("detection{} == 1", "[0]".repeat(1300)),
        deep("\"a\" in ", "host.label", "", 500),
        "x".repeat(5000),
        "(".repeat(4000),
        "((((((((1".to_owned(),
        "&&".repeat(2000),
        "a,".repeat(2000),
        "1 < 2 ? ".repeat(8),
        deep("not(1 + (true ? (", "1", "", 2),
    ] {
        let text = with_rule(&format!("    when: |\n      {expression}"));
        assert!(!errors(&text).is_empty(), "{}", &expression[..40.min(expression.len())]);
    }
    let wide = vec!["detection.confidence == 7"; 140].join(" || ");
    assert!(!holds(&wide, &detection()));
    for nested in [deep("(", "true", ")", 8), deep("not(", "true", ")", 8), deep("(true ? ", "true", " : false)", 4)] {
        assert!(holds(&nested, &detection()), "{nested}");
    }
    assert!(!holds(&format!("{}1 == 7", "1 + ".repeat(46)), &detection()));
}
