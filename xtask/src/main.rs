//! The developer's one command: `cargo xtask TASK`.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod clean;
mod demo;
mod fuzz;
mod images;
mod lint;
mod paths;
mod peers;
mod redis_suite;
mod soak;
mod step;
mod tally;
mod test;
mod text;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask TASK

  demo             build everything, start a node, call the paper's nine functions, check each result
  test             lints, unit and property tests, build, end-to-end tests
  build            everything, into artifacts/
  node-image [REFERENCE]   build, and put the node into an image for Kubernetes: artifacts/node-image.tar
  action-image [REFERENCE]   the same for the container of an OpenWhisk action: artifacts/action-image.tar
  image            only what the enclave's image needs; prints its MRENCLAVE
  bench [OPTIONS]  build, then measure figures 7 to 10; --help lists the options
  bench database [OPTIONS]   the same for the database and Redis, figures 11 and 12
  soak [MINUTES]   the database under load, kills, a full disk and restarts: is any acknowledged write lost? (default: 60 minutes)
  redis-suite      Redis's own test suite against the database; --help lists the options
  fuzz [MINUTES]   fuzz the parsers that read hostile bytes (default: 5 minutes in all)
  lint             formatting and clippy, warnings are errors
  clean            remove artifacts/ and what was compiled for it

What is missing on the machine is installed with apt-get when that is possible (as root); TEEMATE_NO_INSTALL=1 forbids it.
TEEMATE_ARTIFACTS=DIR uses what is built there, and builds nothing.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let done = match (arguments.first().map(String::as_str), rest) {
        (Some("bench"), rest) => bench::run(rest),
        (Some("fuzz"), rest) => fuzz::run(rest),
        (Some(task @ ("node-image" | "action-image")), rest) => images::run(task, rest),
        (Some("redis-suite"), rest) => redis_suite::run(rest),
        (Some("soak"), rest) => soak::run(rest),
        (None | Some("help" | "--help" | "-h"), _) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        (Some(task), [extra, ..]) => {
            eprintln!("error: `cargo xtask {task}` takes no argument {extra:?}\n\n{HELP}");
            return ExitCode::from(2);
        }
        (Some("demo"), _) => demo::run(),
        (Some("test"), _) => test::run(),
        (Some("build"), _) => build::everything().map(|_| ()),
        (Some("image"), _) => build::image_only(),
        (Some("lint"), _) => lint::run(),
        (Some("clean"), _) => clean::run(),
        (Some(task), _) => {
            eprintln!("error: there is no task {task:?}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
