//! What can be chosen when a vault is opened.

/// How sizes are hidden from the host. It costs space, and only blurs: who counts the frames learns how many commits there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// The host sees the size of each commit and each blob to the byte.
    #[default]
    Exact,
    /// Sizes are rounded up to classes: at least 256 bytes, and beyond that such that only the highest few bits differ (Padmé: at most 12 %
    /// more, and the size tells about log log of itself).
    Classes,
}

/// What can be chosen when a vault is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Padding of sizes.
    pub padding: Padding,
    /// Longest value in bytes.
    pub value: u64,
    /// Bytes of values and names of one owner.
    pub owner_bytes: u64,
    /// Records of one owner.
    pub owner_records: u64,
    /// Bytes of small values that are kept in memory; others are read again when asked for.
    pub cache: usize,
    /// Bytes that may wait for the disk.
    pub queue: usize,
    /// Bytes of journal below which nothing is compacted.
    pub compact_from: u64,
}

impl Default for Options {
    /// Exact sizes; 56 MiB a value, 4 GiB and 500,000 records an owner, 32 MiB of cache, 16 MiB of queue.
    fn default() -> Self {
        Options {
            padding: Padding::Exact,
            value: 56 << 20,
            owner_bytes: 4 << 30,
            owner_records: 500_000,
            cache: 32 << 20,
            queue: 16 << 20,
            compact_from: 1 << 20,
        }
    }
}
