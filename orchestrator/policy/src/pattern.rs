//! Text patterns of `match`: `*` stands for any run of characters, case does not count.

use std::fmt;

/// Longest pattern, in bytes.
pub(super) const LONGEST: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    written: String,
    /// What stands between the stars, in lower case.
    parts: Vec<String>,
}

impl Pattern {
    pub fn new(written: &str) -> Self {
        Self { written: written.to_owned(), parts: written.to_ascii_lowercase().split('*').map(str::to_owned).collect() }
    }

    /// Linear in the text: between stars the leftmost find is as good as any.
    pub fn matches(&self, text: &str) -> bool {
        let (first, middle, last) = match self.parts.as_slice() {
            [] => return text.is_empty(),
            [only] => return text.eq_ignore_ascii_case(only),
            [first, middle @ .., last] => (first, middle, last),
        };
        // Most patterns are a beginning or an end: nothing is copied for these.
        let (text_bytes, (first, last)) = (text.as_bytes(), (first.as_bytes(), last.as_bytes()));
        let fits = |part: &[u8], pattern: &[u8]| part.eq_ignore_ascii_case(pattern);
        let Some(inner) = text_bytes.len().checked_sub(first.len() + last.len()) else { return false };
        let (begin, end) = (first.len(), first.len() + inner);
        if !fits(&text_bytes[..begin], first) || !fits(&text_bytes[end..], last) {
            return false;
        }
        if middle.iter().all(String::is_empty) {
            return true;
        }
        // The parts are whole characters, so the cuts are between characters.
        let text = text[begin..end].to_ascii_lowercase();
        let mut rest = text.as_str();
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }

    /// Whether it matches all that `other` matches: a star of `other` is only taken by a star of its own.
    pub fn covers(&self, other: &Pattern) -> bool {
        self.matches(&other.written)
    }

    /// As it stands in the policy.
    pub fn written(&self) -> &str {
        &self.written
    }

    pub fn has_star(&self) -> bool {
        self.parts.len() > 1
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn stars_and_case() {
        for (pattern, text, matches) in [
            ("T1486", "t1486", true),
            ("T1486", "T1486.001", false),
            ("T1486*", "T1486", true),
            ("T1059*", "T1059.001", true),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*.corp.example", "db1.CORP.example", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("ab*bc", "abc", false),
            ("é*", "éa", true),
            ("**", "anything", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), matches, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn many_stars_do_not_hang() {
        assert!(!Pattern::new(&"a*".repeat(250)).matches(&"a".repeat(200_000).replace("aaaaaaaaaa", "b")));
    }
}
