//! The database under everything at once, for as long as one likes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use teemate_tests::soak::{self, Options};

use crate::build;

const MINUTES: u64 = 60;

/// Builds, and soaks.
pub fn run(arguments: &[String]) -> Result<()> {
    let minutes = match arguments {
        [] => MINUTES,
        [minutes] => {
            minutes.parse().ok().filter(|minutes| (1..=10_000).contains(minutes)).context("the time is a number of minutes from 1 on")?
        }
        _ => bail!("`cargo xtask soak` takes one number of minutes"),
    };
    let built = build::everything()?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let options = Options { time: Duration::from_secs(minutes * 60), rest: Duration::from_secs(5), mib: 64, seed };
    println!("{minutes} minutes, seed {seed}");
    let report = soak::run(&built, &options, &|line| println!("{line}")).map_err(|why| anyhow!(why))?;
    print!("{report}");
    Ok(())
}
