//! A look at an expression before it is parsed: how deep its tree can become, and strings that would hide it.

/// Brackets in brackets, and `? :` in `? :`. The parser takes some 180 KiB of stack for each in a debug build, and a thread has 2 MiB.
pub(super) const MOST_NESTED: usize = 8;
/// Operators in a row or inside each other: each may be a level of the tree.
const MOST_OPERATORS: usize = 48;

/// What is too deep or not taken, with its offset in bytes.
pub(super) fn scan(text: &str) -> Result<(), (usize, String)> {
    let chars: Vec<char> = text.chars().collect();
    scan_chars(&chars).map_err(|(at, message)| (chars[..at].iter().map(|c| c.len_utf8()).sum(), message))
}

fn scan_chars(chars: &[char]) -> Result<(), (usize, String)> {
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    // Per open bracket: `?` since the last `,`, and other operators since the last `&&`, `||` or `,`.
    let mut levels: Vec<(usize, usize)> = vec![(0, 0)];
    let mut at = 0;
    while at < chars.len() {
        let start = at;
        let level = levels.len() - 1;
        match chars[at] {
            '/' if get(at + 1) == '/' => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
                continue;
            }
            quote @ ('"' | '\'') => {
                if get(at + 1) == quote && get(at + 2) == quote {
                    return Err((start, "when: a string in three quotes is not taken; write \"…\"".into()));
                }
                let prefix = start.checked_sub(1).map(get);
                if prefix.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    return Err((start, "when: a string with a letter before its quote is not taken; write \"…\"".into()));
                }
                at = string(chars, at).ok_or_else(|| (start, "when: this string has no end; outside of a block (when: |) YAML takes what follows a blank and # for a comment".to_owned()))?;
                continue;
            }
            '(' | '[' | '{' => {
                levels[level].1 += 1;
                levels.push((0, 0));
            }
            ')' | ']' | '}' if level > 0 => {
                levels.pop();
            }
            '&' | '|' if get(at + 1) == chars[at] => {
                levels[level].1 = 0;
                at += 1;
            }
            ',' => levels[level] = (0, 0),
            // `a ? b : c` holds all that follows, so no && ends it.
            '?' => levels[level].0 += 1,
            '=' if get(at + 1) == '=' => {
                levels[level].1 += 2;
                at += 1;
            }
            '=' if !start.checked_sub(1).is_some_and(|before| "!<>".contains(get(before))) => {
                return Err((start, "when: = does not compare; write ==".into()));
            }
            '.' | '+' | '-' | '*' | '/' | '%' | '!' | '<' | '>' | '=' => levels[level].1 += 1,
            '`' => return Err((start, "when: ` is not taken; write host.label[\"name\"]".into())),
            _ => {}
        }
        let nested = levels.len() - 1 + levels.iter().map(|(choices, _)| choices).sum::<usize>();
        if nested > MOST_NESTED {
            return Err((start, format!("when: brackets and ? : are more than {MOST_NESTED} deep; split the rule in two")));
        }
        if levels.iter().map(|(_, operators)| operators).sum::<usize>() > MOST_OPERATORS {
            return Err((start, "when: too many operators in a row or inside each other; split the rule in two".into()));
        }
        at += 1;
    }
    Ok(())
}

/// Where the string that begins at `at` has ended.
fn string(chars: &[char], at: usize) -> Option<usize> {
    let quote = chars[at];
    let mut at = at + 1;
    loop {
        match *chars.get(at)? {
            '\n' => return None,
            '\\' => at += 2,
            c if c == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}
