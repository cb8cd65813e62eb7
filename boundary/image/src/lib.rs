//! Enclave images: layout, rewriting of syscall sites, measurement, signature.
//!
//! Pure functions of their input: the loader, the signer and the verifier use the same ones, and the same input gives the same MRENCLAVE
//! on every machine. Only [`Image::load`] and [`Image::save`] touch files.
//!
//! Everything here that reads bytes takes them for hostile: ELF files, image files, SIGSTRUCTs and keys give an [`Error`], never a panic.
#![forbid(unsafe_code)]

mod build;
mod check;
mod config;
mod elf;
mod error;
mod file;
mod image;
pub mod measure;
pub mod rewrite;
#[cfg(feature = "sign")]
mod sign;
pub mod sigstruct;
mod summary;

pub use config::ImageConfig;
pub use error::Error;
pub use image::*;
#[cfg(feature = "sign")]
pub use sign::SigningKey;
pub use sigstruct::{Verified, verify_sigstruct};
pub use summary::{ImageSummary, Segment, Signature, SiteCounts, Trap, describe};
