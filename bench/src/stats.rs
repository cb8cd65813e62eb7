//! Medians and what lies round them.

use serde::Serialize;
use teemate_client::breakdown::human;

/// A set of samples in three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// The 10th percentile.
    pub p10: f64,
    /// The median.
    pub median: f64,
    /// The 90th percentile.
    pub p90: f64,
}

/// Of these samples, in any order. `None` without samples.
pub fn spread(samples: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut sorted: Vec<f64> = samples.into_iter().filter(|sample| sample.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    Some(Spread { count: sorted.len(), p10: quantile(&sorted, 0.1)?, median: quantile(&sorted, 0.5)?, p90: quantile(&sorted, 0.9)? })
}

/// Microseconds, for a table.
pub fn times(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".to_owned(), |s| format!("{} ({} to {}; n {})", human(s.median), human(s.p10), human(s.p90), s.count))
}

/// By linear interpolation between the two nearest samples.
fn quantile(sorted: &[f64], at: f64) -> Option<f64> {
    let place = at * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let spread = spread((0..=10).rev().map(f64::from)).unwrap();
        assert_eq!((spread.p10, spread.median, spread.p90, spread.count), (1.0, 5.0, 9.0, 11));
        assert_eq!(super::spread([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(super::spread([]), None);
        assert_eq!((times(Some(spread)).as_str(), times(None).as_str()), ("5 us (1 us to 9 us; n 11)", "-"));
    }
}
