//! Typed commands: the only thing that comes out of decoding a descriptor.

use core::fmt;

use crate::descriptor::Descriptor;
use crate::handle::{Handle, Rights};
use crate::launch::{Block, Extras, Grid, MAX_PARAMS};
use crate::op::{self, Opcode};
use crate::status::Status;

/// Why a descriptor is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No operation has this code.
    UnknownOp(u16),
    /// Reserved bits of the first word are set.
    ReservedHead,
    /// An operand word has a value that means nothing, or an unused word is not zero.
    Operand {
        /// Index of the word, 0 to 5.
        word: u8,
    },
}

impl Malformed {
    /// The status a tenant sees.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Malformed::UnknownOp(_) => Status::UnknownOp,
            Malformed::ReservedHead | Malformed::Operand { .. } => Status::Malformed,
        }
    }
    /// The completion's detail: the offending code or word index.
    #[must_use]
    pub const fn detail(self) -> u64 {
        match self {
            Malformed::UnknownOp(code) => code as u64,
            Malformed::ReservedHead => u64::MAX,
            Malformed::Operand { word } => word as u64,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::UnknownOp(code) => write!(f, "no operation has code {code:#x}"),
            Malformed::ReservedHead => write!(f, "reserved bits of the first word are set"),
            Malformed::Operand { word } => write!(f, "operand word {word} has no meaning"),
        }
    }
}

/// A decoded command. Well formed, and nothing more: handles are not resolved, offsets not checked,
/// and the policy has not been asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each variant's Args carries the documentation of its row.
pub enum Request {
    Identify(op::identify::Args),
    SessionOpen(op::session_open::Args),
    SessionClose(op::session_close::Args),
    BufferCreate(op::buffer_create::Args),
    BufferDestroy(op::buffer_destroy::Args),
    BufferMap(op::buffer_map::Args),
    BufferUnmap(op::buffer_unmap::Args),
    DmaRegister(op::dma_register::Args),
    DmaUnregister(op::dma_unregister::Args),
    ProgramLoad(op::program_load::Args),
    ProgramUnload(op::program_unload::Args),
    FunctionGet(op::function_get::Args),
    FunctionRelease(op::function_release::Args),
    QueueCreate(op::queue_create::Args),
    QueueDestroy(op::queue_destroy::Args),
    FenceCreate(op::fence_create::Args),
    FenceDestroy(op::fence_destroy::Args),
    Derive(op::derive::Args),
    Nop(op::nop::Args),
    Copy(op::copy::Args),
    Fill(op::fill::Args),
    Launch(op::launch::Args),
    FenceSignal(op::fence_signal::Args),
    FenceWait(op::fence_wait::Args),
    Timestamp(op::timestamp::Args),
}

impl Request {
    /// Decodes a private copy of a descriptor.
    pub fn decode(descriptor: &Descriptor) -> Result<Request, Malformed> {
        let code = descriptor.head as u16;
        if descriptor.head >> 16 != 0 {
            return Err(Malformed::ReservedHead);
        }
        let opcode = Opcode::from_code(code).ok_or(Malformed::UnknownOp(code))?;
        let mut words = Cursor { words: &descriptor.words, at: 0 };
        let request = Request::decode_operands(opcode, &mut words)?;
        words.finish()?;
        Ok(request)
    }

    /// The descriptor of this command.
    #[must_use]
    pub fn encode(&self, cookie: u64) -> Descriptor {
        Descriptor { head: self.opcode() as u64, cookie, words: self.encode_operands() }
    }
}

/// The operand words not yet decoded.
pub struct Cursor<'a> {
    words: &'a [u64; 6],
    at: usize,
}

impl Cursor<'_> {
    fn next(&mut self) -> u64 {
        // A row cannot ask for a seventh word: op.rs asserts it at compile time.
        let word = self.words.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        word
    }
    /// The word just taken is meaningless.
    fn bad(&self) -> Malformed {
        Malformed::Operand { word: self.at.saturating_sub(1) as u8 }
    }
    fn finish(&self) -> Result<(), Malformed> {
        match self.words.iter().skip(self.at).position(|&w| w != 0) {
            Some(i) => Err(Malformed::Operand { word: (self.at + i) as u8 }),
            None => Ok(()),
        }
    }
}

/// Something that can be an operand.
pub trait Operand: Sized {
    /// Words it takes.
    const WORDS: usize;
    /// Takes it from the wire.
    fn take(words: &mut Cursor<'_>) -> Result<Self, Malformed>;
    /// Puts it on the wire.
    fn put(&self, words: &mut [u64]);
}

impl Operand for u64 {
    const WORDS: usize = 1;
    fn take(words: &mut Cursor<'_>) -> Result<Self, Malformed> {
        Ok(words.next())
    }
    fn put(&self, words: &mut [u64]) {
        words[0] = *self;
    }
}

impl Operand for Handle {
    const WORDS: usize = 1;
    fn take(words: &mut Cursor<'_>) -> Result<Self, Malformed> {
        Ok(Handle::from_raw(words.next()))
    }
    fn put(&self, words: &mut [u64]) {
        words[0] = self.raw();
    }
}

impl Operand for Rights {
    const WORDS: usize = 1;
    fn take(words: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let word = words.next();
        u16::try_from(word).ok().and_then(Rights::from_bits).ok_or_else(|| words.bad())
    }
    fn put(&self, words: &mut [u64]) {
        words[0] = self.bits().into();
    }
}

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u64)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)* }
        impl Operand for $name {
            const WORDS: usize = 1;
            fn take(words: &mut Cursor<'_>) -> Result<Self, Malformed> {
                match words.next() { $($code => Ok($name::$variant),)* _ => Err(words.bad()) }
            }
            fn put(&self, words: &mut [u64]) {
                words[0] = *self as u64;
            }
        }
    };
}

coded! {
    /// Where a buffer's memory lives.
    Usage {
        /// Device memory.
        Device = 1,
        /// Host-visible memory in the aperture's heap.
        Host = 2,
    }
}
coded! {
    /// What the device may do with registered guest memory.
    Access {
        /// Read it only.
        Read = 1,
        /// Write it only.
        Write = 2,
        /// Both.
        ReadWrite = 3,
    }
}
coded! {
    /// What a program image is.
    Format {
        /// PTX text.
        Ptx = 1,
        /// Machine code (cubin or fatbin): only images whose SHA-256 the policy lists.
        Image = 2,
    }
}

impl Access {
    /// The rights a region with this access carries beyond closing and deriving.
    #[must_use]
    pub const fn rights(self) -> Rights {
        match self {
            Access::Read => Rights::READ,
            Access::Write => Rights::WRITE,
            Access::ReadWrite => Rights::READ.union(Rights::WRITE),
        }
    }
}

impl Operand for Grid {
    const WORDS: usize = 2;
    fn take(words: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let (xy, zs) = (words.next(), words.next());
        let grid = Grid {
            blocks: [xy as u32, (xy >> 32) as u32, zs as u32],
            shared_bytes: (zs >> 32) as u32,
        };
        if grid.blocks.contains(&0) { Err(words.bad()) } else { Ok(grid) }
    }
    fn put(&self, words: &mut [u64]) {
        words[0] = u64::from(self.blocks[0]) | u64::from(self.blocks[1]) << 32;
        words[1] = u64::from(self.blocks[2]) | u64::from(self.shared_bytes) << 32;
    }
}

impl Operand for Block {
    const WORDS: usize = 1;
    fn take(words: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let word = words.next();
        let block = Block {
            threads: [word as u16, (word >> 16) as u16, (word >> 32) as u16],
            params_bytes: (word >> 48) as u16,
        };
        if block.threads.contains(&0) || block.params_bytes > MAX_PARAMS {
            Err(words.bad())
        } else {
            Ok(block)
        }
    }
    fn put(&self, words: &mut [u64]) {
        words[0] = u64::from(self.threads[0])
            | u64::from(self.threads[1]) << 16
            | u64::from(self.threads[2]) << 32
            | u64::from(self.params_bytes) << 48;
    }
}

impl Operand for Extras {
    const WORDS: usize = 1;
    fn take(words: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let word = words.next();
        let extras = Extras { relocations: word as u32, flags: (word >> 32) as u32 };
        let known = crate::launch::LaunchFlags::from_bits(extras.flags).is_some();
        if known && extras.relocations <= crate::launch::MAX_RELOCATIONS {
            Ok(extras)
        } else {
            Err(words.bad())
        }
    }
    fn put(&self, words: &mut [u64]) {
        words[0] = u64::from(self.relocations) | u64::from(self.flags) << 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Kind;
    use std::vec::Vec;

    #[test]
    fn golden_copy() {
        let request = Request::from(op::copy::Args {
            dst: Handle::new(Kind::Buffer, 2, 1),
            dst_offset: 0x10,
            src: Handle::new(Kind::DmaRegion, 3, 1),
            src_offset: 0x20,
            bytes: 0x1000,
        });
        let d = request.encode(7);
        assert_eq!(d.head, 0x21);
        assert_eq!(d.words, [0x0200_0000_0100_0002, 0x10, 0x0300_0000_0100_0003, 0x20, 0x1000, 0]);
        assert_eq!(Request::decode(&d), Ok(request));
    }

    #[test]
    fn golden_launch() {
        let request = Request::from(op::launch::Args {
            function: Handle::new(Kind::Function, 1, 1),
            grid: Grid { blocks: [4, 2, 1], shared_bytes: 512 },
            block: Block { threads: [256, 1, 1], params_bytes: 28 },
            params: 0x4000,
            extras: Extras { relocations: 3, flags: 0 },
        });
        let d = request.encode(0);
        assert_eq!(
            d.words,
            [
                0x0500_0000_0100_0001,
                0x2_0000_0004,
                0x200_0000_0001,
                0x001c_0001_0001_0100,
                0x4000,
                3
            ]
        );
        assert_eq!(Request::decode(&d), Ok(request));
    }

    #[test]
    fn meaningless_words_are_refused_with_their_index() {
        let bad = |d: Descriptor| Request::decode(&d).unwrap_err();
        let nop = Request::from(op::nop::Args {}).encode(0);
        assert_eq!(bad(Descriptor { head: 0xffff, ..nop }), Malformed::UnknownOp(0xffff));
        assert_eq!(bad(Descriptor { head: 0x1_0020, ..nop }), Malformed::ReservedHead);
        assert_eq!(
            bad(Descriptor { words: [0, 0, 0, 0, 0, 1], ..nop }),
            Malformed::Operand { word: 5 }
        );
        let usage = Descriptor { head: Opcode::BufferCreate as u64, ..Descriptor::default() };
        assert_eq!(bad(usage), Malformed::Operand { word: 2 });
        let grid = Descriptor { head: Opcode::Launch as u64, ..Descriptor::default() };
        assert_eq!(bad(grid), Malformed::Operand { word: 2 });
    }

    /// Whatever decodes encodes back to the same words, for every operation.
    #[test]
    fn decode_is_the_inverse_of_encode() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mut decoded = std::collections::BTreeSet::new();
        for _ in 0..200_000 {
            let op = op::TABLE[next() as usize % op::TABLE.len()];
            let mut words = [0; 6];
            let used: usize = op.operands.iter().map(|o| o.words).sum();
            for word in words.iter_mut().take(used) {
                *word = match next() % 4 {
                    0 => next() % 4,
                    1 => next() & 0x0000_0001_0000_0001 | 0x0001_0001_0001,
                    _ => next() & 0xff,
                };
            }
            let d = Descriptor { head: op.opcode as u64, cookie: next(), words };
            if let Ok(request) = Request::decode(&d) {
                assert_eq!(request.encode(d.cookie), d);
                decoded.insert(op.metric);
            }
        }
        let missed: Vec<_> = op::TABLE.iter().filter(|o| !decoded.contains(o.metric)).collect();
        assert!(missed.is_empty(), "never decoded: {missed:?}");
    }
}
