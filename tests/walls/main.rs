//! The walls between rooms: which crate, folder and file may name what, and which words logs and errors do without.

// A test may panic: that is how it fails.
#![allow(clippy::unwrap_used)]

mod crates;
mod documents;
mod source;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crates::Workspace;
use source::{Crate, blanked, files};
use words::Reach;

/// Rooms that decide: same input, same time, same answer.
const PURE: [&str; 4] = ["schemas", "orchestrator/policy", "orchestrator/core", "agent/core"];
/// What a room that decides never names. Random numbers, sockets and processes are beyond its dependencies or in `clippy.toml`.
const IMPURE: [&str; 9] =
    ["tokio", "async_nats", "std::fs", "std::env", "std::process", "std::thread", "SystemTime::now", "Instant::now", "Utc::now"];
/// Rooms with texts for operators, and which of them are judged.
const PRODUCT: [(&str, Reach); 3] = [("schemas", Reach::All), ("orchestrator", Reach::All), ("agent", Reach::Logs)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn each_crate_depends_on_the_rooms_below_it_alone() {
    let found = Workspace::read(&root()).broken_walls();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn rooms_that_decide_name_no_clock_runtime_or_file() {
    let mut found = Vec::new();
    for room in PURE {
        let read = Crate::read(&root().join(room).join("src/lib.rs"));
        for (file, code) in &read.code {
            found.extend(impure(code).into_iter().map(|named| format!("{}: names {named}", file.display())));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn impure(code: &str) -> Vec<&'static str> {
    let paths: Vec<String> = source::paths(code).iter().map(|path| format!("::{}::", path.join("::"))).collect();
    IMPURE.into_iter().filter(|banned| paths.iter().any(|path| path.contains(&format!("::{banned}::")))).collect()
}

#[test]
fn the_client_library_of_the_broker_is_named_by_the_bus_the_agent_and_tests_alone() {
    let may = ["orchestrator/bus/src", "agent/src", "orchestrator/cli/tests", "agent/tests", "tests"];
    let found: Vec<PathBuf> = files(&root())
        .into_iter()
        .filter(|file| {
            let inside = file.strip_prefix(root()).unwrap();
            !may.iter().any(|room| inside.starts_with(room))
                && source::paths(&blanked(&std::fs::read_to_string(file).unwrap(), false))
                    .iter()
                    .any(|path| path[0] == "async_nats")
        })
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn no_circle_of_files_but_those_that_are_argued_for() {
    let mut found = Vec::new();
    for (room, file) in Workspace::read(&root()).roots() {
        let argued = CIRCLES.iter().filter(|(in_room, ..)| *in_room == room).collect::<Vec<_>>();
        let named = Crate::read(&file).named();
        for circle in circles(&named) {
            if !argued.iter().any(|(_, files, _)| circle.iter().map(String::as_str).eq(files.iter().copied())) {
                found.push(format!("{room}: circle of {}", circle.join(", ")));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Room, files, why.
const CIRCLES: [(&str, &[&str], &str); 2] = [
    (
        "agent",
        &["broker", "control", "doctor", "local"],
        "inputs of the loop are made where they come from; the loop answers with what the doctor finds, which recalls brokers as the start does",
    ),
    ("agent/core", &["ruleset", "verify"], "rules count what gets by, by the names under which it is read back"),
];

#[test]
fn no_folder_names_what_lies_above_it() {
    let mut found = Vec::new();
    for (room, file) in Workspace::read(&root()).roots() {
        found.extend(raised(&room, &Crate::read(&file).named()));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Room, file or folder, and what it never names.
const ABOVE: [(&str, &str, &[&str]); 10] = [
    ("orchestrator", "intake", &["commit", "engine", "http", "policy_file", "schedule", "serve"]),
    ("orchestrator", "commit", &["engine", "http", "intake", "policy_file", "schedule", "serve"]),
    ("orchestrator", "schedule", &["commit", "engine", "http", "intake", "policy_file", "serve"]),
    ("orchestrator", "http", &["commit", "engine", "intake", "schedule", "serve"]),
    ("orchestrator", "engine", &["http", "serve"]),
    ("orchestrator/cli", "client", &["broker", "verbs"]),
    ("orchestrator/cli", "verbs", &["broker"]),
    ("agent", "sockets", &["broker", "cli", "control", "disk", "doctor", "firewall", "host", "local", "watch"]),
    ("agent", "watch", &["broker", "cli", "control", "disk", "doctor", "firewall", "local"]),
    ("agent", "firewall", &["broker", "cli", "control", "disk", "doctor", "local"]),
];

fn raised(room: &str, named: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (_, folder, above) in ABOVE.iter().filter(|(in_room, ..)| *in_room == room) {
        let names = named.get(*folder).into_iter().flatten().filter(|name| above.contains(&name.as_str()));
        found.extend(names.map(|name| format!("{room}: {folder} names {name}, which lies above it")));
    }
    found
}

/// Sets of modules each of which leads to every other one of its set.
fn circles(named: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached = |from: &String| {
        let mut reached = BTreeSet::new();
        let mut to_do: Vec<&String> = named.get(from).into_iter().flatten().collect();
        while let Some(next) = to_do.pop() {
            if reached.insert(next.clone()) {
                to_do.extend(named.get(next).into_iter().flatten());
            }
        }
        reached
    };
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for from in named.keys().filter(|from| reached(from).contains(*from)) {
        found.insert(
            named.keys().filter(|other| reached(from).contains(*other) && reached(other).contains(from)).cloned().collect(),
        );
    }
    found.into_iter().collect()
}

#[test]
fn every_source_file_is_included() {
    let mut included = BTreeSet::new();
    for file in Workspace::read(&root()).targets() {
        included.extend(Crate::read(&file).modules.into_keys().map(|file| file.canonicalize().unwrap()));
    }
    let found: Vec<PathBuf> =
        files(&root()).into_iter().filter(|file| !included.contains(&file.canonicalize().unwrap())).collect();
    assert!(found.is_empty(), "no `mod` includes {found:?}");
}

#[test]
fn texts_for_operators_speak_in_the_words_of_the_field() {
    let mut found = Vec::new();
    for (room, reach) in PRODUCT {
        for file in files(&root().join(room)) {
            let inside = file.strip_prefix(root()).unwrap();
            if !inside.components().any(|part| part.as_os_str() == "tests") && !inside.ends_with("tests.rs") {
                found.extend(words::complaints(inside, &std::fs::read_to_string(&file).unwrap(), reach));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{circles, impure, raised};

    #[test]
    fn what_a_room_that_decides_must_not_name_is_found() {
        for (code, named) in [
            ("use tokio::time;", "tokio"),
            ("fn f() { std::fs::read(x); }", "std::fs"),
            ("use std::{fmt, env::var};", "std::env"),
            ("let now = chrono::Utc::now();", "Utc::now"),
            ("let now = Instant::now();", "Instant::now"),
        ] {
            assert_eq!(impure(code), [named], "{code}");
        }
        assert_eq!(impure("use std::fmt; fn now(clock: Clock) { clock::now(); envelope::fs() }"), [""; 0]);
    }

    #[test]
    fn a_folder_that_names_what_lies_above_it_is_found() {
        let named = BTreeMap::from([("commit".to_owned(), BTreeSet::from(["engine".to_owned(), "metrics".to_owned()]))]);
        assert_eq!(raised("orchestrator", &named), ["orchestrator: commit names engine, which lies above it"]);
        assert!(raised("agent", &named).is_empty());
    }

    #[test]
    fn circles_are_found_whole_and_once() {
        let named = |pairs: &[(&str, &str)]| {
            let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (from, to) in pairs {
                named.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            named
        };
        assert_eq!(circles(&named(&[("a", "b"), ("b", "c"), ("a", "c")])), Vec::<Vec<String>>::new());
        assert_eq!(circles(&named(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")])), [["a", "b", "c"]]);
    }
}
