//! Function bodies: scopes, labels, instructions, operands.

use super::{ParseError, Parser};
use crate::lexer::Token;
use crate::tree::{
    Address, Base, Block, Guard, Instruction, Linkage, Mod, Name, Op, Opcode, Operand, Prototype,
    Span, Statement, Targets,
};

/// Most operands and modifiers of one instruction: an m64n256 wgmma names 128 registers; a call
/// may pass a few hundred arguments.
const MAX_OPERANDS: usize = 1024;
const MAX_MODS: usize = 32;

impl<'a> Parser<'a> {
    /// `{ … }`, the cursor on the brace.
    pub(super) fn block(&mut self, depth: u32) -> Result<Block, ParseError> {
        if depth > self.max_nesting {
            let limit = self.max_nesting as usize;
            return Err(ParseError::limit(self.span, "levels of nesting", limit));
        }
        let span = self.span;
        self.punct(b'{')?;
        let mut statements = Vec::new();
        while !self.at_punct(b'}') {
            self.statement(depth, &mut statements)?;
        }
        self.bump()?;
        Ok(Block { statements, span })
    }

    fn statement(&mut self, depth: u32, out: &mut Vec<Statement>) -> Result<(), ParseError> {
        match self.token {
            Token::Punct(b'{') => {
                let block = self.block(depth + 1)?;
                out.push(Statement::Block(block));
                Ok(())
            }
            Token::Punct(b';') => self.bump(),
            Token::Punct(b'@') => {
                let instruction = self.guarded()?;
                out.push(Statement::Instruction(instruction));
                Ok(())
            }
            Token::Dot(word) => match word {
                "loc" => self.skip_loc(),
                "file" => self.skip_file(),
                "reg" => {
                    let registers = self.registers()?;
                    out.push(Statement::Registers(registers));
                    Ok(())
                }
                "pragma" => {
                    let pragma = self.pragma()?;
                    out.push(Statement::Pragma(pragma));
                    Ok(())
                }
                "local" | "shared" | "param" | "global" | "const" => {
                    self.variables(Linkage::Internal, |v| out.push(Statement::Variable(v)))
                }
                _ => self.fail("a statement"),
            },
            Token::Word(word) => {
                let span = self.span;
                self.bump()?;
                if self.eat_punct(b':')? {
                    let name = self.intern(word);
                    let statement = self.labelled(name, span)?;
                    out.push(statement);
                } else {
                    let instruction = self.instruction(word, span, None)?;
                    out.push(Statement::Instruction(instruction));
                }
                Ok(())
            }
            Token::End => self.fail("`}` at the end of the function"),
            _ => self.fail("an instruction, label or directive"),
        }
    }

    /// What follows `name:`; for most labels, nothing of its own.
    fn labelled(&mut self, name: Name, span: Span) -> Result<Statement, ParseError> {
        if self.eat_dot("branchtargets")? {
            let targets = self.targets("a label")?;
            return Ok(Statement::BranchTargets(Targets { name, targets, span: self.close(span) }));
        }
        if self.eat_dot("calltargets")? {
            let targets = self.targets("a function")?;
            return Ok(Statement::CallTargets(Targets { name, targets, span: self.close(span) }));
        }
        if !self.eat_dot("callprototype")? {
            return Ok(Statement::Label(name, span));
        }
        let results = if self.at_punct(b'(') { self.params()? } else { Vec::new() };
        self.name("`_`")?;
        let params = if self.at_punct(b'(') { self.params()? } else { Vec::new() };
        let mut directives = Vec::new();
        while let Token::Dot(_) = self.token {
            let directive = self.directive()?;
            directives.push(directive);
        }
        self.punct(b';')?;
        let span = self.close(span);
        Ok(Statement::CallPrototype(Prototype { name, results, params, directives, span }))
    }

    fn targets(&mut self, what: &str) -> Result<Vec<Name>, ParseError> {
        let mut targets = vec![self.name(what)?];
        while self.eat_punct(b',')? {
            targets.push(self.name(what)?);
        }
        self.punct(b';')?;
        Ok(targets)
    }

    /// `@[!]p instruction`, the cursor on `@`.
    fn guarded(&mut self) -> Result<Instruction, ParseError> {
        let span = self.span;
        self.bump()?;
        let negated = self.eat_punct(b'!')?;
        let reg = self.name("a predicate register")?;
        let Token::Word(word) = self.token else { return self.fail("an instruction") };
        self.bump()?;
        self.instruction(word, span, Some(Guard { negated, reg }))
    }

    /// The rest of an instruction after its opcode.
    fn instruction(
        &mut self,
        word: &'a str,
        span: Span,
        guard: Option<Guard>,
    ) -> Result<Instruction, ParseError> {
        let opcode = match Op::from_text(word) {
            Some(op) => Opcode::Known(op),
            None => Opcode::Unknown(self.intern(word)),
        };
        // Collected aside first, so that each list is made once and of its own size.
        self.mods.clear();
        while let Token::Dot(text) = self.token {
            if self.mods.len() >= MAX_MODS {
                return Err(ParseError::limit(self.span, "modifiers", MAX_MODS));
            }
            let modifier = match Mod::from_text(text) {
                Some(modifier) => modifier,
                None => Mod::Other(self.intern(text)),
            };
            self.mods.push(modifier);
            self.bump()?;
        }
        let mods = self.mods.drain(..).collect();
        let mut operands = Vec::new();
        if !self.at_punct(b';') {
            operands = self.operands(b';', 0)?;
        }
        if !self.eat_punct(b';')? {
            return self.fail("`,` or `;` after the operand");
        }
        Ok(Instruction { guard, opcode, mods, operands, span: self.close(span) })
    }

    /// A comma-separated list up to (not including) `end`.
    fn operands(&mut self, end: u8, depth: u32) -> Result<Vec<Operand>, ParseError> {
        if self.at_punct(end) {
            return Ok(Vec::new());
        }
        let start = self.operands.len();
        loop {
            if self.operands.len() - start >= MAX_OPERANDS {
                return Err(ParseError::limit(self.span, "operands", MAX_OPERANDS));
            }
            let operand = self.operand(depth)?;
            self.operands.push(operand);
            if !self.eat_punct(b',')? {
                return Ok(self.operands.drain(start..).collect());
            }
        }
    }

    fn operand(&mut self, depth: u32) -> Result<Operand, ParseError> {
        // Lists and addresses hold vectors, and those hold simple operands: three levels in all.
        if depth > 3 {
            return self.fail("a simple operand");
        }
        let operand = match self.token {
            Token::Punct(b'{') => {
                self.bump()?;
                let items = self.operands(b'}', depth + 1)?;
                self.punct(b'}')?;
                Operand::Vector(items)
            }
            Token::Punct(b'(') => {
                self.bump()?;
                let items = self.operands(b')', depth + 1)?;
                self.punct(b')')?;
                return Ok(Operand::List(items));
            }
            Token::Punct(b'[') => {
                self.bump()?;
                return self.address(depth);
            }
            Token::Punct(b'!') => {
                self.bump()?;
                Operand::NotReg(self.name("a predicate register")?)
            }
            Token::Word("_") => {
                self.bump()?;
                Operand::Sink
            }
            Token::Word(word) => self.word_operand(word)?,
            _ => self.constant()?,
        };
        if self.eat_punct(b'|')? {
            // One bar only: the right side takes no further one.
            let right = match self.token {
                Token::Word("_") => {
                    self.bump()?;
                    Operand::Sink
                }
                Token::Word(word) => self.word_operand(word)?,
                _ => return self.fail("a register after `|`"),
            };
            return Ok(Operand::Pair(Box::new(operand), Box::new(right)));
        }
        Ok(operand)
    }

    /// A name: the scope pass decides later whether it is a register or a symbol.
    fn word_operand(&mut self, word: &'a str) -> Result<Operand, ParseError> {
        self.bump()?;
        if let Token::Dot(component) = self.token {
            // A special register with a component, or one component of a vector register.
            let full = format!("{word}.{component}");
            if let Some(special) = crate::tree::Special::from_text(&full) {
                self.bump()?;
                return Ok(Operand::Special(special));
            }
            let index = match component {
                "x" | "r" => 0,
                "y" | "g" => 1,
                "z" | "b" => 2,
                "w" | "a" => 3,
                _ => return self.fail("a component such as `.x`"),
            };
            self.bump()?;
            return Ok(Operand::Component(self.intern(word), index));
        }
        if word == "WARP_SZ" {
            return Ok(Operand::Int(32));
        }
        let offset = self.offset()?;
        Ok(Operand::Symbol(self.intern(word), offset))
    }

    /// A number, with sign.
    pub(super) fn constant(&mut self) -> Result<Operand, ParseError> {
        let negative = self.eat_punct(b'-')?;
        if !negative {
            self.eat_punct(b'+')?;
        }
        let operand = match self.token {
            Token::Int(value) => {
                let value = value as i64;
                Operand::Int(if negative { value.wrapping_neg() } else { value })
            }
            Token::F32(bits) => Operand::F32(if negative { bits ^ (1 << 31) } else { bits }),
            Token::F64(bits) => Operand::F64(if negative { bits ^ (1 << 63) } else { bits }),
            _ => return self.fail("an operand"),
        };
        self.bump()?;
        Ok(operand)
    }

    /// The inside of `[…]`, the cursor after the bracket.
    fn address(&mut self, depth: u32) -> Result<Operand, ParseError> {
        let (base, offset) = match self.token {
            Token::Word(word) => {
                self.bump()?;
                let name = self.intern(word);
                (Base::Symbol(name), self.offset()?)
            }
            _ => {
                let first = self.signed("a register, symbol or integer address")?;
                let rest = self.offset()?;
                (Base::Absolute, first.wrapping_add(rest))
            }
        };
        let mut rest = Vec::new();
        if self.eat_punct(b',')? {
            rest = self.operands(b']', depth + 1)?;
        }
        self.punct(b']')?;
        Ok(Operand::Address(Address { base, offset, rest: rest.into_boxed_slice() }))
    }
}
