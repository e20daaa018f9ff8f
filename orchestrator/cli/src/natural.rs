//! The order in which people count: h2 before h10.

use std::cmp::Ordering;

/// Runs of digits are compared as numbers of any length, everything else as text.
pub fn compare(one: &str, other: &str) -> Ordering {
    let (mut a, mut b) = (one.as_bytes(), other.as_bytes());
    while let (Some(first), Some(second)) = (a.first(), b.first()) {
        let order = if first.is_ascii_digit() && second.is_ascii_digit() {
            let (number, rest) = split_number(a);
            let (against, others) = split_number(b);
            (a, b) = (rest, others);
            number.len().cmp(&against.len()).then_with(|| number.cmp(against))
        } else {
            (a, b) = (&a[1..], &b[1..]);
            first.cmp(second)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    // Leading zeros alone: h1 before h01.
    a.len().cmp(&b.len()).then_with(|| one.len().cmp(&other.len())).then_with(|| one.cmp(other))
}

/// The digits at the beginning without leading zeros, and what is behind them.
fn split_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    (&digits[zeros..], rest)
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn hosts_are_counted_and_not_spelled() {
        let mut names = ["h10", "h2", "web-2a", "h1", "web-10", "H3", "h01", "", "h99999999999999999999999", "h", "web-2"];
        names.sort_by(|one, other| compare(one, other));
        assert_eq!(names, ["", "H3", "h", "h1", "h01", "h2", "h10", "h99999999999999999999999", "web-2", "web-2a", "web-10"]);
    }
}
