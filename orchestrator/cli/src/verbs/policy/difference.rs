//! What a policy changes against another, in words: rules, limits, terms and lists that were added, removed or changed.

use portcullis_policy::Policy;

/// One part of a policy as it was understood.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    /// What it is, as `rule "ransomware"`.
    name: String,
    lines: Vec<String>,
}

/// Everything that differs, in the order of the newer policy; what was removed comes last.
pub fn words(old: &Policy, new: &Policy) -> Vec<String> {
    let (before, after) = (parts(&old.explain()), parts(&new.explain()));
    let of = |all: &'_ [Part], name: &str| all.iter().position(|part| part.name == name);
    let mut words = Vec::new();
    for part in &after {
        match of(&before, &part.name).map(|at| &before[at]) {
            None => words.push(format!("added: {}{}", part.name, rest(&part.lines))),
            Some(known) if known.lines == part.lines => {}
            Some(known) => {
                words.push(format!("changed: {}", part.name));
                words.extend(
                    known.lines.iter().filter(|line| !part.lines.contains(line)).map(|line| format!("  was: {}", line.trim())),
                );
                words.extend(
                    part.lines.iter().filter(|line| !known.lines.contains(line)).map(|line| format!("  now: {}", line.trim())),
                );
            }
        }
    }
    words.extend(before.iter().filter(|part| of(&after, &part.name).is_none()).map(|part| format!("removed: {}", part.name)));
    let common = |of: &Policy, other: &Policy| -> Vec<String> {
        of.rules().filter(|rule| other.rules().any(|known| known == *rule)).map(str::to_owned).collect()
    };
    let order = common(new, old);
    if order != common(old, new) {
        words.push(format!("changed: the order of the rules, of which the first that matches decides: {}", order.join(", ")));
    }
    words
}

fn rest(lines: &[String]) -> String {
    lines.first().filter(|line| !line.is_empty()).map_or_else(String::new, |line| format!(": {line}"))
}

/// The paragraphs of an explained policy. Of the first one, and of sources, each line is a part of its own.
fn parts(explained: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (at, paragraph) in explained.split("\n\n").enumerate() {
        let lines: Vec<&str> = paragraph.lines().collect();
        match lines.as_slice() {
            [] => {}
            lines if at == 0 || lines[0].starts_with("source ") => {
                let terms = lines.iter().filter(|line| !line.starts_with("policy "));
                parts.extend(terms.map(|line| term(line)));
            }
            [head, lines @ ..] => parts.extend(part(head, lines)),
        }
    }
    parts
}

/// A term is known by its first two words.
fn term(line: &str) -> Part {
    let name: Vec<&str> = line.split_whitespace().take(2).collect();
    Part { name: name.join(" ").trim_end_matches(':').to_owned(), lines: vec![line.to_owned()] }
}

fn part(head: &str, lines: &[&str]) -> Option<Part> {
    // The number of a rule changes with the rules before it.
    let head = match head.strip_prefix("rule ").and_then(|rest| rest.split_once(", ")) {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => format!("rule {rest}"),
        _ => head.to_owned(),
    };
    let (name, first) = head.split_once(": ").unwrap_or((head.trim_end_matches(':'), ""));
    let lines = std::iter::once(first.to_owned()).chain(lines.iter().map(|line| (*line).to_owned()));
    (!name.is_empty()).then(|| Part { name: name.to_owned(), lines: lines.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse(text).expect("the test's policy is valid")
    }

    const OLD: &str = "
version: 1
limits: [{ name: fleet, isolated: 5%, then: ask }]
rules:
  - { name: c2, match: { indicator.type: ip }, then: isolate }
  - { name: ransomware, match: { severity: critical }, then: isolate, release_after: 24h }
  - { name: rest, then: observe }
";

    #[test]
    fn what_differs_is_told_in_words() {
        assert_eq!(words(&policy(OLD), &policy(OLD)), Vec::<String>::new());
        let same = format!("# a comment\n{OLD}");
        assert_eq!(words(&policy(OLD), &policy(&same)), Vec::<String>::new());
        let new = OLD
            .replace("release_after: 24h", "release_after: 8h")
            .replace("5%", "10%")
            .replace("limits:", "defaults: { release_after: 4h }\nlimits:")
            .replace("  - { name: c2, match: { indicator.type: ip }, then: isolate }\n", "")
            .replace("  - { name: rest", "  - { name: noise, match: { severity: low }, then: ignore }\n  - { name: rest");
        assert_eq!(
            words(&policy(OLD), &policy(&new)),
            [
                "changed: released after",
                "  was: released after: 8h; longest: 7d",
                "  now: released after: 4h; longest: 7d",
                "changed: limit \"fleet\"",
                "  was: at most 5% isolated at once; beyond it a person is asked, until it is no longer reached",
                "  now: at most 10% isolated at once; beyond it a person is asked, until it is no longer reached",
                "changed: rule \"ransomware\"",
                "  was: isolate for 1d",
                "  now: isolate for 8h",
                "added: rule \"noise\": ignore (record)",
                "removed: rule \"c2\"",
            ]
        );
    }

    #[test]
    fn another_order_of_the_rules_is_told() {
        let lines: Vec<&str> = OLD.lines().collect();
        let swapped = [&lines[..4], &[lines[5], lines[4], lines[6], ""]].concat().join("\n");
        let expected = "changed: the order of the rules, of which the first that matches decides: ransomware, c2, rest";
        assert_eq!(words(&policy(OLD), &policy(&swapped)), [expected]);
    }
}
