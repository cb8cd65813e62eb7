//! The database under everything at once, shortly; `cargo xtask soak` does it for an hour.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use teemate_tests::artifacts::Artifacts;
use teemate_tests::{skip, soak};

#[test]
fn no_acknowledged_write_is_lost() {
    let artifacts = match Artifacts::find() {
        Ok(artifacts) => artifacts,
        Err(reason) => return skip(reason),
    };
    let options = soak::Options { time: Duration::from_secs(25), rest: Duration::from_millis(300), mib: 8, seed: 1 };
    let report = soak::run(&artifacts, &options, &|line| println!("{line}")).unwrap_or_else(|why| panic!("{why}"));
    println!("{report}");
    report.notes.iter().for_each(skip);
    assert!(report.acknowledged > 1000 && report.compared > 10, "{report}");
}
