//! Binary content mode: attributes in `ce-` headers, data in the body (NATS protocol binding 1.0.3-wip, section 3.1).

use std::borrow::Cow;

use super::Envelope;
use super::attributes::{Attributes, Found};
use crate::rejected::Malformed;

pub fn read<'a>(headers: &[(String, &str)], body: &'a [u8]) -> Result<Envelope<'a>, Malformed> {
    let mut attributes = Attributes::default();
    for (name, raw) in headers {
        let found = match unescape(raw) {
            Some(value) => Found::Text(value),
            None => Found::Bad { problem: "is not percent-encoded UTF-8".into(), left: Some((*raw).to_owned()) },
        };
        attributes.take(name, found)?;
    }
    let attributes = attributes.whole()?;
    let data = (!body.is_empty()).then_some(Cow::Borrowed(body));
    Ok(Envelope { attributes, data })
}

/// Undoes a quoted string, then one round of percent-encoding (HTTP protocol binding 1.0.2, section 3.1.3.2).
fn unescape(raw: &str) -> Option<String> {
    let text = match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => {
            let mut plain = String::with_capacity(quoted.len());
            let mut chars = quoted.chars();
            while let Some(c) = chars.next() {
                plain.push(if c == '\\' { chars.next()? } else { c });
            }
            plain
        }
        None => raw.to_owned(),
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |d: u8| (d as char).to_digit(16);
                bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
                rest = tail;
            }
            (b'%', _) => return None,
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}
