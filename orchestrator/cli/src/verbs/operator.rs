//! Who asks: the principal in the subject of a request.

use std::os::unix::fs::MetadataExt;

use portcullis_schemas::subjects::is_token;

use crate::failure::Failure;

/// What was given, or the login name. What was given is not bent: the broker's permissions know it in one spelling.
pub fn principal(given: Option<&str>) -> Result<String, Failure> {
    match given {
        Some(given) if is_token(given) => Ok(given.to_owned()),
        Some(given) => Err(Failure::Usage {
            problem: format!("--operator {given:?} cannot stand in a subject"),
            hint: "write up to 128 printable ASCII characters without white space, '.', '*' and '>'".into(),
        }),
        None => Ok(sanitised(&login())),
    }
}

/// A name as one token of a subject.
pub fn sanitised(name: &str) -> String {
    let fits = |c: char| if c.is_ascii_graphic() && !matches!(c, '.' | '*' | '>') { c } else { '-' };
    let token: String = name.chars().map(fits).take(128).collect();
    if is_token(&token) { token } else { "operator".into() }
}

/// The person behind `sudo` first, then who logged in, then whose process this is.
fn login() -> String {
    let named = ["SUDO_USER", "LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
    named.unwrap_or_else(|| {
        let uid = std::fs::metadata("/proc/self").map(|me| me.uid().to_string()).unwrap_or_default();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mine = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let mine = mine
            .filter(|parts| parts.get(2) == Some(&uid.as_str()))
            .find_map(|parts| parts.first().map(|name| (*name).to_owned()));
        mine.unwrap_or_else(|| format!("uid-{uid}"))
    })
}
