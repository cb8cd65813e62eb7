//! A thread's context, and where an SSA frame keeps it (SDM vol. 3D, 34.9).
//!
//! ```text
//! frame                XSAVE area (standard format), as many components as XFRM has
//! end - 200            EXINFO: MADDR, ERRCD
//! end - 184            GPRSGX
//! ```

/// Bytes of GPRSGX.
pub const GPRSGX: u64 = 184;
/// Bytes of EXINFO.
pub const EXINFO: u64 = 16;
/// Within GPRSGX: URSP.
pub const URSP: u64 = 144;
/// Bytes of the XSAVE area's legacy part.
const LEGACY: usize = 512;
/// Legacy part and header.
pub const XSAVE_MIN: usize = LEGACY + 64;

/// Order of the general registers, here as in GPRSGX.
pub mod reg {
    #![allow(missing_docs)]
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
}

/// General registers and what goes with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// In the order of [`reg`].
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    /// FS base.
    pub fs: u64,
    /// GS base.
    pub gs: u64,
}

/// Why an AEX happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Something of the host's own; EXITINFO.VALID is 0.
    Interrupt,
    /// An exception.
    Exception {
        /// x86 vector.
        vector: u8,
        /// Error code.
        error: u32,
        /// Address of a #PF.
        address: u64,
    },
}

impl Cause {
    /// #UD.
    pub const INVALID_OPCODE: Cause = Cause::Exception { vector: 6, error: 0, address: 0 };
    /// #GP(0).
    pub const GENERAL_PROTECTION: Cause = Cause::Exception { vector: 13, error: 0, address: 0 };

    /// EXITINFO (SDM vol. 3D, 34.9.1.1): the vector is told for these exceptions only.
    fn exit_info(self, exinfo: bool) -> u32 {
        match self {
            Cause::Exception { vector: 3, .. } => 1 << 31 | 6 << 8 | 3,
            Cause::Exception { vector: vector @ (0 | 1 | 5 | 6 | 16 | 17 | 19), .. } => 1 << 31 | 3 << 8 | vector as u32,
            Cause::Exception { vector: vector @ (13 | 14), .. } if exinfo => 1 << 31 | 3 << 8 | vector as u32,
            _ => 0,
        }
    }
}

/// An SSA frame, as bytes.
pub struct Frame<'a>(pub &'a mut [u8]);

impl Frame<'_> {
    /// Writes everything that an AEX writes. URSP and URBP are EENTER's and stay.
    pub fn store(&mut self, context: &Context, xsave: &[u8], xfrm: u64, cause: Cause, exinfo: bool) {
        let end = self.0.len();
        let gprsgx = end - GPRSGX as usize;
        for (index, value) in context.gpr.iter().enumerate() {
            self.put(gprsgx + index * 8, *value);
        }
        self.put(gprsgx + 128, context.rflags);
        self.put(gprsgx + 136, context.rip);
        self.put(gprsgx + 160, cause.exit_info(exinfo) as u64);
        self.put(gprsgx + 168, context.fs);
        self.put(gprsgx + 176, context.gs);
        if let (true, Cause::Exception { vector: 13 | 14, error, address }) = (exinfo, cause) {
            self.put(gprsgx - EXINFO as usize, address);
            self.put(gprsgx - 8, (error & 0xffff) as u64);
        }
        let room = gprsgx - EXINFO as usize;
        let length = xsave.len().min(room);
        self.0[..length].copy_from_slice(&xsave[..length]);
        if length >= XSAVE_MIN {
            // What Linux keeps in the reserved bytes of a signal frame, and components that XFRM lacks.
            self.0[464..LEGACY].fill(0);
            let components = self.get(LEGACY) & xfrm;
            self.0[LEGACY..XSAVE_MIN].fill(0);
            self.put(LEGACY, components);
        }
    }

    /// URSP and URBP.
    pub fn untrusted_stack(&self) -> (u64, u64) {
        let gprsgx = self.0.len() - GPRSGX as usize;
        (self.get(gprsgx + URSP as usize), self.get(gprsgx + URSP as usize + 8))
    }

    fn put(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn get(&self, at: usize) -> u64 {
        self.0[at..at + 8].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}
