//! Interned identifiers and source positions.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use smol_str::SmolStr;

/// Marks every identifier that Turnstile itself adds to a module. Text from a tenant that contains
/// it is refused by the parser, so such a name is always ours. (`$` is legal in PTX identifiers.)
pub const RESERVED: &str = "$ts_";

/// An identifier: one pointer, shared, compared by its text.
#[derive(Clone)]
pub struct Name(Arc<Inner>);

/// Short texts stand in place, so that a name is one allocation.
struct Inner {
    text: SmolStr,
    number: u32,
}

impl Name {
    /// Makes a name of any text; whether it is a legal PTX identifier is the caller's business.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self::numbered(text.as_ref(), 0)
    }

    /// A name that a parser made, with its number there.
    pub(crate) fn numbered(text: &str, number: u32) -> Self {
        Self(Arc::new(Inner { text: SmolStr::new(text), number }))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The name's place in the table of the parser that made it, from 1: among names of one parser,
    /// the same number means the same text. 0 for names made otherwise.
    pub(crate) fn number(&self) -> u32 {
        self.0.number
    }

    /// True when the name was made by Turnstile (contains [`RESERVED`]).
    pub fn is_reserved(&self) -> bool {
        self.as_str().contains(RESERVED)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state); // As `str` does, so that `Borrow<str>` look-ups find it.
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Where a node came from: byte range, line and column of its first byte. Lines and columns count
/// from 1; a node made by a program has line 0 unless it took over the span of what it replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// Line of the first byte.
    pub line: u32,
    /// Column of the first byte, in bytes.
    pub column: u32,
}

impl Span {
    /// The span of a node that has no source.
    pub const NONE: Self = Self { start: 0, end: 0, line: 0, column: 0 };
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
