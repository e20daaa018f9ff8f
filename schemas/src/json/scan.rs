//! JSON taken apart without being read: where each member and each value ends, and nothing else.
//!
//! No recursion, no limit on depth, no look at what a value holds: a value that decides nothing can so be passed over, whatever is in it.

use std::borrow::Cow;
use std::fmt;

/// A text is no JSON as far as it had to be looked at; line and column count from 1, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at line {line} column {column}")]
pub struct ScanError {
    problem: String,
    line: usize,
    column: usize,
}

/// One member of an object: its name, decoded, and the bytes of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    pub name: String,
    pub value: &'a [u8],
}

/// The members of the object that `text` is, in its order; a name may stand twice.
pub fn members(text: &[u8]) -> Result<Vec<Member<'_>>, ScanError> {
    let mut scan = Scan { text, at: 0 };
    scan.space();
    scan.expect(b'{', "an object")?;
    let mut members = Vec::new();
    scan.list(b'}', |scan| {
        let from = scan.at;
        if scan.peek() != Some(b'"') {
            return Err(scan.wrong("a member's name in quotes"));
        }
        scan.string()?;
        let (name, _) = lossy(&text[from..scan.at]);
        scan.space();
        scan.expect(b':', "':' after a member's name")?;
        scan.space();
        members.push(Member { name, value: scan.value()? });
        Ok(())
    })?;
    scan.end()?;
    Ok(members)
}

/// The values in the list that `text` is.
pub fn items(text: &[u8]) -> Result<Vec<&[u8]>, ScanError> {
    let mut scan = Scan { text, at: 0 };
    scan.space();
    scan.expect(b'[', "a list")?;
    let mut items = Vec::new();
    scan.list(b']', |scan| {
        items.push(scan.value()?);
        Ok(())
    })?;
    scan.end()?;
    Ok(items)
}

/// What a JSON string says, and whether it says just that: what is no text (half a surrogate pair, a byte that is not UTF-8, an escape that
/// does not exist) is U+FFFD in it. `literal` begins and ends with its quotes.
pub fn lossy(literal: &[u8]) -> (String, bool) {
    let inner = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default();
    let mut exact = true;
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        plain(&rest[..at], &mut text, &mut exact);
        rest = escape(&rest[at + 1..], &mut text, &mut exact);
    }
    plain(rest, &mut text, &mut exact);
    (text, exact)
}

fn plain(bytes: &[u8], text: &mut String, exact: &mut bool) {
    let decoded = String::from_utf8_lossy(bytes);
    *exact &= matches!(decoded, Cow::Borrowed(_)) && !bytes.iter().any(|byte| *byte < 0x20);
    text.push_str(&decoded);
}

/// What follows a backslash; what is left behind it.
fn escape<'a>(rest: &'a [u8], text: &mut String, exact: &mut bool) -> &'a [u8] {
    let Some((&kind, tail)) = rest.split_first() else { return rest };
    let plain = match kind {
        b'"' | b'\\' | b'/' => char::from(kind),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let Some(first) = unit(tail) else { return unknown(rest, text, exact) };
            let second = tail.get(4..).and_then(|more| more.strip_prefix(b"\\u")).and_then(unit);
            let (decoded, used) = match second {
                Some(second) if (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(&second) => {
                    (char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)), 10)
                }
                _ => (char::from_u32(first), 4),
            };
            *exact &= decoded.is_some();
            text.push(decoded.unwrap_or(char::REPLACEMENT_CHARACTER));
            return &tail[used..];
        }
        _ => return unknown(rest, text, exact),
    };
    text.push(plain);
    tail
}

/// An escape that JSON does not know: what follows the backslash is read as it stands.
fn unknown<'a>(rest: &'a [u8], text: &mut String, exact: &mut bool) -> &'a [u8] {
    *exact = false;
    text.push(char::REPLACEMENT_CHARACTER);
    rest
}

/// Four hex digits.
fn unit(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.iter().try_fold(0, |value, byte| Some(value * 16 + char::from(*byte).to_digit(16)?))
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: impl fmt::Display) -> Result<(), ScanError> {
        if self.peek() != Some(byte) {
            return Err(self.wrong(what));
        }
        self.at += 1;
        Ok(())
    }

    /// The rest of a list or an object, up to and with `close`.
    fn list(&mut self, close: u8, mut one: impl FnMut(&mut Self) -> Result<(), ScanError>) -> Result<(), ScanError> {
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            one(self)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => break,
                _ => return Err(self.wrong(format_args!("',' or '{}'", char::from(close)))),
            }
            self.space();
        }
        self.at += 1;
        Ok(())
    }

    /// One value, whatever it is.
    fn value(&mut self) -> Result<&'a [u8], ScanError> {
        let from = self.at;
        match self.peek() {
            Some(b'"') => self.string()?,
            Some(b'{' | b'[') => self.nested()?,
            _ => {
                while self.peek().is_some_and(|byte| byte > b' ' && !b",:[]{}\"".contains(&byte)) {
                    self.at += 1;
                }
            }
        }
        if self.at == from {
            return Err(self.wrong("a value"));
        }
        Ok(&self.text[from..self.at])
    }

    fn nested(&mut self) -> Result<(), ScanError> {
        // What has to close: a list and an object must not end each other, or a reader that looks inside would see another end.
        let mut open = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{') => open.push(b'}'),
                Some(b'[') => open.push(b']'),
                Some(close @ (b'}' | b']')) if open.pop() != Some(close) => return Err(self.wrong("another bracket")),
                Some(_) => {}
                None => return Err(self.wrong("the end of a list or an object")),
            }
            self.at += 1;
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    fn string(&mut self) -> Result<(), ScanError> {
        self.at += 1;
        while let Some(skipped) = memchr::memchr2(b'"', b'\\', &self.text[self.at..]) {
            self.at += skipped + 1;
            if self.text[self.at - 1] == b'"' {
                return Ok(());
            }
            self.at = (self.at + 1).min(self.text.len());
        }
        self.at = self.text.len();
        Err(self.wrong("the end of a string"))
    }

    fn end(&mut self) -> Result<(), ScanError> {
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("nothing more")),
        }
    }

    fn wrong(&self, wanted: impl fmt::Display) -> ScanError {
        let before = &self.text[..self.at];
        let found = match self.text[self.at..].utf8_chunks().next() {
            Some(chunk) => match chunk.valid().chars().next() {
                Some(found) => format!("{found:?}"),
                None => "a byte that is not UTF-8".to_owned(),
            },
            None => "the end".to_owned(),
        };
        ScanError {
            problem: format!("expected {wanted}, found {found}"),
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{items, lossy, members};

    #[test]
    fn members_are_found_whatever_their_values_hold() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for value in [
            r#""\udcff""#,
            r#""a\"b\\""#,
            r#"{"a":1,"a":2}"#,
            "1e400",
            "NaN",
            "-",
            r#"{"x":"}]","y":[{}]}"#,
            "[\"\u{0}\",\"\n\"]",
            deep.as_str(),
        ] {
            let text = format!(" {{ \"a\" : {value} , \"b\":[] }}\n");
            let found = members(text.as_bytes()).unwrap_or_else(|error| panic!("{value:.40}: {error}"));
            assert_eq!(found.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
            assert_eq!((found[0].value, found[1].value), (value.as_bytes(), &b"[]"[..]), "{value:.40}");
        }
        let invalid = b"{\"a\":\"\xff\xfe\",\"b\":7}";
        assert_eq!(members(invalid).expect("an object")[1].value, b"7");
    }

    #[test]
    fn names_are_compared_as_they_are_meant() {
        let found = members(br#"{"\u0068ost":1,"h\udcffost":2}"#).expect("an object");
        assert_eq!((found[0].name.as_str(), found[1].name.as_str()), ("host", "h\u{fffd}ost"));
    }

    #[test]
    fn what_is_no_object_says_where_and_what() {
        for (text, wanted) in [
            ("", "expected an object, found the end at line 1 column 1"),
            ("[]", "expected an object, found '[' at line 1 column 1"),
            ("{\n 'a': 1}", "expected a member's name in quotes, found '\\'' at line 2 column 2"),
            ("{\"a\"=1}", "expected ':' after a member's name, found '=' at line 1 column 5"),
            ("{\"a\":}", "expected a value, found '}' at line 1 column 6"),
            ("{\"a\":1", "expected ',' or '}', found the end at line 1 column 7"),
            ("{\"a\":1,}", "expected a member's name in quotes, found '}' at line 1 column 8"),
            ("{\"a\":\"b\\\"}", "expected the end of a string, found the end at line 1 column 11"),
            ("{\"a\":[{]}}", "expected another bracket, found ']' at line 1 column 8"),
            ("{\"a\":[", "expected the end of a list or an object, found the end at line 1 column 7"),
            ("{} {}", "expected nothing more, found '{' at line 1 column 4"),
        ] {
            assert_eq!(members(text.as_bytes()).expect_err(text).to_string(), wanted, "{text}");
        }
    }

    #[test]
    fn a_list_comes_apart() {
        assert_eq!(items(b"[ \"a\", 7 ,[1,2] ]").expect("a list"), [&b"\"a\""[..], b"7", b"[1,2]"]);
        assert_eq!(items(b"[]").expect("a list").len(), 0);
        assert!(items(b"{}").is_err() && items(b"[1 2]").is_err() && items(b"[1,]").is_err());
    }

    #[test]
    fn text_keeps_what_is_text_of_it() {
        for (literal, text, exact) in [
            (&br#""a\"\\\/\b\f\n\r\tz""#[..], "a\"\\/\u{8}\u{c}\n\r\tz", true),
            (br#""\ud83d\ude00""#, "\u{1f600}", true),
            (br#""\u00e4\u0000""#, "\u{e4}\u{0}", true),
            (br#""/tmp/kworker\udcff""#, "/tmp/kworker\u{fffd}", false),
            (br#""\ud83d\u0041\ud83d""#, "\u{fffd}A\u{fffd}", false),
            (br#""\x41""#, "\u{fffd}x41", false),
            (br#""\u00""#, "\u{fffd}u00", false),
            (b"\"a\xff\xfeb\"", "a\u{fffd}\u{fffd}b", false),
            (b"\"a\nb\"", "a\nb", false),
            (b"\"\"", "", true),
        ] {
            assert_eq!(lossy(literal), (text.to_owned(), exact), "{}", String::from_utf8_lossy(literal));
        }
    }
}
