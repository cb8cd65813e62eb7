//! An image in memory, and its pages in the order in which they are added and measured.

use serde::{Deserialize, Serialize};
use teemate_abi::layout::PAGE_SIZE;

use crate::rewrite;

/// ATTRIBUTES.DEBUG (SDM vol. 3D, "ATTRIBUTES").
pub const FLAG_DEBUG: u64 = 1 << 1;
/// ATTRIBUTES.MODE64BIT.
pub const FLAG_MODE64BIT: u64 = 1 << 2;
/// x87 and SSE: the XFRM bits that every enclave has.
pub const XFRM_LEGACY: u64 = 0b11;
/// What this project's SSA frame has room for: x87, SSE, AVX, and the three of AVX-512. Not AMX: its tiles take two more pages.
pub const XFRM_ALLOWED: u64 = 0b1110_0111;
/// MISCSELECT.EXINFO: address and error code of a #PF or #GP go to the SSA frame.
pub const MISC_EXINFO: u32 = 1;
/// Bytes of a SIGSTRUCT.
pub const SIGSTRUCT_SIZE: usize = 1808;
/// Most pages that an image may add before EINIT: 1 GiB, two seconds of loading.
pub const PAGES_MAX: u64 = 1 << 18;

/// A page of zeros, for [`Page::data`] of a zero run.
pub static ZERO_PAGE: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// Everything that goes into an enclave before EINIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Size of ELRANGE; its base is always `layout::ELRANGE_BASE`.
    pub elrange_size: u64,
    /// Pages SSA frames take (SECS.SSAFRAMESIZE).
    pub ssa_frame_pages: u32,
    /// Pages, by rising offset, without overlap: the order of EADD.
    pub pages: Vec<PageRun>,
    /// Address of `teemate_enclu_gate`.
    pub gate: u64,
    /// Address of the first TCS block.
    pub tcs_start: u64,
    /// TCS blocks.
    pub tcs_count: u32,
    /// First address of the dynamic range (pages come by EAUG); it ends with ELRANGE.
    pub heap_start: u64,
    /// SECS.ATTRIBUTES.
    pub attributes: Attributes,
    /// SECS.MISCSELECT.
    pub miscselect: u32,
    /// For the signature.
    pub isv_prod_id: u16,
    /// For the signature.
    pub isv_svn: u16,
    /// What became of the payload's syscall sites. For people; not measured.
    pub report: rewrite::Report,
    /// The signature, once there is one.
    pub sigstruct: Option<[u8; SIGSTRUCT_SIZE]>,
}

/// SECS.ATTRIBUTES as the image wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// FLAGS, without INIT.
    pub flags: u64,
    /// The most XFRM bits that it allows; a device takes [`Attributes::xfrm_for`].
    pub xfrm: u64,
}

impl Attributes {
    /// XFRM for a processor whose XCR0 is this.
    pub const fn xfrm_for(&self, xcr0: u64) -> u64 {
        // AVX-512 is all three or none, and wants AVX (SDM vol. 1, 13.3).
        let mut xfrm = (self.xfrm & xcr0) | XFRM_LEGACY;
        if xfrm & 0b100 == 0 || xfrm & 0b1110_0000 != 0b1110_0000 {
            xfrm &= !0b1110_0000;
        }
        xfrm
    }
}

/// Pages side by side, of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// From ELRANGE_BASE; a multiple of the page size.
    pub offset: u64,
    /// Pages.
    pub count: u64,
    /// Type and rights.
    pub kind: PageKind,
    /// What is in them.
    pub content: Content,
}

/// Type and rights of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageKind {
    /// PT_TCS. Has no rights: only the processor reads it.
    Tcs,
    /// PT_REG.
    Regular {
        /// Readable.
        r: bool,
        /// Writable.
        w: bool,
        /// Executable.
        x: bool,
    },
}

impl PageKind {
    /// Readable.
    pub const READ: PageKind = PageKind::Regular { r: true, w: false, x: false };
    /// Readable and writable.
    pub const READ_WRITE: PageKind = PageKind::Regular { r: true, w: true, x: false };
    /// Readable and executable.
    pub const READ_EXECUTE: PageKind = PageKind::Regular { r: true, w: false, x: true };

    /// SECINFO.FLAGS (SDM vol. 3D, "Security Information"): R = 1, W = 2, X = 4, the type from bit 8.
    pub const fn secinfo_flags(self) -> u64 {
        match self {
            PageKind::Tcs => 1 << 8,
            PageKind::Regular { r, w, x } => (2 << 8) | (r as u64) | ((w as u64) << 1) | ((x as u64) << 2),
        }
    }
}

/// What is in the pages of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeros.
    Zero,
    /// `count` times the page size.
    Bytes(Vec<u8>),
}

/// One page, as EADD takes it.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// From ELRANGE_BASE.
    pub offset: u64,
    /// SECINFO.FLAGS.
    pub secinfo: u64,
    /// Content; [`ZERO_PAGE`] for a zero run.
    pub data: &'a [u8; PAGE_SIZE as usize],
    /// From a zero run.
    pub zero: bool,
}

impl Image {
    /// Every page in the order of EADD.
    pub fn pages(&self) -> impl Iterator<Item = Page<'_>> {
        self.pages.iter().flat_map(PageRun::pages)
    }

    /// How many pages are added before EINIT.
    pub fn page_count(&self) -> u64 {
        self.pages.iter().map(|run| run.count).fold(0, u64::saturating_add)
    }
}

impl PageRun {
    /// The pages of this run.
    pub fn pages(&self) -> impl Iterator<Item = Page<'_>> {
        let secinfo = self.kind.secinfo_flags();
        (0..self.count).map_while(move |index| {
            let (data, zero) = match &self.content {
                Content::Zero => (&ZERO_PAGE, true),
                Content::Bytes(bytes) => {
                    let start = usize::try_from(index.checked_mul(PAGE_SIZE)?).ok()?;
                    (bytes.get(start..)?.first_chunk()?, false)
                }
            };
            Some(Page { offset: self.offset.wrapping_add(index.wrapping_mul(PAGE_SIZE)), secinfo, data, zero })
        })
    }
}
