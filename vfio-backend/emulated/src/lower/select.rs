//! Which lowering an opcode gets.

use turnstile_ptx::tree::{Flag, Instruction, Mod, Op as Opcode, ScalarType};

use super::builder::Builder;
use super::{Lowered, is_foreign, malformed, unsupported};
use crate::ir::Op;

impl Builder<'_> {
    /// Lowers one instruction.
    pub(super) fn instruction(&mut self, inst: &Instruction) -> Lowered<()> {
        use Opcode as O;
        let Some(op) = inst.op() else { return unsupported(inst) };
        if is_foreign(op) || inst.mods.iter().any(|m| matches!(m, Mod::Other(_))) {
            return unsupported(inst);
        }
        match op {
            O::Mov => self.mov(inst),
            O::Add
            | O::Sub
            | O::Addc
            | O::Subc
            | O::Mul
            | O::Mad
            | O::Madc
            | O::Mul24
            | O::Mad24
            | O::Fma
            | O::Div
            | O::Rem
            | O::Min
            | O::Max
            | O::Abs
            | O::Neg => self.arithmetic(inst, op),
            O::And
            | O::Or
            | O::Xor
            | O::Not
            | O::Cnot
            | O::Shl
            | O::Shr
            | O::Lop3
            | O::Shf
            | O::Prmt
            | O::Bfe
            | O::Bfi
            | O::Bfind
            | O::Brev
            | O::Clz
            | O::Popc
            | O::Fns
            | O::Bmsk
            | O::Szext
            | O::Sad
            | O::Dp4a
            | O::Dp2a => self.bits(inst, op),
            O::Vadd4
            | O::Vsub4
            | O::Vavrg4
            | O::Vabsdiff4
            | O::Vmin4
            | O::Vmax4
            | O::Vadd2
            | O::Vsub2
            | O::Vavrg2
            | O::Vabsdiff2
            | O::Vmin2
            | O::Vmax2 => self.simd(inst, op),
            O::Rcp
            | O::Sqrt
            | O::Rsqrt
            | O::Sin
            | O::Cos
            | O::Lg2
            | O::Ex2
            | O::Tanh
            | O::Copysign => self.function_of(inst, op),
            O::Testp => self.testp(inst),
            O::Setp => self.setp(inst),
            O::Set => self.set(inst),
            O::Selp => self.selp(inst),
            O::Slct => self.slct(inst),
            O::Cvt => self.cvt(inst),
            O::Cvta => self.cvta(inst),
            O::Isspacep => self.isspacep(inst),
            O::Ld | O::Ldu => self.load(inst),
            O::St => self.store(inst),
            O::Atom | O::Red => self.atomic(inst, op == O::Atom),
            O::Prefetch | O::Prefetchu | O::Applypriority => self.emit(Op::Nop),
            O::Createpolicy => {
                let d = self.operand(inst, 0)?;
                let d = self.dest(inst, d, crate::ops::Class::W64)?;
                let zero = self.constant64(0)?;
                self.lanes(crate::ops::int64::Int64::Mov, d, &[zero], 0)
            }
            O::Cp => self.copy(inst),
            O::Membar | O::Fence => self.emit(Op::Fence),
            O::Bra => match inst.operands.first() {
                Some(operand) => match operand.as_symbol() {
                    Some(label) => self.branch(&label.clone()),
                    None => malformed(inst, "a label is wanted"),
                },
                None => malformed(inst, "a label is wanted"),
            },
            O::Brx => self.brx(inst),
            O::Call => self.call(inst),
            O::Ret => self.emit(Op::Return),
            O::Exit => self.emit(Op::Exit),
            O::Trap | O::Brkpt => self.emit(Op::Trap),
            O::Nanosleep => self.emit(Op::Pause),
            O::Pmevent | O::Griddepcontrol | O::Setmaxnreg => self.emit(Op::Nop),
            O::Bar | O::Barrier => self.barrier(inst),
            O::Activemask => {
                let d = self.operand(inst, 0)?;
                let d = self.dest(inst, d, crate::ops::Class::W32)?;
                self.emit(Op::ActiveMask { d })
            }
            O::Shfl => self.shfl(inst),
            O::Vote => self.vote(inst),
            O::Match => self.matching(inst),
            O::Redux => self.redux(inst),
            O::Elect => self.elect(inst),
            O::Mbarrier => self.mbarrier(inst),
            O::Mma => self.mma(inst),
            O::Wmma => self.wmma(inst),
            O::Ldmatrix | O::Stmatrix => self.matrix_transfer(inst, op == O::Ldmatrix),
            O::Movmatrix => {
                let d = self.dest(inst, self.operand(inst, 0)?, crate::ops::Class::W32)?;
                let a = self.source(inst, self.operand(inst, 1)?, ScalarType::B32)?;
                self.emit(Op::MoveMatrix { d, a })
            }
            O::Mapa | O::Getctarank => self.cluster_address(inst, op == O::Mapa),
            _ => unsupported(inst),
        }
    }

    /// Refuses modifiers other than these flags.
    pub(super) fn only(&self, inst: &Instruction, allowed: &[Flag]) -> Lowered<()> {
        if inst.flags().all(|f| allowed.contains(&f)) { Ok(()) } else { unsupported(inst) }
    }

    /// The instruction's type.
    pub(super) fn ty(&self, inst: &Instruction) -> Lowered<ScalarType> {
        match inst.ty() {
            Some(ty) => Ok(ty),
            None => malformed(inst, "no type is given"),
        }
    }
}
