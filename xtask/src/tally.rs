//! Counts what test programs report: passed, failed, skipped and why.

use std::fmt;

/// What was counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: u64,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
    /// Name of the test whose output is being read.
    section: Option<String>,
}

impl Tally {
    /// Takes one line of a test program that runs with `--show-output`.
    pub fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test ") {
            self.section = None;
            // Doctests have names with ` - `, and all have ` ... ` before what came of them.
            match rest.rsplit_once(" ... ") {
                Some((_, "ok")) => self.passed += 1,
                Some((name, "FAILED")) => self.failed.push(name.to_owned()),
                // A test program that does not keep its tests' output to itself.
                Some((name, verdict)) if reason(verdict).is_some() => {
                    self.skipped.push((name.to_owned(), reason(verdict).unwrap_or_default().to_owned()));
                }
                Some((name, verdict)) if verdict.starts_with("ignored") => {
                    let reason = verdict.trim_start_matches("ignored").trim_start_matches([',', ' ']);
                    let reason = if reason.is_empty() { "only on demand (`--ignored`)" } else { reason };
                    self.skipped.push((name.to_owned(), reason.to_owned()));
                }
                _ => {}
            }
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.section = Some(name.to_owned());
        } else if let Some(reason) = reason(line)
            && let Some(name) = self.section.take()
        {
            // The test itself ended well: it counts as skipped instead.
            self.passed = self.passed.saturating_sub(1);
            self.skipped.push((name, reason.to_owned()));
        }
    }

    /// A check that is no test program: a lint, a build.
    pub fn check(&mut self, name: &str, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed.push(name.to_owned());
        }
    }

    /// A check that could not be made.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty()
    }
}

/// What a test prints when it can't run here. Those of other packages may write it in their own letters.
fn reason(line: &str) -> Option<&str> {
    let (word, reason) = line.split_once(':')?;
    matches!(word.trim().to_ascii_lowercase().as_str(), "skipped" | "skip" | "skipping").then(|| reason.trim())
}

impl fmt::Display for Tally {
    /// What was skipped and why, what failed, and the line that ends it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, reason) in &self.skipped {
            writeln!(f, "skipped: {name}: {reason}")?;
        }
        for name in &self.failed {
            writeln!(f, "failed: {name}")?;
        }
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 5 tests
test a::one ... ok
test a::two ... FAILED
test a::three ... ignored, needs hardware
test a::four ... ok
test src/lib.rs - x (line 3) ... ok

successes:

---- a::four stdout ----
Some words.
SKIPPED: no cgroup is delegated
skipped: and this is only more of its output

successes:
    a::one

test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn a_skipped_test_counts_once() {
        let mut tally = Tally::default();
        OUTPUT.lines().for_each(|line| tally.line(line));
        tally.check("formatting", true);
        assert!(!tally.is_good());
        assert_eq!(
            tally.to_string(),
            "skipped: a::three: needs hardware\nskipped: a::four: no cgroup is delegated\nfailed: a::two\n3 passed, 1 failed, 2 skipped"
        );
    }
}
