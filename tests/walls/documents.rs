//! Documents name files that exist.

use std::collections::BTreeSet;
use std::path::Path;

/// What a document calls by a name in backticks and is a file or folder of the repository: its name ends in `/` or in a file's ending.
fn named(text: &str) -> BTreeSet<&str> {
    let is_path = |name: &&str| {
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        let is_file = matches!(ending, Some("rs" | "toml" | "md" | "yaml" | "service")) && !name.starts_with(['.', '/', '~']);
        (is_file || (name.ends_with('/') && !name.starts_with('/'))) && !name.contains([' ', '<', '*', '$', ':', '{'])
    };
    text.split('`').skip(1).step_by(2).filter(is_path).collect()
}

/// Names of which no path of the repository ends.
fn missing<'t>(text: &'t str, paths: &[String]) -> Vec<&'t str> {
    let ends = |name: &str| {
        let name = name.trim_end_matches('/');
        paths.iter().any(|path| path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('/')))
    };
    named(text).into_iter().filter(|name| !ends(name)).collect()
}

#[test]
fn architecture_and_readme_name_files_that_exist() {
    let root = crate::root();
    let paths = paths(&root);
    let mut found = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md", "agent/POSTURES.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        found.extend(missing(&text, &paths).into_iter().map(|name| format!("{document}: `{name}`")));
    }
    assert!(found.is_empty(), "no such file: {}", found.join(", "));
}

/// Files and folders of the repository, without what was built.
fn paths(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name == "target" || name == ".git") {
                continue;
            }
            found.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn a_file_that_a_document_names_and_that_is_gone_is_found() {
        let paths = ["orchestrator/src/engine.rs".to_owned(), "orchestrator/src".to_owned()];
        assert_eq!(
            missing("`engine.rs`, `src/engine.rs`, `orchestrator/src/` and `gone.rs`, `ngine.rs`", &paths),
            ["gone.rs", "ngine.rs"]
        );
        assert!(missing("gone.rs is no name in `backticks`, nor is `cargo test gone.rs` or `/etc/x.toml`", &paths).is_empty());
    }
}
