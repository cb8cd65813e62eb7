//! What a command prints: text and tables for people, one JSON document for programs.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize, Stream};
use serde::Serialize;

use crate::failure::Failure;

/// How to print.
pub struct Output {
    json: bool,
}

impl Output {
    /// `json`: only one document on stdout.
    pub fn new(json: bool) -> Self {
        Output { json }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The result of a command: the document for programs, else what `text` makes.
    pub fn result<T: Serialize>(&self, document: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = if self.json { serde_json::to_string_pretty(document).map_err(Failure::new)? } else { text() };
        print(&text)
    }

    /// A failure: a sentence on stderr, and for programs a document on stdout.
    pub fn failure(&self, failure: &Failure) {
        if self.json
            && let Ok(text) = serde_json::to_string_pretty(&failure.json())
        {
            let _ = print(&text);
        }
        let word = "error:".if_supports_color(Stream::Stderr, |text| text.red()).to_string();
        let _ = writeln!(std::io::stderr(), "{word} {}", failure.message());
    }

    /// A bar for so many bytes that pass; only on a terminal.
    pub fn bytes(&self, what: impl Into<std::borrow::Cow<'static, str>>, total: u64) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes} {msg}, {eta} left");
        ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
    }

    /// A spinner for work that takes a while; only on a terminal.
    pub fn progress(&self, what: impl Into<std::borrow::Cow<'static, str>>) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style).with_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

/// Prints a text and a line's end. A reader that has gone (`| head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.trim_end().as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A table without lines: a head, rows, and the columns whose numbers stand to the right.
pub fn table(head: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().map(|word| word.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<_> = table.lines().collect();
    let margin = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| line.get(margin..).unwrap_or_default().trim_end()).collect::<Vec<_>>().join("\n")
}

/// `yes` in green or `no` in red, where stdout has colours.
pub fn verdict(good: bool, word: &str) -> String {
    if good {
        word.if_supports_color(Stream::Stdout, |text| text.green()).to_string()
    } else {
        word.if_supports_color(Stream::Stdout, |text| text.red()).to_string()
    }
}

/// A size for people.
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", count as f64 / 1_073_741_824.0),
    }
}

/// A span of time for people.
pub fn duration(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{:.1} s", milliseconds as f64 / 1e3),
        60_000..3_600_000 => format!("{} min", milliseconds / 60_000),
        _ => format!("{} h {} min", milliseconds / 3_600_000, milliseconds / 60_000 % 60),
    }
}

/// What a host sent, fit for a terminal: no control characters but line ends and tabs.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let text = table(&["name", "calls"], vec![vec!["a".into(), "5".into()], vec!["longer".into(), "12345".into()]], &[1]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].trim_end(), "NAME    CALLS");
        assert_eq!(lines[1], "a           5");
        assert_eq!(lines[2], "longer  12345");
    }

    #[test]
    fn a_hosts_text_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\n");
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes(4096), "4.0 KiB");
        assert_eq!(duration(1500), "1.5 s");
    }
}
