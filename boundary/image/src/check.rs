//! The rules that every image keeps, whether it was built here or read from a file.

use teemate_abi::layout::{self, ELRANGE_BASE, ENCLU_GATE_BYTES, EnclaveInfo, INFO_MAGIC, PAGE_SIZE, SSA_FRAME_PAGES};

use crate::{Content, Error, FLAG_DEBUG, FLAG_MODE64BIT, Image, MISC_EXINFO, PAGES_MAX, PageKind, XFRM_ALLOWED, XFRM_LEGACY, config};

/// Most runs of pages.
pub(crate) const RUNS_MAX: usize = 1 << 14;

impl Image {
    /// Whether it keeps the rules of layout. Images from [`Image::build`] and [`Image::from_bytes`] do.
    pub fn check(&self) -> Result<(), Error> {
        self.rules().map_err(Error::Layout)
    }

    fn rules(&self) -> Result<(), String> {
        config::check_size(self.elrange_size)?;
        config::check_tcs_count(self.tcs_count)?;
        if self.ssa_frame_pages != SSA_FRAME_PAGES {
            return Err(format!("its SSA frames have {} pages; {SSA_FRAME_PAGES} is possible", self.ssa_frame_pages));
        }
        if self.attributes.flags & !FLAG_DEBUG != FLAG_MODE64BIT {
            return Err(format!("its attributes {:#x} are not MODE64BIT, with or without DEBUG", self.attributes.flags));
        }
        if self.attributes.xfrm & XFRM_LEGACY != XFRM_LEGACY || self.attributes.xfrm & !XFRM_ALLOWED != 0 {
            return Err(format!("its XFRM {:#x} is not within {XFRM_LEGACY:#x} to {XFRM_ALLOWED:#x}", self.attributes.xfrm));
        }
        if self.miscselect & !MISC_EXINFO != 0 {
            return Err(format!("its MISCSELECT {:#x} has other bits than EXINFO", self.miscselect));
        }
        let end = self.runs()?;
        self.places(end)
    }

    /// Checks the runs; gives the end of the last.
    fn runs(&self) -> Result<u64, String> {
        if self.pages.len() > RUNS_MAX {
            return Err(format!("it has {} runs of pages; the most is {RUNS_MAX}", self.pages.len()));
        }
        let (mut end, mut total, mut tcs) = (0u64, 0u64, 0u64);
        for run in &self.pages {
            let bad = |why: &str| format!("the pages at offset {:#x} {why}", run.offset);
            if run.offset % PAGE_SIZE != 0 {
                return Err(bad("are not aligned"));
            }
            if run.offset < end {
                return Err(bad("overlap those before, or are out of order"));
            }
            total = total.saturating_add(run.count);
            if run.count == 0 || total > PAGES_MAX {
                return Err(bad(&format!("are none, or make more than {PAGES_MAX} in all")));
            }
            end = run
                .offset
                .checked_add(run.count * PAGE_SIZE)
                .filter(|&end| end <= self.elrange_size)
                .ok_or_else(|| bad("end beyond ELRANGE"))?;
            if let Content::Bytes(bytes) = &run.content
                && bytes.len() as u64 != run.count * PAGE_SIZE
            {
                return Err(bad(&format!("are {} with {} bytes of content", run.count, bytes.len())));
            }
            match run.kind {
                PageKind::Tcs => {
                    let place = (ELRANGE_BASE + run.offset).checked_sub(self.tcs_start).filter(|at| at % layout::tcs_block::STRIDE == 0);
                    if run.count != 1 || place.is_none_or(|at| at / layout::tcs_block::STRIDE != tcs) {
                        return Err(bad("are TCSs in a wrong place"));
                    }
                    tcs += 1;
                }
                PageKind::Regular { w: true, x: true, .. } => return Err(bad("are writable and executable")),
                PageKind::Regular { r: false, .. } => return Err(bad("are not readable")),
                PageKind::Regular { .. } => {}
            }
        }
        if tcs != u64::from(self.tcs_count) {
            return Err(format!("it has {tcs} TCS pages and says {}", self.tcs_count));
        }
        Ok(end)
    }

    /// Checks the addresses that the image names; `end` is where its pages end.
    fn places(&self, end: u64) -> Result<(), String> {
        let range = (ELRANGE_BASE + end)..=(ELRANGE_BASE + self.elrange_size);
        if !range.contains(&self.heap_start) || !self.heap_start.is_multiple_of(PAGE_SIZE) {
            return Err(format!("its dynamic range starts at {:#x}, which is not behind its pages", self.heap_start));
        }
        let gate = self.gate.checked_sub(ELRANGE_BASE).filter(|gate| gate % 16 == 0).and_then(|gate| self.page_at(gate));
        let gate = gate.filter(|(kind, _)| matches!(kind, PageKind::Regular { x: true, .. }));
        if gate.and_then(|(_, bytes)| bytes.first_chunk()) != Some(&ENCLU_GATE_BYTES) {
            return Err(format!("there is no ENCLU gate at {:#x}", self.gate));
        }
        let info = self.page_at(0).filter(|(kind, _)| *kind == PageKind::READ).map(|(_, bytes)| bytes);
        let info = info.ok_or("its first page is not a read-only EnclaveInfo")?;
        let u64_at = |at: usize| info.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes));
        let u32_at = |at: usize| info.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes));
        if u64_at(std::mem::offset_of!(EnclaveInfo, magic)) != Some(INFO_MAGIC) {
            return Err("its first page is not an EnclaveInfo".to_owned());
        }
        let version = u32_at(std::mem::offset_of!(EnclaveInfo, abi_version));
        if version != Some(teemate_abi::ABI_VERSION) {
            let version = version.unwrap_or(0);
            return Err(format!(
                "it was built for version {version} of the interface between enclave and host; here it is {}",
                teemate_abi::ABI_VERSION
            ));
        }
        let same = u64_at(std::mem::offset_of!(EnclaveInfo, elrange_size)) == Some(self.elrange_size)
            && u32_at(std::mem::offset_of!(EnclaveInfo, tcs_count)) == Some(self.tcs_count)
            && u64_at(std::mem::offset_of!(EnclaveInfo, tcs_start)) == Some(self.tcs_start)
            && u64_at(std::mem::offset_of!(EnclaveInfo, heap_start)) == Some(self.heap_start);
        if !same {
            return Err("its EnclaveInfo says otherwise than the file's metadata".to_owned());
        }
        Ok(())
    }

    /// Kind, and bytes from an offset to the end of its run; `None` for zero runs.
    fn page_at(&self, offset: u64) -> Option<(PageKind, &[u8])> {
        let index = self.pages.partition_point(|run| run.offset <= offset).checked_sub(1)?;
        let run = self.pages.get(index)?;
        let Content::Bytes(bytes) = &run.content else { return None };
        Some((run.kind, bytes.get(usize::try_from(offset - run.offset).ok()?..)?))
    }
}
