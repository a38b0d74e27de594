//! Warp-wide instructions. Source: PTX ISA 9.0, sections 9.7.9.6, 9.7.13 and 9.7.15.

use turnstile_ptx::tree::{Flag, Instruction, Operand, ScalarType as T};

use super::builder::Builder;
use super::{Lowered, malformed, unsupported};
use crate::ir::{Fragment, Matrix, MatrixType, NONE, Op, Redux, Shuffle, Slot, Vote};
use crate::ops::Class;

impl Builder<'_> {
    /// `d` or `d|p`.
    fn with_predicate(&self, inst: &Instruction) -> Lowered<(Slot, Slot)> {
        match self.operand(inst, 0)? {
            Operand::Pair(d, p) => {
                Ok((self.dest(inst, d, Class::W32)?, self.dest(inst, p, Class::Pred)?))
            }
            d => Ok((self.dest(inst, d, Class::W32)?, NONE)),
        }
    }

    /// `shfl.sync`.
    pub(super) fn shfl(&mut self, inst: &Instruction) -> Lowered<()> {
        if !inst.has(Flag::Sync) {
            return unsupported(inst);
        }
        let mode = match inst
            .flags()
            .find(|f| matches!(f, Flag::Up | Flag::Down | Flag::Bfly | Flag::Idx))
        {
            Some(Flag::Up) => Shuffle::Up,
            Some(Flag::Down) => Shuffle::Down,
            Some(Flag::Bfly) => Shuffle::Butterfly,
            Some(Flag::Idx) => Shuffle::Index,
            _ => return unsupported(inst),
        };
        let (d, p) = self.with_predicate(inst)?;
        let a = self.source(inst, self.operand(inst, 1)?, T::B32)?;
        let b = self.source(inst, self.operand(inst, 2)?, T::U32)?;
        let c = self.source(inst, self.operand(inst, 3)?, T::U32)?;
        let members = self.source(inst, self.operand(inst, 4)?, T::U32)?;
        self.emit(Op::Shuffle { mode, d, p, a, b, c, members })
    }

    /// `vote.sync`.
    pub(super) fn vote(&mut self, inst: &Instruction) -> Lowered<()> {
        if !inst.has(Flag::Sync) {
            return unsupported(inst);
        }
        let mode = match inst
            .flags()
            .find(|f| matches!(f, Flag::All | Flag::Any | Flag::Uni | Flag::Ballot))
        {
            Some(Flag::All) => Vote::All,
            Some(Flag::Any) => Vote::Any,
            Some(Flag::Uni) => Vote::Uni,
            Some(Flag::Ballot) => Vote::Ballot,
            _ => return unsupported(inst),
        };
        let class = if mode == Vote::Ballot { Class::W32 } else { Class::Pred };
        let d = self.dest(inst, self.operand(inst, 0)?, class)?;
        let (a, negate) = self.condition(inst, self.operand(inst, 1)?)?;
        let members = self.source(inst, self.operand(inst, 2)?, T::U32)?;
        self.emit(Op::Vote { mode, negate, d, a, members })
    }

    /// `match.sync`.
    pub(super) fn matching(&mut self, inst: &Instruction) -> Lowered<()> {
        let ty = self.ty(inst)?;
        let (d, p) = self.with_predicate(inst)?;
        let a = self.source(inst, self.operand(inst, 1)?, ty)?;
        let members = self.source(inst, self.operand(inst, 2)?, T::U32)?;
        self.emit(Op::Match { all: inst.has(Flag::All), wide: ty.bits() == 64, d, p, a, members })
    }

    /// `redux.sync`.
    pub(super) fn redux(&mut self, inst: &Instruction) -> Lowered<()> {
        let ty = self.ty(inst)?;
        if ty.is_float() {
            return unsupported(inst);
        }
        let signed = ty.is_signed();
        let op = match inst.flags().find(|f| *f != Flag::Sync) {
            Some(Flag::Add) => Redux::Add,
            Some(Flag::Min) if signed => Redux::MinS,
            Some(Flag::Min) => Redux::MinU,
            Some(Flag::Max) if signed => Redux::MaxS,
            Some(Flag::Max) => Redux::MaxU,
            Some(Flag::And) => Redux::And,
            Some(Flag::Or) => Redux::Or,
            Some(Flag::Xor) => Redux::Xor,
            _ => return unsupported(inst),
        };
        let d = self.dest(inst, self.operand(inst, 0)?, Class::W32)?;
        let a = self.source(inst, self.operand(inst, 1)?, ty)?;
        let members = self.source(inst, self.operand(inst, 2)?, T::U32)?;
        self.emit(Op::Redux { op, d, a, members })
    }

    /// `elect.sync`.
    pub(super) fn elect(&mut self, inst: &Instruction) -> Lowered<()> {
        let (d, p) = self.with_predicate(inst)?;
        let members = self.source(inst, self.operand(inst, 1)?, T::U32)?;
        if p == NONE {
            return malformed(inst, "a predicate is wanted");
        }
        self.emit(Op::Elect { d, p, members })
    }

    /// `ldmatrix` and `stmatrix`.
    pub(super) fn matrix_transfer(&mut self, inst: &Instruction, load: bool) -> Lowered<()> {
        if !inst.has(Flag::M8n8) || self.ty(inst)? != T::B16 {
            return unsupported(inst);
        }
        let count = if inst.has(Flag::X4) {
            4
        } else if inst.has(Flag::X2) {
            2
        } else {
            1
        };
        let (registers, at) = if load { (0, 1) } else { (1, 0) };
        let parts = match self.operand(inst, registers)? {
            Operand::Vector(parts) => parts.clone(),
            other => vec![other.clone()],
        };
        if parts.len() != count {
            return malformed(inst, "wrong number of registers");
        }
        let mut slots = [NONE; 4];
        for (slot, part) in slots.iter_mut().zip(&parts) {
            *slot = self.dest(inst, part, Class::W32)?;
            if *slot == NONE {
                return unsupported(inst);
            }
        }
        let memory = self.shared_memory(inst, self.address(inst, at)?)?;
        let (count, transpose) = (count as u8, inst.has(Flag::Trans));
        self.emit(if load {
            Op::LoadMatrix { memory, count, transpose, slots }
        } else {
            Op::StoreMatrix { memory, count, transpose, slots }
        })
    }

    /// `mma.sync`.
    pub(super) fn mma(&mut self, inst: &Instruction) -> Lowered<()> {
        if inst.has(Flag::Sp) || inst.has(Flag::SpOrdered) {
            return unsupported(inst);
        }
        let shape = inst.flags().find_map(|f| -> Option<(u16, u16, u16)> {
            Some(match f {
                Flag::M8n8k4 => (8, 8, 4),
                Flag::M8n8k16 => (8, 8, 16),
                Flag::M8n8k32 => (8, 8, 32),
                Flag::M8n8k128 => (8, 8, 128),
                Flag::M16n8k4 => (16, 8, 4),
                Flag::M16n8k8 => (16, 8, 8),
                Flag::M16n8k16 => (16, 8, 16),
                Flag::M16n8k32 => (16, 8, 32),
                Flag::M16n8k64 => (16, 8, 64),
                Flag::M16n8k128 => (16, 8, 128),
                Flag::M16n8k256 => (16, 8, 256),
                _ => return None,
            })
        });
        let types: Vec<T> = inst.types().collect();
        let (Some((m, n, k)), &[d_type, a_type, b_type, c_type]) = (shape, &types[..]) else {
            return unsupported(inst);
        };
        let ty = |t| matrix_type(inst, t);
        let (Some(d_type), Some(a_type), Some(b_type), Some(c_type)) =
            (ty(d_type), ty(a_type), ty(b_type), ty(c_type))
        else {
            return unsupported(inst);
        };
        // Volta's shape has a layout of its own; A by rows and B by columns is the only one of all others.
        if (m, k) == (8, 4) && a_type != MatrixType::F64 {
            return unsupported(inst);
        }
        let [d, a, b, c] = [0, 1, 2, 3].map(|i| self.fragment(inst, i));
        let matrix = Matrix {
            shape: (m, n, k),
            opaque: false,
            a_type,
            b_type,
            c_type,
            d_type,
            saturate: inst.has(Flag::Satfinite),
            a: a?,
            b: b?,
            c: c?,
            d: d?,
        };
        let (m, n, k) = (u32::from(m), u32::from(n), u32::from(k));
        // Registers a lane must hold of each fragment.
        let count = |elements: u32, ty: MatrixType| {
            let bits = elements / 32 * ty.bits();
            (bits / if ty == MatrixType::F64 { 64 } else { 32 }).max(1) as usize
        };
        if matrix.a.len() != count(m * k, a_type)
            || matrix.b.len() != count(k * n, b_type)
            || matrix.c.len() != count(m * n, c_type)
            || matrix.d.len() != count(m * n, d_type)
        {
            return malformed(inst, "a fragment has the wrong number of registers");
        }
        let index = self.program.matrices.len() as u32;
        self.program.matrices.push(matrix);
        self.emit(Op::Matrix(index))
    }

    /// The slots of a fragment.
    fn fragment(&mut self, inst: &Instruction, index: usize) -> Lowered<Vec<Slot>> {
        let parts = match self.operand(inst, index)? {
            Operand::Vector(parts) => parts.clone(),
            other => vec![other.clone()],
        };
        let source = index != 0;
        parts
            .iter()
            .map(|part| match part {
                Operand::Reg(name) => {
                    let reg = self.reg(inst, name)?;
                    if reg.class == Class::Pred {
                        malformed(inst, "a fragment holds no predicates")
                    } else {
                        Ok(reg.slot)
                    }
                }
                Operand::Int(_) | Operand::F32(_) if source => self.source(inst, part, T::B32),
                _ => unsupported(inst),
            })
            .collect()
    }

    /// `wmma.load`, `wmma.store` and `wmma.mma`.
    pub(super) fn wmma(&mut self, inst: &Instruction) -> Lowered<()> {
        let shape = inst.flags().find_map(|f| -> Option<(u16, u16, u16)> {
            Some(match f {
                Flag::M16n16k16 => (16, 16, 16),
                Flag::M16n16k8 => (16, 16, 8),
                Flag::M8n32k16 => (8, 32, 16),
                Flag::M32n8k16 => (32, 8, 16),
                Flag::M8n8k4 => (8, 8, 4),
                _ => return None,
            })
        });
        let Some((m, n, k)) = shape else { return unsupported(inst) };
        let load = inst.has(Flag::Load);
        if load || inst.has(Flag::Store) {
            let Some(ty) = inst.ty().and_then(|t| matrix_type(inst, t)).filter(|t| t.bits() >= 8)
            else {
                return unsupported(inst);
            };
            let (rows, columns) = if inst.has(Flag::A) {
                (m, k)
            } else if inst.has(Flag::B) {
                (k, n)
            } else {
                (m, n)
            };
            let (registers, at) = if load { (0, 1) } else { (1, 0) };
            let slots = self.fragment(inst, registers)?;
            let target = self.target_of(inst, inst.space())?;
            let memory = self.memory(inst, self.address(inst, at)?, target, ty.bits() / 8)?;
            let stride = match inst.operands.get(2) {
                Some(operand) => self.source(inst, operand, T::U32)?,
                None => NONE,
            };
            let by_columns = inst.has(Flag::Col);
            let fragment = Fragment { load, rows, columns, ty, by_columns, memory, stride, slots };
            let per_register = (32 / ty.bits()).max(1);
            let needed = (u32::from(rows) * u32::from(columns) / 32).div_ceil(per_register);
            if (fragment.slots.len() as u32) < needed {
                return malformed(inst, "the fragment has too few registers");
            }
            let index = self.program.fragments.len() as u32;
            self.program.fragments.push(fragment);
            return self.emit(Op::Fragment(index));
        }
        let types: Vec<T> = inst.types().collect();
        // Half precision names only D and C; the others name all four.
        let (d, a, b, c) = match types[..] {
            [d, c] => (d, T::F16, T::F16, c),
            [d, a, b, c] => (d, a, b, c),
            _ => return unsupported(inst),
        };
        let ty = |t| matrix_type(inst, t);
        let (Some(d_type), Some(a_type), Some(b_type), Some(c_type)) = (ty(d), ty(a), ty(b), ty(c))
        else {
            return unsupported(inst);
        };
        let [d, a, b, c] = [0, 1, 2, 3].map(|i| self.fragment(inst, i));
        let matrix = Matrix {
            shape: (m, n, k),
            opaque: true,
            a_type,
            b_type,
            c_type,
            d_type,
            saturate: inst.has(Flag::Satfinite),
            a: a?,
            b: b?,
            c: c?,
            d: d?,
        };
        let needed = |rows: u16, columns: u16, ty: MatrixType| {
            (u32::from(rows) * u32::from(columns) / 32).div_ceil((32 / ty.bits()).max(1)) as usize
        };
        if matrix.a.len() < needed(m, k, a_type)
            || matrix.b.len() < needed(k, n, b_type)
            || matrix.c.len() < needed(m, n, c_type)
            || matrix.d.len() < needed(m, n, d_type)
        {
            return malformed(inst, "a fragment has too few registers");
        }
        let index = self.program.matrices.len() as u32;
        self.program.matrices.push(matrix);
        self.emit(Op::Matrix(index))
    }
}

/// A scalar type as an element of a matrix.
fn matrix_type(inst: &Instruction, ty: T) -> Option<MatrixType> {
    Some(match ty {
        T::F16 => MatrixType::F16,
        T::Bf16 => MatrixType::Bf16,
        T::Tf32 => MatrixType::Tf32,
        T::F64 => MatrixType::F64,
        T::F32 => MatrixType::F32,
        T::S32 => MatrixType::S32,
        T::S8 => MatrixType::S8,
        T::U8 => MatrixType::U8,
        T::S4 => MatrixType::S4,
        T::U4 => MatrixType::U4,
        T::E4m3 => MatrixType::E4m3,
        T::E5m2 => MatrixType::E5m2,
        T::B1 if inst.has(Flag::And) => MatrixType::B1And,
        T::B1 => MatrixType::B1Xor,
        _ => return None,
    })
}
