//! Golden incidents: stories as data. What comes in stands at the margin, what the orchestrator makes of it is indented below.
//!
//! Each file in `stories/` is a page to read: prose, a policy, and the story. The machine of orchestrator/core plays it on a broker in memory, with a
//! clock that is set, and with agents that take each order at once. `PORTCULLIS_UPDATE=1` writes what came out into the files.

// A test may panic: that is how it fails.
#![allow(clippy::unwrap_used)]

mod broker;
mod input;
mod page;
mod stage;
mod tell;

use std::path::PathBuf;

use page::Page;
use stage::Stage;

const STORIES: [&str; 6] = ["false-positive", "storm", "night", "two-people", "takeover", "cool-down"];

#[test]
fn each_story_goes_as_it_is_written() {
    let update = std::env::var_os("PORTCULLIS_UPDATE").is_some();
    for name in STORIES {
        let path = folder().join(format!("{name}.md"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let page = Page::read(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut stage = Stage::new(&page.policy).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut told: Vec<(String, Vec<String>)> = Vec::new();
        for line in &page.lines {
            let (meanwhile, then) = stage.play(line).unwrap_or_else(|error| panic!("{name}: {line}: {error}"));
            told.iter_mut().last().into_iter().for_each(|(_, news)| news.extend(meanwhile.clone()));
            told.push((line.clone(), then));
        }
        assert_eq!(stage.differences(), Vec::<String>::new(), "{name}: the story, decided again from its logs");
        let is = page.with(&told);
        if update {
            std::fs::write(&path, is).unwrap();
        } else if is != text {
            panic!("{name} goes otherwise than it is written:\n{}", difference(&text, &is));
        }
    }
}

#[test]
fn every_story_is_played() {
    let mut found: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut played = STORIES.map(str::to_owned).to_vec();
    played.sort();
    assert_eq!(found, played);
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/stories")
}

/// The lines around the first one that differs.
fn difference(was: &str, is: &str) -> String {
    let at = was.lines().zip(is.lines()).take_while(|(was, is)| was == is).count();
    let some = |text: &str| text.lines().skip(at.saturating_sub(3)).take(12).collect::<Vec<_>>().join("\n");
    format!("--- written, around line {}\n{}\n--- played\n{}", at + 1, some(was), some(is))
}
