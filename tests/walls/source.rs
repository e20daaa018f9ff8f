//! Rust sources as the walls see them: files, code without comments and tests, and what a file names.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Every `.rs` file under `folder`, sorted, without what was built.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Code with its comments blanked, and its strings and characters as well unless they are kept. Lengths and lines stay.
pub fn blanked(text: &str, keep_strings: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let (length, is_string) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), false)
        } else if let Some(length) = literal(rest, at.checked_sub(1).map(|before| bytes[before])) {
            (length, true)
        } else {
            (0, false)
        };
        if length == 0 {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        if !(is_string && keep_strings) {
            for byte in &mut out[at..at + length] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at += length;
    }
    String::from_utf8(out).unwrap()
}

/// The length of the string or character literal that `rest` begins with.
fn literal(rest: &str, before: Option<u8>) -> Option<usize> {
    let named = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let raw = rest.trim_start_matches('b');
    if !named && rest.len() - raw.len() <= 1 && raw.starts_with('r') {
        let hashes = raw[1..].len() - raw[1..].trim_start_matches('#').len();
        if raw[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = rest.len() - raw.len() + hashes + 2;
            return Some(rest[from..].find(&end).map_or(rest.len(), |found| from + found + end.len()));
        }
    }
    if rest.starts_with('"') {
        return Some(closed(rest, '"'));
    }
    if let Some(inside) = rest.strip_prefix('\'') {
        // A lifetime has no closing quote behind one character.
        let first = inside.chars().next()?;
        if first == '\\' || inside[first.len_utf8()..].starts_with('\'') {
            return Some(closed(rest, '\''));
        }
    }
    None
}

fn closed(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `code` (blanked) without what is compiled for tests only.
pub fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    for tests in tests_only(code) {
        let blank: String = code[tests.clone()].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(tests, &blank);
    }
    out
}

/// Where `code` (blanked) is compiled for tests only.
pub fn tests_only(code: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(test)]").map(|at| from + at) {
        let item = &code[at..];
        let end = match (item.find('{'), item.find(';')) {
            (Some(brace), semicolon) if semicolon.is_none_or(|semicolon| brace < semicolon) => {
                at + brace + balanced(&item[brace..])
            }
            (_, Some(semicolon)) => at + semicolon + 1,
            _ => code.len(),
        };
        found.push(at..end);
        from = end;
    }
    found
}

/// The length of the bracketed text that `code` begins with.
pub fn balanced(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// The modules of a crate by file, and what of them each file names.
#[derive(Debug, Default)]
pub struct Crate {
    /// By file: the path of its module from the root, which is empty.
    pub modules: BTreeMap<PathBuf, Vec<String>>,
    /// Code for the program, without comments, strings and tests.
    pub code: BTreeMap<PathBuf, String>,
}

impl Crate {
    /// Follows `mod` from the root file. Those of tests are followed too, and hold no code.
    pub fn read(root: &Path) -> Self {
        let mut read = Self::default();
        read.follow(root, Vec::new(), false, root.parent().unwrap());
        read
    }

    fn follow(&mut self, file: &Path, module: Vec<String>, is_test: bool, folder: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.modules.insert(file.to_owned(), module.clone());
        let whole = blanked(&text, false);
        let code = without_tests(&whole);
        for declared in declared(&whole, &blanked(&text, true)) {
            let mut inner = module.clone();
            inner.push(declared.name.clone());
            let tests_only = is_test || !code[declared.at..].trim_start().starts_with("mod");
            let paths = match &declared.path {
                Some(path) => vec![file.parent().unwrap().join(path)],
                None => vec![folder.join(format!("{}.rs", declared.name)), folder.join(&declared.name).join("mod.rs")],
            };
            let found = paths.into_iter().find(|path| path.exists());
            let path = found.unwrap_or_else(|| panic!("{}: no file for `mod {}`", file.display(), declared.name));
            let beside = folder.join(&declared.name);
            let below = if declared.path.is_some() { path.parent().unwrap().to_owned() } else { beside };
            self.follow(&path, inner, tests_only, &below);
        }
        self.code.insert(file.to_owned(), if is_test { String::new() } else { code });
    }

    /// Modules that have modules in them, by path from the root, whose path is empty.
    pub fn folders(&self) -> BTreeSet<Vec<String>> {
        self.modules.values().filter_map(|module| module.split_last()).map(|(_, folder)| folder.to_owned()).collect()
    }

    /// The modules in `folder`.
    pub fn modules_in<'a>(&'a self, folder: &'a [String]) -> impl Iterator<Item = &'a String> {
        let inside = self.modules.values().filter_map(move |module| module.strip_prefix(folder));
        inside.filter(|rest| rest.len() == 1).map(|rest| &rest[0])
    }

    /// The modules in `folder` that each module there names, by file-level `use` and by paths within the code.
    pub fn named_in(&self, folder: &[String]) -> BTreeMap<String, BTreeSet<String>> {
        let here: BTreeSet<&String> = self.modules_in(folder).collect();
        let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (file, code) in &self.code {
            let module = &self.modules[file];
            let Some(own) = module.strip_prefix(folder).and_then(|rest| rest.first()) else { continue };
            for path in paths(code) {
                let other = from_root(&path, module);
                let Some(other) = other.strip_prefix(folder).and_then(|rest| rest.first()) else { continue };
                if other != own && here.contains(other) {
                    named.entry(own.clone()).or_default().insert(other.clone());
                }
            }
        }
        named
    }
}

struct Declared {
    name: String,
    path: Option<String>,
    at: usize,
}

/// The `mod name;` of a file.
fn declared(code: &str, with_strings: &str) -> Vec<Declared> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("mod ") {
        let is_word = at == 0 || code[..at].ends_with([' ', '\n', ')']);
        let rest = &code[at + 4..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !is_word || name.is_empty() || !rest[name.len()..].starts_with(';') {
            continue;
        }
        let before = with_strings[..at].trim_end_matches("pub ").trim_end();
        let attribute = before.rsplit('\n').next().unwrap_or_default();
        let path = attribute.trim().strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]"));
        found.push(Declared { name, path: path.map(str::to_owned), at });
    }
    found
}

/// Every path of two names or more in blanked code; those of a `use` tree are written out.
pub fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(offset) = code[at..].find(is_name) {
        at += offset;
        let mut path = Vec::new();
        at += tree(&code[at..], &mut path, &mut found);
    }
    found
}

/// Reads one path or `use` tree, and returns its length.
fn tree(code: &str, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let depth = prefix.len();
    let mut at = 0;
    loop {
        let name: String = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        at += name.len();
        if !name.is_empty() {
            prefix.push(name);
        }
        if let Some(rest) = code[at..].strip_prefix("::") {
            at += 2;
            if rest.starts_with('{') {
                let end = at + balanced(rest);
                at += 1;
                while at < end - 1 {
                    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '*';
                    let Some(skipped) = code[at..end - 1].find(is_name) else { break };
                    at += skipped;
                    at += tree(&code[at..end - 1], prefix, found);
                    // What it is called here is of no matter.
                    at += code[at..end - 1].find(',').unwrap_or(end - 1 - at);
                }
                at = end;
                break;
            }
            if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
        }
        if prefix.len() > 1 {
            found.push(prefix.clone());
        }
        break;
    }
    prefix.truncate(depth);
    at.max(1)
}

/// The path from the root that a path names from within `module`; empty where it is none of this crate.
fn from_root(path: &[String], module: &[String]) -> Vec<String> {
    let mut at = match path.first().map(String::as_str) {
        Some("crate") => Vec::new(),
        Some("self" | "super") => module.to_vec(),
        _ => return Vec::new(),
    };
    for name in path.iter().skip(usize::from(path[0] != "super")) {
        match name.as_str() {
            "super" => drop(at.pop()),
            "self" => {}
            name => at.push(name.to_owned()),
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_no_code() {
        let code = "a // b\n/* c */ d(\"e\\\"f\", r#\"g\"h\"#, 'i', '\\'', 'j) // k";
        let expected = "a     \n        d(      ,         ,    ,     , 'j)     ";
        assert_eq!(blanked(code, false), expected);
        assert_eq!(blanked("x(\"y // z\") // w", true), "x(\"y // z\")     ");
    }

    #[test]
    fn what_is_compiled_for_tests_only_is_left_out() {
        let code = "a();\n#[cfg(test)]\nmod tests {\n fn b() { c(); }\n}\n#[cfg(test)]\nmod fake;\nd();";
        let left = without_tests(code);
        assert!(left.contains("a()") && left.contains("d()") && !left.contains("c()") && !left.contains("fake"), "{left}");
        assert_eq!(left.lines().count(), code.lines().count());
    }

    #[test]
    fn paths_of_a_use_tree_are_written_out() {
        let joined = |code: &str| paths(code).iter().map(|path| path.join("::")).collect::<Vec<_>>();
        assert_eq!(joined("use crate::{a, b::{C, d::E}, f as g};"), ["crate::a", "crate::b::C", "crate::b::d::E", "crate::f"]);
        assert_eq!(joined("let x = super::y::z(&self.w, std::fs::read);"), ["super::y::z", "std::fs::read"]);
        assert_eq!(joined("use a::*; b::C::<d::E>::new()"), ["b::C", "d::E"]);
    }

    #[test]
    fn paths_lead_from_the_root() {
        let whole = |path: &str, module: &[&str]| {
            let path: Vec<String> = path.split("::").map(str::to_owned).collect();
            from_root(&path, &module.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).join("::")
        };
        assert_eq!(whole("crate::a::B", &["x", "y"]), "a::B");
        assert_eq!(whole("super::b::C", &["x"]), "b::C");
        assert_eq!(whole("super::b::C", &["x", "y"]), "x::b::C");
        assert_eq!(whole("super::super::b", &["x", "y"]), "b");
        assert_eq!(whole("self::b", &["x"]), "x::b");
        assert_eq!(whole("std::fs", &["x"]), "");
    }

    #[test]
    fn modules_of_one_folder_that_name_one_another_are_found() {
        let of = |module: &str, code: &str| {
            let path = module.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
            ((PathBuf::from(module), path), (PathBuf::from(module), code.to_owned()))
        };
        let files = [
            of("", "mod a; mod x; crate::a::b::f();"),
            of("a", "mod b; mod c; use b::B;"),
            of("a::b", "use super::c::C;"),
            of("a::c", "use crate::a::b; crate::x::f();"),
            of("x", ""),
        ];
        let (modules, code) = files.into_iter().unzip();
        let read = Crate { modules, code };
        let named = |folder: &[&str]| {
            let folder: Vec<String> = folder.iter().map(|name| (*name).to_owned()).collect();
            let named = read.named_in(&folder).into_iter();
            named.map(|(from, to)| format!("{from}: {}", to.into_iter().collect::<Vec<_>>().join(" "))).collect::<Vec<_>>()
        };
        assert_eq!(named(&[]), ["a: x"]);
        assert_eq!(named(&["a"]), ["b: c", "c: b"]);
        assert_eq!(read.folders().len(), 2);
    }
}
