//! Text to tokens. Total and linear: every byte is looked at a bounded number of times.

use crate::parse::ParseError;
use crate::tree::{RESERVED, Span};

/// Longest identifier accepted, in bytes (mangled C++ names reach a few thousand).
pub(crate) const MAX_NAME_BYTES: usize = 16 * 1024;

/// A token; text borrows from the source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// Identifier, opcode or `_`; may start with `%`, `$` or `_`.
    Word(&'a str),
    /// `.word`, without the dot; may hold `::`.
    Dot(&'a str),
    /// Integer constant, as a 64-bit pattern.
    Int(u64),
    /// `0fXXXXXXXX`
    F32(u32),
    /// `0dXXXXXXXXXXXXXXXX` or a decimal constant.
    F64(u64),
    /// `"…"`, without quotes.
    Text(&'a str),
    /// A punctuation character.
    Punct(u8),
    /// End of input.
    End,
}

impl Token<'_> {
    /// How the token is named in an error.
    pub(crate) fn describe(&self) -> String {
        fn cut(text: &str) -> String {
            let short: String = text.chars().take(60).collect();
            if short.len() < text.len() { format!("{short}…") } else { short }
        }
        match self {
            Self::Word(text) => format!("`{}`", cut(text)),
            Self::Dot(text) => format!("`.{}`", cut(text)),
            Self::Int(value) => format!("number {value}"),
            Self::F32(_) | Self::F64(_) => "a floating-point constant".to_owned(),
            Self::Text(_) => "a string".to_owned(),
            Self::Punct(byte) => format!("`{}`", char::from(*byte)),
            Self::End => "the end of the text".to_owned(),
        }
    }
}

/// What may follow the first byte of an identifier.
const FOLLOW: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$';
        byte += 1;
    }
    table
};

fn is_follow(byte: u8) -> bool {
    FOLLOW[byte as usize]
}

/// The lexer: a cursor over the text with one token of look-ahead kept by the parser.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    position: usize,
    line: u32,
    line_start: usize,
    allow_reserved: bool,
}

impl<'a> Lexer<'a> {
    /// The text must be shorter than 4 GiB; the parser's limit sees to that.
    pub(crate) fn new(text: &'a str, allow_reserved: bool) -> Self {
        let bytes = text.as_bytes();
        Self { text, bytes, position: 0, line: 1, line_start: 0, allow_reserved }
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.bytes.get(self.position + ahead).copied().unwrap_or(0)
    }

    fn here(&self) -> Span {
        Span {
            start: self.position as u32,
            end: self.position as u32,
            line: self.line,
            column: (self.position - self.line_start) as u32 + 1,
        }
    }

    fn newline(&mut self) {
        self.line += 1;
        self.line_start = self.position + 1;
    }

    fn skip_blank(&mut self) -> Result<(), ParseError> {
        loop {
            match self.byte(0) {
                b'\n' => {
                    self.newline();
                    self.position += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.position += 1,
                byte if byte > b' ' && byte != b'/' => return Ok(()),
                b'/' if self.byte(1) == b'/' => {
                    while self.position < self.bytes.len() && self.byte(0) != b'\n' {
                        self.position += 1;
                    }
                }
                b'/' if self.byte(1) == b'*' => {
                    let start = self.here();
                    self.position += 2;
                    loop {
                        if self.position >= self.bytes.len() {
                            return Err(ParseError::expected(
                                start,
                                "the end of this comment, `*/`",
                            ));
                        }
                        if self.byte(0) == b'*' && self.byte(1) == b'/' {
                            self.position += 2;
                            break;
                        }
                        if self.byte(0) == b'\n' {
                            self.newline();
                        }
                        self.position += 1;
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// The next token and its span.
    pub(crate) fn next(&mut self) -> Result<(Token<'a>, Span), ParseError> {
        self.skip_blank()?;
        let mut span = self.here();
        if self.position >= self.bytes.len() {
            return Ok((Token::End, span));
        }
        let token = match self.byte(0) {
            b'0'..=b'9' => self.number(span)?,
            b'.' if self.byte(1).is_ascii_alphanumeric() || self.byte(1) == b'_' => {
                self.dot(span)?
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | b'%' => Token::Word(self.word(span)?),
            b'"' => self.string(span)?,
            byte @ (b'{' | b'}' | b'[' | b']' | b'(' | b')' | b',' | b';' | b':' | b'@' | b'!'
            | b'|' | b'+' | b'-' | b'=' | b'<' | b'>') => {
                self.position += 1;
                Token::Punct(byte)
            }
            byte if byte.is_ascii_graphic() => {
                return Err(ParseError::syntax(
                    span,
                    format!("`{}` has no meaning here in PTX", char::from(byte)),
                ));
            }
            byte => {
                return Err(ParseError::syntax(
                    span,
                    format!("byte 0x{byte:02x} is not PTX outside comments and strings"),
                ));
            }
        };
        span.end = self.position as u32;
        Ok((token, span))
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a str {
        let start = self.position;
        let rest = self.bytes.get(start..).unwrap_or(&[]);
        self.position += rest.iter().position(|byte| !keep(*byte)).unwrap_or(rest.len());
        // Callers keep ASCII only, so both ends are character boundaries.
        self.text.get(start..self.position).unwrap_or("")
    }

    fn word(&mut self, span: Span) -> Result<&'a str, ParseError> {
        let start = self.position;
        self.position += 1;
        self.take_while(is_follow);
        let word = self.text.get(start..self.position).unwrap_or("");
        self.check_name(word, span)?;
        if word == "%" || word == "$" {
            return Err(ParseError::expected(span, format!("a letter or digit after `{word}`")));
        }
        Ok(word)
    }

    fn check_name(&self, word: &str, span: Span) -> Result<(), ParseError> {
        if word.len() > MAX_NAME_BYTES {
            return Err(ParseError::limit(span, "bytes in one identifier", MAX_NAME_BYTES));
        }
        if !self.allow_reserved && word.bytes().any(|b| b == b'$') && word.contains(RESERVED) {
            return Err(ParseError::syntax(
                span,
                format!("identifiers with `{RESERVED}` belong to the guard; rename this one"),
            ));
        }
        Ok(())
    }

    fn dot(&mut self, span: Span) -> Result<Token<'a>, ParseError> {
        self.position += 1;
        let start = self.position;
        loop {
            self.take_while(is_follow);
            if self.byte(0) == b':' && self.byte(1) == b':' && is_follow(self.byte(2)) {
                self.position += 2;
            } else {
                break;
            }
        }
        let word = self.text.get(start..self.position).unwrap_or("");
        self.check_name(word, span)?;
        Ok(Token::Dot(word))
    }

    fn string(&mut self, span: Span) -> Result<Token<'a>, ParseError> {
        let start = self.position + 1;
        self.position = start;
        while self.position < self.bytes.len() {
            match self.byte(0) {
                b'"' => {
                    let text = self.text.get(start..self.position).unwrap_or("");
                    self.position += 1;
                    return Ok(Token::Text(text));
                }
                b'\n' => break,
                _ => self.position += 1,
            }
        }
        Err(ParseError::expected(span, "the closing quote of this string on the same line"))
    }

    fn hex_float(&mut self, digits: usize) -> Option<u64> {
        let start = self.position + 2;
        let end = start + digits;
        let text = self.text.get(start..end)?;
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        if self.bytes.get(end).is_some_and(|&b| is_follow(b)) {
            return None;
        }
        self.position = end;
        u64::from_str_radix(text, 16).ok()
    }

    fn number(&mut self, span: Span) -> Result<Token<'a>, ParseError> {
        let second = self.byte(1);
        if self.byte(0) == b'0' {
            match second {
                b'f' | b'F' => {
                    return self.hex_float(8).map(|bits| Token::F32(bits as u32)).ok_or_else(
                        || ParseError::expected(span, "exactly 8 hexadecimal digits after `0f`"),
                    );
                }
                b'd' | b'D' => {
                    return self.hex_float(16).map(Token::F64).ok_or_else(|| {
                        ParseError::expected(span, "exactly 16 hexadecimal digits after `0d`")
                    });
                }
                b'x' | b'X' => {
                    self.position += 2;
                    let digits = self.take_while(|b| b.is_ascii_hexdigit());
                    return self.integer(span, digits, 16);
                }
                b'b' | b'B' => {
                    self.position += 2;
                    let digits = self.take_while(|b| b == b'0' || b == b'1');
                    return self.integer(span, digits, 2);
                }
                _ => {}
            }
        }
        let start = self.position;
        let digits = self.take_while(|b| b.is_ascii_digit());
        let fraction = self.byte(0) == b'.' && self.byte(1).is_ascii_digit();
        let exponent = matches!(self.byte(0), b'e' | b'E');
        if !fraction && !exponent {
            let radix = if digits.len() > 1 && digits.starts_with('0') { 8 } else { 10 };
            return self.integer(span, digits, radix);
        }
        if fraction {
            self.position += 1;
            self.take_while(|b| b.is_ascii_digit());
        }
        if matches!(self.byte(0), b'e' | b'E') {
            self.position += 1;
            if matches!(self.byte(0), b'+' | b'-') {
                self.position += 1;
            }
            self.take_while(|b| b.is_ascii_digit());
        }
        let text = self.text.get(start..self.position).unwrap_or("");
        // The standard parser is linear only for sane lengths, and no real constant is longer.
        let value = (text.len() <= 512).then(|| text.parse::<f64>().ok()).flatten();
        match value {
            Some(value) if !is_follow(self.byte(0)) => Ok(Token::F64(value.to_bits())),
            _ => Err(ParseError::expected(span, "a decimal floating-point constant")),
        }
    }

    fn integer(&mut self, span: Span, digits: &str, radix: u32) -> Result<Token<'a>, ParseError> {
        if matches!(self.byte(0), b'U' | b'u') {
            self.position += 1;
        }
        if digits.is_empty() || is_follow(self.byte(0)) {
            return Err(ParseError::expected(span, "an integer constant"));
        }
        u64::from_str_radix(digits, radix).map(Token::Int).map_err(|_| {
            ParseError::expected(span, "an integer constant that fits 64 bits and its base")
        })
    }
}
