//! Text for a terminal: whatever others wrote, it shows what it is and does nothing.
//!
//! Every program prints through these functions; escapes and invisible characters come out as U+FFFD, in JSON as escapes.

use std::io::{self, Write};

/// One line: what breaks lines is a space.
pub fn clean(text: &str) -> String {
    mapped(text, |c| match c {
        '\n' | '\r' | '\t' => Some(' '),
        _ => None,
    })
}

/// Text of several lines, each of them clean.
pub fn lines(text: &str) -> String {
    mapped(text, |c| match c {
        '\n' => Some(c),
        '\t' => Some(' '),
        _ => None,
    })
}

/// JSON, in which such characters stand in strings only. JSON itself escapes only what lies below U+0020; a terminal also obeys U+009B.
pub fn json(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !is_hostile(c) {
            clean.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            clean.push_str(&format!("\\u{unit:04x}"));
        }
    }
    clean
}

/// Does a terminal obey this character, show others in its place or order, or show nothing where it stands?
///
/// Controls (C0, C1, DEL), separators of lines, marks of the writing direction, and what Unicode calls default ignorable: zero width
/// characters, fillers, selectors, tags.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// A log on its way to a terminal or a file that is shown on one. Escape characters pass: the log's own colours are made of them, and its
/// formatter has escaped those of values.
pub struct Log<W>(pub W);

impl<W: Write> Write for Log<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let clean = mapped(&text, |c| matches!(c, '\n' | '\u{1b}').then_some(c));
        self.0.write_all(clean.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn mapped(text: &str, known: impl Fn(char) -> Option<char>) -> String {
    let one = |c| known(c).unwrap_or(if is_hostile(c) { char::REPLACEMENT_CHARACTER } else { c });
    text.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{Log, clean, is_hostile, json, lines};

    #[test]
    fn no_text_reaches_a_terminals_controls_or_hides_from_its_reader() {
        // What is written, and what is shown.
        let table = [
            ("a\u{1b}[2Jb", "a\u{fffd}[2Jb"),
            ("\u{1b}]0;title\u{7}", "\u{fffd}]0;title\u{fffd}"),
            ("\u{9b}1m\u{90}\u{85}", "\u{fffd}1m\u{fffd}\u{fffd}"),
            ("a\u{0}b\u{8}c\u{7f}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            ("one\r\ntwo\tthree", "one  two three"),
            ("gpj.\u{202e}exe", "gpj.\u{fffd}exe"),
            ("a\u{2066}b\u{2069}\u{200e}\u{200f}\u{61c}", "a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            ("a\u{2028}b\u{2029}c", "a\u{fffd}b\u{fffd}c"),
            ("ro\u{200b}ot\u{200d}\u{2060}\u{feff}\u{ad}", "ro\u{fffd}ot\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            ("\u{3164}\u{115f}\u{ffa0}\u{34f}", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            ("x\u{e0068}\u{e0069}\u{e007f}\u{fe0f}\u{e0100}", "x\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            ("\u{fff9}a\u{fffa}b\u{fffb}", "\u{fffd}a\u{fffd}b\u{fffd}"),
            ("/tmp/kworker\u{fffd}", "/tmp/kworker\u{fffd}"),
            ("Grüße, 日本 … → \u{1f512} e\u{301}", "Grüße, 日本 … → \u{1f512} e\u{301}"),
        ];
        for (written, shown) in table {
            assert_eq!(clean(written), shown, "{written:?}");
            assert_eq!(lines(&written.replace("\r\n", "\n")).replace('\n', "  "), shown, "{written:?}");
            let document = json(&serde_json::to_string(written).expect("text is JSON"));
            assert!(!document.chars().any(is_hostile), "{document:?}");
            assert_eq!(serde_json::from_str::<String>(&document).expect("it is JSON still"), written);
        }
        assert_eq!(lines("a\nb\u{1b}\n"), "a\nb\u{fffd}\n");
    }

    #[test]
    fn a_log_keeps_its_own_colours_and_lines_only() {
        let mut log = Log(Vec::new());
        log.write_all("\u{1b}[32mINFO\u{1b}[0m host=\u{202e}h\u{9b}\n".as_bytes()).expect("memory takes it");
        assert_eq!(String::from_utf8_lossy(&log.0), "\u{1b}[32mINFO\u{1b}[0m host=\u{fffd}h\u{fffd}\n");
    }
}
