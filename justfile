# The recipes of this workspace.

[private]
default:
    @{{just_executable()}} --list --unsorted

# What CI runs: style, crates of others, every test, the demo, lints, documents
check:
    ./.ci/run

# Known vulnerabilities of crates; needs cargo-deny, and github.com for the database
advisories:
    cargo deny check advisories

# Install what is missing and run every test; arguments go to `cargo test`
test *ARGS:
    ./deploy/test {{ARGS}}

# A detection isolates a real host, and the deadline opens it again
demo *ARGS:
    ./deploy/demo {{ARGS}}

# Build for release and run a bench: `just bench latency`, with --json for figures
bench NAME *ARGS:
    #!/usr/bin/env bash
    . ./deploy/prepare
    stage build
    # As one workspace, so that both find the same features and nothing is built twice.
    cargo build --quiet --release --locked --workspace --bins --bench {{NAME}}
    stage ""
    exec cargo bench --quiet --locked --workspace --bench {{NAME}} -- {{ARGS}}
