//! Redis's own test suite against the database: native, or in the shared enclave behind the proxy. A fresh server for each unit.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};

use teemate_tests::artifacts::root;
use teemate_tests::redis_suite::{CORE, FURTHER, Outcome, Suite};

use crate::paths::{cargo, target_base};
use crate::{build, step, text, tools};

const HELP: &str = "\
cargo xtask redis-suite [--native | --enclave] [UNIT...]

  --native   the database as an ordinary program (default); without units: all that apply
  --enclave  in the shared enclave, through `teemate proxy`; without units: those of the data types and of keys
  UNIT       of Redis's suite, as unit/type/string

The suite is Debian's source package, fetched into target/redis-suite. What it says goes there, too.";

/// Runs units, and shows a table.
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut enclave, mut units) = (false, Vec::new());
    for argument in arguments {
        match argument.as_str() {
            "--native" => enclave = false,
            "--enclave" => enclave = true,
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            option if option.starts_with('-') => bail!("there is no option {option}\n\n{HELP}"),
            unit => units.push(unit.to_owned()),
        }
    }
    if units.is_empty() {
        let further: &[&str] = if enclave { &[] } else { &FURTHER };
        units = CORE.iter().chain(further).map(|unit| (*unit).to_owned()).collect();
    }
    let missing = tools::ensure(&[tools::REDIS, tools::TCL, tools::DPKG_SOURCE]);
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    let directory = target_base().join("redis-suite");
    let output = directory.join(if enclave { "enclave" } else { "native" });
    std::fs::create_dir_all(&output)?;
    let suite = Suite::fetch(&directory).map_err(|error| anyhow!(error))?;
    let built = if enclave { Ok(build::everything()?) } else { Err(native()?) };
    let begin = Instant::now();
    let mut done: Vec<(String, Outcome)> = Vec::new();
    for unit in units {
        let file = output.join(format!("{}.txt", unit.replace('/', "-")));
        let began = Instant::now();
        let ran = match &built {
            Ok(artifacts) => suite.run_enclave(artifacts, &unit, &file),
            Err(program) => suite.run_native(program, &unit, &file),
        };
        let outcome = ran.unwrap_or_else(|why| Outcome { failed: vec![("the unit".to_owned(), why)], ..Outcome::default() });
        println!("{unit}: {} passed, {} failed, {}", outcome.passed, outcome.failed.len(), text::seconds(began.elapsed()));
        done.push((unit, outcome));
    }
    show(&done);
    println!("\nafter {}; what was said is in {}", text::seconds(begin.elapsed()), output.display());
    Ok(())
}

/// The database as an ordinary program.
fn native() -> Result<PathBuf> {
    step::run(Command::new(cargo()).current_dir(root()).args(["build", "--locked", "--release", "--package", "teemate-database"]))?;
    Ok(target_base().join("release/teemate-database"))
}

fn show(done: &[(String, Outcome)]) {
    let row = |name: &str, passed: usize, failed: usize, skipped: usize| {
        let share =
            if passed + failed == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * passed as f64 / (passed + failed) as f64) };
        vec![name.to_owned(), passed.to_string(), failed.to_string(), skipped.to_string(), share]
    };
    let mut rows: Vec<_> = done.iter().map(|(unit, outcome)| row(unit, outcome.passed, outcome.failed.len(), outcome.skipped)).collect();
    let sum = |part: fn(&Outcome) -> usize| done.iter().map(|(_, outcome)| part(outcome)).sum();
    rows.push(row("all", sum(|outcome| outcome.passed), sum(|outcome| outcome.failed.len()), sum(|outcome| outcome.skipped)));
    println!("\n{}", text::table(&["unit", "passed", "failed", "skipped", "passed of those run"], &rows));
    for (unit, outcome) in done {
        for (name, said) in &outcome.failed {
            println!("{unit}: {name}\n    {}", said.chars().take(200).collect::<String>());
        }
    }
}
