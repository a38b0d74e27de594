//! From a region's instructions to a function of the machine: a loop over lanes around the code of one thread.
//!
//! Registers live in machine registers inside the region and in the warp's register file outside. Where the region ends,
//! and where an access needs the interpreter, what is live and was written goes back to the file and the lane's place is
//! noted. Instructions are counted per straight piece; every backward branch looks at what is left of them.

use std::collections::{BTreeMap, HashMap};
use std::mem::offset_of;

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::types::{F32, F64, I8, I32, I64};
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, SigRef, Type, Value};
use cranelift_frontend::{FunctionBuilder, Variable};

use super::arithmetic::{gives_canonical32, gives_canonical64, is_float_result};
use super::code::{self, Context};
use super::liveness::Place;
use super::region::{Body, Region};
use super::special;
use super::values::Kind;
use crate::ir::{CONSTANT, Combine, Inst, NONE, Op, Slot, Special, Transfer};
use crate::ops::Class;
use crate::ops::float32;
use crate::ops::int32::Int32;
use crate::ops::int64::Int64;

/// Bytes of 32 lanes of 32 and 64 bits.
const ROW32: i32 = 128;
const ROW64: i32 = 256;

/// A value before it is stored in a slot.
#[derive(Clone, Copy)]
pub(super) enum New {
    /// An integer, or a predicate.
    Bits(Value),
    /// A float whose bits are final.
    Exact(Value),
    /// A float whose NaN may be any.
    Loose(Value),
}

/// Values that are the same for all lanes, made before the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fixed {
    /// A 64-bit field of the context at this offset.
    Field(usize),
    /// The same shifted right.
    Shifted(usize, u32),
    /// An entry of the table of special registers.
    Special(usize),
    /// Bytes of a parameter: offset, width, sign.
    Param(u32, u8, crate::ir::Value),
    /// Host address of the frame's first word.
    Frame,
}

/// The state of translating one region.
pub(super) struct Translator<'a, 'b> {
    pub(super) b: FunctionBuilder<'b>,
    pub(super) body: &'a Body<'a>,
    pub(super) region: &'a Region,
    pub(super) constants: (&'a [u32], &'a [u64]),
    kinds: &'a [Kind],
    variables: Vec<Option<Variable>>,
    blocks: BTreeMap<u32, Block>,
    fixed: HashMap<Fixed, Value>,
    /// Where fixed values are made.
    prologue: Block,
    pub(super) context: Value,
    lane: Value,
    pub(super) lane4: Value,
    next_lane: Block,
    fuel: Variable,
    unfinished: Variable,
    guard: Option<Value>,
    /// Blocks that leave to the interpreter: place and instructions of the piece before it.
    bails: Vec<(Block, u32, i64)>,
    /// Instructions executed in the piece so far, not taken from the fuel yet.
    pub(super) issued: i64,
    pub(super) pc: u32,
    /// Number of the next memory instruction.
    pub(super) sites: &'a mut u32,
    pub(super) scalar_signature: SigRef,
    pub(super) translate_signature: SigRef,
    refill_signature: SigRef,
}

/// Plain accesses that do not fail: the address was checked, or is the executor's own.
pub(super) fn plain() -> MemFlagsData {
    MemFlagsData::trusted()
}

fn field(offset: usize) -> i32 {
    // CAST: the context is smaller than a page.
    offset as i32
}

/// Loads an element and extends it as a slot wants it.
macro_rules! extended {
    ($at:expr, $base:expr, $offset:expr, $width:expr, $value:expr) => {{
        use crate::ir::Value as V;
        let (flags, base, offset) = (plain(), $base, $offset);
        match ($width, $value) {
            (1, V::Zero32) => $at.ins().uload8(I32, flags, base, offset),
            (1, V::Sign32) => $at.ins().sload8(I32, flags, base, offset),
            (1, V::Sign16) => {
                let v = $at.ins().sload8(I32, flags, base, offset);
                $at.ins().band_imm_u(v, 0xffff)
            }
            (1, V::Zero64) => $at.ins().uload8(I64, flags, base, offset),
            (1, V::Sign64) => $at.ins().sload8(I64, flags, base, offset),
            (2, V::Zero32 | V::Sign16) => $at.ins().uload16(I32, flags, base, offset),
            (2, V::Sign32) => $at.ins().sload16(I32, flags, base, offset),
            (2, V::Zero64) => $at.ins().uload16(I64, flags, base, offset),
            (2, V::Sign64) => $at.ins().sload16(I64, flags, base, offset),
            (4, V::Zero64) => $at.ins().uload32(flags, base, offset),
            (4, V::Sign64) => $at.ins().sload32(flags, base, offset),
            (8, _) => $at.ins().load(I64, flags, base, offset),
            _ => $at.ins().load(I32, flags, base, offset),
        }
    }};
}

/// What translating needs to know.
pub(super) struct Input<'a> {
    pub(super) body: &'a Body<'a>,
    pub(super) region: &'a Region,
    pub(super) constants: (&'a [u32], &'a [u64]),
    pub(super) kinds: &'a [Kind],
    pub(super) sites: &'a mut u32,
    /// Signatures of the scalar meanings, of `translate` and of `refill`.
    pub(super) signatures: [SigRef; 3],
}

/// Fills in the function of a region.
pub(super) fn region(
    mut b: FunctionBuilder<'_>,
    input: Input<'_>,
    frontend: cranelift_codegen::isa::TargetFrontendConfig,
) {
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let (context, mask) = (b.block_params(entry)[0], b.block_params(entry)[1]);
    let (head, start, next, done) =
        (b.create_block(), b.create_block(), b.create_block(), b.create_block());
    let left = b.declare_var(I32);
    let fuel = b.declare_var(I64);
    let unfinished = b.declare_var(I32);
    b.def_var(left, mask);
    let initial = b.ins().load(I64, plain(), context, field(offset_of!(Context, fuel)));
    b.def_var(fuel, initial);
    let none = b.ins().iconst(I32, 0);
    b.def_var(unfinished, none);
    // Values that all lanes share are put before its end as they are wanted.
    let prologue = b.create_block();
    b.ins().jump(prologue, &[]);
    b.switch_to_block(prologue);
    b.ins().jump(head, &[]);
    // The head of the loop over lanes.
    b.switch_to_block(head);
    let m = b.use_var(left);
    b.ins().brif(m, start, &[], done, &[]);
    b.switch_to_block(start);
    let m = b.use_var(left);
    let lane = b.ins().ctz(m);
    let less = b.ins().iadd_imm_s(m, -1);
    let rest = b.ins().band(m, less);
    b.def_var(left, rest);
    let lane64 = b.ins().uextend(I64, lane);
    let lane4 = b.ins().ishl_imm_u(lane64, 2);
    let variables = (0..input.body.shape.total()).map(|_| None).collect();
    let [scalar_signature, translate_signature, refill_signature] = input.signatures;
    let blocks = input.region.leaders.iter().map(|&pc| (pc, b.create_block())).collect();
    let mut t = Translator {
        b,
        body: input.body,
        region: input.region,
        constants: input.constants,
        kinds: input.kinds,
        variables,
        blocks,
        fixed: HashMap::new(),
        prologue,
        context,
        lane,
        lane4,
        next_lane: next,
        fuel,
        unfinished,
        guard: None,
        bails: Vec::new(),
        issued: 0,
        pc: 0,
        sites: input.sites,
        scalar_signature,
        translate_signature,
        refill_signature,
    };
    t.restore();
    let first = t.blocks[&t.region.entry];
    t.b.ins().jump(first, &[]);
    let mut exits = BTreeMap::new();
    for &pc in &t.region.exits {
        exits.insert(pc, t.b.create_block());
    }
    for (&pc, &block) in &t.blocks.clone() {
        t.b.switch_to_block(block);
        t.piece(pc, &exits);
    }
    for (&pc, &block) in &exits {
        t.b.switch_to_block(block);
        t.save(pc);
    }
    for (block, pc, issued) in std::mem::take(&mut t.bails) {
        t.b.switch_to_block(block);
        t.issued = issued;
        t.pay();
        t.save(pc);
    }
    t.b.switch_to_block(next);
    t.b.ins().jump(head, &[]);
    t.b.switch_to_block(done);
    let fuel = t.b.use_var(t.fuel);
    t.b.ins().store(plain(), fuel, t.context, field(offset_of!(Context, fuel)));
    let unfinished = t.b.use_var(t.unfinished);
    t.b.ins().return_(&[unfinished]);
    t.b.seal_all_blocks();
    t.b.finalize(frontend);
}

impl Translator<'_, '_> {
    // Slots.

    fn variable(&mut self, number: usize) -> Variable {
        if let Some(variable) = self.variables[number] {
            return variable;
        }
        let ty = match (self.body.shape.place(number).0, self.kinds[number]) {
            (Class::Pred, _) => I8,
            (Class::W32, Kind::Float | Kind::Loose) => F32,
            (Class::W32, _) => I32,
            (Class::W64, Kind::Float | Kind::Loose) => F64,
            (Class::W64, _) => I64,
        };
        let variable = self.b.declare_var(ty);
        self.variables[number] = Some(variable);
        variable
    }

    /// Number, kind and value of a slot. Every slot was checked when the region was made.
    fn value(&mut self, place: Place) -> (Kind, Value) {
        let number = self.body.shape.number(place).unwrap_or(0);
        let variable = self.variable(number);
        (self.kinds[number], self.b.use_var(variable))
    }

    /// The value of a constant slot.
    pub(super) fn constant32(&self, slot: Slot) -> Option<u32> {
        if slot == NONE {
            return Some(0);
        }
        (slot & CONSTANT != 0)
            .then(|| self.constants.0.get(usize::from(slot & !CONSTANT)).copied().unwrap_or(0))
    }

    fn constant64(&self, slot: Slot) -> Option<u64> {
        if slot == NONE {
            return Some(0);
        }
        (slot & CONSTANT != 0)
            .then(|| self.constants.1.get(usize::from(slot & !CONSTANT)).copied().unwrap_or(0))
    }

    /// Makes a NaN the canonical one.
    fn canonical32(&mut self, v: Value) -> Value {
        let nan = self.b.ins().fcmp(FloatCC::Unordered, v, v);
        let canonical = self.b.ins().f32const(Ieee32::with_bits(float32::CANONICAL));
        self.b.ins().select(nan, canonical, v)
    }

    fn canonical64(&mut self, v: Value) -> Value {
        let nan = self.b.ins().fcmp(FloatCC::Unordered, v, v);
        let bits = crate::ops::float64::bits(f64::NAN);
        let canonical = self.b.ins().f64const(Ieee64::with_bits(bits));
        self.b.ins().select(nan, canonical, v)
    }

    /// A 32-bit slot's bits.
    pub(super) fn int32(&mut self, slot: Slot) -> Value {
        if let Some(v) = self.constant32(slot) {
            return self.b.ins().iconst(I32, i64::from(v));
        }
        match self.value((Class::W32, slot)) {
            (Kind::Loose, v) => {
                let v = self.canonical32(v);
                self.b.ins().bitcast(I32, MemFlagsData::new(), v)
            }
            (Kind::Float, v) => self.b.ins().bitcast(I32, MemFlagsData::new(), v),
            (_, v) => v,
        }
    }

    /// A 64-bit slot's bits.
    pub(super) fn int64(&mut self, slot: Slot) -> Value {
        if let Some(v) = self.constant64(slot) {
            return self.b.ins().iconst(I64, v as i64);
        }
        match self.value((Class::W64, slot)) {
            (Kind::Loose, v) => {
                let v = self.canonical64(v);
                self.b.ins().bitcast(I64, MemFlagsData::new(), v)
            }
            (Kind::Float, v) => self.b.ins().bitcast(I64, MemFlagsData::new(), v),
            (_, v) => v,
        }
    }

    /// A 32-bit slot as a float for arithmetic: a NaN may be any.
    pub(super) fn single_of(&mut self, slot: Slot) -> Value {
        if let Some(v) = self.constant32(slot) {
            return self.b.ins().f32const(Ieee32::with_bits(v));
        }
        match self.value((Class::W32, slot)) {
            (Kind::Loose | Kind::Float, v) => v,
            (_, v) => self.b.ins().bitcast(F32, MemFlagsData::new(), v),
        }
    }

    /// A 64-bit slot as a float for arithmetic.
    pub(super) fn double_of(&mut self, slot: Slot) -> Value {
        if let Some(v) = self.constant64(slot) {
            return self.b.ins().f64const(Ieee64::with_bits(v));
        }
        match self.value((Class::W64, slot)) {
            (Kind::Loose | Kind::Float, v) => v,
            (_, v) => self.b.ins().bitcast(F64, MemFlagsData::new(), v),
        }
    }

    /// Two words as one.
    pub(super) fn pair(&mut self, low: Value, high: Value) -> Value {
        let (low, high) = (self.b.ins().uextend(I64, low), self.b.ins().uextend(I64, high));
        let high = self.b.ins().ishl_imm_u(high, 32);
        self.b.ins().bor(low, high)
    }

    /// A predicate: 0 or 1.
    fn pred(&mut self, slot: Slot) -> Value {
        self.value((Class::Pred, slot)).1
    }

    /// A slot as it is, for a copy into a slot of kind `to`.
    fn copied(&mut self, class: Class, slot: Slot, to: Kind) -> New {
        let number = self.body.shape.number((class, slot));
        let from = number.filter(|_| slot & CONSTANT == 0 && slot != NONE).map(|n| self.kinds[n]);
        match (to, from, class) {
            (Kind::Loose, Some(Kind::Loose) | None, Class::W32) => New::Loose(self.single_of(slot)),
            (Kind::Loose, Some(Kind::Loose) | None, _) => New::Loose(self.double_of(slot)),
            (Kind::Float, Some(Kind::Float) | None, Class::W32) => New::Exact(self.single_of(slot)),
            (Kind::Float, Some(Kind::Float) | None, _) => New::Exact(self.double_of(slot)),
            (_, _, Class::W32) => New::Bits(self.int32(slot)),
            _ => New::Bits(self.int64(slot)),
        }
    }

    /// Writes a slot, in the lanes that the guard lets through.
    pub(super) fn set(&mut self, place: Place, new: New) {
        let Some(number) = self.body.shape.number(place) else { return };
        let (kind, wide) = (self.kinds[number], place.0 == Class::W64);
        let value = match (kind, new) {
            (Kind::Integer | Kind::Predicate, New::Bits(v)) => v,
            (Kind::Integer | Kind::Predicate, New::Exact(v) | New::Loose(v)) => {
                let v = match new {
                    New::Loose(_) if wide => self.canonical64(v),
                    New::Loose(_) => self.canonical32(v),
                    _ => v,
                };
                self.b.ins().bitcast(if wide { I64 } else { I32 }, MemFlagsData::new(), v)
            }
            (_, New::Bits(v)) => {
                self.b.ins().bitcast(if wide { F64 } else { F32 }, MemFlagsData::new(), v)
            }
            (Kind::Float, New::Loose(v)) => {
                if wide {
                    self.canonical64(v)
                } else {
                    self.canonical32(v)
                }
            }
            (_, New::Exact(v) | New::Loose(v)) => v,
        };
        let variable = self.variable(number);
        let value = match self.guard {
            Some(guard) => {
                let old = self.b.use_var(variable);
                self.b.ins().select(guard, value, old)
            }
            None => value,
        };
        self.b.def_var(variable, value);
    }

    // Values that all lanes share.

    /// Makes a value before the loop, once.
    pub(super) fn fixed(&mut self, what: Fixed) -> Value {
        if let Some(&value) = self.fixed.get(&what) {
            return value;
        }
        let wanted = match what {
            Fixed::Shifted(at, _) => Some(Fixed::Field(at)),
            Fixed::Frame => Some(Fixed::Field(offset_of!(Context, frame))),
            Fixed::Param(..) => Some(Fixed::Field(offset_of!(Context, params))),
            _ => None,
        };
        let base = wanted.map(|w| self.fixed(w)).unwrap_or(self.context);
        let local = match what {
            Fixed::Frame => self.fixed(Fixed::Field(offset_of!(Context, local))),
            _ => base,
        };
        let mut cursor = FuncCursor::new(self.b.func);
        cursor.goto_last_inst(self.prologue);
        let value = match what {
            Fixed::Field(at) => cursor.ins().load(I64, plain(), base, field(at)),
            Fixed::Shifted(_, by) => cursor.ins().ushr_imm_u(base, i64::from(by)),
            Fixed::Special(n) => {
                let at = field(offset_of!(Context, specials) + 4 * n);
                cursor.ins().load(I32, plain(), base, at)
            }
            Fixed::Frame => {
                // A word of all lanes takes 128 bytes, so a byte of a thread's frame 32.
                let bytes = cursor.ins().ishl_imm_u(base, 5);
                cursor.ins().iadd(local, bytes)
            }
            // CAST: parameters are at most 4 KiB (32 KiB for later PTX).
            Fixed::Param(at, width, value) => {
                extended!(cursor, base, at as i32, width, value)
            }
        };
        self.fixed.insert(what, value);
        value
    }

    /// Loads an element and extends it as the slot wants it.
    pub(super) fn extended(
        &mut self,
        base: Value,
        offset: i32,
        width: u8,
        value: crate::ir::Value,
    ) -> Value {
        extended!(self.b, base, offset, width, value)
    }

    // Calls.

    pub(super) fn call_host(&mut self, f: *const u8, signature: SigRef, args: &[Value]) -> Value {
        let address = self.b.ins().iconst(I64, f as i64);
        let call = self.b.ins().call_indirect(signature, address, args);
        self.b.inst_results(call)[0]
    }

    // Where the region begins and ends.

    /// Loads what is live at the entry.
    fn restore(&mut self) {
        for number in self.region.live_in.iter().collect::<Vec<_>>() {
            let (class, slot) = self.body.shape.place(number);
            let ty = match (class, self.kinds[number]) {
                (Class::W32, Kind::Integer) => I32,
                (Class::W32, _) => F32,
                (Class::W64, Kind::Integer) => I64,
                (Class::W64, _) => F64,
                (Class::Pred, _) => I32,
            };
            let value = match class {
                Class::Pred => {
                    let preds = self.fixed(Fixed::Field(offset_of!(Context, preds)));
                    let word = self.b.ins().load(I32, plain(), preds, 4 * i32::from(slot));
                    let bit = self.b.ins().ushr(word, self.lane);
                    let bit = self.b.ins().band_imm_u(bit, 1);
                    self.b.ins().ireduce(I8, bit)
                }
                _ => {
                    let (place, offset) = self.cell(class, slot);
                    self.b.ins().load(ty, plain(), place, offset)
                }
            };
            let variable = self.variable(number);
            self.b.def_var(variable, value);
        }
    }

    /// Where the running lane's element of a slot lies.
    fn cell(&mut self, class: Class, slot: Slot) -> (Value, i32) {
        match class {
            Class::W64 => {
                let file = self.fixed(Fixed::Field(offset_of!(Context, r64)));
                let lane8 = self.b.ins().ishl_imm_u(self.lane4, 1);
                (self.b.ins().iadd(file, lane8), ROW64 * i32::from(slot))
            }
            _ => {
                let file = self.fixed(Fixed::Field(offset_of!(Context, r32)));
                (self.b.ins().iadd(file, self.lane4), ROW32 * i32::from(slot))
            }
        }
    }

    /// Stores what is live at `pc`, notes the place and goes to the next lane.
    fn save(&mut self, pc: u32) {
        let live = self.body.liveness.at(self.body.code, pc, self.body.end, self.body.shape);
        let one = self.b.ins().iconst(I32, 1);
        let bit = self.b.ins().ishl(one, self.lane);
        for number in live.iter().filter(|&n| self.region.written.contains(n)) {
            let (class, slot) = self.body.shape.place(number);
            let variable = self.variable(number);
            let value = self.b.use_var(variable);
            let value = match (class, self.kinds[number]) {
                (Class::W32, Kind::Loose) => self.canonical32(value),
                (Class::W64, Kind::Loose) => self.canonical64(value),
                _ => value,
            };
            if class == Class::Pred {
                let preds = self.fixed(Fixed::Field(offset_of!(Context, preds)));
                let offset = 4 * i32::from(slot);
                let word = self.b.ins().load(I32, plain(), preds, offset);
                let without = self.b.ins().band_not(word, bit);
                let with = self.b.ins().bor(word, bit);
                let word = self.b.ins().select(value, with, without);
                self.b.ins().store(plain(), word, preds, offset);
            } else {
                let (place, offset) = self.cell(class, slot);
                self.b.ins().store(plain(), value, place, offset);
            }
        }
        let at = self.b.ins().iadd(self.context, self.lane4);
        let place = self.b.ins().iconst(I32, i64::from(pc));
        self.b.ins().store(plain(), place, at, field(offset_of!(Context, exits)));
        let unfinished = self.b.use_var(self.unfinished);
        let unfinished = self.b.ins().bor(unfinished, bit);
        self.b.def_var(self.unfinished, unfinished);
        self.b.ins().jump(self.next_lane, &[]);
    }

    /// Takes the instructions of the piece so far from the fuel.
    fn pay(&mut self) {
        if self.issued != 0 {
            let fuel = self.b.use_var(self.fuel);
            let fuel = self.b.ins().iadd_imm_s(fuel, -self.issued);
            self.b.def_var(self.fuel, fuel);
        }
    }

    /// A new block that leaves to the interpreter at the current instruction, which is not executed. It is filled when the
    /// region's code is done.
    pub(super) fn bail(&mut self) -> Block {
        let block = self.b.create_block();
        self.b.set_cold_block(block);
        self.bails.push((block, self.pc, self.issued));
        block
    }

    /// Goes to a branch target; backward only while there is fuel.
    fn go(&mut self, to: u32, exits: &BTreeMap<u32, Block>) {
        let target = self.blocks.get(&to).or_else(|| exits.get(&to)).copied();
        let target = target.unwrap_or(self.next_lane);
        if to > self.pc {
            self.b.ins().jump(target, &[]);
            return;
        }
        let (empty, stop, more) =
            (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(empty);
        self.b.set_cold_block(stop);
        self.b.set_cold_block(more);
        let fuel = self.b.use_var(self.fuel);
        let over = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, fuel, 0);
        self.b.ins().brif(over, empty, &[], target, &[]);
        self.b.switch_to_block(empty);
        let fuel =
            self.call_host(code::refill as *const u8, self.refill_signature, &[self.context, fuel]);
        self.b.def_var(self.fuel, fuel);
        let over = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, fuel, 0);
        self.b.ins().brif(over, stop, &[], more, &[]);
        self.b.switch_to_block(stop);
        self.save(to);
        self.b.switch_to_block(more);
        self.b.ins().jump(target, &[]);
    }

    // Code.

    /// Translates from a leader to the end of its piece.
    fn piece(&mut self, start: u32, exits: &BTreeMap<u32, Block>) {
        self.issued = 0;
        let mut pc = start;
        loop {
            self.pc = pc;
            if let Some(&exit) = exits.get(&pc) {
                self.pay();
                self.b.ins().jump(exit, &[]);
                return;
            }
            if pc != start
                && let Some(&next) = self.blocks.get(&pc)
            {
                self.pay();
                self.b.ins().jump(next, &[]);
                return;
            }
            let inst = self.body.code[pc as usize];
            self.guard = None;
            let guard = if inst.guard.is_always() {
                None
            } else {
                let (slot, negated) = inst.guard.parts();
                let p = self.pred(slot);
                Some(if negated { self.b.ins().bxor_imm_u(p, 1) } else { p })
            };
            match inst.op {
                Op::Branch { to } => {
                    self.issued += 1;
                    self.pay();
                    match guard {
                        None => self.go(to, exits),
                        Some(p) => {
                            let (yes, no) = (self.b.create_block(), self.b.create_block());
                            self.b.ins().brif(p, yes, &[], no, &[]);
                            self.b.switch_to_block(yes);
                            self.go(to, exits);
                            self.b.switch_to_block(no);
                            self.go(pc + 1, exits);
                        }
                    }
                    return;
                }
                Op::Exit | Op::Return => {
                    self.issued += 1;
                    self.pay();
                    match guard {
                        None => {
                            self.b.ins().jump(self.next_lane, &[]);
                        }
                        Some(p) => {
                            let no = self.b.create_block();
                            self.b.ins().brif(p, self.next_lane, &[], no, &[]);
                            self.b.switch_to_block(no);
                            self.go(pc + 1, exits);
                        }
                    }
                    return;
                }
                Op::Load(ref t) => self.guarded(guard, |s| s.load(t)),
                Op::Store(ref t) => self.guarded(guard, |s| s.store(t)),
                _ => {
                    self.guard = guard;
                    self.straight(&inst);
                    self.guard = None;
                }
            }
            self.issued += 1;
            pc += 1;
        }
    }

    /// Code that runs only where the guard holds.
    fn guarded(&mut self, guard: Option<Value>, code: impl FnOnce(&mut Self)) {
        let Some(p) = guard else { return code(self) };
        let (yes, after) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(p, yes, &[], after, &[]);
        self.b.switch_to_block(yes);
        code(self);
        self.b.ins().jump(after, &[]);
        self.b.switch_to_block(after);
    }

    /// An instruction without memory or branches.
    fn straight(&mut self, inst: &Inst) {
        match &inst.op {
            Op::Int32(l) if l.op == Int32::Mov => {
                let new = self.copied(Class::W32, l.a, self.kind((Class::W32, l.d)));
                self.set((Class::W32, l.d), new);
            }
            Op::Int64(l) if l.op == Int64::Mov => {
                let new = self.copied(Class::W64, l.a, self.kind((Class::W64, l.d)));
                self.set((Class::W64, l.d), new);
            }
            Op::Int32(l) => {
                let v = self.integer32(l);
                self.set((l.op.signature().result, l.d), New::Bits(v));
            }
            Op::Int64(l) => {
                let v = self.integer64(l);
                self.set((l.op.signature().result, l.d), New::Bits(v));
            }
            Op::Float32(l) => {
                let v = self.single(l);
                let new = if gives_canonical32(l.op) { New::Loose(v) } else { New::Exact(v) };
                self.set((Class::W32, l.d), new);
            }
            Op::Float64(l) => {
                let v = self.double(l);
                let new = if gives_canonical64(l.op) { New::Loose(v) } else { New::Exact(v) };
                self.set((Class::W64, l.d), new);
            }
            Op::Half(l) => {
                let v = self.half(l);
                self.set((l.op.signature().result, l.d), New::Bits(v));
            }
            Op::Convert(l) => {
                let v = self.convert(l);
                let new = if is_float_result(l.op, l.x) { New::Loose(v) } else { New::Bits(v) };
                self.set((l.op.signature().result, l.d), new);
            }
            Op::Compare { op, x, combine, negate, d, not_d, a, b, c } => {
                let yes = self.comparison(*op, *x, *a, *b);
                let third = (*combine != Combine::None).then(|| {
                    let c = self.pred(*c);
                    if *negate { self.b.ins().bxor_imm_u(c, 1) } else { c }
                });
                let no = (*not_d != NONE).then(|| self.b.ins().bxor_imm_u(yes, 1));
                let with = |s: &mut Self, v: Value| match (combine, third) {
                    (Combine::And, Some(c)) => s.b.ins().band(v, c),
                    (Combine::Or, Some(c)) => s.b.ins().bor(v, c),
                    (Combine::Xor, Some(c)) => s.b.ins().bxor(v, c),
                    _ => v,
                };
                let yes = with(self, yes);
                let no = no.map(|v| with(self, v));
                if *d != NONE {
                    self.set((Class::Pred, *d), New::Bits(yes));
                }
                if let Some(no) = no {
                    self.set((Class::Pred, *not_d), New::Bits(no));
                }
            }
            Op::Select32 { d, a, b, p } => self.choose(Class::W32, [*d, *a, *b, *p]),
            Op::Select64 { d, a, b, p } => self.choose(Class::W64, [*d, *a, *b, *p]),
            Op::Logic { table, d, a, b } => {
                let (a, b) = (self.pred(*a), self.pred(*b));
                let (a, b) = (self.b.ins().uextend(I32, a), self.b.ins().uextend(I32, b));
                let a = self.b.ins().ishl_imm_u(a, 1);
                let index = self.b.ins().bor(a, b);
                let table = self.b.ins().iconst(I32, i64::from(*table));
                let v = self.b.ins().ushr(table, index);
                let v = self.b.ins().band_imm_u(v, 1);
                let v = self.b.ins().ireduce(I8, v);
                self.set((Class::Pred, *d), New::Bits(v));
            }
            Op::Special { which, d } => {
                let v = self.special(*which);
                self.set((Class::W32, *d), New::Bits(v));
            }
            Op::FrameAddress { d, offset } => {
                let frame = self.fixed(Fixed::Field(offset_of!(Context, frame)));
                let v = self.b.ins().iadd_imm_s(frame, i64::from(*offset));
                self.set((Class::W64, *d), New::Bits(v));
            }
            Op::Param { width, count, value, offset, slots } => {
                for (e, &slot) in slots.iter().take(usize::from(*count)).enumerate() {
                    if slot != NONE {
                        let at = offset + e as u32 * u32::from(*width);
                        let v = self.fixed(Fixed::Param(at, *width, *value));
                        let class = if value.is_wide() { Class::W64 } else { Class::W32 };
                        self.set((class, slot), New::Bits(v));
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn kind(&self, place: Place) -> Kind {
        self.body.shape.number(place).map_or(Kind::Integer, |n| self.kinds[n])
    }

    fn choose(&mut self, class: Class, [d, a, b, p]: [Slot; 4]) {
        let p = self.pred(p);
        let kind = self.kind((class, d));
        let (a, b) = (self.copied(class, a, kind), self.copied(class, b, kind));
        let new = match (a, b) {
            (New::Loose(a), New::Loose(b)) => New::Loose(self.b.ins().select(p, a, b)),
            (New::Exact(a), New::Exact(b)) => New::Exact(self.b.ins().select(p, a, b)),
            (a, b) => {
                let (a, b) = (self.bits(class, a), self.bits(class, b));
                New::Bits(self.b.ins().select(p, a, b))
            }
        };
        self.set((class, d), new);
    }

    /// The final bits of a value.
    fn bits(&mut self, class: Class, new: New) -> Value {
        let ty: Type = if class == Class::W64 { I64 } else { I32 };
        match new {
            New::Bits(v) => v,
            New::Exact(v) => self.b.ins().bitcast(ty, MemFlagsData::new(), v),
            New::Loose(v) => {
                let v = if ty == I64 { self.canonical64(v) } else { self.canonical32(v) };
                self.b.ins().bitcast(ty, MemFlagsData::new(), v)
            }
        }
    }

    fn special(&mut self, which: Special) -> Value {
        if let Some(n) = special::index(which) {
            return self.fixed(Fixed::Special(n));
        }
        let one = |s: &mut Self| {
            let one = s.b.ins().iconst(I32, 1);
            s.b.ins().ishl(one, s.lane)
        };
        match which {
            Special::Tid(n) => {
                let tid = self.fixed(Fixed::Field(offset_of!(Context, tid)));
                let at = self.b.ins().iadd(tid, self.lane4);
                self.b.ins().load(I32, plain(), at, ROW32 * (i32::from(n) % 3))
            }
            Special::LanemaskEq => one(self),
            Special::LanemaskLt => {
                let bit = one(self);
                self.b.ins().iadd_imm_s(bit, -1)
            }
            Special::LanemaskLe => {
                let bit = one(self);
                let below = self.b.ins().iadd_imm_s(bit, -1);
                self.b.ins().bor(below, bit)
            }
            Special::LanemaskGe => {
                let bit = one(self);
                self.b.ins().ineg(bit)
            }
            Special::LanemaskGt => {
                let bit = one(self);
                let v = self.b.ins().ineg(bit);
                self.b.ins().bxor(v, bit)
            }
            _ => self.lane,
        }
    }

    /// A transfer's class of slots.
    pub(super) fn class_of(t: &Transfer) -> Class {
        if t.value.is_wide() { Class::W64 } else { Class::W32 }
    }
}
