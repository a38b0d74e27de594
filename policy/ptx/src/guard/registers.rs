//! The declared types of a function's registers.

use crate::hash::HashMap;

use crate::tree::{Block, Name, ScalarType, Statement};

/// Looks up what a register was declared as.
#[derive(Default)]
pub(super) struct Registers<'b> {
    exact: HashMap<&'b str, ScalarType>,
    bulk: HashMap<&'b str, (u32, ScalarType)>,
}

impl<'b> Registers<'b> {
    /// All declarations of a body, nested scopes included (names are unique in a function).
    pub(super) fn new(body: &'b Block) -> Self {
        let mut registers = Self::default();
        registers.block(body);
        registers
    }

    fn block(&mut self, block: &'b Block) {
        for statement in &block.statements {
            match statement {
                Statement::Block(inner) => self.block(inner),
                Statement::Registers(r) => {
                    for declared in &r.names {
                        match declared.count {
                            Some(count) => {
                                self.bulk.insert(&declared.name, (count, r.ty));
                            }
                            None => {
                                self.exact.insert(&declared.name, r.ty);
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The width of a register in bits; 0 when it is not declared.
    pub(super) fn bits(&self, name: &Name) -> u32 {
        // The guard's own are declared last.
        if let Some(kind) = name.strip_prefix("%$ts_").and_then(|rest| rest.bytes().next()) {
            return match kind {
                b'd' | b'e' => 64,
                b'w' | b'v' => 32,
                _ => 1,
            };
        }
        if let Some(ty) = self.exact.get(&**name) {
            return ty.bits();
        }
        let digits = name.bytes().rev().take(10).take_while(u8::is_ascii_digit).count();
        for count in 1..=digits {
            let Some((prefix, index)) = name.split_at_checked(name.len() - count) else { continue };
            if let (Some((limit, ty)), Ok(index)) = (self.bulk.get(prefix), index.parse::<u32>())
                && index < *limit
            {
                return ty.bits();
            }
        }
        0
    }
}
