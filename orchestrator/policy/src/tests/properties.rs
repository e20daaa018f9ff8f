//! Random policies and patterns: the index leaves out no rule, a shadowed rule never speaks, a wider pattern takes all of a narrower one.

use portcullis_schemas::events::RuleRef;

use super::pattern::Pattern;
use super::view::View;
use super::*;

#[test]
fn a_pattern_that_covers_another_takes_all_that_it_takes() {
    let mut dice = Dice(3);
    let word = |dice: &mut Dice, letters: &[&str]| (0..dice.below(6)).map(|_| dice.of(letters)).collect::<String>();
    let (mut covered, mut taken) = (0, 0);
    for _ in 0..20_000 {
        let (wide, narrow) = (word(&mut dice, &["a", "b", "é", "*"]), word(&mut dice, &["a", "B", "é", "*"]));
        let text = word(&mut dice, &["a", "A", "b", "é"]);
        let (wide, narrow) = (Pattern::new(&wide), Pattern::new(&narrow));
        // As the star says it, without any short cut.
        assert_eq!(wide.matches(&text), plainly(&wide.written().to_lowercase(), &text.to_lowercase()), "{wide} on {text:?}");
        if wide.covers(&narrow) {
            covered += 1;
            taken += usize::from(narrow.matches(&text));
            assert!(!narrow.matches(&text) || wide.matches(&text), "{wide} covers {narrow}, and {text:?}");
        }
    }
    assert!(covered > 1000 && taken > 100, "{covered} covered, {taken} taken");
}

/// Tries every run of characters for each star.
fn plainly(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('*') => text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| plainly(rest.as_str(), &text[at..])),
        Some(first) => text.strip_prefix(first).is_some_and(|text| plainly(rest.as_str(), text)),
    }
}

/// One rule of a random policy, with values out of so few that rules often meet.
fn random_rule(dice: &mut Dice, name: usize) -> String {
    let mut keys = Vec::new();
    if dice.below(2) == 0 {
        let written = ["'>= high'", "critical", "[low, medium]", "'< medium'", "'<= high'", "unknown"];
        keys.push(format!("severity: {}", dice.of(&written)));
    }
    if dice.below(3) == 0 {
        keys.push(format!("technique: {}", dice.of(&["T1486", "'T1*'", "'T1059*'", "[T1486, T1059.001]"])));
    }
    if dice.below(3) == 0 {
        keys.push(format!("source: {}", dice.of(&["elastic", "'e*'", "[siem, edr]", "'*'"])));
    }
    if dice.below(4) == 0 {
        keys.push(format!("host.group: {}", dice.of(&["pay", "[pay, routers]", "shaky"])));
    }
    if dice.below(4) == 0 {
        keys.push(format!("confidence: {}", dice.of(&["'>= 80'", "'> 50'", "85"])));
    }
    if keys.is_empty() {
        keys.push("rule.id: '5*'".to_owned());
    }
    let when = dice.of(&["", "", "", "when: detection.has_confidence, ", "when: int(source) > 3, "]);
    let then = dice.of(&["isolate", "ask", "observe", "ignore"]);
    format!("  - {{ name: r{name}, match: {{ {} }}, {when}then: {then} }}\n", keys.join(", "))
}

#[test]
fn the_index_and_the_warnings_agree_with_every_rule_in_turn() {
    let mut dice = Dice(5);
    let (mut shadowed, mut spoke) = (0, std::collections::BTreeSet::new());
    for _ in 0..400 {
        let rules: String = (0..8).map(|name| random_rule(&mut dice, name)).collect();
        let text = format!(
            "version: 1\ngroups: {{ pay: {{ match: {{ host.label.tier: payment }} }}, routers: {{ match: {{ host.role: router }} }}, shaky: {{ when: 'int(host.label.tier) > 3' }} }}\nrules:\n{rules}{REST}"
        );
        let policy = Policy::parse(&text).unwrap_or_else(|errors| panic!("{text}{errors:#?}"));
        let never: Vec<&str> =
            policy.warnings().iter().filter_map(|w| w.message.strip_suffix("or remove it")?.split('"').nth(1)).collect();
        shadowed += never.len();
        for _ in 0..40 {
            let mut detection = detection();
            detection.severity = Severity::ALL[dice.below(6)];
            detection.techniques = vec![dice.of(&["T1486", "T1059.001", "T1003"]).to_owned()];
            detection.confidence = [None, Some(40), Some(85)][dice.below(3)];
            detection.rule = RuleRef { id: dice.of(&["5710", "1"]).to_owned(), name: String::new() };
            let host = Known::new("h", &[("tier", dice.of(&["payment", "4", ""]))], &[dice.of(&["router", "x"])]);
            let source = dice.of(&["elastic", "siem", "edr", "5"]);
            let subject = Subject { detection: &detection, source, host: host.view(), at: at() };
            let view = View::of(&subject, &*policy.groups);
            let in_turn = policy.rules.iter().find(|rule| rule.takes(&view, subject.at) != Ok(false)).unwrap();
            let judgement = policy.judge(&subject);
            assert_eq!(judgement.rule, Some(in_turn.name.as_str()), "{text}{detection:#?}");
            let failed = matches!(judgement.outcome, Outcome::RuleError(_));
            assert!(failed || !never.contains(&in_turn.name.as_str()), "{} never matches, and did:\n{text}", in_turn.name);
            spoke.insert((in_turn.name.clone(), failed));
        }
    }
    assert!(shadowed > 50 && spoke.len() > 12, "{shadowed} shadowed, {spoke:?}");
}
