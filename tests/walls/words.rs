//! The words that logs and errors do without, each with the one to say.

use std::path::Path;

use crate::source::{blanked, tests_only, without_tests};

/// What is not said, and what is said instead.
const BANNED: [(&str, &str); 12] = [
    ("told", "acknowledged, notified"),
    ("said", "reported"),
    ("stands", "is in force, is stored"),
    ("stood", "was in force, was stored"),
    ("anew", "again, retry"),
    ("put right", "reverted, remediated"),
    ("somebody", "name the subject"),
    ("whoever", "name the subject"),
    ("nobody", "name the subject"),
    ("by hand", "manual"),
    ("not heard", "unreachable"),
    ("hello heard", "heartbeat"),
];

/// Banned words in the texts of one source file: line and word.
pub fn banned(text: &str) -> Vec<(usize, &'static str)> {
    let all = blanked(text, false);
    let (code, tests) = (without_tests(&all), tests_only(&all));
    let whole = blanked(text, true);
    let mut found = Vec::new();
    let literals = literals(&code, &whole).into_iter();
    for (at, literal) in literals.filter(|(at, literal)| literal.contains(' ') && !tests.iter().any(|tests| tests.contains(at))) {
        for (word, _) in BANNED {
            if let Some(offset) = word_in(literal, word) {
                found.push((text[..at + offset].lines().count().max(1), word));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// What is wrong with the words of a file, for people.
pub fn complaints(file: &Path, text: &str) -> Vec<String> {
    let better = |word: &str| BANNED.iter().find(|(banned, _)| *banned == word).map_or("", |(_, better)| better);
    let complaint = |(line, word)| format!("{}:{line}: a text for people has {word:?}; say: {}", file.display(), better(word));
    banned(text).into_iter().map(complaint).collect()
}

/// What was blanked in `code` and is text in `whole`: strings, with where they begin.
fn literals<'a>(code: &str, whole: &'a str) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    let mut begin = None;
    for (at, (blank, kept)) in code.bytes().zip(whole.bytes()).enumerate() {
        match begin {
            None if blank == b' ' && kept == b'"' => begin = Some(at),
            Some(from) if kept == b'"' && !whole[from..at].ends_with('\\') => {
                found.push((from, &whole[from..at]));
                begin = None;
            }
            _ => {}
        }
    }
    found
}

fn word_in(text: &str, word: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    lower
        .match_indices(word)
        .map(|(at, _)| at)
        .find(|at| !is_letter(lower[..*at].chars().next_back()) && !is_letter(lower[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::banned;

    #[test]
    fn a_banned_word_in_a_log_or_an_error_is_found() {
        for planted in [
            "fn f() {\n    tracing::warn!(host, \"the order stands\");\n}",
            "fn f() {\n    bail!(\"nobody answers: {}\", x(1));\n}",
            "fn f() {\n    read().with_context(|| format!(\"released by hand: {path}\"))?;\n}",
            "enum E {\n    #[error(\"Told {0} twice\")]\n}",
            "fn f() {\n    info!(\n a = \"x\", \"put right\");\n}",
        ] {
            assert_eq!(banned(planted).len(), 1, "{planted}");
        }
        assert_eq!(banned("\n\nfn f() { warn!(\"it said\"); }"), [(3, "said")]);
    }

    #[test]
    fn a_banned_word_in_any_other_text_is_found() {
        assert_eq!(banned("fn f() -> String { format!(\"{name} stands twice\") }"), [(1, "stands")]);
        assert_eq!(banned("fn f() { reach(\"scheduler.said\"); }"), []);
    }

    #[test]
    fn what_no_operator_reads_may_say_what_it_likes() {
        for clean in [
            "// nobody is told\nfn said() { warn!(stands, \"order stored\"); }",
            "fn f() { let told = \"nobody\"; }",
            "fn f() { warn!(\"understood, retold\"); }",
            "#[cfg(test)]\nmod tests { fn f() { warn!(\"nobody\"); } }",
        ] {
            assert_eq!(banned(clean), [], "{clean}");
        }
        assert_eq!(banned("#[cfg(test)]\nmod tests { fn f() { g(\"nobody is here\"); } }"), []);
    }
}
