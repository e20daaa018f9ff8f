//! Which crate may depend on which, from the manifests as cargo reads them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate of ours, with those of ours that it may build on.
const ROOMS: [(&str, &[&str]); 11] = [
    ("portcullis-schemas", &[]),
    ("portcullis-policy", &["portcullis-schemas"]),
    ("portcullis-core", &["portcullis-policy", "portcullis-schemas"]),
    ("portcullis-bus", &["portcullis-core", "portcullis-schemas"]),
    ("portcullis-cli", &["portcullis-bus", "portcullis-core", "portcullis-policy", "portcullis-schemas"]),
    ("portcullis-orchestrator", &["portcullis-bus", "portcullis-core", "portcullis-policy", "portcullis-schemas"]),
    ("portcullis-dev", &["portcullis-bus", "portcullis-orchestrator", "portcullis-schemas"]),
    ("portcullis", &["portcullis-cli", "portcullis-dev", "portcullis-orchestrator", "portcullis-schemas"]),
    ("portcullis-agent-core", &["portcullis-schemas"]),
    ("portcullis-agent", &["portcullis-agent-core", "portcullis-schemas"]),
    ("portcullis-tests", &["portcullis-bus", "portcullis-core", "portcullis-dev", "portcullis-policy", "portcullis-schemas"]),
];

/// Crates of others that only these of ours build on.
const KEPT: [(&str, &[&str]); 3] = [
    ("async-nats", &["portcullis-bus", "portcullis-agent", "portcullis-tests"]),
    ("axum", &["portcullis-orchestrator"]),
    ("nftables", &["portcullis-agent-core", "portcullis-agent"]),
];

/// Crates of ours that decide, with all that they build on.
const PURE: [(&str, &[&str]); 4] = [
    (
        "portcullis-schemas",
        &[
            "base64",
            "chrono",
            "cloudevents-sdk",
            "hex",
            "ipnet",
            "memchr",
            "schemars",
            "serde",
            "serde_json",
            "serde_path_to_error",
            "sha2",
            "thiserror",
        ],
    ),
    (
        "portcullis-policy",
        &["cel", "chrono", "chrono-tz", "granit-parser", "ipnet", "serde", "serde_json", "strsim", "thiserror"],
    ),
    ("portcullis-core", &["bytes", "chrono", "serde", "serde_json"]),
    ("portcullis-agent-core", &["chrono", "ipnet", "nftables", "serde", "serde_json", "thiserror"]),
];

pub struct Workspace {
    root: PathBuf,
    metadata: Value,
}

impl Workspace {
    pub fn read(root: &Path) -> Self {
        Self { root: root.to_owned(), metadata: metadata(root) }
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        self.metadata["packages"].as_array().unwrap().iter()
    }

    /// Dependencies that break a wall, for people. Those of tests are free.
    pub fn broken_walls(&self) -> Vec<String> {
        let built_on = |package: &Value| {
            let all = package["dependencies"].as_array().unwrap().iter().filter(|on| on["kind"].as_str() != Some("dev"));
            all.map(|on| on["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        self.packages().flat_map(|package| broken(package["name"].as_str().unwrap(), &built_on(package))).collect()
    }

    /// The root file of each library and program, with the folder of its crate.
    pub fn roots(&self) -> Vec<(String, PathBuf)> {
        let is_built = |kind: &str| kind == "lib" || kind == "bin";
        let mut found = Vec::new();
        for package in self.packages() {
            let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
            let room = folder.strip_prefix(&self.root).unwrap().to_string_lossy().into_owned();
            for target in package["targets"].as_array().unwrap() {
                if is_built(target["kind"][0].as_str().unwrap()) {
                    found.push((room.clone(), PathBuf::from(target["src_path"].as_str().unwrap())));
                }
            }
        }
        found
    }

    /// The root file of everything that cargo builds.
    pub fn targets(&self) -> Vec<PathBuf> {
        let targets = self.packages().flat_map(|package| package["targets"].as_array().unwrap());
        targets.map(|target| PathBuf::from(target["src_path"].as_str().unwrap())).collect()
    }
}

/// The manifests of this workspace as cargo reads them, without asking a network.
fn metadata(root: &Path) -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--offline", "--locked", "--no-deps"]).current_dir(root);
    let out = cargo.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn broken(name: &str, built_on: &[String]) -> Vec<String> {
    let Some((_, may)) = ROOMS.iter().find(|(room, _)| *room == name) else {
        return vec![format!("{name}: no room of this name is known here")];
    };
    let ours = built_on.iter().filter(|on| on.starts_with("portcullis")).filter(|on| !may.contains(&on.as_str()));
    let mut found: Vec<String> = ours.map(|on| format!("{name} builds on {on}, which is not below it")).collect();
    for on in built_on {
        if KEPT.iter().any(|(kept, rooms)| kept == on && !rooms.contains(&name)) {
            found.push(format!("{name} builds on {on}, which other rooms keep to themselves"));
        }
        let pure = PURE.iter().find(|(room, _)| *room == name);
        if pure.is_some_and(|(_, all)| !all.contains(&on.as_str())) && !on.starts_with("portcullis") {
            found.push(format!("{name} decides, and builds on {on}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::broken;

    #[test]
    fn a_dependency_that_breaks_a_wall_is_found() {
        for (name, on) in [
            ("portcullis-agent", "portcullis-bus"),
            ("portcullis-orchestrator", "portcullis-cli"),
            ("portcullis-orchestrator", "portcullis-dev"),
            ("portcullis-cli", "async-nats"),
            ("portcullis-core", "tokio"),
            ("portcullis-new", "serde"),
        ] {
            assert_eq!(broken(name, &[on.to_owned()]).len(), 1, "{name} {on}");
        }
        assert!(broken("portcullis-bus", &["async-nats".to_owned(), "portcullis-core".to_owned()]).is_empty());
    }
}
