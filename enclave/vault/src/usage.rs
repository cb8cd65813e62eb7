//! How much each owner keeps.

/// What one owner keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of values and of their names.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

impl Usage {
    /// With one record of this size in place of one of that size.
    pub(crate) fn replaced(self, old: Option<u64>, new: Option<u64>) -> Usage {
        let count = |size: Option<u64>| u64::from(size.is_some());
        Usage {
            bytes: (self.bytes + new.unwrap_or(0)).saturating_sub(old.unwrap_or(0)),
            records: (self.records + count(new)).saturating_sub(count(old)),
        }
    }
}
