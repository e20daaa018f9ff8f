//! The verbs against a client without a broker.

mod act;
mod reports;

use clap::Parser;

use super::{Verb, run};
use crate::failure::Exit;
use crate::fake::Fake;
use crate::screen::Screen;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    global: crate::Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Exit code, stdout and stderr of one command line.
async fn said(client: &Fake, line: &str) -> (Exit, String, String) {
    let parsed = Line::try_parse_from(["portcullis"].into_iter().chain(line.split(' '))).expect(line);
    let (mut screen, out, err) = Screen::kept(parsed.global.json);
    let exit = run(parsed.verb, client, &mut screen).await.unwrap_or_else(|failure| screen.failure(&failure));
    (exit, out.text(), err.text())
}

#[test]
fn the_command_line_is_sound() {
    use clap::CommandFactory;
    Line::command().debug_assert();
    for wrong in [
        "isolate web1 --for 8",
        "isolate web1 --for forever",
        "isolate",
        "isolate web1 --wait 3s --no-wait",
        "decisions --limit 0",
        "hosts --prefix A.B",
    ] {
        let error = Line::try_parse_from(["portcullis"].into_iter().chain(wrong.split(' '))).err().expect(wrong);
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()));
    }
    let line = Line::try_parse_from(["portcullis", "hosts", "--json", "--prefix", "site2"]).expect("valid");
    assert!(line.global.json && line.global.prefix.as_str() == "site2" && matches!(line.verb, Verb::Hosts(_)));
}
