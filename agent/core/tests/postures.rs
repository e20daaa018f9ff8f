//! agent/POSTURES.md quotes the rules in snapshots/, all of them and in their order, and no others.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = include_str!("../../POSTURES.md");
const SNAPSHOTS: [(&str, &str); 2] =
    [("full.nft", include_str!("../snapshots/full.nft")), ("control-only.nft", include_str!("../snapshots/control-only.nft"))];

/// Lines of each chain and set, as `chain input`, without what is whitespace only.
type Sections = BTreeMap<String, Vec<String>>;

#[test]
fn the_page_quotes_what_the_kernel_gets() {
    let page = sections("POSTURES.md", &quoted(PAGE));
    let [(full_name, full), (bare_name, bare)] = SNAPSHOTS;
    let (full, bare) = (tables(full_name, full), tables(bare_name, bare));
    let mut wrong = compared(full_name, &full, &page);
    // A set that would be empty is not there, and nothing asks it; everything else is the same.
    wrong.extend(compared(bare_name, &chains(&bare), &asking(&chains(&page), &bare)));
    assert!(wrong.is_empty(), "agent/POSTURES.md and agent/core/snapshots/ differ:\n  {}\n", wrong.join("\n  "));
}

#[test]
fn each_kind_of_difference_is_named() {
    let snapshot =
        sections("s", "table inet t {\n\tchain a {\n\t\tone 1\n\t\ttwo 2\n\t\ttwo 2\n\t}\n\tset b {\n\t\ttype x\n\t}\n}");
    let page = |text: &str| compared("s", &snapshot, &sections("POSTURES.md", text));
    assert_eq!(page("chain a {\none   1\n}\nset b {\ntype x\n}\nchain a {\n  two 2\n\n two 2\n}"), [""; 0]);
    assert_eq!(
        page("chain a {\none 1\ntwo 3\n}"),
        [
            "chain a: `two 2` stands in s 2 time(s) and in POSTURES.md 0 time(s)",
            "chain a: `two 3` stands in s 0 time(s) and in POSTURES.md 1 time(s)",
            "set b: `type x` stands in s 1 time(s) and in POSTURES.md 0 time(s)",
        ]
    );
    let swapped = page("chain a {\ntwo 2\none 1\ntwo 2\n}\nset b {\ntype x\n}");
    assert_eq!(swapped, ["chain a: in s `one 1` stands where POSTURES.md has `two 2`"]);
    let elsewhere = page("chain a {\none 1\ntwo 2\ntwo 2\n}\nset b {\ntype x\n}\nchain c {\none 1\n}");
    assert_eq!(elsewhere, ["chain c: `one 1` stands in s 0 time(s) and in POSTURES.md 1 time(s)"]);
}

/// The lines of all fenced nft blocks.
fn quoted(page: &str) -> String {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.trim() {
            "```nft" => inside = true,
            "```" => inside = false,
            _ if inside => lines.push(line),
            _ => {}
        }
    }
    assert!(!inside, "POSTURES.md has an nft block without an end");
    lines.join("\n")
}

/// The sections of all tables of a snapshot. Sets of one name hold the same in each.
fn tables(name: &str, text: &str) -> Sections {
    let mut all = Sections::new();
    for table in text.split_inclusive("\n}\n") {
        for (section, lines) in sections(name, table) {
            if let Some(before) = all.get(&section) {
                assert_eq!(*before, lines, "{name}: {section} differs between the tables");
            }
            all.insert(section, lines);
        }
    }
    all
}

fn sections(name: &str, text: &str) -> Sections {
    let mut found = Sections::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let opened =
            line.strip_suffix(" {").filter(|head| ["table ", "chain ", "set "].iter().any(|kind| head.starts_with(kind)));
        match (&current, opened) {
            _ if line.is_empty() => {}
            (None, Some(head)) if head.starts_with("table ") => {}
            (None, Some(head)) => current = Some(head.to_owned()),
            (None, None) => assert_eq!(line, "}", "{name}: this line stands outside of a chain and of a set"),
            (Some(_), None) if line == "}" => current = None,
            (Some(_), None) => found.entry(current.clone().unwrap()).or_default().push(line),
            (Some(section), Some(head)) => panic!("{name}: {section} has no end before {head}"),
        }
    }
    assert_eq!(current, None, "{name}: this has no end");
    found
}

fn chains(all: &Sections) -> Sections {
    all.iter().filter(|(name, _)| name.starts_with("chain ")).map(|(name, lines)| (name.clone(), lines.clone())).collect()
}

/// Without the rules that ask a set that is not in `sets`.
fn asking(all: &Sections, sets: &Sections) -> Sections {
    let stands = |line: &&String| {
        let set = line.split_once('@').and_then(|(_, rest)| rest.split_whitespace().next());
        set.is_none_or(|set| ["ll,", "th,"].iter().any(|raw| set.starts_with(raw)) || sets.contains_key(&format!("set {set}")))
    };
    all.iter().map(|(name, lines)| (name.clone(), lines.iter().filter(stands).cloned().collect())).collect()
}

fn compared(snapshot: &str, expected: &Sections, page: &Sections) -> Vec<String> {
    let mut wrong = Vec::new();
    let names: BTreeSet<&String> = expected.keys().chain(page.keys()).collect();
    for name in names {
        let none = Vec::new();
        let (wanted, written) = (expected.get(name).unwrap_or(&none), page.get(name).unwrap_or(&none));
        let before = wrong.len();
        let mut told = Vec::new();
        for line in wanted.iter().chain(written) {
            let count = |lines: &[String]| lines.iter().filter(|other| *other == line).count();
            let (there, here) = (count(wanted), count(written));
            if there != here && !told.contains(&line) {
                wrong.push(format!("{name}: `{line}` stands in {snapshot} {there} time(s) and in POSTURES.md {here} time(s)"));
                told.push(line);
            }
        }
        if wrong.len() > before {
            continue;
        }
        if let Some((a, b)) = wanted.iter().zip(written).find(|(a, b)| a != b) {
            wrong.push(format!("{name}: in {snapshot} `{a}` stands where POSTURES.md has `{b}`"));
        }
    }
    wrong
}
