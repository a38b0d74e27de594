//! JSON text as a tree that knows where everything stands.
//!
//! Strict RFC 8259: no comments, no trailing commas. Nesting and size are bounded. Numbers stay as
//! they are written; what they mean is the reader's decision. A tree is only ever read.

use super::problem::{MAX_DEPTH, MAX_TEXT, Syntax};

/// Index of a node in its tree. The root is 0.
pub(crate) type NodeId = u32;

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Node<'t> {
    /// Byte offset of its first character.
    pub(crate) start: usize,
    pub(crate) value: Value<'t>,
    parent: Option<(NodeId, Step)>,
}

/// How a node hangs on its parent: the index of a member or item.
#[derive(Clone, Copy, Debug)]
enum Step {
    Member(usize),
    Item(usize),
}

/// A JSON value.
#[derive(Debug)]
pub(crate) enum Value<'t> {
    Null,
    Bool(bool),
    /// As written.
    Number(&'t str),
    /// Escapes resolved.
    String(String),
    Array(Vec<NodeId>),
    Object(Vec<Member>),
}

/// One `"key": value` of an object.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) key: String,
    /// Byte offset of the key's opening quote.
    pub(crate) key_start: usize,
    pub(crate) node: NodeId,
}

/// A parsed document.
#[derive(Debug)]
pub(crate) struct Tree<'t> {
    nodes: Vec<Node<'t>>,
}

/// Text that is no JSON: where, in which value, and why.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) offset: usize,
    pub(crate) path: String,
    pub(crate) syntax: Syntax,
}

impl<'t> Tree<'t> {
    pub(crate) fn parse(text: &'t str) -> Result<Tree<'t>, Broken> {
        let mut parser = Parser { text, at: 0, nodes: Vec::new(), open: Vec::new() };
        match parser.document() {
            Ok(()) => {
                let empty = Node { start: 0, value: Value::Object(Vec::new()), parent: None };
                parser.nodes.push(empty);
                Ok(Tree { nodes: parser.nodes })
            }
            Err(syntax) => {
                let tree = Tree { nodes: parser.nodes };
                let path = parser.open.last().map_or_else(|| "$".into(), |&id| tree.path(id));
                Err(Broken { offset: parser.at, path, syntax })
            }
        }
    }

    /// An empty object that is not in the text: what an absent section reads as.
    pub(crate) fn empty(&self) -> NodeId {
        self.nodes.len() as NodeId - 1 // CAST: fewer nodes than bytes, and those are bounded.
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node<'t> {
        &self.nodes[id as usize]
    }

    /// JSON path of a node, such as `$.tenants[0].name`.
    pub(crate) fn path(&self, id: NodeId) -> String {
        let mut steps = Vec::new();
        let mut id = id;
        while let Some((parent, step)) = self.node(id).parent {
            steps.push((parent, step));
            id = parent;
        }
        let mut path = String::from("$");
        for (parent, step) in steps.into_iter().rev() {
            match (step, &self.node(parent).value) {
                (Step::Member(i), Value::Object(members)) => {
                    // A node whose member is not yet stored is the value being parsed.
                    if let Some(member) = members.get(i) {
                        path.push_str(&step_into(&member.key));
                    }
                }
                (Step::Item(i), _) => path.push_str(&format!("[{i}]")),
                (Step::Member(_), _) => {}
            }
        }
        path
    }
}

/// `.key`, or `["key"]` for a key that is no plain word.
pub(crate) fn step_into(key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { format!(".{key}") } else { format!("[{key:?}]") }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    nodes: Vec<Node<'t>>,
    /// Containers not yet closed, innermost last.
    open: Vec<NodeId>,
}

impl<'t> Parser<'t> {
    fn document(&mut self) -> Result<(), Syntax> {
        if self.text.len() > MAX_TEXT {
            return Err(Syntax::TooLong { bytes: self.text.len() });
        }
        if self.text.starts_with('\u{feff}') {
            return Err(Syntax::ByteOrderMark);
        }
        self.space()?;
        if self.peek().is_none() {
            return Err(Syntax::Empty);
        }
        self.value(None)?;
        self.space()?;
        match self.peek() {
            None => Ok(()),
            Some(c) => Err(Syntax::Unexpected { found: c, expected: "the end of the document" }),
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn space(&mut self) -> Result<(), Syntax> {
        let rest = &self.text.as_bytes()[self.at..];
        let space = rest.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r'));
        self.at += space.unwrap_or(rest.len());
        match self.peek() {
            Some('/' | '#') => Err(Syntax::Comment),
            _ => Ok(()),
        }
    }

    fn value(&mut self, parent: Option<(NodeId, Step)>) -> Result<NodeId, Syntax> {
        let id = self.nodes.len() as NodeId; // CAST: fewer nodes than bytes, and those are bounded.
        let start = self.at;
        match self.peek() {
            Some('{') => {
                self.nodes.push(Node { start, value: Value::Object(Vec::new()), parent });
                self.object(id)?;
            }
            Some('[') => {
                self.nodes.push(Node { start, value: Value::Array(Vec::new()), parent });
                self.array(id)?;
            }
            Some('"') => {
                let value = Value::String(self.string()?);
                self.nodes.push(Node { start, value, parent });
            }
            Some('-' | '0'..='9') => {
                let value = Value::Number(self.number()?);
                self.nodes.push(Node { start, value, parent });
            }
            Some('a'..='z' | 'A'..='Z') => {
                let value = self.word()?;
                self.nodes.push(Node { start, value, parent });
            }
            Some('\'') => return Err(Syntax::SingleQuote),
            Some(c @ ('}' | ']' | ',')) => {
                return Err(Syntax::Unexpected { found: c, expected: "a value" });
            }
            Some(c) => return Err(Syntax::Unexpected { found: c, expected: "a value" }),
            None => return Err(self.unclosed()),
        }
        Ok(id)
    }

    fn unclosed(&self) -> Syntax {
        let line = |id: NodeId| {
            let start = self.nodes[id as usize].start;
            1 + self.text[..start].bytes().filter(|&b| b == b'\n').count()
        };
        match self.open.last() {
            Some(&id) => match self.nodes[id as usize].value {
                Value::Object(_) => Syntax::Unclosed { what: "object", with: '}', line: line(id) },
                _ => Syntax::Unclosed { what: "list", with: ']', line: line(id) },
            },
            None => Syntax::Empty,
        }
    }

    fn enter(&mut self, id: NodeId) -> Result<(), Syntax> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Syntax::TooDeep);
        }
        self.open.push(id);
        self.at += 1;
        self.space()
    }

    fn object(&mut self, id: NodeId) -> Result<(), Syntax> {
        self.enter(id)?;
        if self.peek() == Some('}') {
            return self.leave();
        }
        loop {
            let key_start = self.at;
            let key = match self.peek() {
                Some('"') => self.string()?,
                Some('\'') => return Err(Syntax::SingleQuote),
                Some(c) if c.is_alphabetic() || c == '_' || c == '$' => {
                    return Err(Syntax::UnquotedKey { key: self.bare_word() });
                }
                Some(c) => return Err(Syntax::Unexpected { found: c, expected: "a field" }),
                None => return Err(self.unclosed()),
            };
            self.space()?;
            match self.peek() {
                Some(':') => self.at += 1,
                Some(c) => {
                    return Err(Syntax::Unexpected { found: c, expected: "a colon after the key" });
                }
                None => return Err(self.unclosed()),
            }
            self.space()?;
            let index = self.members(id).len();
            // CAST: as in `value`; the value that follows gets the next number.
            let node = self.nodes.len() as NodeId;
            self.members(id).push(Member { key, key_start, node });
            self.value(Some((id, Step::Member(index))))?;
            if self.next_or_close('}')? {
                return self.leave();
            }
        }
    }

    fn members(&mut self, id: NodeId) -> &mut Vec<Member> {
        match &mut self.nodes[id as usize].value {
            Value::Object(members) => members,
            _ => unreachable!("only called for the object that is being read"),
        }
    }

    fn array(&mut self, id: NodeId) -> Result<(), Syntax> {
        self.enter(id)?;
        if self.peek() == Some(']') {
            return self.leave();
        }
        let mut items = Vec::new();
        loop {
            items.push(self.value(Some((id, Step::Item(items.len()))))?);
            if self.next_or_close(']')? {
                self.nodes[id as usize].value = Value::Array(items);
                return self.leave();
            }
        }
    }

    /// After a value: `true` at the closing bracket, `false` after a comma that something follows.
    fn next_or_close(&mut self, close: char) -> Result<bool, Syntax> {
        self.space()?;
        match self.peek() {
            Some(c) if c == close => Ok(true),
            Some(',') => {
                let comma = self.at;
                self.at += 1;
                self.space()?;
                if self.peek() == Some(close) {
                    self.at = comma;
                    return Err(Syntax::TrailingComma);
                }
                Ok(false)
            }
            Some('"' | '{' | '[') => Err(Syntax::MissingComma),
            Some(c) => {
                let expected = if close == '}' { "a comma or }" } else { "a comma or ]" };
                Err(Syntax::Unexpected { found: c, expected })
            }
            None => Err(self.unclosed()),
        }
    }

    fn leave(&mut self) -> Result<(), Syntax> {
        self.at += 1;
        self.open.pop();
        Ok(())
    }

    fn bare_word(&self) -> String {
        let rest = &self.text[self.at..];
        rest.chars().take_while(|c| c.is_alphanumeric() || "_$-".contains(*c)).take(64).collect()
    }

    fn word(&mut self) -> Result<Value<'t>, Syntax> {
        let word = self.bare_word();
        let value = match word.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            _ => return Err(Syntax::BareWord { word }),
        };
        self.at += word.len();
        Ok(value)
    }

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
    fn number(&mut self) -> Result<&'t str, Syntax> {
        let rest = &self.text[self.at..];
        let digits = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c)))
            .unwrap_or(rest.len());
        let number = &rest[..end];
        let valid = || {
            let s = number.strip_prefix('-').unwrap_or(number);
            let whole = digits(s);
            if whole == 0 || whole > 1 && s.starts_with('0') {
                return false;
            }
            let mut s = &s[whole..];
            if let Some(fraction) = s.strip_prefix('.') {
                let n = digits(fraction);
                if n == 0 {
                    return false;
                }
                s = &fraction[n..];
            }
            if let Some(exponent) = s.strip_prefix(['e', 'E']) {
                let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                let n = digits(exponent);
                return n > 0 && n == exponent.len();
            }
            s.is_empty()
        };
        if !valid() {
            return Err(Syntax::BadNumber { number: number.chars().take(64).collect() });
        }
        self.at += end;
        Ok(number)
    }

    fn string(&mut self) -> Result<String, Syntax> {
        let open = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            // Every byte looked for is a character of its own, so the cut is between characters.
            let plain = rest.bytes().position(|b| matches!(b, b'"' | b'\\' | 0..b' '));
            let Some(plain) = plain else {
                self.at = open;
                return Err(Syntax::UnclosedString);
            };
            out.push_str(&rest[..plain]);
            self.at += plain;
            match rest.as_bytes()[plain] {
                b'"' => {
                    self.at += 1;
                    return Ok(out);
                }
                b'\\' => out.push(self.escape()?),
                b'\n' | b'\r' => {
                    self.at = open;
                    return Err(Syntax::UnclosedString);
                }
                code => return Err(Syntax::ControlCharacter { code }),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Syntax> {
        let Some(c) = self.text[self.at + 1..].chars().next() else {
            return Err(Syntax::BadEscape { escape: "\\".into() });
        };
        let plain = match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return self.unicode(),
            _ => return Err(Syntax::BadEscape { escape: format!("\\{c}") }),
        };
        self.at += 2;
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, Syntax> {
        let unit = |at: usize| {
            let hex = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
            let all = hex.bytes().all(|b| b.is_ascii_hexdigit());
            if all { u16::from_str_radix(hex, 16).ok() } else { None }
        };
        let bad = || Syntax::BadEscape { escape: self.text[self.at..].chars().take(6).collect() };
        let first = unit(self.at).ok_or_else(bad)?;
        let (c, length) = match first {
            0xd800..=0xdbff => {
                let second = unit(self.at + 6).filter(|u| (0xdc00..=0xdfff).contains(u));
                let second = second.ok_or_else(bad)?;
                let code =
                    0x1_0000 + (u32::from(first) - 0xd800) * 0x400 + u32::from(second) - 0xdc00;
                (char::from_u32(code), 12)
            }
            _ => (char::from_u32(first.into()), 6),
        };
        let c = c.ok_or_else(bad)?;
        self.at += length;
        Ok(c)
    }
}

#[cfg(test)]
mod tests;
