//! How far a database has come.

use serde::{Deserialize, Serialize};

/// How far a log has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Random number of the log.
    pub log: [u8; 16],
    /// Frames so far, over all generations.
    pub frames: u64,
    /// Tag of the last one, which hangs on all before it.
    pub root: [u8; 16],
}

/// Which one of the files that take each other's place. A later one is greater: epochs never come twice, and within one the enclave counts.
/// The smallest stands for no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The epoch in which it was made.
    pub epoch: u64,
    /// Number of its kind.
    pub count: u64,
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.epoch, self.count)
    }
}

/// How far a database has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The epoch of who says so. One begins each time that the database is opened; who began an earlier one has no say any more.
    pub epoch: u64,
    /// Its settings.
    pub settings: Version,
    /// Its snapshot.
    pub snapshot: Version,
    /// Its log, if it ever had one.
    pub log: Option<Head>,
}

/// Why a mark does not come after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Backwards {
    /// Somebody else has opened the database since.
    #[error("another enclave has opened this database since: this one is a copy that was left behind")]
    Superseded,
    /// Older settings.
    #[error("its settings are older than those that are known")]
    Settings,
    /// An older snapshot.
    #[error("its snapshot is older than the one that is known")]
    Snapshot,
    /// An older log, or none.
    #[error("its log does not reach as far as is known")]
    Log,
    /// Another log, or another line of the same one.
    #[error("its log is another than the one that is known, or went on otherwise from an older state")]
    Line,
}

impl Mark {
    /// Whether this can be said when `before` was said last.
    ///
    /// # Errors
    /// Which part of it goes backwards.
    pub fn comes_after(&self, before: &Mark) -> Result<(), Backwards> {
        if self.epoch < before.epoch {
            return Err(Backwards::Superseded);
        }
        if self.settings < before.settings {
            return Err(Backwards::Settings);
        }
        if self.snapshot < before.snapshot {
            return Err(Backwards::Snapshot);
        }
        match (self.log, before.log) {
            (_, None) => Ok(()),
            (None, Some(_)) => Err(Backwards::Log),
            (Some(now), Some(then)) if now.log != then.log => Err(Backwards::Line),
            (Some(now), Some(then)) if now.frames < then.frames => Err(Backwards::Log),
            (Some(now), Some(then)) if now.frames == then.frames && now.root != then.root => Err(Backwards::Line),
            _ => Ok(()),
        }
    }
}

/// What whoever remembers a database has of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The epoch that began last.
    pub epoch: u64,
    /// How far it had come; `None`: nobody has said so yet.
    pub last: Option<Mark>,
}

impl Remembered {
    /// The database is opened: an epoch begins that is greater than `above` and than each before. `None`: there is none.
    pub fn open(self, above: u64) -> Option<Remembered> {
        Some(Remembered { epoch: self.epoch.max(above).checked_add(1)?, ..self })
    }

    /// It has come this far.
    ///
    /// # Errors
    /// Why that is not to be remembered.
    pub fn with(self, mark: &Mark) -> Result<Remembered, Backwards> {
        if mark.epoch != self.epoch {
            return Err(Backwards::Superseded);
        }
        self.last.map_or(Ok(()), |last| mark.comes_after(&last))?;
        Ok(Remembered { last: Some(*mark), ..self })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn any_mark() -> impl Strategy<Value = Mark> {
        let version = || (0..4u64, 0..4u64).prop_map(|(epoch, count)| Version { epoch, count });
        let head = (0..2u8, 0..4u64, 0..2u8).prop_map(|(log, frames, root)| Head { log: [log; 16], frames, root: [root; 16] });
        (0..4u64, version(), version(), proptest::option::of(head)).prop_map(|(epoch, settings, snapshot, log)| Mark {
            epoch,
            settings,
            snapshot,
            log,
        })
    }

    proptest! {
        /// An order: nothing comes round to where it was but what is the same.
        #[test]
        fn marks_only_go_forward(a in any_mark(), b in any_mark(), c in any_mark()) {
            prop_assert_eq!(a.comes_after(&a), Ok(()));
            if b.comes_after(&a).is_ok() && a.comes_after(&b).is_ok() {
                prop_assert_eq!(a, b);
            }
            if b.comes_after(&a).is_ok() && c.comes_after(&b).is_ok() {
                prop_assert_eq!(c.comes_after(&a), Ok(()));
            }
        }

        /// One step back in any part is refused, however far the others go.
        #[test]
        fn no_part_goes_back(mark in any_mark(), ahead in 1..9u64) {
            let far = Mark {
                epoch: mark.epoch + ahead,
                settings: Version { epoch: mark.settings.epoch + ahead, count: 0 },
                snapshot: Version { epoch: mark.snapshot.epoch, count: mark.snapshot.count + ahead },
                log: mark.log.map(|head| Head { frames: head.frames + ahead, root: [9; 16], ..head }),
            };
            prop_assert_eq!(far.comes_after(&mark), Ok(()));
            prop_assert_eq!(Mark { epoch: mark.epoch, ..far }.comes_after(&far), Err(Backwards::Superseded));
            prop_assert_eq!(Mark { settings: mark.settings, ..far }.comes_after(&far), Err(Backwards::Settings));
            prop_assert_eq!(Mark { snapshot: mark.snapshot, ..far }.comes_after(&far), Err(Backwards::Snapshot));
            if let (Some(log), Some(new)) = (mark.log, far.log) {
                prop_assert_eq!(Mark { log: Some(log), ..far }.comes_after(&far), Err(Backwards::Log));
                prop_assert_eq!(Mark { log: None, ..far }.comes_after(&far), Err(Backwards::Log));
                prop_assert_eq!(Mark { log: Some(Head { root: [8; 16], ..new }), ..far }.comes_after(&far), Err(Backwards::Line));
                prop_assert_eq!(Mark { log: Some(Head { log: [8; 16], ..new }), ..far }.comes_after(&far), Err(Backwards::Line));
            }
        }
    }
}
