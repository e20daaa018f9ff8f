//! The demo: a detection isolates a real host, and the deadline opens it again. Every claim is a probe.

mod script;
mod stage;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut show = stage::Show { json: false, keep: false };
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => show.json = true,
            "--keep" => show.keep = true,
            other => {
                eprintln!("demo: {other:?} is not known; it takes --json and --keep");
                return ExitCode::from(2);
            }
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("demo: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(script::run(show)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
