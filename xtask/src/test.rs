//! Everything that must hold: lints, unit and property tests, a build, end-to-end tests.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use teemate_tests::artifacts::Artifacts;

use crate::paths::{cargo, root};
use crate::tally::Tally;
use crate::{build, lint, paths, peers, step, text, tools};

/// Packages whose tests need the artifacts.
const END_TO_END: &str = "teemate-tests";

/// Runs it all. A failure of one part does not keep the others from running.
pub fn run() -> Result<()> {
    let begin = Instant::now();
    let mut tally = Tally::default();
    // First, because what is compiled without its compiler stays without it; and peers that some tests compare with. Tests that miss
    // something are skipped, and say so.
    let wanted = [
        tools::CLANG,
        tools::WASM_LD,
        tools::WASI_LIBC,
        tools::CONTAINERD,
        tools::RUNC,
        tools::BUSYBOX,
        tools::CNI,
        tools::REGISTRY,
        tools::REDIS,
    ];
    let below = teemate_tests::containerd::peers(&Artifacts::at(paths::artifacts()));
    for sentence in tools::ensure(&wanted).into_iter().chain(peers::ensure(&below)) {
        println!("note: {sentence}");
    }
    lints(&mut tally);
    // The build first: with the JavaScript engine there, the function service's own tests need not skip it.
    println!("== build");
    let built = build::everything();
    println!("== unit and property tests");
    cargo_test(&mut tally, &["--workspace", "--exclude", END_TO_END, "--features", build::ENGINE_BUILD], false, built.as_ref().ok())?;
    match built {
        Ok(built) => {
            tally.check("build", true);
            println!("== end-to-end tests");
            cargo_test(&mut tally, &["--package", END_TO_END], true, Some(&built))?;
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            tally.check("build", false);
            tally.skip("end-to-end tests", "there is nothing to test: the build failed");
        }
    }
    println!("\nafter {}:\n{tally}", text::seconds(begin.elapsed()));
    if !tally.is_good() {
        bail!("some tests failed");
    }
    Ok(())
}

fn lints(tally: &mut Tally) {
    for (name, component, mut command) in [("formatting", "fmt", lint::formatting()), ("clippy", "clippy", lint::clippy())] {
        println!("== {name}");
        let there = step::capture(Command::new(cargo()).args([component, "--version"])).is_ok();
        if !there {
            let package = if component == "fmt" { "rustfmt" } else { component };
            tally.skip(name, &format!("this toolchain has no {package}; `rustup component add {package}` brings it"));
            continue;
        }
        let done = step::run(&mut command);
        if let Err(error) = &done {
            eprintln!("error: {error:#}");
        }
        tally.check(name, done.is_ok());
    }
}

/// Runs test programs, shows what they print, and counts.
///
/// `alone`: one test at a time. Each end-to-end test has a node of its own; together they would measure each other.
fn cargo_test(tally: &mut Tally, packages: &[&str], alone: bool, built: Option<&Artifacts>) -> Result<()> {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["test", "--locked", "--no-fail-fast"]).args(packages).args(["--", "--show-output"]);
    if let Some(built) = built {
        command.env("TEEMATE_ARTIFACTS", built.directory());
        command.env("TEEMATE_ZYGOTE", built.program("teemate-zygote"));
        command.env("TEEMATE_NATIVE_PAYLOAD", built.program("teemate-functions"));
    }
    if alone {
        command.arg("--test-threads=1");
    }
    let shown = step::show(&command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("`{shown}` can't be started"))?;
    let output = child.stdout.take().context("no output to read")?;
    let before = tally.is_good();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.line(&line);
    }
    let status = child.wait()?;
    // A package that does not compile, or a test program that is killed, reports no failed test.
    if !status.success() && (before == tally.is_good()) && before {
        tally.check(&shown, false);
    }
    Ok(())
}
