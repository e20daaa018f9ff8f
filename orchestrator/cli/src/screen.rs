//! Where verbs print: everything passes here, so that no event can reach the terminal's controls.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex};

use clap::builder::styling::{AnsiColor, Style};
use portcullis_schemas::terminal::{self, clean};
use serde::Serialize;
use serde_json::json;

use crate::failure::{Exit, Failure};

pub struct Screen {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    json: bool,
    colour: bool,
    progress: bool,
}

/// How a piece of text looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
}

pub type Cell = (Paint, String);

pub fn plain(text: impl Into<String>) -> Cell {
    (Paint::Plain, text.into())
}

impl Screen {
    pub fn standard(json: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: !json && !no_colour && io::stdout().is_terminal(),
            progress: !json && io::stderr().is_terminal(),
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            json,
        }
    }

    /// A screen that keeps what is printed: stdout first, then stderr.
    pub fn kept(json: bool) -> (Self, Kept, Kept) {
        let (out, err) = (Kept::default(), Kept::default());
        (Self { out: Box::new(out.clone()), err: Box::new(err.clone()), json, colour: false, progress: true }, out, err)
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.cells(&[plain(text)])
    }

    /// One line of pieces, as they stand.
    pub fn cells(&mut self, cells: &[Cell]) -> Result<(), Failure> {
        let mut line = String::new();
        for (paint, text) in cells {
            let (style, text) = (if self.colour { paint.style() } else { Style::new() }, clean(text));
            line.push_str(&format!("{style}{text}{style:#}"));
        }
        writeln!(self.out, "{}", line.trim_end()).map_err(printing)
    }

    /// Columns as wide as their widest cell; the last one is left as it is.
    pub fn table(&mut self, head: &[&str], rows: Vec<Vec<Cell>>) -> Result<(), Failure> {
        let rows: Vec<Vec<Cell>> =
            rows.into_iter().map(|row| row.into_iter().map(|(paint, text)| (paint, clean(&text))).collect()).collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|(_, text)| text.chars().count());
            cells.chain(head.get(column).map(|title| title.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let titles = head.iter().map(|title| (Paint::Strong, (*title).to_owned())).collect();
        for row in std::iter::once(titles).chain(rows) {
            let last = row.len().saturating_sub(1);
            let padded = |(at, (paint, text)): (usize, Cell)| {
                let gap = if at < last { widths.get(at).copied().unwrap_or(0) + 2 } else { 0 };
                [(paint, text.clone()), plain(" ".repeat(gap.saturating_sub(text.chars().count())))]
            };
            let cells: Vec<Cell> = row.into_iter().enumerate().flat_map(padded).collect();
            self.cells(&cells)?;
        }
        Ok(())
    }

    /// One JSON document.
    pub fn document(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| printing(error.into()))?;
        writeln!(self.out, "{}", terminal::json(&text)).map_err(printing)
    }

    /// One JSON document in one line.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| printing(error.into()))?;
        writeln!(self.out, "{}", terminal::json(&text)).map_err(printing)
    }

    /// On stderr: what is wrong or missing, while the verb goes on.
    pub fn warn(&mut self, text: &str) {
        let line =
            if self.json { terminal::json(&json!({ "warning": text }).to_string()) } else { format!("warning: {}", clean(text)) };
        // Nothing is left to say it to.
        let _ = writeln!(self.err, "{line}");
    }

    /// On stderr, for a person who waits.
    pub fn progress(&mut self, text: &str) {
        if self.progress && !self.json {
            let _ = writeln!(self.err, "{}", clean(text));
        }
    }

    /// On stderr: why the outcome is not what was asked for, in human mode; in JSON it stands in the document.
    pub fn complain(&mut self, text: &str, hint: Option<&str>) {
        if self.json {
            return;
        }
        let _ = writeln!(self.err, "{}", clean(text));
        if let Some(hint) = hint {
            let _ = writeln!(self.err, "hint: {}", clean(hint));
        }
    }

    /// On stderr: the verb has no answer.
    pub fn failure(&mut self, failure: &Failure) -> Exit {
        if failure.is_closed_pipe() {
            return Exit::Done;
        }
        let exit = failure.exit();
        if self.json {
            let error = json!({ "error": {
                "code": failure.code(),
                "message": failure.to_string(),
                "hint": failure.hint(),
                "candidates": failure.candidates(),
                "exit_code": exit.code(),
            }});
            let _ = writeln!(self.err, "{}", terminal::json(&error.to_string()));
        } else {
            self.complain(&format!("error: {failure}"), failure.hint().as_deref());
        }
        exit
    }
}

impl Paint {
    fn style(self) -> Style {
        match self {
            Paint::Plain => Style::new(),
            Paint::Strong => Style::new().bold(),
            Paint::Faint => Style::new().dimmed(),
            Paint::Good => AnsiColor::Green.on_default(),
            Paint::Warn => AnsiColor::Yellow.on_default(),
            Paint::Bad => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// What was printed, for tests.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    pub fn text(&self) -> String {
        self.0.lock().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Ok(mut kept) = self.0.lock() {
            kept.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn printing(source: io::Error) -> Failure {
    Failure::Io { what: "cannot print".into(), source }
}
