//! NATS subjects and the filters that name several.

/// Whether `filter`, with `*` for one token and a last `>` for one or more, names `subject`.
pub fn matches(filter: &str, subject: &str) -> bool {
    let (mut wanted, mut found) = (filter.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), found.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn filters() {
        for (filter, subject) in [("a.b", "a.b"), ("a.*", "a.b"), ("a.>", "a.b.c"), (">", "a"), ("*.b", "a.b")] {
            assert!(matches(filter, subject), "{filter} {subject}");
        }
        for (filter, subject) in [("a.b", "a.c"), ("a.*", "a.b.c"), ("a.>", "a"), ("a.b", "a"), ("a", "a.b"), ("a.*", "a")] {
            assert!(!matches(filter, subject), "{filter} {subject}");
        }
    }
}
