//! Where the verbs print: everything passes here, so that nothing that others wrote can reach the terminal's controls.

use std::io::{self, ErrorKind, Write};
use std::process::exit;

use portcullis_schemas::terminal;

/// Lines on stdout.
pub fn lines(text: &str) -> anyhow::Result<()> {
    print(&terminal::lines(text))
}

/// A JSON document on stdout.
pub fn json(text: &str) -> anyhow::Result<()> {
    print(&terminal::json(text))
}

/// On stderr, for a person.
pub fn note(text: &str) {
    // Nothing is left to say it to.
    let _ = writeln!(io::stderr(), "{}", terminal::lines(text));
}

/// On stderr: what is wrong.
pub fn error(text: &str) {
    note(&format!("portcullis-agent: {text}"));
}

/// What is wrong with the command line, or the help that it asks for. What it quotes may come from elsewhere.
pub fn usage(error: &clap::Error) -> ! {
    let plain = error.render().to_string();
    if terminal::lines(&plain) == plain {
        error.exit();
    }
    note(plain.trim_end());
    exit(error.exit_code())
}

fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        // Whoever read it has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}
