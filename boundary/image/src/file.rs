//! An image as a file.
//!
//! ```text
//! "TMIMAGE\0"   magic
//! u32           version, 1
//! u32           bytes of metadata
//! metadata      postcard
//! content       of each run that has one, in order, without its trailing zeros
//! ```
//! Integers are little-endian. The file may be hostile: what [`Image::from_bytes`] gives keeps the rules of [`Image::check`]. Whether it is
//! the *right* image, only its measurement says.

use std::path::Path;

use serde::{Deserialize, Serialize};
use teemate_abi::layout::PAGE_SIZE;

use crate::{Attributes, Content, Error, Image, PAGES_MAX, PageKind, PageRun, SIGSTRUCT_SIZE, check::RUNS_MAX, rewrite};

const MAGIC: &[u8; 8] = b"TMIMAGE\0";
const VERSION: u32 = 1;
/// Most bytes of metadata.
const METADATA_MAX: usize = 16 << 20;
/// Most bytes of content that the file may leave out as trailing zeros.
const PADDING_MAX: u64 = 64 << 20;
/// Largest file: every page, and the rest.
const FILE_MAX: u64 = PAGES_MAX * PAGE_SIZE + (32 << 20);

#[derive(Serialize, Deserialize)]
struct Metadata {
    elrange_size: u64,
    ssa_frame_pages: u32,
    gate: u64,
    tcs_start: u64,
    tcs_count: u32,
    heap_start: u64,
    attributes: Attributes,
    miscselect: u32,
    isv_prod_id: u16,
    isv_svn: u16,
    runs: Vec<Run>,
    report: rewrite::Report,
    sigstruct: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Run {
    offset: u64,
    count: u64,
    kind: PageKind,
    /// Bytes of content in the file; `None`: a zero run.
    stored: Option<u64>,
}

impl Image {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut padding = PADDING_MAX;
        let runs: Vec<(&PageRun, Option<&[u8]>)> = self.pages.iter().map(|run| (run, stored(&run.content, &mut padding))).collect();
        let metadata = Metadata {
            elrange_size: self.elrange_size,
            ssa_frame_pages: self.ssa_frame_pages,
            gate: self.gate,
            tcs_start: self.tcs_start,
            tcs_count: self.tcs_count,
            heap_start: self.heap_start,
            attributes: self.attributes,
            miscselect: self.miscselect,
            isv_prod_id: self.isv_prod_id,
            isv_svn: self.isv_svn,
            runs: runs
                .iter()
                .map(|(run, stored)| Run {
                    offset: run.offset,
                    count: run.count,
                    kind: run.kind,
                    stored: stored.map(|bytes| bytes.len() as u64),
                })
                .collect(),
            report: self.report.clone(),
            sigstruct: self.sigstruct.map(|bytes| bytes.to_vec()),
        };
        let metadata = postcard::to_stdvec(&metadata).map_err(|error| Error::File(format!("its metadata can't be written ({error})")))?;
        let length = u32::try_from(metadata.len()).ok().filter(|&length| length as usize <= METADATA_MAX);
        let length = length.ok_or_else(|| Error::File(format!("its metadata has {} bytes; the most is {METADATA_MAX}", metadata.len())))?;
        let mut file = Vec::new();
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&metadata);
        for bytes in runs.iter().filter_map(|(_, stored)| *stored) {
            file.extend_from_slice(bytes);
        }
        Ok(file)
    }

    /// From a file's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Image, Error> {
        let image = read(bytes).map_err(Error::File)?;
        image.check()?;
        Ok(image)
    }

    /// Reads an image file.
    pub fn load(path: &Path) -> Result<Image, Error> {
        let io = |source| Error::Io { path: path.display().to_string(), source };
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > FILE_MAX {
            return Err(Error::File(format!("{} has {length} bytes; the most is {FILE_MAX}", path.display())));
        }
        Image::from_bytes(&std::fs::read(path).map_err(io)?)
    }

    /// Writes an image file: whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let io = |source| Error::Io { path: path.display().to_string(), source };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        std::fs::write(&temporary, self.to_bytes()?).map_err(io)?;
        std::fs::rename(&temporary, path).map_err(|source| {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&temporary);
            io(source)
        })
    }
}

/// Content without its trailing zeros, as long as `padding` allows to leave them out.
fn stored<'a>(content: &'a Content, padding: &mut u64) -> Option<&'a [u8]> {
    let Content::Bytes(bytes) = content else { return None };
    let length = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    match padding.checked_sub((bytes.len() - length) as u64) {
        Some(left) => {
            *padding = left;
            bytes.get(..length)
        }
        None => Some(bytes),
    }
}

fn read(bytes: &[u8]) -> Result<Image, String> {
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("it has {} bytes; the most is {FILE_MAX}", bytes.len()));
    }
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not start with the magic of a TeeMate image")?;
    let (version, rest) = rest.split_first_chunk().ok_or("it is truncated in its header")?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("its format has version {version}; this program reads version {VERSION}"));
    }
    let (length, rest) = rest.split_first_chunk().ok_or("it is truncated in its header")?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > METADATA_MAX {
        return Err(format!("its metadata has {length} bytes; the most is {METADATA_MAX}"));
    }
    let (metadata, mut rest) = rest.split_at_checked(length).ok_or("it is truncated in its metadata")?;
    let (metadata, left): (Metadata, _) =
        postcard::take_from_bytes(metadata).map_err(|error| format!("its metadata can't be read ({error})"))?;
    if !left.is_empty() {
        return Err(format!("{} bytes follow its metadata", left.len()));
    }
    if metadata.runs.len() > RUNS_MAX {
        return Err(format!("it has {} runs of pages; the most is {RUNS_MAX}", metadata.runs.len()));
    }
    let total = metadata.runs.iter().fold(0u64, |total, run| total.saturating_add(run.count));
    if total > PAGES_MAX {
        return Err(format!("it has {total} pages; the most is {PAGES_MAX}"));
    }
    // A small file could ask for gigabytes of trailing zeros: those are for zero runs, so here they are limited.
    let mut padding = 0u64;
    let mut pages = Vec::with_capacity(metadata.runs.len());
    for run in metadata.runs {
        let content = match run.stored {
            None => Content::Zero,
            Some(stored) => {
                let size = run.count * PAGE_SIZE;
                let zeros =
                    size.checked_sub(stored).ok_or_else(|| format!("the pages at offset {:#x} have more content than room", run.offset))?;
                padding = padding.saturating_add(zeros);
                if padding > PADDING_MAX {
                    return Err(format!("it leaves out {padding} bytes of content; the most is {PADDING_MAX}"));
                }
                let (content, others) = usize::try_from(stored)
                    .ok()
                    .and_then(|stored| rest.split_at_checked(stored))
                    .ok_or_else(|| format!("it is truncated in the content of the pages at offset {:#x}", run.offset))?;
                rest = others;
                let mut content = content.to_vec();
                content.resize(usize::try_from(size).map_err(|_| "a run is larger than this machine's memory")?, 0);
                Content::Bytes(content)
            }
        };
        pages.push(PageRun { offset: run.offset, count: run.count, kind: run.kind, content });
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes follow its last page", rest.len()));
    }
    let sigstruct = match metadata.sigstruct {
        None => None,
        Some(bytes) => {
            let length = bytes.len();
            Some(
                <[u8; SIGSTRUCT_SIZE]>::try_from(bytes)
                    .map_err(|_| format!("its SIGSTRUCT has {length} bytes instead of {SIGSTRUCT_SIZE}"))?,
            )
        }
    };
    Ok(Image {
        elrange_size: metadata.elrange_size,
        ssa_frame_pages: metadata.ssa_frame_pages,
        pages,
        gate: metadata.gate,
        tcs_start: metadata.tcs_start,
        tcs_count: metadata.tcs_count,
        heap_start: metadata.heap_start,
        attributes: metadata.attributes,
        miscselect: metadata.miscselect,
        isv_prod_id: metadata.isv_prod_id,
        isv_svn: metadata.isv_svn,
        report: metadata.report,
        sigstruct,
    })
}
