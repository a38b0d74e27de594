//! Variables: sizes, initial contents, addresses inside them, and the layout of parameters in a frame.

use turnstile_ptx::tree::{Block, Init, ScalarType, Space, Statement, Variable as Declared};

use super::{LowerError, Lowered, Symbols};
use crate::ir::{Relocation, RelocationTarget, Shape, Variable};
use crate::ops::half::{f32_to_bf16, f32_to_f16};

/// `.global` and `.const` variables declared inside a body.
pub(super) fn statics(body: &Block) -> Vec<&Declared> {
    let mut found = Vec::new();
    let mut blocks = vec![body];
    while let Some(block) = blocks.pop() {
        for statement in &block.statements {
            match statement {
                Statement::Variable(v) if matches!(v.space, Space::Global | Space::Const) => {
                    found.push(v)
                }
                Statement::Block(inner) => blocks.push(inner),
                _ => {}
            }
        }
    }
    found
}

/// A variable without its contents.
pub(super) fn variable(v: &Declared) -> Lowered<Variable> {
    let line = v.span.line;
    let Some(bytes) = v.bytes() else {
        return Err(LowerError::Malformed {
            line,
            what: format!("`{}` has no definite size", v.name),
        });
    };
    if v.alignment() > 256 {
        return Err(LowerError::Unsupported { line, what: format!(".align {}", v.alignment()) });
    }
    Ok(Variable {
        name: v.name.to_string(),
        bytes,
        read_only: v.space == Space::Const,
        init: Vec::new(),
        relocations: Vec::new(),
    })
}

/// Gives a variable its initial contents.
pub(super) fn initialise(v: &Declared, symbols: &Symbols, variable: &mut Variable) -> Lowered<()> {
    let Some(init) = &v.init else { return Ok(()) };
    // Bytes of each inner dimension, innermost last.
    let element = u64::from(v.ty.bytes().max(1));
    let mut strides = vec![element];
    if v.vector > 1 {
        strides.insert(0, v.element_bytes());
    }
    for dim in v.dims.iter().skip(1).rev() {
        let inner = strides[0];
        strides.insert(0, inner.saturating_mul(dim.unwrap_or(1)));
    }
    if v.dims.is_empty() && v.vector <= 1 {
        return value(v, init, 0, symbols, variable);
    }
    list(v, init, 0, &strides, symbols, variable)
}

fn list(
    v: &Declared,
    init: &Init,
    at: u64,
    strides: &[u64],
    symbols: &Symbols,
    variable: &mut Variable,
) -> Lowered<()> {
    match (init, strides) {
        (Init::List(items), [stride, inner @ ..]) => {
            for (i, item) in items.iter().enumerate() {
                let place = at.saturating_add(stride.saturating_mul(i as u64));
                match item {
                    Init::List(_) => list(v, item, place, inner, symbols, variable)?,
                    _ => value(v, item, place, symbols, variable)?,
                }
            }
            Ok(())
        }
        _ => value(v, init, at, symbols, variable),
    }
}

/// Stores one element.
fn value(
    v: &Declared,
    init: &Init,
    at: u64,
    symbols: &Symbols,
    variable: &mut Variable,
) -> Lowered<()> {
    let line = v.span.line;
    let bytes = u64::from(v.ty.bytes());
    if at.checked_add(bytes).is_none_or(|end| end > variable.bytes) {
        let what = format!("`{}` has more initial values than room", v.name);
        return Err(LowerError::Malformed { line, what });
    }
    let float = |wide: f64| match v.ty {
        ScalarType::F64 => wide.to_bits(),
        ScalarType::F16 => u64::from(f32_to_f16(wide as f32)),
        ScalarType::Bf16 => u64::from(f32_to_bf16(wide as f32)),
        _ => u64::from((wide as f32).to_bits()),
    };
    let raw = match init {
        Init::Int(n) if v.ty.is_float() => float(*n as f64),
        Init::Int(n) => *n as u64,
        Init::F32(bits) if v.ty == ScalarType::F32 || !v.ty.is_float() => u64::from(*bits),
        Init::F32(bits) => float(f64::from(f32::from_bits(*bits))),
        Init::F64(bits) if v.ty == ScalarType::F64 || !v.ty.is_float() => *bits,
        Init::F64(bits) => float(f64::from_bits(*bits)),
        Init::Symbol(symbol) => {
            let target = symbols
                .variables
                .get(&symbol.name)
                .map(|&i| RelocationTarget::Variable(i))
                .or_else(|| {
                    symbols.functions.get(&symbol.name).map(|&i| RelocationTarget::Function(i))
                });
            let Some(target) = target else {
                let what =
                    format!("initial value names `{}`, which has no address here", symbol.name);
                return Err(LowerError::Malformed { line, what });
            };
            // `0xFF00(symbol)` takes one byte of the address.
            let shift = symbol.mask.map_or(0, |m| m.trailing_zeros().min(63) as u8);
            let addend = symbol.offset;
            let relocation = Relocation { at, target, addend, bytes: bytes.min(8) as u8, shift };
            variable.relocations.push(relocation);
            return Ok(());
        }
        Init::List(_) => {
            let what = format!("initial value of `{}` nests too deep", v.name);
            return Err(LowerError::Malformed { line, what });
        }
    };
    let end = (at + bytes) as usize;
    if variable.init.len() < end {
        variable.init.resize(end, 0);
    }
    variable.init[at as usize..end].copy_from_slice(&raw.to_le_bytes()[..bytes as usize]);
    Ok(())
}

/// Places things one after the other in a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    end: u32,
}

/// Most bytes of local memory a function may have (512 KiB, as on a GPU).
const MAX_FRAME: u64 = 512 << 10;

impl Layout {
    /// Room for `bytes`; every object starts at a multiple of four.
    pub(super) fn place(&mut self, bytes: u64, align: u64, line: u32) -> Lowered<u32> {
        let at = u64::from(self.end).next_multiple_of(align.clamp(4, 256));
        let end = at.saturating_add(bytes.next_multiple_of(4));
        if end > MAX_FRAME {
            return Err(LowerError::Limit {
                line,
                what: "bytes of local memory",
                limit: MAX_FRAME as usize,
            });
        }
        self.end = end as u32;
        Ok(at as u32)
    }

    /// Bytes so far, rounded for a frame.
    pub(super) fn size(&self) -> u32 {
        self.end.next_multiple_of(256)
    }

    /// Sizes and alignments of parameters and results.
    pub(super) fn shape(params: &[Declared], results: &[Declared]) -> Lowered<Shape> {
        let all =
            |vars: &[Declared]| -> Lowered<Vec<(u32, u32)>> { vars.iter().map(measure).collect() };
        Ok(Shape { params: all(params)?, results: all(results)? })
    }
}

/// Size and alignment of a parameter.
pub(super) fn measure(v: &Declared) -> Lowered<(u32, u32)> {
    let bytes = if v.ty == ScalarType::Pred { Some(4) } else { v.bytes() };
    match bytes {
        Some(bytes) if bytes <= MAX_FRAME => Ok((bytes as u32, v.alignment().clamp(1, 256) as u32)),
        _ => {
            let what = format!("parameter `{}` has no definite size", v.name);
            Err(LowerError::Malformed { line: v.span.line, what })
        }
    }
}
