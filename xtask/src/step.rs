//! Steps of a task: a line when one begins, a line with its time when it ends, and a table of all at the end.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::text;

/// The steps so far.
#[derive(Default)]
pub struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// Does one.
    pub fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("== {title}");
        let begin = Instant::now();
        let done = work().with_context(|| format!("{title} failed"));
        let took = begin.elapsed();
        println!("== {title}: {} {}", if done.is_ok() { "done in" } else { "FAILED after" }, text::seconds(took));
        self.done.push((title.to_owned(), took));
        done
    }

    /// What took how long.
    pub fn summary(&self) -> String {
        let rows = self.done.iter().map(|(title, took)| vec![title.clone(), text::seconds(*took)]).collect::<Vec<_>>();
        text::table(&["step", "time"], &rows)
    }
}

/// Runs a command with its output on the terminal.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("`{shown}` can't be started"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs a command and gives its stdout.
pub fn capture(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("`{shown}` can't be started"))?;
    if !output.status.success() {
        bail!("`{shown}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as one would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
