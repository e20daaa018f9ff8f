//! Times and durations as they stand on the wire: RFC 3339 in UTC, and `8h`, `30m`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use chrono::{Datelike, TimeDelta};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time. Read from RFC 3339 with any offset, written in UTC.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// A time is taken in the years 0 to 9999, as RFC 3339 writes them: arithmetic on it then stays far from its limits.
pub fn check(member: &str, time: Timestamp) -> Result<(), String> {
    if (0..=9999).contains(&time.year()) {
        Ok(())
    } else {
        Err(format!("{member} is in the year {}; RFC 3339 goes from 0 to 9999", time.year()))
    }
}

/// A span of whole seconds: `90s`, `30m`, `8h`, `7d`, or several in falling order, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

/// Longest span: ten years. More is a slip of the pen, and time arithmetic stays far from its limits.
const MAX_SECONDS: u64 = 10 * 366 * 86_400;

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// A text is no duration; the text is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration; write 90s, 30m, 8h, 7d or 1h30m, up to ten years")]
pub struct SpanError(String);

impl Span {
    /// So many seconds. More than ten years are written, but not read back.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// So many hours.
    pub const fn hours(hours: u64) -> Self {
        Self(hours * 3_600)
    }

    /// The whole of it in seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// For arithmetic with [`Timestamp`]; at most ten years.
    pub fn delta(self) -> TimeDelta {
        TimeDelta::seconds(self.0.min(MAX_SECONDS) as i64)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, size) in UNITS {
            // 90m and 24h say more to a reader than 1h30m and 1d, but one canonical form compares as text.
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let wrong = || SpanError(text.to_owned());
        let mut total = 0u64;
        let mut digits = String::new();
        let mut units = UNITS.iter();
        for c in text.trim().chars() {
            if c.is_ascii_digit() {
                digits.push(c);
                continue;
            }
            let (_, size) = units.find(|(unit, _)| *unit == c).ok_or_else(wrong)?;
            let count: u64 = digits.parse().map_err(|_| wrong())?;
            total = count.checked_mul(*size).and_then(|s| s.checked_add(total)).ok_or_else(wrong)?;
            digits.clear();
        }
        if !digits.is_empty() || text.trim().is_empty() || total > MAX_SECONDS {
            return Err(wrong());
        }
        Ok(Self(total))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "minLength": 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_SECONDS, Span};
    use crate::events::For;

    #[test]
    fn spans_read_and_print() {
        // What is written, the seconds, what is printed.
        let cases = [
            ("0s", 0, "0s"),
            ("1s", 1, "1s"),
            ("90s", 90, "1m30s"),
            ("30m", 1_800, "30m"),
            ("8h", 28_800, "8h"),
            ("24h", 86_400, "1d"),
            ("7d", 604_800, "7d"),
            ("1h30m", 5_400, "1h30m"),
            ("1d2h3m4s", 93_784, "1d2h3m4s"),
            ("1d0h4s", 86_404, "1d4s"),
            ("007m", 420, "7m"),
            (" 8h\n", 28_800, "8h"),
            ("3660d", MAX_SECONDS, "3660d"),
        ];
        for (text, seconds, printed) in cases {
            let span: Span = text.parse().expect(text);
            assert_eq!((span.as_secs(), span.to_string().as_str()), (seconds, printed), "{text:?}");
            assert_eq!(printed.parse(), Ok(span), "{printed} reads as it was");
            assert_eq!(span.delta().num_seconds(), seconds as i64);
            let json = serde_json::to_value(span).expect("a span is text");
            assert_eq!(json, printed);
            assert_eq!(serde_json::from_value::<Span>(json).expect("reads what it wrote"), span);
        }
    }

    #[test]
    fn what_is_printed_reads_as_it_was() {
        // A prime step, so that all four units take part.
        for seconds in (0..MAX_SECONDS).step_by(99_991) {
            let span = Span::seconds(seconds);
            assert_eq!(span.to_string().parse(), Ok(span), "{seconds}");
        }
    }

    #[test]
    fn what_is_no_span() {
        let cases = [
            "",
            " ",
            "8",
            "h",
            "8x",
            "8H",
            "8 h",
            "-8h",
            "+8h",
            "1.5h",
            "8h30",
            "1e3s",
            "never",
            "٣h",
            "8h\0",
            // Units fall and stand once.
            "30m1h",
            "1h2h",
            "1s1d",
            // Over ten years, over 64 bits in digits, in the product, in the sum.
            "3661d",
            "3660d1s",
            "18446744073709551616s",
            "213503982334602d",
            "213503982334601d18446744073709551615s",
        ];
        for text in cases {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<Span>("8").is_err(), "a number has no unit");
    }

    #[test]
    fn arithmetic_stays_within_ten_years() {
        assert_eq!(Span::seconds(u64::MAX).delta().num_seconds(), MAX_SECONDS as i64);
    }

    #[test]
    fn never_is_a_duration_of_requests_and_no_span() {
        let never: For = serde_json::from_str("\"never\"").expect("never");
        assert_eq!((never, never.span(), never.to_string().as_str()), (For::Never, None, "never"));
        let day: For = "24h".parse().expect("a span");
        assert_eq!((day.span(), day.to_string().as_str()), (Some(Span::hours(24)), "1d"));
        for text in ["Never", "never 1h", "", "forever"] {
            assert!(text.parse::<For>().is_err(), "{text:?}");
        }
    }
}
