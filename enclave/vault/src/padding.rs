//! Sizes in classes.

use crate::Padding;

const SMALLEST: usize = 256;

impl Padding {
    /// The size that `bytes` is given: at least as many.
    pub(crate) fn size(self, bytes: usize) -> usize {
        match self {
            Padding::Exact => bytes,
            Padding::Classes if bytes <= SMALLEST => SMALLEST,
            Padding::Classes => {
                // Padmé: of a number with e + 1 bits the lowest e - log2(e) - 1 are rounded up to zero.
                let exponent = bytes.ilog2();
                let kept = exponent.ilog2() + 1;
                bytes.next_multiple_of(1 << (exponent - kept))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_few_and_cost_little() {
        let mut classes = std::collections::BTreeSet::new();
        for bytes in (0..2_000_000).step_by(7) {
            let size = Padding::Classes.size(bytes);
            assert!(size >= bytes && size >= SMALLEST);
            assert!(bytes < SMALLEST || size as f64 <= bytes as f64 * 1.12, "{bytes} -> {size}");
            assert_eq!(Padding::Classes.size(size), size, "a class is its own class");
            classes.insert(size);
            assert_eq!(Padding::Exact.size(bytes), bytes);
        }
        assert!(classes.len() < 400, "{}", classes.len());
    }
}
