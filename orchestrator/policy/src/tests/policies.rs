//! Good and bad policies, as `policies.txt` has them: each with every message that it gives, or with how it was understood.
//!
//! A case begins with `=== KIND: NAME`. Of kind `full` it is a whole policy; `head` stands between version and rules; `rule` is the inside of a rule
//! that isolates. Behind `---` stands what came of it.

use super::*;

const POLICIES: &str = include_str!("policies.txt");

/// Kind and name, text, and what is said of it.
fn cases() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    POLICIES.split("=== ").skip(1).map(|case| {
        let (name, rest) = case.split_once('\n').unwrap();
        // The last one: a policy may hold such a line itself.
        let (text, said) = rest.rsplit_once("\n---\n").unwrap_or((rest, ""));
        (name, text, said)
    })
}

fn policy_of(name: &str, text: &str) -> String {
    let indented = |by: &str| text.trim_end_matches('\n').lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    match name.split_once(": ").unwrap().0 {
        "full" => format!("{text}\n"),
        "head" => with_head(text.trim_end_matches('\n')),
        "rule" => with_rule(indented("    ").trim_end_matches('\n')),
        other => panic!("{other} is no kind"),
    }
}

/// Errors; or what a reader of `policy check` sees of it beyond the defaults, with its warnings.
fn said(text: &str) -> String {
    let lines = |found: &[PolicyError], what: &str| {
        found.iter().map(|one| format!("{what}{}:{} {}\n", one.line, one.column, one.message)).collect::<String>()
    };
    match Policy::parse(text) {
        Err(errors) => lines(&errors, ""),
        Ok(policy) => {
            let defaults = Policy::parse(&with_rule("    match: { source: a }")).unwrap().explain();
            let explained = policy.explain();
            let new =
                |line: &&str| !line.is_empty() && !defaults.lines().any(|known| known == *line) && !line.starts_with("policy ");
            let understood: String = explained.lines().filter(new).map(|line| format!("  {}\n", line.trim_start())).collect();
            format!("ok\n{understood}{}", lines(policy.warnings(), "warning "))
        }
    }
}

#[test]
fn every_policy_is_read_as_it_says() {
    let mut names = std::collections::BTreeSet::new();
    for (name, text, expected) in cases() {
        let policy = policy_of(name, text);
        assert_eq!(said(&policy), expected.trim_end_matches('\n').to_owned() + "\n", "{name}:\n{policy}");
        assert!(names.insert(name), "{name} is there twice");
    }
    assert!(names.len() >= 80, "{} policies", names.len());
}

/// The file as it would be, for whoever adds a case: `cargo test -p portcullis-policy print_the -- --ignored --nocapture`.
#[test]
#[ignore = "prints what the file is to be"]
fn print_the_file() {
    for (name, text, _) in cases() {
        print!("=== {name}\n{text}\n---\n{}\n", said(&policy_of(name, text)));
    }
}
