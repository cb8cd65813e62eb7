//! What a client remembers, so that the host cannot put an older store back unnoticed.

use crate::format::Opening;

/// How many openings the store remembers.
pub const HISTORY: usize = 4096;

/// A point in the store's life. A client that keeps the last one it saw can ask any later enclave whether its store goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The last durable commit.
    pub epoch: u64,
    /// Which opening of the store made it: a number that another line of the store's life does not have.
    pub opening: [u8; 16],
}

/// Whether a store with these openings (oldest first), the last of which has come to `durable`, has all that the witness saw.
pub fn continues(history: &[Opening], durable: u64, witness: &Witness) -> bool {
    let Some(at) = history.iter().position(|opening| opening.id == witness.opening) else { return false };
    witness.epoch >= history[at].epoch
        && match history.get(at + 1) {
            // The next opening began where it found the end. Had it found less, it would have given the witness's epoch another content.
            Some(next) => witness.epoch < next.epoch,
            None => witness.epoch <= durable,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_held_against_the_opening_that_followed() {
        let opening = |id: u8, epoch| Opening { id: [id; 16], epoch };
        let history = [opening(1, 1), opening(2, 10), opening(3, 15)];
        let holds = |id: u8, epoch| continues(&history, 20, &Witness { epoch, opening: [id; 16] });
        assert!(holds(1, 1) && holds(1, 9) && holds(2, 10) && holds(2, 14) && holds(3, 15) && holds(3, 20));
        assert!(!holds(1, 10), "the second opening did not find epoch 10");
        assert!(!holds(2, 15) && !holds(3, 21) && !holds(4, 1) && !holds(2, 3));
    }
}
