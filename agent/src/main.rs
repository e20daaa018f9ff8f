//! The program; everything is in the library.

fn main() -> std::process::ExitCode {
    portcullis_agent::cli::main()
}
