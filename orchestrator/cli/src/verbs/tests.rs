//! The verbs against a client without a broker.

mod act;
mod pages;
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

/// What a person reads first: what to act on, why, for how long, how long to wait; then the output, and the connection last.
#[test]
fn help_names_the_connection_last_and_a_missing_host_by_its_name() {
    let help = |verb: &str| {
        let error = Line::try_parse_from(["portcullis", verb, "--help"]).err().expect("help ends it");
        error.to_string()
    };
    let order = [
        "<HOST>",
        "--reason",
        "--operator",
        "--incident",
        "--ticket",
        "--for",
        "--override-protected",
        "--wait",
        "--no-wait",
        "Output:",
        "--json",
        "Connection:",
        "--nats",
        "--creds",
        "--prefix",
    ];
    let text = help("isolate");
    let body = text.split_once("Arguments:").map(|(_, body)| body).expect("arguments");
    let places: Vec<Option<usize>> = order.iter().map(|part| body.find(part)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?}\n{text}");
    for verb in ["hosts", "show", "release", "decisions", "tail"] {
        let text = help(verb);
        let tail: Vec<&str> = text.lines().filter(|line| line.ends_with(':') && !line.starts_with(' ')).collect();
        assert_eq!(tail[tail.len() - 2..], ["Output:", "Connection:"], "{text}");
    }
    for (verb, what) in [("isolate", "<HOST>"), ("release", "<HOST>"), ("show", "<HOST|DETECTION>")] {
        let error = Line::try_parse_from(["portcullis", "--nats", "nats://a:1", verb]).err().expect("a host is missing");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(&format!("Usage: portcullis {verb} [OPTIONS] {what}")), "{text}");
        assert!(!text.contains("--nats"), "{text}");
    }
}
