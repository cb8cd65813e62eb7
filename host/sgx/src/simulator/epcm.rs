//! The rules of the EPCM (SDM vol. 3D, 34.19 and the pseudo-code of each leaf in chapter 40), as pure functions from word to word.
//!
//! Whoever carries out an instruction loads a page's word, asks the function here for the next word, and stores it by compare-exchange.

/// One page's entry: `V P M PR` in bits 0-3, untracked in bit 4, R W X from bit 8, type from bit 16, mark from bit 48.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(pub u64);

const VALID: u64 = 1;
const PENDING: u64 = 1 << 1;
const MODIFIED: u64 = 1 << 2;
const PR: u64 = 1 << 3;
const UNTRACKED: u64 = 1 << 4;
const RIGHTS_AT: u32 = 8;
const TYPE_AT: u32 = 16;
const MARK_AT: u32 = 48;

/// PT_TCS.
pub const PT_TCS: u8 = 1;
/// PT_REG.
pub const PT_REG: u8 = 2;
/// PT_TRIM.
pub const PT_TRIM: u8 = 4;

/// R.
pub const R: u8 = 1;
/// W.
pub const W: u8 = 2;
/// X.
pub const X: u8 = 4;

/// What of SECINFO.FLAGS an EACCEPT compares, and the whole of what may be set (SDM vol. 3D, 34.12).
const SECINFO_KNOWN: u64 = 0xff3f;

/// Why a leaf does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// #GP(0).
    GeneralProtection,
    /// #PF at the operand that names the page.
    PageFault,
    /// RAX: SGX_PAGE_ATTRIBUTES_MISMATCH.
    AttributesMismatch,
    /// RAX: SGX_NOT_TRACKED.
    NotTracked,
    /// ENCLS leaf or ioctl: refused with this sentence.
    Host(&'static str),
}

/// SGX_PAGE_ATTRIBUTES_MISMATCH.
pub const PAGE_ATTRIBUTES_MISMATCH: u64 = 19;
/// SGX_NOT_TRACKED.
pub const NOT_TRACKED: u64 = 11;

impl Word {
    /// EADD: valid, with the type and rights of SECINFO.FLAGS.
    pub fn eadd(self, secinfo: u64) -> Result<Word, Refusal> {
        if self.valid() {
            return Err(Refusal::Host("the page is there already"));
        }
        let kind = (secinfo >> 8) as u8;
        let rights = (secinfo & 7) as u8;
        match kind {
            PT_TCS => Ok(Word::with(PT_TCS, 0)),
            PT_REG if rights & W != 0 && rights & R == 0 => Err(Refusal::Host("writable, but not readable")),
            PT_REG => Ok(Word::with(PT_REG, rights)),
            _ => Err(Refusal::Host("only PT_TCS and PT_REG can be added")),
        }
    }

    /// EAUG: valid, pending, readable and writable.
    pub fn eaug(self) -> Result<Word, Refusal> {
        if self.valid() {
            return Err(Refusal::Host("the page is there already"));
        }
        Ok(Word(Word::with(PT_REG, R | W).0 | PENDING))
    }

    /// EACCEPT with SECINFO.FLAGS.
    pub fn eaccept(self, secinfo: u64) -> Result<Word, Refusal> {
        check_eaccept_secinfo(secinfo)?;
        if !self.valid() || !matches!(self.kind(), PT_REG | PT_TRIM | PT_TCS) {
            return Err(Refusal::PageFault);
        }
        if self.secinfo() != secinfo & SECINFO_KNOWN {
            return Err(Refusal::AttributesMismatch);
        }
        if self.0 & UNTRACKED != 0 {
            return Err(Refusal::NotTracked);
        }
        Ok(Word(self.0 & !(PENDING | MODIFIED | PR)))
    }

    /// EACCEPTCOPY: a pending page becomes a filled one with these rights.
    pub fn eacceptcopy(self, secinfo: u64) -> Result<Word, Refusal> {
        let rights = (secinfo & 7) as u8;
        if secinfo & !0xff07 != 0 || (secinfo >> 8) as u8 != PT_REG || (rights & W != 0 && rights & R == 0) {
            return Err(Refusal::GeneralProtection);
        }
        if !self.valid() || self.kind() != PT_REG {
            return Err(Refusal::PageFault);
        }
        if !self.pending() || self.modified() || self.rights() != R | W {
            return Err(Refusal::AttributesMismatch);
        }
        Ok(Word(Word::with(PT_REG, rights).0 | self.0 & !0xffff_ffff))
    }

    /// EMODPE: more rights, by the enclave.
    pub fn emodpe(self, secinfo: u64) -> Result<Word, Refusal> {
        let rights = (secinfo & 7) as u8;
        // Only R, W and X may be set; the type is not looked at.
        if secinfo & 0x38 != 0 || secinfo & !0xffff != 0 {
            return Err(Refusal::GeneralProtection);
        }
        if !self.valid() || self.kind() != PT_REG || self.pending() || self.modified() {
            return Err(Refusal::PageFault);
        }
        if rights & W != 0 && (self.rights() | rights) & R == 0 {
            return Err(Refusal::GeneralProtection);
        }
        Ok(Word(self.0 | (rights as u64) << RIGHTS_AT))
    }

    /// EMODPR: fewer rights, by the host. The enclave must EACCEPT it before it can rely on it.
    pub fn emodpr(self, rights: u8) -> Result<Word, Refusal> {
        if rights & !7 != 0 || rights & R == 0 {
            return Err(Refusal::Host("the rights are not R with or without W and X"));
        }
        if !self.valid() || self.kind() != PT_REG {
            return Err(Refusal::Host("not a regular page of the enclave"));
        }
        if self.pending() || self.modified() {
            return Err(Refusal::Host("the enclave has not accepted the last change of this page"));
        }
        let kept = (self.rights() & rights) as u64;
        Ok(Word(self.0 & !(7 << RIGHTS_AT) | kept << RIGHTS_AT | PR | UNTRACKED))
    }

    /// EMODT to PT_TRIM: takes the page out of use.
    pub fn trim(self) -> Result<Word, Refusal> {
        if !self.valid() || !matches!(self.kind(), PT_REG | PT_TCS) {
            return Err(Refusal::Host("not a regular page or TCS of the enclave"));
        }
        if self.pending() || self.modified() {
            return Err(Refusal::Host("the enclave has not accepted the last change of this page"));
        }
        Ok(Word(Word::with(PT_TRIM, 0).0 | MODIFIED | UNTRACKED | self.0 & !0xffff_ffff))
    }

    /// REMOVE_PAGES: EREMOVE of a page whose trim the enclave has accepted.
    pub fn remove(self) -> Result<Word, Refusal> {
        if !self.valid() || self.kind() != PT_TRIM {
            return Err(Refusal::Host("the page has not been trimmed"));
        }
        if self.modified() {
            return Err(Refusal::Host("the enclave has not accepted the trim"));
        }
        Ok(Word(0))
    }

    /// ETRACK is complete: no process has an older view.
    pub fn tracked(self) -> Word {
        Word(self.0 & !UNTRACKED)
    }

    /// Whether software in the enclave may use the page in this way.
    pub fn allows(self, access: u8) -> bool {
        self.usable() & access == access
    }

    /// The rights that software in the enclave has: none on pages that are pending, being changed, or not regular.
    pub fn usable(self) -> u8 {
        if self.valid() && self.kind() == PT_REG && !self.pending() && !self.modified() { self.rights() } else { 0 }
    }

    /// V.
    pub fn valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// P: added, not accepted.
    pub fn pending(self) -> bool {
        self.0 & PENDING != 0
    }

    /// M: its type was changed, not accepted.
    pub fn modified(self) -> bool {
        self.0 & MODIFIED != 0
    }

    /// PR: restricted, not accepted.
    pub fn restricted(self) -> bool {
        self.0 & PR != 0
    }

    /// Page type.
    pub fn kind(self) -> u8 {
        (self.0 >> TYPE_AT) as u8
    }

    /// R, W and X.
    pub fn rights(self) -> u8 {
        (self.0 >> RIGHTS_AT) as u8 & 7
    }

    /// Which TCS (plus one) is in the middle of an EACCEPT of this page. It says, after a kill, whether the effect took place.
    pub fn mark(self) -> u64 {
        self.0 >> MARK_AT
    }

    /// The same with another mark.
    pub fn marked(self, mark: u64) -> Word {
        Word((self.0 & ((1 << MARK_AT) - 1)) | (mark << MARK_AT))
    }

    /// As SECINFO.FLAGS would say it.
    pub fn secinfo(self) -> u64 {
        (self.kind() as u64) << 8
            | self.rights() as u64
            | (self.pending() as u64) << 3
            | (self.modified() as u64) << 4
            | (self.restricted() as u64) << 5
    }

    fn with(kind: u8, rights: u8) -> Word {
        Word(VALID | (kind as u64) << TYPE_AT | (rights as u64) << RIGHTS_AT)
    }
}

/// EACCEPT takes four combinations of type and flags; the rest is #GP.
fn check_eaccept_secinfo(secinfo: u64) -> Result<(), Refusal> {
    let (pending, modified, pr) = (secinfo >> 3 & 1 != 0, secinfo >> 4 & 1 != 0, secinfo >> 5 & 1 != 0);
    let rights = (secinfo & 7) as u8;
    let sound = secinfo & !SECINFO_KNOWN == 0
        && match (secinfo >> 8) as u8 {
            PT_REG => !modified && (rights & W == 0 || rights & R != 0),
            PT_TCS => rights == 0 && !pr && (pending != modified || !pending),
            PT_TRIM => rights == 0 && modified && !pending && !pr,
            _ => false,
        };
    if sound { Ok(()) } else { Err(Refusal::GeneralProtection) }
}
