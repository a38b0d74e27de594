//! One line of the log as bytes: how it is sealed and how it is read back.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::event::Event;

/// Longest line the log writes or accepts, in bytes. Longer ones are refused by the verifier.
pub const MAX_LINE: usize = 64 * 1024;

const HASH_MEMBER: &[u8] = b",\"hash\":\"";
/// `,"hash":"` + 64 digits + `"}`.
const SEAL_BYTES: usize = HASH_MEMBER.len() + 64 + 2;

/// SHA-256 of a line. The chain begins with all zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of a line's body.
    #[must_use]
    pub fn of(body: &[u8]) -> Hash {
        Hash(Sha256::digest(body).into())
    }
    /// Ends a running hash.
    pub(super) fn finish(hasher: Sha256) -> Hash {
        Hash(hasher.finalize().into())
    }
    /// Reads 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(digits: &[u8]) -> Option<Hash> {
        let mut hash = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |c: u8| match c {
                b'0'..=b'9' => Some(c - b'0'),
                b'a'..=b'f' => Some(c - b'a' + 10),
                _ => None,
            };
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Hash(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[derive(Serialize)]
struct Body<'a> {
    seq: u64,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(flatten)]
    event: &'a Event,
    prev: Hash,
}

/// Where a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Chain {
    /// Sequence number of the last line; 0 before the first.
    pub(super) seq: u64,
    /// Its hash.
    pub(super) head: Hash,
}

impl Chain {
    /// Appends the next line, newline included, to `out`, and returns where the chain then stands.
    /// Nothing has happened until the bytes are on disk; the caller commits the new state then.
    pub(super) fn seal(
        &self,
        time: SystemTime,
        tenant: Option<&str>,
        event: &Event,
        out: &mut Vec<u8>,
    ) -> Chain {
        let start = out.len();
        let seq = self.seq + 1;
        let time = humantime::format_rfc3339_micros(time).to_string();
        let body = Body { seq, time, tenant, event, prev: self.head };
        if let Err(error) = serde_json::to_writer(&mut *out, &body) {
            // An event that cannot be written must not open a gap: say so in its place.
            out.truncate(start);
            let event = Event::unwritable(&error);
            let body = Body { event: &event, ..body };
            // PANIC: `unwritable` is a plain string, which always serialises into a Vec.
            serde_json::to_writer(&mut *out, &body).expect("a string serialises");
        }
        let head = Hash::of(&out[start..]);
        out.pop();
        out.extend_from_slice(HASH_MEMBER);
        out.extend_from_slice(head.to_string().as_bytes());
        out.extend_from_slice(b"\"}\n");
        Chain { seq, head }
    }
}

/// What is wrong with a line taken by itself.
#[derive(Debug)]
pub(super) enum BadLine {
    /// It does not end as a record does: torn, or nothing of ours.
    NotARecord,
    /// It ends with a hash, which is not that of its bytes.
    Altered { computed: Hash, stored: Hash },
    /// The hash is right and the bytes are no JSON: written by something else.
    NotJson(serde_json::Error),
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadLine::NotARecord => write!(f, "does not end as a record does, with its hash"),
            BadLine::Altered { computed, stored } => {
                write!(f, "was altered: its bytes hash to {computed}, it says {stored}")
            }
            BadLine::NotJson(error) => write!(f, "is not JSON: {error}"),
        }
    }
}

/// Takes a line (without its newline) apart and checks its own hash.
pub(super) fn open(line: &[u8]) -> Result<(Hash, serde_json::Value), BadLine> {
    let Some(body) = line.len().checked_sub(SEAL_BYTES) else {
        return Err(BadLine::NotARecord);
    };
    let (body, seal) = line.split_at(body);
    let digits = seal.strip_prefix(HASH_MEMBER).and_then(|rest| rest.strip_suffix(b"\"}"));
    let Some(stored) = digits.and_then(Hash::parse) else {
        return Err(BadLine::NotARecord);
    };
    let mut whole = Sha256::new();
    whole.update(body);
    whole.update(b"}");
    let computed = Hash::finish(whole);
    if computed != stored {
        return Err(BadLine::Altered { computed, stored });
    }
    let value = serde_json::from_slice(line).map_err(BadLine::NotJson)?;
    Ok((stored, value))
}
