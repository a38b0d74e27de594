//! The one table of operations.
//!
//! Each row gives an operation its code, queue class, the grant it needs in the policy, its base
//! cost for scheduling, and its operands with the kinds and rights a handle operand must have. The
//! row is the single source for decoding ([`crate::Request`]), authorization, capability
//! resolution, cost, documentation, metrics names and the fuzzer's dictionary.

use crate::handle::{Handle, KindSet, Rights};
use crate::launch::{Block, Extras, Grid};
use crate::request::{Cursor, Malformed, Operand, Request};

/// Which queue an operation belongs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Queue 0: creates, changes and closes objects.
    Admin,
    /// A work queue: moves bytes, runs kernels, orders.
    Work,
}

/// The grant of the policy that an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Grant {
    /// Needs nothing beyond being a tenant.
    Always,
    /// `grants.buffer`.
    Buffer,
    /// `grants.dma`.
    Dma,
    /// `grants.program`.
    Program,
    /// `grants.launch`.
    Launch,
    /// `grants.queue`.
    Queue,
    /// `grants.copy`.
    Copy,
    /// `grants.fill`.
    Fill,
    /// `grants.fence`.
    Fence,
    /// `grants.derive`.
    Derive,
}

/// What an operand is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A number.
    Scalar,
    /// A handle: what it may name and the rights it must carry.
    Cap(Need),
}

/// What a handle operand must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Kinds it may name.
    pub kinds: KindSet,
    /// Rights the capability must carry.
    pub rights: Rights,
}

const fn cap(kinds: KindSet, rights: Rights) -> Use {
    Use::Cap(Need { kinds, rights })
}

/// One operand of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperandInfo {
    /// Field name in the request.
    pub name: &'static str,
    /// What it is for.
    pub usage: Use,
    /// Operand words it takes.
    pub words: usize,
    /// What it means, for the documentation.
    pub doc: &'static str,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpInfo {
    /// The operation.
    pub opcode: Opcode,
    /// Name as in the documentation.
    pub name: &'static str,
    /// Name as in metrics, audit and policies.
    pub metric: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Where it may be submitted.
    pub class: Class,
    /// What the policy must grant.
    pub grant: Grant,
    /// Scheduling cost without its payload. 1 is the cost of a `Nop`.
    pub cost: u32,
    /// Operands in wire order.
    pub operands: &'static [OperandInfo],
    /// What the completion's value and detail hold on success.
    pub returns: &'static str,
}

macro_rules! operations {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident / $metric:ident = $code:literal, $class:ident, $grant:ident, cost $cost:literal
        { $( $(#[doc = $fdoc:literal])* $field:ident : $ty:ty = $usage:expr, )* }
        -> $returns:literal;
    )*) => {
        /// Wire codes of the operations.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Opcode { $( $(#[doc = $doc])* $name = $code, )* }

        impl Opcode {
            /// The operation with this wire code.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Opcode> {
                match code { $($code => Some(Opcode::$name),)* _ => None }
            }
            /// This operation's row.
            #[must_use]
            pub const fn info(self) -> &'static OpInfo {
                match self { $(Opcode::$name => &$metric::INFO,)* }
            }
        }

        /// Every operation, in code order.
        pub const TABLE: &[&OpInfo] = &[$(&$metric::INFO,)*];

        $(
            #[doc = concat!("Operands of [`Opcode::", stringify!($name), "`].")]
            pub mod $metric {
                #[allow(unused_imports)]
                use super::*;

                $(#[doc = $doc])*
                #[derive(Clone, Copy, Debug, PartialEq, Eq)]
                pub struct Args { $( $(#[doc = $fdoc])* pub $field: $ty, )* }

                pub(super) const INFO: OpInfo = OpInfo {
                    opcode: Opcode::$name,
                    name: stringify!($name),
                    metric: stringify!($metric),
                    doc: concat!($($doc, "\n"),*),
                    class: Class::$class,
                    grant: Grant::$grant,
                    cost: $cost,
                    operands: &[$(OperandInfo {
                        name: stringify!($field),
                        usage: $usage,
                        words: <$ty as Operand>::WORDS,
                        doc: concat!($($fdoc),*),
                    },)*],
                    returns: $returns,
                };

                impl Args {
                    pub(crate) fn decode(_words: &mut Cursor<'_>) -> Result<Args, Malformed> {
                        Ok(Args { $($field: <$ty>::take(_words)?,)* })
                    }
                    pub(crate) fn encode(&self) -> [u64; 6] {
                        #[allow(unused_mut)]
                        let mut words = [0; 6];
                        let mut _at = 0;
                        $( self.$field.put(&mut words[_at..]); _at += <$ty as Operand>::WORDS; )*
                        words
                    }
                    /// This operation's row.
                    pub const INFO: &'static OpInfo = &INFO;
                }

                impl From<Args> for Request {
                    fn from(args: Args) -> Request { Request::$name(args) }
                }

                const _: () = {
                    let mut words = 0;
                    let mut i = 0;
                    while i < INFO.operands.len() { words += INFO.operands[i].words; i += 1; }
                    assert!(words <= 6, "an operation has six operand words");
                };
            }
        )*

        impl Request {
            pub(crate) fn decode_operands(
                opcode: Opcode,
                words: &mut Cursor<'_>,
            ) -> Result<Request, Malformed> {
                Ok(match opcode { $(Opcode::$name => Request::$name($metric::Args::decode(words)?),)* })
            }
            pub(crate) fn encode_operands(&self) -> [u64; 6] {
                match self { $(Request::$name(args) => args.encode(),)* }
            }
            /// The operation.
            #[must_use]
            pub const fn opcode(&self) -> Opcode {
                match self { $(Request::$name(_) => Opcode::$name,)* }
            }
        }
    };
}

const SESSION: Use = cap(KindSet::SESSION, Rights::CREATE);
const MEMORY: KindSet = KindSet::BUFFER.union(KindSet::DMA_REGION);
const DERIVABLE: KindSet = KindSet::SESSION
    .union(KindSet::BUFFER)
    .union(KindSet::DMA_REGION)
    .union(KindSet::PROGRAM)
    .union(KindSet::FUNCTION)
    .union(KindSet::FENCE);

operations! {
    /// Writes the tenant's limits and identity ([`crate::identify::Identity`]) into the aperture.
    Identify / identify = 0x01, Admin, Always, cost 4 {
        /// Aperture offset of the record, a multiple of 8.
        offset: u64 = Use::Scalar,
        /// Bytes available there; at least 128.
        bytes: u64 = Use::Scalar,
    } -> "value: bytes written";

    /// Opens a session: an address space on the GPU, and the root of everything created in it.
    SessionOpen / session_open = 0x02, Admin, Always, cost 64 {
    } -> "value: session handle; detail: base of its device address space";

    /// Closes a session and everything in it. Completes when its memory is reclaimed.
    SessionClose / session_close = 0x03, Admin, Always, cost 64 {
        /// The session.
        session: Handle = cap(KindSet::SESSION, Rights::CLOSE),
    } -> "nothing";

    /// Creates a zeroed buffer.
    BufferCreate / buffer_create = 0x04, Admin, Buffer, cost 16 {
        /// Session it belongs to.
        session: Handle = SESSION,
        /// Size in bytes, not 0.
        bytes: u64 = Use::Scalar,
        /// [`crate::request::Usage`] code: 1 device memory, 2 host-visible memory in the aperture.
        usage: crate::request::Usage = Use::Scalar,
    } -> "value: buffer handle; detail: device address";

    /// Closes a buffer capability; the root capability frees the memory.
    BufferDestroy / buffer_destroy = 0x05, Admin, Buffer, cost 16 {
        /// The buffer.
        buffer: Handle = cap(KindSet::BUFFER, Rights::CLOSE),
    } -> "nothing";

    /// Makes a host-visible buffer's place in the aperture known. A mapped buffer cannot be destroyed.
    BufferMap / buffer_map = 0x06, Admin, Buffer, cost 4 {
        /// The buffer, created host-visible.
        buffer: Handle = cap(KindSet::BUFFER, Rights::MAP),
    } -> "value: aperture offset; detail: length in bytes";

    /// Gives a mapping back.
    BufferUnmap / buffer_unmap = 0x07, Admin, Buffer, cost 4 {
        /// The buffer.
        buffer: Handle = cap(KindSet::BUFFER, Rights::MAP),
    } -> "nothing";

    /// Registers guest memory for DMA.
    DmaRegister / dma_register = 0x08, Admin, Dma, cost 64 {
        /// Session it belongs to.
        session: Handle = SESSION,
        /// Aperture offset of the list of [`crate::launch::DmaExtent`]s, a multiple of 8.
        list: u64 = Use::Scalar,
        /// Extents in the list, 1 to 4096.
        extents: u64 = Use::Scalar,
        /// What the device may do with it.
        access: crate::request::Access = Use::Scalar,
    } -> "value: region handle; detail: length in bytes";

    /// Closes a region; the root capability unmaps it before this completes.
    DmaUnregister / dma_unregister = 0x09, Admin, Dma, cost 64 {
        /// The region.
        region: Handle = cap(KindSet::DMA_REGION, Rights::CLOSE),
    } -> "nothing";

    /// Checks, guards and loads a program image.
    ProgramLoad / program_load = 0x0a, Admin, Program, cost 1024 {
        /// Session it belongs to.
        session: Handle = SESSION,
        /// Aperture offset of the image.
        image: u64 = Use::Scalar,
        /// Its length in bytes.
        bytes: u64 = Use::Scalar,
        /// What the image is.
        format: crate::request::Format = Use::Scalar,
    } -> "value: program handle";

    /// Unloads a program and releases its functions.
    ProgramUnload / program_unload = 0x0b, Admin, Program, cost 64 {
        /// The program.
        program: Handle = cap(KindSet::PROGRAM, Rights::CLOSE),
    } -> "nothing";

    /// Looks a kernel up by name.
    FunctionGet / function_get = 0x0c, Admin, Program, cost 16 {
        /// The program.
        program: Handle = cap(KindSet::PROGRAM, Rights::LAUNCH),
        /// Aperture offset of the name.
        name: u64 = Use::Scalar,
        /// Its length in bytes, 1 to 256.
        bytes: u64 = Use::Scalar,
    } -> "value: function handle; detail: bytes of parameters it takes";

    /// Releases a function.
    FunctionRelease / function_release = 0x0d, Admin, Program, cost 4 {
        /// The function.
        function: Handle = cap(KindSet::FUNCTION, Rights::CLOSE),
    } -> "nothing";

    /// Creates a work queue over a ring in the aperture.
    QueueCreate / queue_create = 0x0e, Admin, Queue, cost 64 {
        /// Session it belongs to.
        session: Handle = SESSION,
        /// Aperture offset of the ring, a multiple of 64.
        ring: u64 = Use::Scalar,
        /// Descriptors in the ring, a power of two.
        depth: u64 = Use::Scalar,
        /// MSI-X vector for its completions.
        vector: u64 = Use::Scalar,
    } -> "value: queue handle; detail: queue number, which selects the doorbell";

    /// Stops a queue. Commands in flight complete with `revoked` before this completes.
    QueueDestroy / queue_destroy = 0x0f, Admin, Queue, cost 64 {
        /// The queue.
        queue: Handle = cap(KindSet::QUEUE, Rights::CLOSE),
    } -> "nothing";

    /// Creates a timeline fence: a 64-bit value that only grows.
    FenceCreate / fence_create = 0x10, Admin, Fence, cost 8 {
        /// Session it belongs to.
        session: Handle = SESSION,
        /// First value.
        initial: u64 = Use::Scalar,
        /// Aperture offset that mirrors the value (a multiple of 8), or all-ones for none.
        mirror: u64 = Use::Scalar,
    } -> "value: fence handle";

    /// Closes a fence. Waits on it end with `revoked`.
    FenceDestroy / fence_destroy = 0x11, Admin, Fence, cost 8 {
        /// The fence.
        fence: Handle = cap(KindSet::FENCE, Rights::CLOSE),
    } -> "nothing";

    /// Derives a weaker capability, a child of the source: closing the source closes it.
    Derive / derive = 0x12, Admin, Derive, cost 8 {
        /// The source.
        source: Handle = cap(DERIVABLE, Rights::DERIVE),
        /// Rights of the new capability, a subset of the source's.
        rights: Rights = Use::Scalar,
    } -> "value: the new handle";

    /// Does nothing, in order.
    Nop / nop = 0x20, Work, Always, cost 1 {
    } -> "nothing";

    /// Copies bytes. Overlapping ranges of one object are refused.
    Copy / copy = 0x21, Work, Copy, cost 8 {
        /// Destination.
        dst: Handle = cap(MEMORY, Rights::WRITE),
        /// Byte offset in it.
        dst_offset: u64 = Use::Scalar,
        /// Source.
        src: Handle = cap(MEMORY, Rights::READ),
        /// Byte offset in it.
        src_offset: u64 = Use::Scalar,
        /// Bytes to copy, not 0.
        bytes: u64 = Use::Scalar,
    } -> "value: bytes copied";

    /// Fills a range with a repeated pattern.
    Fill / fill = 0x22, Work, Fill, cost 8 {
        /// Destination.
        dst: Handle = cap(MEMORY, Rights::WRITE),
        /// Byte offset in it, a multiple of the pattern's width.
        offset: u64 = Use::Scalar,
        /// Bytes to fill, a non-zero multiple of the pattern's width.
        bytes: u64 = Use::Scalar,
        /// The pattern, in the low bits.
        pattern: u64 = Use::Scalar,
        /// Its width in bytes: 1, 2, 4 or 8.
        width: u64 = Use::Scalar,
    } -> "value: bytes filled";

    /// Runs a kernel.
    Launch / launch = 0x23, Work, Launch, cost 64 {
        /// The kernel.
        function: Handle = cap(KindSet::FUNCTION, Rights::LAUNCH),
        /// Grid and dynamic shared memory.
        grid: Grid = Use::Scalar,
        /// Block and parameter length.
        block: Block = Use::Scalar,
        /// Aperture offset of the parameter block (a multiple of 8), relocations after it.
        params: u64 = Use::Scalar,
        /// Relocation count and flags.
        extras: Extras = Use::Scalar,
    } -> "value: run time in nanoseconds, as the backend measured it";

    /// Raises a fence to a value once everything before it in the queue is done.
    FenceSignal / fence_signal = 0x24, Work, Fence, cost 2 {
        /// The fence.
        fence: Handle = cap(KindSet::FENCE, Rights::SIGNAL),
        /// Its new value; not below the present one.
        value: u64 = Use::Scalar,
    } -> "value: the fence's value";

    /// Holds the queue until a fence has reached a value.
    FenceWait / fence_wait = 0x25, Work, Fence, cost 2 {
        /// The fence.
        fence: Handle = cap(KindSet::FENCE, Rights::WAIT),
        /// The value to wait for.
        value: u64 = Use::Scalar,
        /// Longest wait in nanoseconds; the policy's launch timeout bounds it.
        timeout_ns: u64 = Use::Scalar,
    } -> "value: the fence's value";

    /// Reads the device clock, in order.
    Timestamp / timestamp = 0x26, Work, Always, cost 1 {
    } -> "value: nanoseconds of the device clock";
}

impl OpInfo {
    /// What operand `name` of this operation needs.
    ///
    /// # Panics
    /// At compile time, when used in a constant with a name that is no handle operand of the row.
    #[must_use]
    pub const fn need(&self, operand: usize) -> Need {
        match self.operands[operand].usage {
            Use::Cap(need) => need,
            Use::Scalar => panic!("not a handle operand"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn codes_and_names_are_unique_and_sorted() {
        let codes: Vec<_> = TABLE.iter().map(|op| op.opcode as u16).collect();
        assert!(codes.windows(2).all(|w| w[0] < w[1]));
        for op in TABLE {
            assert_eq!(Opcode::from_code(op.opcode as u16), Some(op.opcode));
            assert!(!op.doc.is_empty() && !op.returns.is_empty());
            assert_eq!(op.class == Class::Work, op.opcode as u16 >= 0x20);
        }
        let mut names: Vec<_> = TABLE.iter().map(|op| op.metric).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
