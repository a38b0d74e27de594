//! Handles: how a tenant names its capabilities.

use core::fmt;

bitflags::bitflags! {
    /// What a capability allows. Attenuation ([`crate::op::Opcode::Derive`]) can only clear bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Rights: u16 {
        /// Read the object's bytes (source of a copy, value of a fence).
        const READ = 1 << 0;
        /// Write the object's bytes.
        const WRITE = 1 << 1;
        /// Make a buffer visible in the aperture.
        const MAP = 1 << 2;
        /// Launch a function; get functions of a program.
        const LAUNCH = 1 << 3;
        /// Raise a fence's value.
        const SIGNAL = 1 << 4;
        /// Wait for a fence's value.
        const WAIT = 1 << 5;
        /// Create child objects in a session.
        const CREATE = 1 << 6;
        /// Derive weaker capabilities.
        const DERIVE = 1 << 7;
        /// Close this capability (and so everything derived from it).
        const CLOSE = 1 << 8;
    }
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident / $flag:ident = $code:literal rights $rights:expr;)*) => {
        /// The kind of object a handle names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind { $($(#[doc = $doc])* $name = $code,)* }

        bitflags::bitflags! {
            /// A set of [`Kind`]s, used by the operation table to say what an operand may name.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct KindSet: u8 { $($(#[doc = $doc])* const $flag = 1 << $code;)* }
        }

        impl Kind {
            /// Every kind, in code order.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The kind with this wire code.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Kind> {
                match code { $($code => Some(Kind::$name),)* _ => None }
            }
            /// The set that holds just this kind.
            #[must_use]
            pub const fn set(self) -> KindSet {
                match self { $(Kind::$name => KindSet::$flag,)* }
            }
            /// The rights a freshly created object of this kind carries.
            #[must_use]
            pub const fn full_rights(self) -> Rights {
                match self { $(Kind::$name => $rights,)* }
            }
            /// Lower-case name, as used in the audit log and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$name => stringify!($name),)* }
            }
        }
    };
}

kinds! {
    /// A GPU session: the root of everything a tenant creates.
    Session / SESSION = 1 rights Rights::CREATE.union(Rights::DERIVE).union(Rights::CLOSE);
    /// Device memory, or host-visible memory in the aperture.
    Buffer / BUFFER = 2 rights Rights::READ.union(Rights::WRITE).union(Rights::MAP).union(Rights::DERIVE).union(Rights::CLOSE);
    /// Guest memory registered for DMA.
    DmaRegion / DMA_REGION = 3 rights Rights::READ.union(Rights::WRITE).union(Rights::DERIVE).union(Rights::CLOSE);
    /// A loaded program image.
    Program / PROGRAM = 4 rights Rights::LAUNCH.union(Rights::DERIVE).union(Rights::CLOSE);
    /// One kernel of a program.
    Function / FUNCTION = 5 rights Rights::LAUNCH.union(Rights::DERIVE).union(Rights::CLOSE);
    /// A work queue.
    Queue / QUEUE = 6 rights Rights::CLOSE;
    /// A timeline fence.
    Fence / FENCE = 7 rights Rights::SIGNAL.union(Rights::WAIT).union(Rights::READ).union(Rights::DERIVE).union(Rights::CLOSE);
}

/// A tenant's name for a capability: `{index, generation, kind}` in one 64-bit word.
///
/// Bits 0–23 index, 24–55 generation (never 0), 56–63 [`Kind`] code. The all-zero word is null.
/// A handle means nothing in another tenant's table, and a stale one never resolves because the
/// slot's generation has moved on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Handle(u64);

impl Handle {
    /// The null handle; resolves to nothing.
    pub const NULL: Handle = Handle(0);
    /// Slots a table can have (24-bit index).
    pub const MAX_INDEX: u32 = (1 << 24) - 1;

    /// Packs a handle. Indices above [`Handle::MAX_INDEX`] are cut to 24 bits.
    #[must_use]
    pub const fn new(kind: Kind, index: u32, generation: u32) -> Handle {
        Handle((kind as u64) << 56 | (generation as u64) << 24 | (index & Self::MAX_INDEX) as u64)
    }
    /// The word as it came from the wire; nothing about it is known yet.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Handle {
        Handle(raw)
    }
    /// The wire word.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
    /// Slot index, 24 bits.
    #[must_use]
    pub const fn index(self) -> u32 {
        (self.0 & Self::MAX_INDEX as u64) as u32
    }
    /// Generation of the slot this handle was minted for.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 24) as u32
    }
    /// The claimed kind, if the code is a known one.
    #[must_use]
    pub const fn kind(self) -> Option<Kind> {
        Kind::from_code((self.0 >> 56) as u8)
    }
    /// Whether this is the null handle.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Some(kind) => write!(f, "{}#{}.{}", kind.name(), self.index(), self.generation()),
            None => write!(f, "handle({:#x})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_packing() {
        let h = Handle::new(Kind::Fence, 0x00ab_cdef, 0xdead_beef);
        assert_eq!(h.raw(), 0x07de_adbe_efab_cdef);
        assert_eq!(
            (h.kind(), h.index(), h.generation()),
            (Some(Kind::Fence), 0xab_cdef, 0xdead_beef)
        );
        assert_eq!(Handle::from_raw(0xff << 56).kind(), None);
        assert_eq!(Handle::NULL.kind(), None);
    }
}
