//! The messages on the socket: one `SOCK_SEQPACKET` packet each, five little-endian 64-bit words and
//! for some a text. The ABI's words, not these, are what a tenant's work is made of.

use turnstile_abi::version::Version;

/// First word of a hello: `"TRNP"` and the version of these messages.
pub const HELLO: u64 = u32::from_le_bytes(*b"TRNP") as u64 | 1 << 32;
/// Longest text, in bytes.
pub const MAX_TEXT: usize = 200;
/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = WORDS * 8 + MAX_TEXT;
/// Most file descriptors in one message: the aperture and an interrupt pipe a vector.
pub const MAX_FDS: usize = 1 + turnstile_abi::regs::VECTORS as usize;

const WORDS: usize = 5;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than the words, or longer than the longest message.
    #[error("a message of {0} bytes; messages have {min} to {MAX_MESSAGE}", min = WORDS * 8)]
    Length(usize),
    /// No message has this kind.
    #[error("no message is of kind {0}")]
    Kind(u64),
    /// The peer speaks something else, or another version of this.
    #[error("the hello begins with {0:#x} instead of {HELLO:#x}: another version of Turnstile?")]
    Hello(u64),
    /// The text is not UTF-8.
    #[error("the text is not UTF-8")]
    Text,
    /// A word is out of its range.
    #[error("word {0} is out of range")]
    Word(usize),
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Client: who it wants to be.
    Hello {
        /// ABI version it speaks.
        version: Version,
        /// Interrupt vectors it wants, 1 to 16.
        vectors: u16,
        /// Tenant name; may be empty where the peer can be only one.
        tenant: &'a str,
    },
    /// Server, with the aperture and the interrupt pipes: welcome.
    Welcome {
        /// ABI version of the device.
        version: Version,
        /// Interrupt pipes that follow the aperture.
        vectors: u16,
        /// Size of the aperture in bytes.
        aperture_bytes: u64,
    },
    /// Server: refused, and why.
    Refused(&'a str),
    /// Client: a register read.
    Read {
        /// Offset in BAR0.
        at: u64,
        /// Width in bytes, 0 to 8.
        bytes: u8,
    },
    /// Server: the answer to a read.
    Value(u64),
    /// Client: a register write, doorbells included. Has no answer.
    Write {
        /// Offset in BAR0.
        at: u64,
        /// Width in bytes, 0 to 8.
        bytes: u8,
        /// Value in the low bytes.
        value: u64,
    },
    /// Client, with a memfd sealed against shrinking: memory for DMA. Answered by `Done` or
    /// `Refused`.
    AddMemory {
        /// Address it is registered under, page aligned.
        gpa: u64,
        /// Where it begins in the file, page aligned.
        offset: u64,
        /// Its length in bytes.
        bytes: u64,
    },
    /// Client: memory goes away. Answered by `Done` once the device cannot reach it.
    RemoveMemory {
        /// The address it was added under.
        gpa: u64,
    },
    /// Server: done.
    Done,
}

impl<'a> Message<'a> {
    /// Puts the message into `buffer` and returns its length.
    pub fn encode(&self, buffer: &mut [u8; MAX_MESSAGE]) -> usize {
        let version = |v: Version| u64::from(v.0);
        let (words, text): ([u64; WORDS], &str) = match *self {
            Message::Hello { version: v, vectors, tenant } => {
                ([1, HELLO, version(v), vectors.into(), 0], tenant)
            }
            Message::Welcome { version: v, vectors, aperture_bytes } => {
                ([2, version(v), vectors.into(), aperture_bytes, 0], "")
            }
            Message::Refused(why) => ([3, 0, 0, 0, 0], why),
            Message::Read { at, bytes } => ([4, at, bytes.into(), 0, 0], ""),
            Message::Value(value) => ([5, value, 0, 0, 0], ""),
            Message::Write { at, bytes, value } => ([6, at, bytes.into(), value, 0], ""),
            Message::AddMemory { gpa, offset, bytes } => ([7, gpa, offset, bytes, 0], ""),
            Message::RemoveMemory { gpa } => ([8, gpa, 0, 0, 0], ""),
            Message::Done => ([9, 0, 0, 0, 0], ""),
        };
        for (chunk, word) in buffer.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let mut cut = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        buffer[WORDS * 8..][..cut].copy_from_slice(&text.as_bytes()[..cut]);
        WORDS * 8 + cut
    }

    /// Reads a message.
    pub fn decode(bytes: &'a [u8]) -> Result<Message<'a>, WireError> {
        if bytes.len() < WORDS * 8 || bytes.len() > MAX_MESSAGE {
            return Err(WireError::Length(bytes.len()));
        }
        let (head, text) = bytes.split_at(WORDS * 8);
        let mut words = [0; WORDS];
        for (word, chunk) in words.iter_mut().zip(head.chunks_exact(8)) {
            let mut le = [0; 8];
            le.copy_from_slice(chunk);
            *word = u64::from_le_bytes(le);
        }
        let text = || std::str::from_utf8(text).map_err(|_| WireError::Text);
        let [kind, a, b, c, _] = words;
        let version = |word: u64| u32::try_from(word).map(Version);
        let width = |word: u64| match u8::try_from(word) {
            Ok(bytes) if bytes <= 8 => Ok(bytes),
            _ => Err(WireError::Word(2)),
        };
        Ok(match kind {
            1 if a != HELLO => return Err(WireError::Hello(a)),
            1 => Message::Hello {
                version: version(b).map_err(|_| WireError::Word(2))?,
                vectors: u16::try_from(c).map_err(|_| WireError::Word(3))?,
                tenant: text()?,
            },
            2 => Message::Welcome {
                version: version(a).map_err(|_| WireError::Word(1))?,
                vectors: u16::try_from(b).map_err(|_| WireError::Word(2))?,
                aperture_bytes: c,
            },
            3 => Message::Refused(text()?),
            4 => Message::Read { at: a, bytes: width(b)? },
            5 => Message::Value(a),
            6 => Message::Write { at: a, bytes: width(b)?, value: c },
            7 => Message::AddMemory { gpa: a, offset: b, bytes: c },
            8 => Message::RemoveMemory { gpa: a },
            9 => Message::Done,
            other => return Err(WireError::Kind(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_hello() {
        let hello = Message::Hello { version: Version::CURRENT, vectors: 4, tenant: "trainer" };
        let mut buffer = [0; MAX_MESSAGE];
        let n = hello.encode(&mut buffer);
        assert_eq!(n, 47);
        assert_eq!(buffer[..16], *b"\x01\0\0\0\0\0\0\0TRNP\x01\0\0\0");
        assert_eq!(buffer[16..32], *b"\0\0\x01\0\0\0\0\0\x04\0\0\0\0\0\0\0");
        assert_eq!(buffer[40..47], *b"trainer");
    }

    #[test]
    fn every_message_comes_back() {
        let version = Version::CURRENT;
        for message in [
            Message::Hello { version, vectors: 1, tenant: "" },
            Message::Welcome { version, vectors: 16, aperture_bytes: 1 << 33 },
            Message::Refused("because"),
            Message::Read { at: u64::MAX, bytes: 8 },
            Message::Value(7),
            Message::Write { at: 0x24, bytes: 4, value: 1 },
            Message::AddMemory { gpa: 1, offset: 2, bytes: 3 },
            Message::RemoveMemory { gpa: 9 },
            Message::Done,
        ] {
            let mut buffer = [0; MAX_MESSAGE];
            let n = message.encode(&mut buffer);
            assert_eq!(Message::decode(&buffer[..n]), Ok(message));
        }
    }

    #[test]
    fn garbage_is_named() {
        let mut buffer = [0; MAX_MESSAGE + 1];
        assert_eq!(Message::decode(&buffer), Err(WireError::Length(MAX_MESSAGE + 1)));
        assert_eq!(Message::decode(&buffer[..39]), Err(WireError::Length(39)));
        assert_eq!(Message::decode(&buffer[..40]), Err(WireError::Kind(0)));
        buffer[0] = 1;
        assert_eq!(Message::decode(&buffer[..40]), Err(WireError::Hello(0)));
        buffer[0] = 4;
        buffer[16] = 9;
        assert_eq!(Message::decode(&buffer[..40]), Err(WireError::Word(2)));
        buffer[0] = 3;
        buffer[40] = 0xff;
        assert_eq!(Message::decode(&buffer[..41]), Err(WireError::Text));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = "ü".repeat(MAX_TEXT);
        let mut buffer = [0; MAX_MESSAGE];
        let n = Message::Refused(&long).encode(&mut buffer);
        assert_eq!(n, MAX_MESSAGE);
        assert_eq!(Message::decode(&buffer[..n]), Ok(Message::Refused(&long[..MAX_TEXT])));
    }
}
