//! What the demo shows: what happened when, and what each probe said.

use serde::Serialize;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Show {
    pub json: bool,
    pub keep: bool,
}

/// The story as it happens.
pub struct Stage {
    show: Show,
    began: Instant,
    pub figures: Figures,
}

#[derive(Debug, Default, Serialize)]
pub struct Figures {
    pub ok: bool,
    pub stages_s: Vec<(String, f64)>,
    pub probes: Vec<Probe>,
    pub detection_to_order_ms: f64,
    pub detection_to_enforced_ms: f64,
    pub release_late_ms: f64,
    pub deadline_to_open_ms: f64,
}

#[derive(Debug, Serialize)]
pub struct Probe {
    pub phase: &'static str,
    pub probe: String,
    pub expected: bool,
    pub passes: bool,
}

impl Stage {
    pub fn new(show: Show) -> Self {
        Self { show, began: Instant::now(), figures: Figures { ok: true, ..Figures::default() } }
    }

    pub fn keeps(&self) -> bool {
        self.show.keep
    }

    /// Ends a stage of the story.
    pub fn stage(&mut self, name: &str, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        self.figures.stages_s.push((name.to_owned(), (seconds * 1000.0).round() / 1000.0));
        self.say(&format!("({name} took {seconds:.2} s)\n"));
    }

    pub fn title(&self, text: &str) {
        self.say(&format!("== {text}"));
    }

    pub fn say(&self, text: &str) {
        if !self.show.json {
            println!("{:8.3} s  {text}", self.began.elapsed().as_secs_f64());
        }
    }

    /// Notes what a probe said and what it should say.
    pub fn probe(&mut self, phase: &'static str, probe: &str, expected: bool, passes: bool) {
        let word = |passes| if passes { "passes" } else { "nothing passes" };
        let mark = if expected == passes { "ok  " } else { "FAIL" };
        let note = if expected == passes { String::new() } else { format!(", expected: {}", word(expected)) };
        self.say(&format!("{mark} {probe:<58} {}{note}", word(passes)));
        self.figures.ok &= expected == passes;
        self.figures.probes.push(Probe { phase, probe: probe.to_owned(), expected, passes });
    }

    pub fn end(&self) -> anyhow::Result<bool> {
        if self.show.json {
            println!("{}", serde_json::to_string_pretty(&self.figures)?);
        } else {
            let wrong = self.figures.probes.iter().filter(|probe| probe.expected != probe.passes).count();
            println!("\n{} probes, {wrong} wrong", self.figures.probes.len());
        }
        Ok(self.figures.ok)
    }
}
