//! What can be wrong with a policy document, in words for the one who wrote it.

use std::fmt;

/// Largest document, in bytes.
pub(crate) const MAX_TEXT: usize = 16 << 20;
/// Deepest nesting.
pub(crate) const MAX_DEPTH: usize = 32;
/// Most errors reported at once.
pub(crate) const MAX_ERRORS: usize = 50;

/// One mistake in a policy document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {path}: {problem}")]
pub struct PolicyError {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// JSON path of the value, such as `$.tenants[0].grants.launch.max_blocks`.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub problem: Problem,
}

/// Everything that was found wrong with a policy document, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyErrors {
    errors: Vec<PolicyError>,
    /// Errors found beyond those kept.
    more: usize,
}

impl PolicyErrors {
    pub(crate) fn new(mut errors: Vec<PolicyError>) -> PolicyErrors {
        errors.sort_by_key(|e| (e.line, e.column));
        let more = errors.len().saturating_sub(MAX_ERRORS);
        errors.truncate(MAX_ERRORS);
        PolicyErrors { errors, more }
    }

    /// The errors; at least one, at most 50.
    #[must_use]
    pub fn errors(&self) -> &[PolicyError] {
        &self.errors
    }

    /// The errors as lines that begin with `file:line:column:`, as compilers write them.
    #[must_use]
    pub fn in_file(&self, file: &str) -> String {
        let mut out = String::new();
        for error in &self.errors {
            out.push_str(&format!("{file}:{error}\n"));
        }
        if self.more > 0 {
            out.push_str(&format!("{file}: and {} more\n", self.more));
        }
        out
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

/// A mistake: what was found and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each variant and field is.
pub enum Problem {
    #[error(transparent)]
    Syntax(#[from] Syntax),
    #[error("there is no field \"{field}\" here: write {write}")]
    UnknownField { field: String, write: String },
    #[error("field \"{field}\" stands here twice: keep one")]
    RepeatedField { field: String },
    #[error("field \"{field}\" is missing: add \"{field}\": {example}")]
    MissingField { field: &'static str, example: &'static str },
    #[error("found {found} where {expected} belongs: write {example}")]
    WrongType { found: String, expected: &'static str, example: &'static str },
    #[error("{found} is no {what}: write {write}")]
    Unreadable { found: String, what: &'static str, write: String },
    #[error("{found} is too small: write {least} or more, at most {most}")]
    TooSmall { found: String, least: String, most: String },
    #[error("{found} is too large: write {most} or less, at least {least}")]
    TooLarge { found: String, least: String, most: String },
    #[error("the list is empty: write at least one, such as [{example}]")]
    EmptyList { example: &'static str },
    #[error("{item} stands in the list twice: keep one")]
    RepeatedItem { item: String },
    #[error("version {found} is not known to this Turnstile: write 1")]
    Version { found: String },
    #[error("the name {name} is taken by the tenant on line {line}: choose another")]
    NameTaken { name: String, line: usize },
    #[error("the socket {socket} is taken by the tenant on line {line}: choose another path")]
    SocketTaken { socket: String, line: usize },
    #[error(
        "a microVM boots one thing, and this names {named}: keep one of \"guest\" (built in), \
         \"elf\" (a file) and \"linux\" (a kernel)"
    )]
    OneGuest { named: String },
    #[error(
        "a process tenant runs one program, and this names two: keep one of \"guest\" (built in) \
         and \"program\" (a file), or neither to wait for a connection"
    )]
    OneProgram,
    #[error(
        "there is no program to give arguments to: add \"guest\" or \"program\", or leave \"args\" out"
    )]
    ArgsWithoutProgram,
    #[error("{found} is no power of two: write {below} or {above}")]
    PowerOfTwo { found: String, below: String, above: String },
    #[error("{found} is no whole number of 4KiB pages: write {above}")]
    Pages { found: String, above: String },
    #[error(
        "device memory quotas add up to {sum} with this one, and the device has {memory}: lower \
         some max_bytes, raise device.memory, or write \"overcommit\": true in device"
    )]
    Overcommitted { sum: String, memory: String },
    #[error("options of the backend {options} with \"backend\": \"{backend}\": leave them out")]
    OtherBackend { options: &'static str, backend: &'static str },
    #[error(
        "the backend vfio needs to know its device: add \"vfio\": {{\"function\": \"0000:65:00.0\"}}"
    )]
    NoFunction,
    #[error("{grant} without a queue to submit it on: add grants.queue, or leave {grant} out")]
    NeedsQueue { grant: &'static str },
    #[error("launch without programs to launch from: add grants.program, or leave launch out")]
    NeedsProgram,
    #[error(
        "guard \"{guard}\" with isolation \"concurrent\" on the backend cuda, where a fault kills \
         every tenant: write \"guard\": \"fence\", or \"isolation\": \"exclusive\" in the tenant"
    )]
    GuardTooWeak { guard: &'static str },
    #[error(
        "machine-code images with isolation \"concurrent\" on the backend cuda, but images cannot \
         be guarded: leave \"image\" out, or write \"isolation\": \"exclusive\" in the tenant"
    )]
    ImageNotGuarded,
    #[error(
        "machine-code images, but the backend emulated runs only PTX: write \"formats\": [\"ptx\"]"
    )]
    ImageOnEmulated,
    #[error(
        "format \"image\" without a list of images: add \"images\" with the SHA-256 of each one \
         that may be loaded"
    )]
    NoImages,
    #[error(
        "images are listed, but their format is not granted: add \"image\" to formats, or leave images out"
    )]
    ImagesNotGranted,
    #[error(
        "isolation \"concurrent\" with \"mps\": \"off\", without which tenants take turns: write \
         \"isolation\": \"exclusive\", or \"mps\": \"auto\" in device.cuda"
    )]
    ConcurrentWithoutMps,
    #[error(
        "sm_percent without the backend cuda and isolation \"concurrent\", where alone it works: \
         leave it out"
    )]
    SmPercent,
    #[error(
        "{field} without an audit log to apply it to: add \"path\" to audit, or leave {field} out"
    )]
    NoAuditPath { field: &'static str },
}

/// Text that is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each variant and field is.
pub enum Syntax {
    #[error("the document is empty: write an object, {{\"version\": 1, …}}")]
    Empty,
    #[error("the document has {bytes} bytes, and 16MiB is the most: split the tenants up")]
    TooLong { bytes: usize },
    #[error("the document begins with a byte order mark: save it as plain UTF-8")]
    ByteOrderMark,
    #[error("found {found:?} where {expected} belongs")]
    Unexpected { found: char, expected: &'static str },
    #[error("the {what} that begins on line {line} is not closed: add {with:?}")]
    Unclosed { what: &'static str, with: char, line: usize },
    #[error("this string is not closed: add a double quote before the end of the line")]
    UnclosedString,
    #[error("a comma with nothing after it: remove it")]
    TrailingComma,
    #[error("no comma between this and what stands before it: add one")]
    MissingComma,
    #[error("comments are not part of JSON: remove it")]
    Comment,
    #[error("single quotes are not part of JSON: write double quotes")]
    SingleQuote,
    #[error("the field name {key} stands without quotes: write \"{key}\"")]
    UnquotedKey { key: String },
    #[error("{word} is no JSON value: write true, false, null, a number, or \"{word}\"")]
    BareWord { word: String },
    #[error("{number} is no JSON number: write digits without leading zeros, units in quotes")]
    BadNumber { number: String },
    #[error("the character with code {code} inside a string: write \\u{code:04x}")]
    ControlCharacter { code: u8 },
    #[error("{escape} is no escape of JSON: write \\\\ for a backslash, \\uXXXX for a character")]
    BadEscape { escape: String },
    #[error("nested deeper than 32 levels: no policy needs that")]
    TooDeep,
}
