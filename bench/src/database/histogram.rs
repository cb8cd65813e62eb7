//! Many times in little room: each is known to 2 percent.

/// Parts that each power of two is divided into.
const PARTS: u64 = 64;

/// Counts of values.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    most: u64,
}

fn place(value: u64) -> usize {
    let value = value.max(PARTS);
    let power = u64::from(value.ilog2());
    let shift = power - u64::from(PARTS.ilog2());
    (shift * PARTS + (value >> shift) - PARTS) as usize
}

/// The middle of what is counted there.
fn value(place: usize) -> u64 {
    let (shift, part) = (place as u64 / PARTS, place as u64 % PARTS);
    ((PARTS + part) << shift) + (1 << shift) / 2
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, value: u64) {
        let place = place(value);
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
        self.total += 1;
        self.most = self.most.max(value);
    }

    /// The value that this share of all does not exceed. 0 without any.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return value(place).min(self.most);
            }
        }
        self.most
    }

    /// The largest.
    pub fn most(&self) -> u64 {
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        (1..=100_000).for_each(|value| histogram.add(value * 1000));
        for (share, exact) in [(0.5, 5e7), (0.99, 9.9e7), (0.999, 9.99e7)] {
            let got = histogram.quantile(share) as f64;
            assert!((got / exact - 1.0).abs() < 0.02, "{share}: {got}");
        }
        assert_eq!((histogram.most(), histogram.quantile(1.0)), (100_000_000, 100_000_000));
    }
}
