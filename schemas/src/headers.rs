//! The header block of a NATS message (ADR-4), as bytes that anybody may have written.
//!
//! nats-server stores and delivers a block as it came, whatever is in it. Clients may lose their connection over one.

/// What a block holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Names and values, as far as they could be read.
    pub pairs: Vec<(String, String)>,
    /// Why the block is malformed; None for a sound one.
    pub problem: Option<String>,
}

/// Reads a block, from its version line to the empty line at its end. An empty one holds no headers.
pub fn read(block: &[u8]) -> Headers {
    let mut headers = Headers::default();
    if block.is_empty() {
        return headers;
    }
    let mut complain = |problem: String| {
        headers.problem.get_or_insert(problem);
    };
    let body = block.strip_suffix(b"\r\n\r\n").unwrap_or_else(|| {
        complain("the block has no empty line at its end".into());
        block
    });
    let mut lines = split(body);
    if lines.next().is_none_or(|line| !line.starts_with(b"NATS/1.0")) {
        complain("the block does not begin with NATS/1.0".into());
    }
    for (number, line) in lines.enumerate() {
        let at = || format!("header line {}", number + 1);
        let Ok(text) = std::str::from_utf8(line) else {
            complain(format!("{} is not UTF-8", at()));
            continue;
        };
        let Some((name, value)) = text.split_once(':') else {
            complain(format!("{} has no colon", at()));
            continue;
        };
        // RFC 7230 token characters, which ADR-4 takes over; a value is text on one line.
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            complain(format!("{} has no valid name", at()));
        } else if value.contains(['\r', '\n', '\0']) {
            complain(format!("the value in {} has a control character", at()));
        } else {
            headers.pairs.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    headers
}

/// Lines end with CR LF; a CR or LF alone belongs to its line.
fn split(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut is_over = false;
    std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            is_over = true;
            return Some(rest);
        };
        let line = &rest[..at];
        rest = &rest[at + 2..];
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_sound_block() {
        let headers = read(b"NATS/1.0\r\nContent-Type: application/json\r\nX-A:b: c \r\nEmpty:\r\n\r\n");
        assert_eq!(headers.problem, None);
        let pairs: Vec<_> = headers.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("Content-Type", "application/json"), ("X-A", "b: c"), ("Empty", "")]);
        assert_eq!(read(b"").problem, None);
        assert_eq!(read(b"NATS/1.0\r\n\r\n").problem, None);
    }

    #[test]
    fn what_is_malformed_is_named_and_the_rest_is_kept() {
        for (block, problem) in [
            (&b"NATS/1.0\r\nX-A: b\rc\r\nX-B: d\r\n\r\n"[..], "the value in header line 1 has a control character"),
            (b"NATS/1.0\r\nX-A: b\xffc\r\nX-B: d\r\n\r\n", "header line 1 is not UTF-8"),
            (b"NATS/1.0\r\nnothing\r\nX-B: d\r\n\r\n", "header line 1 has no colon"),
            (b"NATS/1.0\r\n\x01: x\r\nX-B: d\r\n\r\n", "header line 1 has no valid name"),
            (b"HTTP/1.1\r\nX-B: d\r\n\r\n", "the block does not begin with NATS/1.0"),
            (b"NATS/1.0\r\nX-B: d\r\n", "the block has no empty line at its end"),
        ] {
            let headers = read(block);
            assert_eq!(headers.problem.as_deref(), Some(problem), "{}", String::from_utf8_lossy(block));
            assert!(headers.pairs.iter().any(|(name, _)| name == "X-B") || !problem.contains("line 1"), "{problem}");
        }
    }

    #[test]
    fn no_bytes_make_it_fail() {
        let mut state = 1u64;
        for length in 0..200 {
            let block: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    b"NATS/1.0\r\n:\xff a"[(state >> 33) as usize % 14]
                })
                .collect();
            let _ = read(&block);
        }
    }
}
