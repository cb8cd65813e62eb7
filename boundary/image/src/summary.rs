//! An image in words and figures: for `teemate image show`.

use serde::Serialize;

use crate::{Content, Error, FLAG_DEBUG, Image, PageKind, rewrite::Form, verify_sigstruct};

/// What there is to know of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// MRENCLAVE, hexadecimal.
    pub mrenclave: String,
    /// Size of ELRANGE.
    pub elrange_size: u64,
    /// TCSs.
    pub tcs_count: u32,
    /// A debug enclave: the host can read it.
    pub debug: bool,
    /// Most XFRM bits that it allows.
    pub xfrm: u64,
    /// Pages that are added and measured.
    pub pages: u64,
    /// Of these, pages of zeros that the file does not hold.
    pub zero_pages: u64,
    /// Start of the dynamic range.
    pub heap_start: u64,
    /// Pages outside TCS blocks, by address.
    pub segments: Vec<Segment>,
    /// The signature, verified.
    pub signature: Option<Signature>,
    /// What became of the payload's syscall sites.
    pub sites: SiteCounts,
    /// Sites that were left to trap.
    pub traps: Vec<Trap>,
}

/// Pages side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Address.
    pub address: u64,
    /// Pages.
    pub pages: u64,
    /// `r--`, `rw-`, `r-x`.
    pub rights: String,
    /// All zeros.
    pub zero: bool,
}

/// Who signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// MRSIGNER, hexadecimal; `None`: the signature is wrong.
    pub mrsigner: Option<String>,
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// `YYYY-MM-DD`, as the signer says.
    pub date: String,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// Syscall sites by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SiteCounts {
    /// All of them.
    pub found: usize,
    /// `mov $nr,%eax; syscall`.
    pub number: usize,
    /// Rewritten with other instructions before them.
    pub before: usize,
    /// Rewritten with instructions after them.
    pub after: usize,
    /// Left to trap.
    pub trap: usize,
}

/// A site that was left to trap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trap {
    /// Address in the payload's ELF file.
    pub address: u64,
    /// Function.
    pub symbol: String,
    /// Syscall number, where known.
    pub number: Option<u32>,
    /// Why.
    pub why: String,
}

impl Image {
    /// Whether its SIGSTRUCT is right, and is for it.
    pub fn verify(&self) -> Result<crate::Verified, Error> {
        let sigstruct =
            self.sigstruct.ok_or_else(|| Error::Sigstruct("there is none; sign the image first: `teemate image sign`".to_owned()))?;
        let verified = verify_sigstruct(&sigstruct)?;
        verified.permits(&self.measure(), self.attributes, self.miscselect)?;
        Ok(verified)
    }
}

/// The summary of an image.
pub fn describe(image: &Image) -> ImageSummary {
    let mut sites = SiteCounts { found: image.report.sites.len(), ..SiteCounts::default() };
    let mut traps = Vec::new();
    for site in &image.report.sites {
        match &site.form {
            Form::Number => sites.number += 1,
            Form::Before => sites.before += 1,
            Form::After => sites.after += 1,
            Form::Trap(why) => {
                sites.trap += 1;
                traps.push(Trap { address: site.address, symbol: site.symbol.clone(), number: site.number, why: why.clone() });
            }
        }
    }
    let first_program = image.tcs_start + u64::from(image.tcs_count) * teemate_abi::layout::tcs_block::STRIDE;
    let segments = image.pages.iter().filter_map(|run| {
        let address = teemate_abi::layout::ELRANGE_BASE + run.offset;
        let PageKind::Regular { r, w, x } = run.kind else { return None };
        let rights = [(r, 'r'), (w, 'w'), (x, 'x')].map(|(has, letter)| if has { letter } else { '-' });
        (address < image.tcs_start || address >= first_program).then(|| Segment {
            address,
            pages: run.count,
            rights: rights.iter().collect(),
            zero: run.content == Content::Zero,
        })
    });
    ImageSummary {
        mrenclave: hex(&image.measure()),
        elrange_size: image.elrange_size,
        tcs_count: image.tcs_count,
        debug: image.attributes.flags & FLAG_DEBUG != 0,
        xfrm: image.attributes.xfrm,
        pages: image.page_count(),
        zero_pages: image.pages.iter().filter(|run| run.content == Content::Zero).map(|run| run.count).sum(),
        heap_start: image.heap_start,
        segments: segments.collect(),
        signature: image.sigstruct.map(|_| signature(image)),
        sites,
        traps,
    }
}

fn signature(image: &Image) -> Signature {
    match image.verify() {
        Ok(verified) => Signature {
            mrsigner: Some(hex(&verified.mrsigner)),
            isv_prod_id: verified.isv_prod_id,
            isv_svn: verified.isv_svn,
            date: format!("{:04x}-{:02x}-{:02x}", verified.date >> 16, verified.date >> 8 & 0xff, verified.date & 0xff),
            error: None,
        },
        Err(error) => Signature { mrsigner: None, isv_prod_id: 0, isv_svn: 0, date: String::new(), error: Some(error.to_string()) },
    }
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
