//! Tokens to tree. Total: any text gives a tree or an error with line and column, in time linear in
//! its length, with nesting and size bounded by [`Limits`].
//!
//! What it does beyond the grammar: debug information (`.file`, `.loc`, `.section`) is dropped; each
//! identifier in a function is resolved to a register, special register or symbol, and an
//! undeclared one is an error; names declared in nested scopes that would shadow another name of
//! the same function or the module are renamed, so that **within a function one name means one
//! thing** (see `scope.rs`). Source: PTX ISA 9.0, sections 4, 5, 7.1, 9.7.13 and 11.

mod body;
mod declare;
mod scope;

use crate::hash::HashMap;

use crate::lexer::{Lexer, Token};
use crate::tree::{Item, Mod, Module, Name, Operand, Pragma, RESERVED, Span};

/// Bounds on what the parser accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest text, in bytes. Never more than 1 GiB, whatever is asked for.
    pub max_bytes: usize,
    /// Deepest nesting of scopes and initialiser lists. Never more than 64.
    pub max_nesting: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 16 << 20, max_nesting: 16 }
    }
}

/// Why a text is not PTX that this parser reads. Positions are 1-based lines and columns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Something other than what the grammar wants.
    #[error("line {}, column {}: expected {expected}", at.line, at.column)]
    Expected {
        /// Where.
        at: Span,
        /// What was expected, and what stands there instead.
        expected: String,
    },
    /// Something that has no meaning in this place.
    #[error("line {}, column {}: {reason}", at.line, at.column)]
    Syntax {
        /// Where.
        at: Span,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A bound of [`Limits`] is exceeded.
    #[error("line {}, column {}: more than {limit} {what}", at.line, at.column)]
    Limit {
        /// Where.
        at: Span,
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

impl ParseError {
    pub(crate) fn expected(at: Span, expected: impl Into<String>) -> Self {
        Self::Expected { at, expected: expected.into() }
    }

    pub(crate) fn syntax(at: Span, reason: impl Into<String>) -> Self {
        Self::Syntax { at, reason: reason.into() }
    }

    pub(crate) fn limit(at: Span, what: &'static str, limit: usize) -> Self {
        Self::Limit { at, what, limit }
    }

    /// Where the text went wrong.
    pub fn span(&self) -> Span {
        match self {
            Self::Expected { at, .. } | Self::Syntax { at, .. } | Self::Limit { at, .. } => *at,
        }
    }
}

/// Parses a tenant's module: identifiers containing [`RESERVED`] are refused. Zero bytes at the end
/// (images handed to a driver are C strings) are ignored.
///
/// # Errors
/// [`ParseError`] with line and column.
pub fn parse(image: &[u8], limits: &Limits) -> Result<Module, ParseError> {
    parse_with(image, limits, false)
}

/// Parses text that the guard has written, in which reserved identifiers are normal.
///
/// # Errors
/// [`ParseError`] with line and column.
pub fn parse_guarded(image: &[u8], limits: &Limits) -> Result<Module, ParseError> {
    parse_with(image, limits, true)
}

fn parse_with(image: &[u8], limits: &Limits, allow_reserved: bool) -> Result<Module, ParseError> {
    let max_bytes = limits.max_bytes.min(1 << 30);
    let end = image.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    let image = &image[..end];
    if image.len() > max_bytes {
        let at = Span { line: 1, column: 1, ..Span::NONE };
        return Err(ParseError::limit(at, "bytes of text", max_bytes));
    }
    let text = match std::str::from_utf8(image) {
        Ok(text) => text,
        Err(error) => {
            let good = &image[..error.valid_up_to()];
            let line = 1 + good.iter().filter(|&&b| b == b'\n').count() as u32;
            let start = good.iter().rposition(|&b| b == b'\n').map_or(0, |p| p + 1);
            let column = 1 + (good.len() - start) as u32;
            let offset = good.len() as u32;
            let at = Span { start: offset, end: offset + 1, line, column };
            return Err(ParseError::expected(at, "UTF-8 text; this byte is none"));
        }
    };
    let mut lexer = Lexer::new(text, allow_reserved);
    let (token, span) = lexer.next()?;
    let mut parser = Parser {
        lexer,
        token,
        span,
        last_end: 0,
        names: HashMap::with_capacity_and_hasher(text.len() / 64 + 16, Default::default()),
        max_nesting: limits.max_nesting.min(64),
        allow_reserved,
        mods: Vec::new(),
        operands: Vec::new(),
    };
    let mut module = parser.module()?;
    scope::resolve(&mut module, parser.names.len(), !allow_reserved)?;
    Ok(module)
}

pub(crate) struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token under the cursor and where it is.
    token: Token<'a>,
    span: Span,
    last_end: u32,
    names: HashMap<&'a str, Name>,
    max_nesting: u32,
    allow_reserved: bool,
    /// Modifiers and operands of the instruction at hand, so far.
    mods: Vec<Mod>,
    operands: Vec<Operand>,
}

impl<'a> Parser<'a> {
    /// Moves to the next token.
    fn bump(&mut self) -> Result<(), ParseError> {
        self.last_end = self.span.end;
        (self.token, self.span) = self.lexer.next()?;
        Ok(())
    }

    fn fail<T>(&self, expected: &str) -> Result<T, ParseError> {
        let found = self.token.describe();
        Err(ParseError::expected(self.span, format!("{expected}, found {found}")))
    }

    /// Extends a span that began earlier to the last token taken.
    fn close(&self, mut span: Span) -> Span {
        span.end = self.last_end.max(span.end);
        span
    }

    fn intern(&mut self, text: &'a str) -> Name {
        // Texts are shorter than 4 GiB, and so is the number of their names.
        let next = self.names.len() as u32 + 1;
        self.names.entry(text).or_insert_with(|| Name::numbered(text, next)).clone()
    }

    fn at_punct(&self, byte: u8) -> bool {
        self.token == Token::Punct(byte)
    }

    fn eat_punct(&mut self, byte: u8) -> Result<bool, ParseError> {
        let found = self.at_punct(byte);
        if found {
            self.bump()?;
        }
        Ok(found)
    }

    fn punct(&mut self, byte: u8) -> Result<(), ParseError> {
        if self.eat_punct(byte)? {
            return Ok(());
        }
        self.fail(&format!("`{}`", char::from(byte)))
    }

    fn eat_dot(&mut self, word: &str) -> Result<bool, ParseError> {
        let found = self.token == Token::Dot(word);
        if found {
            self.bump()?;
        }
        Ok(found)
    }

    fn name(&mut self, what: &str) -> Result<Name, ParseError> {
        let Token::Word(word) = self.token else { return self.fail(what) };
        let name = self.intern(word);
        self.bump()?;
        Ok(name)
    }

    fn u64(&mut self, what: &str) -> Result<u64, ParseError> {
        let Token::Int(value) = self.token else { return self.fail(what) };
        self.bump()?;
        Ok(value)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ParseError> {
        let span = self.span;
        let value = self.u64(what)?;
        u32::try_from(value).map_err(|_| ParseError::expected(span, format!("{what} below 2^32")))
    }

    /// `[+-]* integer`, as a wrapped 64-bit pattern.
    fn signed(&mut self, what: &str) -> Result<i64, ParseError> {
        let negative = self.eat_punct(b'-')?;
        if !negative {
            self.eat_punct(b'+')?;
        }
        let value = self.u64(what)? as i64;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    /// `+n` and `-n`, any number of them, as ptxas accepts after a symbol or register. `+-4` is one.
    fn offset(&mut self) -> Result<i64, ParseError> {
        let mut total = 0i64;
        while self.at_punct(b'+') || self.at_punct(b'-') {
            let span = self.span;
            let negative = self.eat_punct(b'-')?;
            if !negative {
                self.bump()?;
            }
            let value = self.signed("an integer offset")?;
            let value = if negative { value.wrapping_neg() } else { value };
            total = total.checked_add(value).ok_or_else(|| {
                ParseError::syntax(span, "the sum of these offsets does not fit 64 bits")
            })?;
        }
        Ok(total)
    }

    fn module(&mut self) -> Result<Module, ParseError> {
        if !self.eat_dot("version")? {
            return self.fail("`.version`, with which PTX begins");
        }
        let version = self.version()?;
        if !self.eat_dot("target")? {
            return self.fail("`.target`");
        }
        let mut target = vec![self.name("a target such as sm_90")?];
        while self.eat_punct(b',')? {
            target.push(self.name("a target option")?);
        }
        let address_size = if self.eat_dot("address_size")? { self.u32("32 or 64")? } else { 64 };
        let mut items = Vec::new();
        while self.token != Token::End {
            self.item(&mut items)?;
        }
        Ok(Module { version, target, address_size, items })
    }

    /// `major.minor`, which the lexer reads as a decimal floating-point constant.
    fn version(&mut self) -> Result<(u32, u32), ParseError> {
        let Token::F64(bits) = self.token else {
            return self.fail("a version such as 9.0");
        };
        let tenths = f64::from_bits(bits) * 10.0;
        if !(10.0..1000.0).contains(&tenths) {
            return self.fail("a version between 1.0 and 99.9");
        }
        // CAST: the range was checked; minor versions are single digits.
        let tenths = tenths.round() as u32;
        self.bump()?;
        Ok((tenths / 10, tenths % 10))
    }

    fn item(&mut self, items: &mut Vec<Item>) -> Result<(), ParseError> {
        let span = self.span;
        let Token::Dot(word) = self.token else {
            return self.fail("a directive such as `.entry`, `.func` or `.global`");
        };
        match word {
            "file" => self.skip_file(),
            "section" => self.skip_section(),
            "pragma" => {
                let pragma = self.pragma()?;
                items.push(Item::Pragma(pragma));
                Ok(())
            }
            "alias" => {
                self.bump()?;
                let name = self.name("a function name")?;
                self.punct(b',')?;
                let target = self.name("a function name")?;
                self.punct(b';')?;
                let span = self.close(span);
                items.push(Item::Alias { name, target, span });
                Ok(())
            }
            _ => self.declaration(items),
        }
    }

    fn pragma(&mut self) -> Result<Pragma, ParseError> {
        let span = self.span;
        self.bump()?;
        let mut texts = Vec::new();
        loop {
            let Token::Text(text) = self.token else { return self.fail("a string in quotes") };
            if !self.allow_reserved && text.contains(RESERVED) {
                return self.fail("a pragma without reserved names");
            }
            texts.push(self.intern(text));
            self.bump()?;
            if !self.eat_punct(b',')? {
                break;
            }
        }
        self.punct(b';')?;
        Ok(Pragma { texts, span: self.close(span) })
    }

    /// `.file n "path" [, timestamp, size]`: debug information, dropped.
    fn skip_file(&mut self) -> Result<(), ParseError> {
        self.bump()?;
        self.u64("a file number")?;
        let Token::Text(_) = self.token else { return self.fail("a file name in quotes") };
        self.bump()?;
        while self.eat_punct(b',')? {
            self.u64("a number")?;
        }
        Ok(())
    }

    /// `.section name { … }`: debug information, dropped.
    fn skip_section(&mut self) -> Result<(), ParseError> {
        self.bump()?;
        let (Token::Dot(_) | Token::Word(_)) = self.token else {
            return self.fail("a section name");
        };
        self.bump()?;
        self.punct(b'{')?;
        loop {
            match self.token {
                Token::Punct(b'}') => return self.bump(),
                Token::Punct(b'{') | Token::End => {
                    return self.fail("`}` at the end of this section");
                }
                _ => self.bump()?,
            }
        }
    }

    /// `.loc file line column [, function_name label[+n], inlined_at file line column]`: dropped.
    fn skip_loc(&mut self) -> Result<(), ParseError> {
        self.bump()?;
        for what in ["a file number", "a line number", "a column number"] {
            self.u64(what)?;
        }
        while self.eat_punct(b',')? {
            let Token::Word(word) = self.token else {
                return self.fail("`function_name` or `inlined_at`");
            };
            match word {
                "function_name" => {
                    self.bump()?;
                    self.name("a label")?;
                    self.offset()?;
                }
                "inlined_at" => {
                    self.bump()?;
                    for what in ["a file number", "a line number", "a column number"] {
                        self.u64(what)?;
                    }
                }
                _ => return self.fail("`function_name` or `inlined_at`"),
            }
        }
        Ok(())
    }
}
