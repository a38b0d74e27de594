//! Calls, indexed branches and block-wide synchronisation. Source: PTX ISA 9.0, sections 9.7.12 and 9.7.13.

use turnstile_ptx::tree::{Flag, Instruction, Mod, Operand, ScalarType as T};

use super::builder::{Builder, Meaning};
use super::declare::Layout;
use super::{Lowered, malformed, unsupported};
use crate::exec::block::CLUSTER_BARRIER;
use crate::ir::{
    Barrier, CallSite, FrameCopy, Mbarrier, Memory, NONE, Op, Slot, Target, Transfer, Value,
};
use crate::ops::Class;

impl Builder<'_> {
    /// `brx.idx index, table`.
    pub(super) fn brx(&mut self, inst: &Instruction) -> Lowered<()> {
        let index = self.source(inst, self.operand(inst, 0)?, T::U32)?;
        let Some(list) = self.operand(inst, 1)?.as_symbol() else {
            return malformed(inst, "a list of labels is wanted");
        };
        let Some(labels) = self.tables.get(list).cloned() else {
            return malformed(inst, &format!("no list of labels `{list}`"));
        };
        let table = self.table(&labels);
        self.emit(Op::BranchTable { index, table })
    }

    /// `call`.
    pub(super) fn call(&mut self, inst: &Instruction) -> Lowered<()> {
        let Some(call) = inst.call() else {
            return malformed(inst, "the operands are not those of a call");
        };
        if let Operand::Symbol(name, _) = call.target
            && !self.symbols.functions.contains_key(name)
        {
            return self.foreign_call(inst, name.as_str(), call.args, call.results);
        }
        let (function, indirect, signature) = match call.target {
            Operand::Symbol(name, _) => match self.meaning(inst, name)? {
                Meaning::Function(index) if !self.program.functions[index as usize].is_kernel => {
                    (index, NONE, self.program.functions[index as usize].shape.clone())
                }
                _ => return malformed(inst, "only a device function can be called"),
            },
            target => {
                let Some(shape) = call.prototype.and_then(|p| self.prototypes.get(p)).cloned()
                else {
                    return malformed(inst, "an indirect call needs a prototype");
                };
                (0, self.source(inst, target, T::U64)?, shape)
            }
        };
        if call.args.len() != signature.params.len()
            || call.results.len() != signature.results.len()
        {
            return malformed(inst, "the arguments do not fit the function");
        }
        // The callee's frame begins with parameters, then results.
        let mut layout = Layout::default();
        let places = |layout: &mut Layout, sizes: &[(u32, u32)]| -> Lowered<Vec<(u32, u32)>> {
            sizes
                .iter()
                .map(|&(bytes, align)| {
                    Ok((layout.place(bytes.into(), align.into(), inst.span.line)?, bytes))
                })
                .collect()
        };
        let params = places(&mut layout, &signature.params)?;
        let results = places(&mut layout, &signature.results)?;
        let mut args = Vec::new();
        for (operand, (callee, bytes)) in call.args.iter().zip(params) {
            args.push(FrameCopy {
                caller: self.outgoing(inst, operand, bytes)?,
                callee,
                words: bytes.div_ceil(4),
            });
        }
        let mut back = Vec::new();
        let mut loads: Vec<(Slot, bool, u32)> = Vec::new();
        for (operand, (callee, bytes)) in call.results.iter().zip(results) {
            let caller = match operand {
                Operand::Symbol(name, 0) => match self.meaning(inst, name)? {
                    Meaning::Frame(object) if object.bytes == bytes => object.offset,
                    _ => return malformed(inst, "the result does not fit the function"),
                },
                Operand::Reg(name) => {
                    let reg = self.reg(inst, name)?;
                    let offset = self.layout.place(8, 8, inst.span.line)?;
                    loads.push((reg.slot, reg.class == Class::W64, offset));
                    offset
                }
                Operand::Sink => self.layout.place(bytes.into(), 8, inst.span.line)?,
                _ => return malformed(inst, "a result must be a variable or register"),
            };
            back.push(FrameCopy { caller, callee, words: bytes.div_ceil(4) });
        }
        let site = self.program.calls.len() as u32;
        self.program.calls.push(CallSite { function, signature, args, results: back });
        if indirect == NONE {
            self.emit(Op::Call { site })?;
        } else {
            self.emit(Op::CallIndirect { site, target: indirect })?;
        }
        for (slot, wide, offset) in loads {
            self.frame_transfer(slot, wide, offset, true)?;
        }
        Ok(())
    }

    /// Where an argument lies in the frame; registers and constants are stored to a place of their own.
    fn outgoing(&mut self, inst: &Instruction, operand: &Operand, bytes: u32) -> Lowered<u32> {
        match operand {
            Operand::Symbol(name, 0) => match self.meaning(inst, name)? {
                Meaning::Frame(object) if object.bytes == bytes => Ok(object.offset),
                _ => malformed(inst, "the argument does not fit the function"),
            },
            Operand::Reg(_) | Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => {
                let wide = bytes == 8;
                let slot = self.source(inst, operand, if wide { T::B64 } else { T::B32 })?;
                let offset = self.layout.place(8, 8, inst.span.line)?;
                self.frame_transfer(slot, wide, offset, false)?;
                Ok(offset)
            }
            _ => malformed(inst, "an argument must be a variable, register or constant"),
        }
    }

    /// Moves a slot to or from the frame.
    fn frame_transfer(&mut self, slot: Slot, wide: bool, offset: u32, load: bool) -> Lowered<()> {
        let memory =
            Memory { target: Target::Frame, base: NONE, wide: true, offset: offset as i32 };
        let (width, value) = if wide { (8, Value::Zero64) } else { (4, Value::Zero32) };
        let slots = [slot, NONE, NONE, NONE];
        let transfer = Transfer { memory, width, count: 1, value, polls: false, slots };
        self.emit(if load { Op::Load(transfer) } else { Op::Store(transfer) })
    }

    /// Moves a `.reg` parameter to or from its place in the frame.
    pub(super) fn frame_register(
        &mut self,
        name: &turnstile_ptx::tree::Name,
        _ty: T,
        object: super::builder::FrameObject,
        load: bool,
    ) -> Lowered<()> {
        let inst = Instruction::new(turnstile_ptx::tree::Op::Mov, [Mod::Type(T::B32)], Vec::new());
        let reg = self.reg(&inst, name)?;
        self.frame_transfer(reg.slot, reg.class == Class::W64, object.offset, load)
    }

    /// A call of a function that the driver or the device runtime provides.
    fn foreign_call(
        &mut self,
        inst: &Instruction,
        name: &str,
        args: &[Operand],
        results: &[Operand],
    ) -> Lowered<()> {
        let mut place = |operand: Option<&Operand>| -> Lowered<u32> {
            match operand {
                Some(Operand::Symbol(name, 0)) => match self.meaning(inst, name)? {
                    Meaning::Frame(object) => Ok(object.offset),
                    _ => malformed(inst, "the argument is no parameter"),
                },
                Some(operand) => self.outgoing(inst, operand, 8),
                None => malformed(inst, "an argument is missing"),
            }
        };
        match name {
            "vprintf" => {
                let (format, pointer) = (place(args.first())?, place(args.get(1))?);
                let result = place(results.first())?;
                self.emit(Op::Print { format, args: pointer, result })
            }
            "__assertfail" => {
                let message = place(args.first())?;
                let file = place(args.get(1))?;
                let line = place(args.get(2))?;
                let function = place(args.get(3))?;
                self.emit(Op::AssertFail { message, file, line, function })
            }
            _ => {
                let what = format!("call to `{name}`, which the module does not define");
                Err(super::LowerError::Unsupported { line: inst.span.line, what })
            }
        }
    }

    /// `bar` and `barrier`.
    pub(super) fn barrier(&mut self, inst: &Instruction) -> Lowered<()> {
        if inst.has(Flag::Warp) {
            let members = self.source(inst, self.operand(inst, 0)?, T::B32)?;
            return self.emit(Op::WarpSync { members });
        }
        if inst.has(Flag::Cluster) {
            // The block is the cluster: arriving does not wait, and waiting is the block's barrier.
            if inst.has(Flag::Arrive) {
                return self.emit(Op::Fence);
            }
            let id = self.constant32(CLUSTER_BARRIER)?;
            let kind = Barrier::Sync;
            return self.emit(Op::Barrier {
                kind,
                id,
                count: NONE,
                d: NONE,
                p: NONE,
                negate: false,
            });
        }
        if inst.has(Flag::Red) {
            let kind = if inst.has(Flag::Popc) {
                Barrier::Popc
            } else if inst.has(Flag::And) {
                Barrier::And
            } else {
                Barrier::Or
            };
            let class = if kind == Barrier::Popc { Class::W32 } else { Class::Pred };
            let d = self.dest(inst, self.operand(inst, 0)?, class)?;
            let id = self.barrier_id(inst, 1)?;
            let count = match inst.operands.len() {
                4 => self.source(inst, self.operand(inst, 2)?, T::U32)?,
                _ => NONE,
            };
            let (p, negate) = self.condition(inst, self.operand(inst, inst.operands.len() - 1)?)?;
            return self.emit(Op::Barrier { kind, id, count, d, p, negate });
        }
        let kind = if inst.has(Flag::Arrive) { Barrier::Arrive } else { Barrier::Sync };
        let id = self.barrier_id(inst, 0)?;
        let count = match inst.operands.get(1) {
            Some(operand) => self.source(inst, operand, T::U32)?,
            None => NONE,
        };
        self.emit(Op::Barrier { kind, id, count, d: NONE, p: NONE, negate: false })
    }

    /// A barrier number; constants are checked here, so that the cluster's own cannot be named.
    fn barrier_id(&mut self, inst: &Instruction, index: usize) -> Lowered<Slot> {
        match self.operand(inst, index)? {
            Operand::Int(id) if !(0..16).contains(id) => {
                malformed(inst, "there are barriers 0 to 15")
            }
            Operand::Int(id) => self.constant32(*id as u32),
            operand => {
                // A register's value wraps below the cluster's barrier.
                let id = self.source(inst, operand, T::U32)?;
                let (masked, fifteen) = (self.temp32()?, self.constant32(15)?);
                self.lanes(crate::ops::int32::Int32::And, masked, &[id, fifteen], 0)?;
                Ok(masked)
            }
        }
    }

    /// `mbarrier`.
    pub(super) fn mbarrier(&mut self, inst: &Instruction) -> Lowered<()> {
        let has = |f| inst.has(f);
        let nothing = (NONE, NONE);
        if has(Flag::PendingCount) {
            let d = self.dest(inst, self.operand(inst, 0)?, Class::W32)?;
            let a = self.source(inst, self.operand(inst, 1)?, T::B64)?;
            let memory = Memory { target: Target::Frame, base: NONE, wide: true, offset: 0 };
            return self.emit(Op::Mbarrier { kind: Mbarrier::PendingCount, memory, d, a });
        }
        let tests = has(Flag::TestWait) || has(Flag::TryWait);
        let arrives = has(Flag::Arrive) || has(Flag::ArriveDrop);
        // Tests and arrivals have a result first, unless an arrival on another block's object gives none.
        let first = usize::from(inst.operands.first().is_some_and(|o| o.as_address().is_none()));
        let at = self.address(inst, first)?;
        let memory = self.shared_memory(inst, at)?;
        let count = |b: &mut Self| match inst.operands.get(first + 1) {
            Some(operand) => b.source(inst, operand, T::U32),
            None => Ok(NONE),
        };
        let (kind, (d, a)) = if tests {
            let d = self.dest(inst, self.operand(inst, 0)?, Class::Pred)?;
            if has(Flag::Parity) {
                (Mbarrier::TestParity, (d, count(self)?))
            } else {
                let state = self.source(inst, self.operand(inst, first + 1)?, T::B64)?;
                (Mbarrier::TestState, (d, state))
            }
        } else if arrives {
            let d = if first == 1 {
                self.dest(inst, self.operand(inst, 0)?, Class::W64)?
            } else {
                NONE
            };
            let drop = has(Flag::ArriveDrop);
            let kind = match (drop, has(Flag::NoComplete), has(Flag::ExpectTx)) {
                (false, false, false) => Mbarrier::Arrive,
                (true, false, false) => Mbarrier::ArriveDrop,
                (false, true, _) => Mbarrier::ArriveNoComplete,
                (true, true, _) => Mbarrier::ArriveDropNoComplete,
                (false, false, true) => Mbarrier::ArriveExpectTx,
                (true, false, true) => Mbarrier::ArriveDropExpectTx,
            };
            (kind, (d, count(self)?))
        } else if has(Flag::Init) {
            (Mbarrier::Init, (NONE, count(self)?))
        } else if has(Flag::Inval) {
            (Mbarrier::Invalidate, nothing)
        } else if has(Flag::ExpectTx) {
            (Mbarrier::ExpectTx, (NONE, count(self)?))
        } else if has(Flag::CompleteTx) {
            (Mbarrier::CompleteTx, (NONE, count(self)?))
        } else {
            return unsupported(inst);
        };
        self.emit(Op::Mbarrier { kind, memory, d, a })
    }
}
