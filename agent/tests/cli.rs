//! The program from outside: what works without an agent, a broker or root's network.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use portcullis_agent::disk::posture_file::{CopyName, PostureFile};
use portcullis_agent_core::deadline::{Mark, Now};
use portcullis_agent_core::record::{Record, Trace, VERSION};
use portcullis_schemas::events::Posture;
use serde_json::Value;

const ORDER: &str = r#"{
    "host": "h1", "generation": 3, "posture": "isolated", "when_unreachable": "release", "local_release": "root",
    "holds": [{ "origin": "manual", "causes": [], "generation": 3, "since": "2026-01-01T00:00:00Z" }],
    "exclusions": [{ "name": "jump", "direction": "in", "protocol": "tcp", "remote": { "cidrs": ["10.0.5.10/32"] }, "local_ports": [22] }],
    "incident": "i1", "issued_at": "2026-01-01T00:00:00Z", "reason": "test", "settled": [],
    "issued_by": { "type": "request", "token": "ann", "source": "/cli", "id": "1" },
    "prev": "0000000000000000000000000000000000000000000000000000000000000000"
}"#;

#[test]
fn status_without_an_agent_says_so_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let output = agent(&["status", "--json", "--host-id", "h1"], directory.path(), "");
    assert_eq!(output.status.code(), Some(1));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["running"], &status["posture"], &status["generation"]), (&false.into(), &"open".into(), &0.into()));
    assert!(text(&output.stderr).contains("is not running"));
}

#[test]
fn exclusions_of_an_open_host_exit_with_4() {
    let directory = tempfile::tempdir().unwrap();
    let output = agent(&["exclusions", "--host-id", "h1"], directory.path(), "");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(4), "This host is open: everything passes.\n".to_owned()));
}

#[test]
fn release_without_an_agent_fails_with_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let output = agent(&["release", "--host-id", "h1"], directory.path(), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no agent is running with"), "{output:?}");
}

#[test]
fn render_prints_the_same_rules_for_bare_data_and_for_an_event() {
    let bare = agent(&["render"], Path::new("/nonexistent"), ORDER);
    assert!(bare.status.success(), "{bare:?}");
    let rules: Value = serde_json::from_slice(&bare.stdout).unwrap();
    assert!(rules["nftables"].as_array().is_some_and(|list| list.len() > 10));
    assert!(text(&bare.stdout).contains("10.0.5.10"));
    let event = format!(r#"{{"specversion":"1.0","id":"1","source":"/x","type":"io.portcullis.order.v1","data":{ORDER}}}"#);
    assert_eq!(agent(&["render", "--order", "-"], Path::new("/nonexistent"), &event).stdout, bare.stdout);
}

#[test]
fn render_takes_a_state_dir_and_finds_a_brokers_name_there() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("brokers.json"), r#"[{"name":"broker.example:4222","addresses":["10.9.9.9:4222"]}]"#)
        .unwrap();
    let state_dir = directory.path().to_str().unwrap();
    let arguments = ["render", "--state-dir", state_dir, "--nats", "nats://broker.example:4222"];
    let output = agent(&arguments, Path::new("/nonexistent"), ORDER);
    assert!(output.status.success() && text(&output.stdout).contains("10.9.9.9"), "{output:?}");
}

#[test]
fn render_refuses_what_is_no_order() {
    for input in ["", "{}", "[1]", &ORDER.replace("\"generation\": 3, \"posture\"", "\"generation\": 0, \"posture\"")] {
        let output = agent(&["render"], Path::new("/nonexistent"), input);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{input:?}");
        assert!(text(&output.stderr).contains("holds no order"), "{output:?}");
    }
}

#[test]
fn restore_makes_no_directory() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("state");
    let output = agent(&["restore", "--host-id", "h1"], &nowhere, "");
    assert!(output.status.success() && !nowhere.exists(), "{output:?}");
}

#[test]
fn restore_says_that_a_copy_is_bad() {
    let directory = tempfile::tempdir().unwrap();
    let now = Now { wall: "2026-01-01T00:00:00Z".parse().unwrap(), broker: None, boot_ms: 0, boot_id: "one".into() };
    let open = Record {
        version: VERSION,
        serial: 1,
        host: "h1".parse().unwrap(),
        generation: 2,
        posture: Posture::Open,
        opened: None,
        order: None,
        trace: Trace::default(),
        frozen: None,
        mark: Mark::start(&now),
    };
    let file = PostureFile::new(directory.path());
    fs::write(file.path(CopyName::A), "rubbish").unwrap();
    file.write(CopyName::B, &open).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let output = agent(&["restore", "--host-id", "h1"], directory.path(), "");
    assert!(output.status.success() && text(&output.stdout).starts_with("open"), "{output:?}");
    assert!(text(&output.stderr).contains("copy a is unreadable"), "{output:?}");
}

#[test]
fn help_shows_no_password_of_the_environment() {
    for verb in ["run", "restore", "render"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis-agent"));
        let output = command.args([verb, "--help"]).env("PORTCULLIS_NATS", "nats://me:secret@x").output().unwrap();
        assert!(output.status.success() && !text(&output.stdout).contains("secret"), "{output:?}");
    }
}

#[test]
fn wrong_flags_are_usage_errors() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        &["run"][..],
        &["run", "--nats", "x", "--host-id", "_x"],
        &["run", "--nats", "x", "--grace", "5"],
        &["restore", "--lock", "no"],
        &["fly"],
    ] {
        assert_eq!(agent(arguments, directory.path(), "").status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn the_lock_is_a_flag_with_a_value() {
    // The wrong level ends it before anything is begun: what is said is about the level if the lock was taken.
    for (lock, about) in [("auto", "--level"), ("off", "--level"), ("on", "--lock")] {
        for verb in [&["run", "--nats", "x"][..], &["restore"]] {
            let arguments = [verb, &["--lock", lock, "--level", "x"]].concat();
            let output = agent(&arguments, Path::new("/nonexistent"), "");
            assert_eq!(output.status.code(), Some(2));
            assert!(text(&output.stderr).contains(&format!("for '{about} ")), "{arguments:?}: {output:?}");
        }
    }
}

fn agent(arguments: &[&str], state_dir: &Path, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis-agent"))
        .args(arguments)
        .env_clear()
        .env("PORTCULLIS_STATE_DIR", state_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Verbs that read nothing may be gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
