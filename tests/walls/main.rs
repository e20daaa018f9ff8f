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

/// Rooms that decide: same input, same time, same answer.
const PURE: [&str; 4] = ["schemas", "orchestrator/policy", "orchestrator/core", "agent/core"];
/// What a room that decides never names. Random numbers, sockets and processes are beyond its dependencies or in `clippy.toml`.
const IMPURE: [&str; 9] =
    ["tokio", "async_nats", "std::fs", "std::env", "std::process", "std::thread", "SystemTime::now", "Instant::now", "Utc::now"];
/// Rooms with texts for operators.
const PRODUCT: [&str; 3] = ["schemas", "orchestrator", "agent"];

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
fn no_circle_of_files() {
    let mut found = Vec::new();
    for (room, file) in Workspace::read(&root()).roots() {
        let read = Crate::read(&file);
        for folder in read.folders() {
            for circle in circles(&read.named_in(&folder)) {
                let place = [vec![room.clone()], folder.clone()].concat().join("/");
                found.push(format!("{place}: circle of {}", circle.join(", ")));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_folder_names_what_lies_above_it() {
    let mut found = Vec::new();
    for (room, file) in Workspace::read(&root()).roots() {
        found.extend(raised(&room, &Crate::read(&file).named_in(&[])));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Room, file or folder, and what it never names.
const ABOVE: [(&str, &str, &[&str]); 7] = [
    ("orchestrator", "intake", &["commit", "engine", "http", "policy_file", "schedule", "serve"]),
    ("orchestrator", "commit", &["engine", "http", "intake", "policy_file", "schedule", "serve"]),
    ("orchestrator", "schedule", &["commit", "engine", "http", "intake", "policy_file", "serve"]),
    ("orchestrator", "http", &["commit", "engine", "intake", "schedule", "serve"]),
    ("orchestrator", "engine", &["http", "serve"]),
    ("orchestrator/cli", "client", &["broker", "verbs"]),
    ("orchestrator/cli", "verbs", &["broker"]),
];

fn raised(room: &str, named: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (_, folder, above) in ABOVE.iter().filter(|(in_room, ..)| *in_room == room) {
        let names = named.get(*folder).into_iter().flatten().filter(|name| above.contains(&name.as_str()));
        found.extend(names.map(|name| format!("{room}: {folder} names {name}, which lies above it")));
    }
    found
}

#[test]
fn each_folder_of_the_agent_names_what_it_builds_on_alone() {
    let found = beyond(&BELOW, &Crate::read(&root().join("agent/src/lib.rs")));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A folder of the agent's shell, and all that it names of the others.
const BELOW: [(&str, &[&str]); 13] = [
    ("netlink", &[]),
    ("parallel", &[]),
    ("failpoint", &[]),
    ("sockets", &["netlink"]),
    ("host", &["netlink", "sockets"]),
    ("watch", &["host", "netlink"]),
    ("firewall", &["failpoint", "host", "netlink", "parallel", "sockets", "watch"]),
    ("disk", &["failpoint", "parallel"]),
    ("broker", &["host", "sockets"]),
    ("local", &[]),
    ("control", &["broker", "disk", "failpoint", "firewall", "host", "local", "parallel", "sockets", "watch"]),
    ("doctor", &["broker", "disk", "firewall", "host", "local", "netlink", "sockets", "watch"]),
    ("cli", &["broker", "control", "disk", "doctor", "host", "local", "watch"]),
];

/// What is named beyond `below`, and what in it is not true any more.
fn beyond(below: &[(&str, &[&str])], read: &Crate) -> Vec<String> {
    let named = read.named_in(&[]);
    let mut found = Vec::new();
    for folder in read.modules_in(&[]) {
        let Some((_, may)) = below.iter().find(|(name, _)| **name == *folder) else {
            found.push(format!("{folder} has no entry"));
            continue;
        };
        let names: BTreeSet<&str> = named.get(folder).into_iter().flatten().map(String::as_str).collect();
        let may: BTreeSet<&str> = may.iter().copied().collect();
        found.extend(names.difference(&may).map(|other| format!("{folder} names {other}, on which it does not build")));
        found.extend(may.difference(&names).map(|other| format!("{folder} does not name {other}: take it out")));
    }
    let is_there = |name: &&str| read.modules_in(&[]).any(|folder| folder == name);
    found.extend(below.iter().map(|(name, _)| *name).filter(|name| !is_there(name)).map(|name| format!("{name} is no folder")));
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
    for room in PRODUCT {
        for file in files(&root().join(room)) {
            let inside = file.strip_prefix(root()).unwrap();
            if !inside.components().any(|part| part.as_os_str() == "tests") && !inside.ends_with("tests.rs") {
                found.extend(words::complaints(inside, &std::fs::read_to_string(&file).unwrap()));
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
