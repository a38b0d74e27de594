//! The two fixed-size records of a ring, as bytes.

use crate::status::Status;

/// A command as it lies in a submission ring: 64 bytes, little endian.
///
/// | bytes | field |
/// |---|---|
/// | 0–1 | operation code |
/// | 2–7 | reserved, zero |
/// | 8–15 | cookie, returned in the completion, never looked at |
/// | 16–63 | six operand words, laid out by the operation's row in [`crate::op`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// First word: operation code in the low 16 bits, the rest reserved.
    pub head: u64,
    /// The tenant's own tag.
    pub cookie: u64,
    /// Operand words.
    pub words: [u64; 6],
}

impl Descriptor {
    /// Size in a ring, in bytes.
    pub const BYTES: u64 = 64;

    /// Reads a descriptor out of a private copy of its bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Descriptor {
        let word = |i: usize| {
            let mut w = [0; 8];
            w.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
            u64::from_le_bytes(w)
        };
        Descriptor {
            head: word(0),
            cookie: word(1),
            words: [word(2), word(3), word(4), word(5), word(6), word(7)],
        }
    }

    /// The bytes as they go into a ring.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        let words = [self.head, self.cookie].into_iter().chain(self.words);
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The answer to a command: 32 bytes, little endian.
///
/// | bytes | field |
/// |---|---|
/// | 0–7 | cookie of the command |
/// | 8–15 | value: what the operation returns (a handle, an offset, a time) |
/// | 16–23 | detail: a second result, or more about a refusal |
/// | 24–27 | status code |
/// | 28–31 | sequence number: the completion's position in the ring's life, counted from 1 |
///
/// The last eight bytes are stored last, in one release store, so a driver that sees the expected
/// sequence number sees the rest as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The command's cookie.
    pub cookie: u64,
    /// First result.
    pub value: u64,
    /// Second result, or the refusal's detail.
    pub detail: u64,
    /// Outcome.
    pub status: Status,
}

impl Completion {
    /// Size in a ring, in bytes.
    pub const BYTES: u64 = 32;

    /// The four words of the wire form.
    #[must_use]
    pub const fn to_words(&self, sequence: u32) -> [u64; 4] {
        [self.cookie, self.value, self.detail, self.status as u64 | (sequence as u64) << 32]
    }

    /// Reads a completion; an unknown status code (a newer device) reads as [`Status::Backend`].
    #[must_use]
    pub const fn from_words(words: [u64; 4]) -> Completion {
        let status = match Status::from_code(words[3] as u32) {
            Some(status) => status,
            None => Status::Backend,
        };
        Completion { cookie: words[0], value: words[1], detail: words[2], status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_descriptor() {
        let d = Descriptor { head: 0x21, cookie: 0x1122_3344_5566_7788, words: [1, 2, 3, 4, 5, 6] };
        let bytes = d.to_bytes();
        assert_eq!(bytes[..16], *b"\x21\0\0\0\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11");
        assert_eq!(bytes[16..24], *b"\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[56], 6);
        assert_eq!(Descriptor::from_bytes(&bytes), d);
    }

    #[test]
    fn golden_completion() {
        let c = Completion { cookie: 9, value: 8, detail: 7, status: Status::Quota };
        assert_eq!(c.to_words(5), [9, 8, 7, 0x5_0000_0007]);
        assert_eq!(Completion::from_words(c.to_words(5)), c);
        assert_eq!(Completion::from_words([0, 0, 0, 0xffff]).status, Status::Backend);
    }
}
