//! Licences and doubled versions of what the programs are built from, from the manifests as cargo has them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::crates::metadata;

/// Licences under which crates of others may be linked into a program under Apache-2.0.
const ALLOWED: [&str; 9] =
    ["Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense", "Zlib"];

/// Crates whose manifest names no licence, with what their licence file holds.
const NAMED_ELSEWHERE: [(&str, &str); 1] = [("cloudevents-sdk", "Apache-2.0")];

/// Crates that stand in the tree in several versions, since crates of others disagree.
const DOUBLED: [&str; 11] = [
    "bit-set",
    "bit-vec",
    "cpufeatures",
    "getrandom",
    "hashbrown",
    "rand",
    "rand_chacha",
    "rand_core",
    "strum",
    "strum_macros",
    "syn",
];

fn packages() -> Vec<Value> {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let mut metadata = metadata(&root, &["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let used: BTreeSet<String> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect();
    let Value::Array(packages) = metadata["packages"].take() else { panic!("cargo names no packages") };
    packages.into_iter().filter(|package| used.contains(package["id"].as_str().unwrap())).collect()
}

#[test]
fn every_crate_has_a_licence_that_may_be_linked() {
    let mut found = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let elsewhere = NAMED_ELSEWHERE.iter().find(|(known, _)| *known == name).map(|(_, licence)| *licence);
        let licence = package["license"].as_str().or(elsewhere).unwrap_or("none named");
        if !allows(licence) {
            found.push(format!("{name}: {licence}"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_crate_is_in_the_tree_twice_but_those_that_are_known() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let version = package["version"].as_str().unwrap().to_owned();
        versions.entry(package["name"].as_str().unwrap().to_owned()).or_default().insert(version);
    }
    let doubled: Vec<&String> = versions.iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| name).collect();
    assert_eq!(
        doubled, DOUBLED,
        "a crate that is new here: take the version that is in the tree already, or argue for two; one that is gone: strike it"
    );
}

/// Whether a licence expression can be met. `AND` binds closer than `OR`; exceptions only add rights.
fn allows(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at) && at == words.len()
}

fn either(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = both(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        allowed |= both(words, at);
    }
    allowed
}

fn both(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        allowed &= one(words, at);
    }
    allowed
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let allowed = either(words, at);
        *at += 1;
        return allowed;
    }
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    ALLOWED.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn a_licence_that_may_not_be_linked_is_found() {
        for licence in
            ["GPL-3.0-only", "MIT AND GPL-2.0", "(MIT OR ISC) AND MPL-2.0", "", "none named", "MIT OR", "BUSL-1.1 OR GPL-2.0"]
        {
            assert!(!allows(licence), "{licence}");
        }
        for licence in [
            "MIT",
            "GPL-2.0 OR MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
        ] {
            assert!(allows(licence), "{licence}");
        }
    }
}
