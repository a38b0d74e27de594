//! Declarations: functions, parameters, variables, initialisers.

use super::{ParseError, Parser};
use crate::lexer::Token;
use crate::tree::{
    Directive, Function, FunctionKind, Init, InitSymbol, Item, Linkage, Name, Operand, Pointer,
    RegisterName, Registers, ScalarType, Space, Variable,
};

/// Directives that may stand between a function's parameters and its body.
const FUNCTION_DIRECTIVES: &[&str] = &[
    "maxntid",
    "reqntid",
    "minnctapersm",
    "maxnctapersm",
    "maxnreg",
    "noreturn",
    "explicitcluster",
    "reqnctapercluster",
    "maxclusterrank",
    "blocksareclusters",
    "abi_preserve",
    "abi_preserve_control",
];

impl Parser<'_> {
    /// A module-level function or variable, with its linkage.
    pub(super) fn declaration(&mut self, items: &mut Vec<Item>) -> Result<(), ParseError> {
        let mut linkage = Linkage::Internal;
        loop {
            let Token::Dot(word) = self.token else {
                return self.fail("`.entry`, `.func` or a state space");
            };
            let new = match word {
                "visible" => Linkage::Visible,
                "extern" => Linkage::Extern,
                "weak" => Linkage::Weak,
                "common" => Linkage::Common,
                "entry" => {
                    let function = self.function(FunctionKind::Entry, linkage)?;
                    items.push(Item::Function(Box::new(function)));
                    return Ok(());
                }
                "func" => {
                    let function = self.function(FunctionKind::Func, linkage)?;
                    items.push(Item::Function(Box::new(function)));
                    return Ok(());
                }
                "global" | "const" | "shared" | "tex" => {
                    return self.variables(linkage, |v| items.push(Item::Variable(v)));
                }
                _ => {
                    return self.fail(
                        "`.entry`, `.func`, `.global`, `.const`, `.shared` or a linkage directive",
                    );
                }
            };
            if linkage != Linkage::Internal {
                return self.fail("one linkage directive only");
            }
            linkage = new;
            self.bump()?;
        }
    }

    fn function(&mut self, kind: FunctionKind, linkage: Linkage) -> Result<Function, ParseError> {
        let span = self.span;
        self.bump()?;
        let mut directives = Vec::new();
        // `.func .attribute(…)` and `.func .noreturn` may precede the results.
        while kind == FunctionKind::Func && matches!(self.token, Token::Dot(_)) {
            let directive = self.directive()?;
            directives.push(directive);
        }
        let mut results = Vec::new();
        if kind == FunctionKind::Func && self.at_punct(b'(') {
            results = self.params()?;
        }
        let name = self.name("the function's name")?;
        let params = if self.at_punct(b'(') { self.params()? } else { Vec::new() };
        let mut function = Function {
            linkage,
            kind,
            name,
            results,
            params,
            directives,
            body: None,
            span: self.close(span),
        };
        loop {
            match self.token {
                Token::Dot("pragma") => {
                    // A tuning hint; nothing that a function means depends on it.
                    self.pragma()?;
                }
                Token::Dot(_) => {
                    let directive = self.directive()?;
                    function.directives.push(directive);
                }
                Token::Punct(b';') => {
                    self.bump()?;
                    return Ok(function);
                }
                Token::Punct(b'{') => {
                    function.body = Some(self.block(1)?);
                    return Ok(function);
                }
                _ => return self.fail("`{`, `;` or a directive such as `.maxntid`"),
            }
        }
    }

    pub(super) fn directive(&mut self) -> Result<Directive, ParseError> {
        let span = self.span;
        let Token::Dot(word) = self.token else { return self.fail("a directive") };
        if !FUNCTION_DIRECTIVES.contains(&word) {
            return self.fail("a directive that PTX allows on a function");
        }
        let name = self.intern(word);
        self.bump()?;
        let mut values = Vec::new();
        if let Token::Int(_) = self.token {
            values.push(self.u32("a number")?);
            while self.eat_punct(b',')? {
                values.push(self.u32("a number")?);
                if values.len() > 3 {
                    return self.fail("at most three numbers");
                }
            }
        }
        Ok(Directive { name, values, span: self.close(span) })
    }

    /// `( [variable {, variable}] )`
    pub(super) fn params(&mut self) -> Result<Vec<Variable>, ParseError> {
        self.punct(b'(')?;
        let mut params = Vec::new();
        if self.eat_punct(b')')? {
            return Ok(params);
        }
        loop {
            let head = self.head(Linkage::Internal)?;
            let variable = self.declarator(&head)?;
            params.push(variable);
            if !self.eat_punct(b',')? {
                break;
            }
        }
        self.punct(b')')?;
        Ok(params)
    }

    /// `.space … name[…] [= …] {, name …} ;`
    pub(super) fn variables(
        &mut self,
        linkage: Linkage,
        mut push: impl FnMut(Variable),
    ) -> Result<(), ParseError> {
        let head = self.head(linkage)?;
        loop {
            let mut variable = self.declarator(&head)?;
            if self.eat_punct(b'=')? {
                variable.init = Some(self.init(1)?);
            }
            variable.span = self.close(variable.span);
            push(variable);
            if !self.eat_punct(b',')? {
                break;
            }
        }
        self.punct(b';')
    }

    /// Everything of a variable before its name.
    fn head(&mut self, linkage: Linkage) -> Result<Variable, ParseError> {
        let span = self.span;
        let space = match self.token {
            Token::Dot(word) => match Space::from_text(word) {
                Some(space) => space,
                None => return self.fail("a state space such as `.param`"),
            },
            _ => return self.fail("a state space such as `.param`"),
        };
        self.bump()?;
        let mut head = Variable {
            linkage,
            space,
            align: None,
            vector: 1,
            ty: ScalarType::B8,
            pointer: None,
            managed: false,
            name: Name::new(""),
            dims: Vec::new(),
            init: None,
            span,
        };
        loop {
            let Token::Dot(word) = self.token else { return self.fail("a type such as `.b32`") };
            match word {
                "align" => {
                    self.bump()?;
                    head.align = Some(self.alignment()?);
                    continue;
                }
                "attribute" => {
                    self.bump()?;
                    self.punct(b'(')?;
                    if !self.eat_dot("managed")? {
                        return self.fail("`.managed`; other attributes are not supported");
                    }
                    self.punct(b')')?;
                    head.managed = true;
                    continue;
                }
                "v2" => head.vector = 2,
                "v4" => head.vector = 4,
                "v8" => head.vector = 8,
                _ => {
                    let Some(ty) = ScalarType::from_text(word) else {
                        return self.fail("a type such as `.b32`");
                    };
                    head.ty = ty;
                    self.bump()?;
                    break;
                }
            }
            self.bump()?;
        }
        // Alignment may also follow the type; `.ptr` always does.
        loop {
            if self.eat_dot("align")? {
                head.align = Some(self.alignment()?);
            } else if self.eat_dot("ptr")? {
                let mut pointer = Pointer { space: None, align: None };
                while let Token::Dot(word) = self.token {
                    if word == "align" {
                        self.bump()?;
                        pointer.align = Some(self.alignment()?);
                    } else if let Some(space) = Space::from_text(word) {
                        self.bump()?;
                        pointer.space = Some(space);
                    } else {
                        return self.fail("a state space or `.align`");
                    }
                }
                head.pointer = Some(pointer);
            } else {
                return Ok(head);
            }
        }
    }

    fn alignment(&mut self) -> Result<u32, ParseError> {
        let span = self.span;
        let align = self.u32("an alignment in bytes")?;
        if align.is_power_of_two() {
            return Ok(align);
        }
        Err(ParseError::expected(span, "an alignment that is a power of two"))
    }

    fn declarator(&mut self, head: &Variable) -> Result<Variable, ParseError> {
        let mut variable = head.clone();
        variable.name = self.name("a name")?;
        while self.eat_punct(b'[')? {
            if variable.dims.len() >= 8 {
                return self.fail("at most eight dimensions");
            }
            if self.eat_punct(b']')? {
                variable.dims.push(None);
            } else {
                variable.dims.push(Some(self.u64("an array size")?));
                self.punct(b']')?;
            }
        }
        variable.span = self.close(variable.span);
        Ok(variable)
    }

    /// `.reg …;`, the cursor on `.reg`.
    pub(super) fn registers(&mut self) -> Result<Registers, ParseError> {
        let head = self.head(Linkage::Internal)?;
        let mut names = Vec::new();
        loop {
            let name = self.name("a register name")?;
            let mut count = None;
            if self.eat_punct(b'<')? {
                count = Some(self.u32("a number of registers")?);
                self.punct(b'>')?;
            }
            names.push(RegisterName { name, count });
            if !self.eat_punct(b',')? {
                break;
            }
        }
        self.punct(b';')?;
        Ok(Registers { vector: head.vector, ty: head.ty, names, span: self.close(head.span) })
    }

    fn init(&mut self, depth: u32) -> Result<Init, ParseError> {
        if !self.eat_punct(b'{')? {
            return self.init_value();
        }
        if depth > self.max_nesting {
            let limit = self.max_nesting as usize;
            return Err(ParseError::limit(self.span, "levels of nesting", limit));
        }
        let mut items = Vec::new();
        while !self.at_punct(b'}') {
            let item = self.init(depth + 1)?;
            items.push(item);
            if !self.eat_punct(b',')? {
                break;
            }
        }
        self.punct(b'}')?;
        Ok(Init::List(items))
    }

    fn init_value(&mut self) -> Result<Init, ParseError> {
        let Token::Word(_) = self.token else {
            let span = self.span;
            return match self.constant()? {
                // A number in front of a parenthesis is a byte mask.
                Operand::Int(mask) if self.eat_punct(b'(')? => {
                    let mut symbol = self.init_symbol()?;
                    symbol.mask = Some(mask as u64);
                    self.punct(b')')?;
                    Ok(Init::Symbol(Box::new(symbol)))
                }
                Operand::Int(value) => Ok(Init::Int(value)),
                Operand::F32(bits) => Ok(Init::F32(bits)),
                Operand::F64(bits) => Ok(Init::F64(bits)),
                _ => Err(ParseError::expected(span, "an initial value")),
            };
        };
        Ok(Init::Symbol(Box::new(self.init_symbol()?)))
    }

    fn init_symbol(&mut self) -> Result<InitSymbol, ParseError> {
        let mut name = self.name("a symbol")?;
        let generic = name == "generic" && self.at_punct(b'(');
        if generic {
            self.bump()?;
            name = self.name("a symbol")?;
            self.punct(b')')?;
        }
        let offset = self.offset()?;
        Ok(InitSymbol { name, offset, generic, mask: None })
    }
}
