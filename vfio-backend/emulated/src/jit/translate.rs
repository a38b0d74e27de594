//! From a region's instructions to a function of the machine: a loop over lanes around the code of one thread.
//!
//! Registers live in machine registers inside the region and in the warp's register file outside. Where the region ends,
//! and where an access needs the interpreter, what is live and was written goes back to the file and the lane's place is
//! noted. Instructions are counted per straight piece; every backward branch looks at what is left of them.

use std::collections::{BTreeMap, HashMap};
use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F64, I8, I32, I64};
use cranelift_codegen::ir::{Block, FuncRef, InstBuilder, MemFlagsData, SigRef, Value};
use cranelift_frontend::{FunctionBuilder, Variable};

use super::code::Context;
use super::group::Group;
use super::region::{Body, Region};
use super::shape::{GROUP, Shape, Shapes, State};
use super::values::Kind;
use crate::ir::{Op, Slot};
use crate::ops::Class;

/// Bytes of 32 lanes of 32 and 64 bits.
pub(super) const ROW32: i32 = 128;
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
    pub(super) kinds: &'a [Kind],
    pub(super) variables: Vec<Option<Variable>>,
    pub(super) blocks: BTreeMap<u32, Block>,
    pub(super) group: Group<'a>,
    pub(super) fixed: HashMap<Fixed, Value>,
    /// Where fixed values are made.
    pub(super) prologue: Block,
    pub(super) context: Value,
    pub(super) lane: Value,
    pub(super) lane4: Value,
    pub(super) next_lane: Block,
    pub(super) fuel: Variable,
    pub(super) unfinished: Variable,
    pub(super) guard: Option<Value>,
    /// Blocks that leave to the interpreter: place and instructions of the piece before it.
    pub(super) bails: Vec<(Block, u32, i64)>,
    /// Instructions executed in the piece so far, not taken from the fuel yet.
    pub(super) issued: i64,
    pub(super) pc: u32,
    /// Number of the next memory instruction.
    pub(super) sites: &'a mut u32,
    pub(super) scalar_signature: SigRef,
    /// The functions that ask the executor.
    pub(super) translate: FuncRef,
    pub(super) refill: FuncRef,
}

/// Plain accesses that do not fail: the address was checked, or is the executor's own.
pub(super) fn plain() -> MemFlagsData {
    MemFlagsData::trusted()
}

pub(super) fn field(offset: usize) -> i32 {
    // CAST: the context is smaller than a page.
    offset as i32
}

/// What translating needs to know.
pub(super) struct Input<'a> {
    pub(super) body: &'a Body<'a>,
    pub(super) region: &'a Region,
    pub(super) constants: (&'a [u32], &'a [u64]),
    pub(super) kinds: &'a [Kind],
    pub(super) sites: &'a mut u32,
    /// Signature of the scalar meanings.
    pub(super) scalar_signature: SigRef,
    /// The functions that ask `translate` and `refill`.
    pub(super) asking: [FuncRef; 2],
    /// The shapes of the function's slots, if there is to be a group form.
    pub(super) shapes: Option<&'a Shapes>,
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
    let group = b.declare_var(I32);
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
    let groups = b.create_block();
    b.ins().jump(groups, &[]);
    b.switch_to_block(groups);
    let next_group = b.create_block();
    let zero = b.ins().iconst(I64, 0);
    let variables = (0..input.body.shape.total()).map(|_| None).collect();
    let [translate, refill] = input.asking;
    let state = State {
        slots: input.body.shape,
        constants: input.constants,
        kinds: input.kinds,
        shapes: vec![Shape::Varying; input.body.shape.total()],
    };
    let group_form = Group::new(state, input.shapes, ([none, zero], left, next_group));
    let mut t = Translator {
        b,
        body: input.body,
        region: input.region,
        constants: input.constants,
        kinds: input.kinds,
        variables,
        blocks: BTreeMap::new(),
        group: group_form,
        fixed: HashMap::new(),
        prologue,
        context,
        lane: none,
        lane4: zero,
        next_lane: next,
        fuel,
        unfinished,
        guard: None,
        bails: Vec::new(),
        issued: 0,
        pc: 0,
        sites: input.sites,
        scalar_signature: input.scalar_signature,
        translate,
        refill,
    };
    t.groups(mask, head, group);
    t.lanes(left, (head, start, done));
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
    /// The head of the loop over lanes.
    fn lanes(&mut self, left: Variable, (head, start, done): (Block, Block, Block)) {
        self.b.switch_to_block(head);
        let m = self.b.use_var(left);
        self.b.ins().brif(m, start, &[], done, &[]);
        self.b.switch_to_block(start);
        let m = self.b.use_var(left);
        self.lane = self.b.ins().ctz(m);
        let less = self.b.ins().iadd_imm_s(m, -1);
        let rest = self.b.ins().band(m, less);
        self.b.def_var(left, rest);
        let wide = self.b.ins().uextend(I64, self.lane);
        self.lane4 = self.b.ins().ishl_imm_u(wide, 2);
        let starts = self.region.leaders.iter().chain(&self.group.resumes).copied();
        for pc in starts.collect::<Vec<_>>() {
            let block = self.b.create_block();
            self.blocks.entry(pc).or_insert(block);
        }
        self.dispatch();
    }

    // Calls.

    pub(super) fn call_host(&mut self, f: *const u8, signature: SigRef, args: &[Value]) -> Value {
        let address = self.b.ins().iconst(I64, f as i64);
        let call = self.b.ins().call_indirect(signature, address, args);
        self.b.inst_results(call)[0]
    }

    /// Asks the executor. No register is lost over it; the answer lies in the context.
    pub(super) fn ask(&mut self, f: FuncRef, args: &[Value]) -> Value {
        self.b.ins().call(f, args);
        self.b.ins().load(I64, plain(), self.context, field(offset_of!(Context, answer)))
    }

    // Where the region begins and ends.

    /// Loads what is live at `pc`.
    pub(super) fn restore(&mut self, pc: u32) {
        let live = self.body.liveness.at(self.body.code, pc, self.body.end, self.body.shape);
        for number in live.iter().filter(|&n| self.region.touched.contains(n)) {
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
    pub(super) fn cell(&mut self, class: Class, slot: Slot) -> (Value, i32) {
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
    pub(super) fn save(&mut self, pc: u32) {
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
    pub(super) fn pay(&mut self) {
        if self.issued != 0 {
            let each = if self.group.active { GROUP as i64 } else { 1 };
            let fuel = self.b.use_var(self.fuel);
            let fuel = self.b.ins().iadd_imm_s(fuel, -self.issued * each);
            self.b.def_var(self.fuel, fuel);
        }
    }

    /// A new block that leaves to the interpreter at the current instruction, which is not executed. It is filled when the
    /// region's code is done.
    pub(super) fn bail(&mut self) -> Block {
        if self.group.active {
            return self.parting();
        }
        let block = self.b.create_block();
        self.b.set_cold_block(block);
        self.bails.push((block, self.pc, self.issued));
        block
    }

    /// Goes to a branch target; backward only while there is fuel.
    pub(super) fn go(&mut self, to: u32, exits: &BTreeMap<u32, Block>) {
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
        let fuel = self.ask(self.refill, &[self.context, fuel]);
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
    pub(super) fn piece(&mut self, start: u32, exits: &BTreeMap<u32, Block>) {
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
    pub(super) fn guarded(&mut self, guard: Option<Value>, code: impl FnOnce(&mut Self)) {
        let Some(p) = guard else { return code(self) };
        let (yes, after) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(p, yes, &[], after, &[]);
        self.b.switch_to_block(yes);
        code(self);
        self.b.ins().jump(after, &[]);
        self.b.switch_to_block(after);
    }
}
