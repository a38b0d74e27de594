//! The group form of a region: eight lanes go through it together, as long as all take the same way.
//!
//! What is the same in all lanes, or counts from lane to lane, is one value of the machine ([`super::shape`]); everything
//! else is vectors. Where lanes part, or something that was assumed of them does not hold, the group puts what it knows
//! into the register file and each lane goes on by itself, in the lane form of the same region, at that very instruction.
//! So nothing here has to handle divergence, faults or odd addresses: it only has to notice them before it acts.

use std::collections::BTreeMap;
use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F32X4, F64, F64X2, I8, I8X16, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{
    Block, Endianness, InstBuilder, JumpTableData, MemFlagsData, Type, Value,
};
use cranelift_frontend::Variable;

use super::code::Context;
use super::liveness::Place;
use super::shape::{GROUP, LOG2, Proof, Shape, Shapes, State};
use super::translate::{New, Translator, field, plain};
use super::values::Kind;
use crate::ir::{CONSTANT, Guard, Inst, NONE, Op, Slot};
use crate::ops::{Class, float32, float64};

/// A group's bits in a mask of lanes.
const BITS: i64 = (1 << GROUP) - 1;

/// A way out of the group form.
struct Leave {
    block: Block,
    pc: u32,
    issued: i64,
    shapes: Vec<Shape>,
}

/// The state of translating the group form.
pub(super) struct Group<'a> {
    /// Whether the group form is being translated.
    pub(super) active: bool,
    pub(super) state: State<'a>,
    shapes: Option<&'a Shapes>,
    vectors: Vec<Option<Vec<Variable>>>,
    /// Which lane of the group `Translator::value` means.
    view: usize,
    /// What `Translator::set` was given, while it is listened to.
    captured: Option<Vec<(Place, New)>>,
    /// The way out at the current instruction.
    bail: Option<Block>,
    leaves: Vec<Leave>,
    blocks: BTreeMap<u32, Block>,
    /// Number and four times the number of the group's first lane.
    first: [Value; 2],
    /// The lanes left to the lane form.
    left: Variable,
    next: Block,
    /// Where lanes may have to go on by themselves.
    pub(super) resumes: Vec<u32>,
}

/// A result before it is put into a slot.
pub(super) enum Wide {
    /// The first lane's value; the others follow by the step.
    One(New, Shape),
    /// All lanes; floats whose NaNs may be any if `loose`.
    Many { vectors: Vec<Value>, loose: bool },
}

/// The condition of an instruction.
#[derive(Clone)]
pub(super) enum Gate {
    Open,
    Uniform(Value),
    Varying(Vec<Value>),
}

/// Casts between vectors keep the order of bytes.
pub(super) fn little() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

/// Vectors of a class: their type and number in a group.
pub(super) fn vectors_of(class: Class) -> (Type, usize) {
    match class {
        Class::W64 => (I64X2, GROUP / 2),
        _ => (I32X4, GROUP / 4),
    }
}

impl<'a> Group<'a> {
    pub(super) fn new(
        state: State<'a>,
        shapes: Option<&'a Shapes>,
        (first, left, next): ([Value; 2], Variable, Block),
    ) -> Self {
        let vectors = (0..state.slots.total()).map(|_| None).collect();
        Self {
            active: false,
            state,
            shapes,
            vectors,
            view: 0,
            captured: None,
            bail: None,
            leaves: Vec::new(),
            blocks: BTreeMap::new(),
            first,
            left,
            next,
            resumes: Vec::new(),
        }
    }
}

impl Translator<'_, '_> {
    // Lanes of a group, one at a time.

    /// Makes the code for single lanes mean lane `n` of the group.
    pub(super) fn look(&mut self, n: usize) {
        self.group.view = n;
        let [lane, lane4] = self.group.first;
        (self.lane, self.lane4) = (lane, lane4);
        if n != 0 {
            self.lane = self.b.ins().iadd_imm_s(lane, n as i64);
            self.lane4 = self.b.ins().iadd_imm_s(lane4, 4 * n as i64);
        }
    }

    /// The looked-at lane's value of a slot.
    pub(super) fn lane_value(&mut self, number: usize, variable: Variable) -> Value {
        let view = self.group.view;
        let (class, slot) = self.body.shape.place(number);
        match self.group.state.shapes[number] {
            Shape::Step { step, .. } => {
                let v = self.b.use_var(variable);
                let more = i64::from(step) * view as i64;
                if more == 0 { v } else { self.b.ins().iadd_imm_s(v, more) }
            }
            Shape::Varying => {
                let vectors = self.raw((class, slot));
                let float = matches!(self.kinds[number], Kind::Float | Kind::Loose);
                let (per, ty) = match (class, float) {
                    (Class::W64, true) => (2, F64X2),
                    (Class::W64, false) => (2, I64X2),
                    (Class::W32, true) => (4, F32X4),
                    _ => (4, I32X4),
                };
                let v = self.cast(ty, vectors[view / per]);
                let v = self.b.ins().extractlane(v, (view % per) as u8);
                if class == Class::Pred {
                    let v = self.b.ins().ireduce(I8, v);
                    self.b.ins().band_imm_u(v, 1)
                } else {
                    v
                }
            }
        }
    }

    /// Listens to what one lane's code sets. Whether it is.
    pub(super) fn capture(&mut self, place: Place, new: New) -> bool {
        match &mut self.group.captured {
            Some(list) => {
                list.push((place, new));
                true
            }
            None => false,
        }
    }

    /// What one lane's code for an instruction sets.
    pub(super) fn single_lane(&mut self, n: usize, inst: &Inst) -> Vec<(Place, New)> {
        self.look(n);
        self.group.captured = Some(Vec::new());
        self.guard = None;
        self.straight(inst);
        self.group.captured.take().unwrap_or_default()
    }

    // Vectors.

    pub(super) fn cast(&mut self, ty: Type, v: Value) -> Value {
        if self.b.func.dfg.value_type(v) == ty { v } else { self.b.ins().bitcast(ty, little(), v) }
    }

    fn vector_variables(&mut self, number: usize) -> Vec<Variable> {
        if let Some(known) = &self.group.vectors[number] {
            return known.clone();
        }
        let (ty, count) = vectors_of(self.body.shape.place(number).0);
        let made: Vec<Variable> = (0..count).map(|_| self.b.declare_var(ty)).collect();
        self.group.vectors[number] = Some(made.clone());
        made
    }

    /// A constant in all lanes.
    pub(super) fn all(&mut self, class: Class, v: u64) -> Value {
        if class == Class::W64 {
            let v = self.b.ins().iconst(I64, v as i64);
            self.b.ins().splat(I64X2, v)
        } else {
            let v = self.n32(v as u32);
            self.b.ins().splat(I32X4, v)
        }
    }

    /// The lanes' numbers times `step`.
    fn counting(&mut self, class: Class, step: i32) -> Vec<Value> {
        let (ty, count) = vectors_of(class);
        let per = GROUP / count;
        (0..count)
            .map(|j| {
                let mut bytes = Vec::with_capacity(16);
                for lane in j * per..(j + 1) * per {
                    let v = i64::from(step) * lane as i64;
                    bytes.extend_from_slice(&v.to_le_bytes()[..16 / per]);
                }
                let constant = self.b.func.dfg.constants.insert(bytes.into());
                self.b.ins().vconst(ty, constant)
            })
            .collect()
    }

    /// The same bits in all lanes, plus the lane's number times `step`.
    pub(super) fn spread(&mut self, class: Class, bits: Value, step: i32) -> Vec<Value> {
        let (ty, count) = vectors_of(class);
        if class == Class::Pred {
            let v = self.b.ins().uextend(I32, bits);
            let v = self.b.ins().ineg(v);
            return vec![self.b.ins().splat(ty, v); count];
        }
        let same = self.b.ins().splat(ty, bits);
        if step == 0 {
            return vec![same; count];
        }
        self.counting(class, step).into_iter().map(|v| self.b.ins().iadd(same, v)).collect()
    }

    /// A slot's vectors; where it is a loose float, with any NaN.
    pub(super) fn raw(&mut self, (class, slot): Place) -> Vec<Value> {
        let number = self.body.shape.number((class, slot));
        let number = number.filter(|_| slot & CONSTANT == 0 && slot != NONE);
        let shape = self.group.state.of(class, slot);
        match (number, shape) {
            (Some(n), Shape::Varying) => {
                let variables = self.vector_variables(n);
                variables.into_iter().map(|v| self.b.use_var(v)).collect()
            }
            _ => {
                self.look(0);
                let bits = match class {
                    Class::W32 => self.int32(slot),
                    Class::W64 => self.int64(slot),
                    Class::Pred => self.pred(slot),
                };
                self.spread(class, bits, shape.step().unwrap_or(0))
            }
        }
    }

    /// A slot's vectors as bits.
    pub(super) fn many(&mut self, place: Place) -> Vec<Value> {
        let vectors = self.raw(place);
        if place.1 & CONSTANT == 0
            && self.kind(place) == Kind::Loose
            && self.group.state.of(place.0, place.1) == Shape::Varying
        {
            return self.canonical(place.0, vectors);
        }
        vectors
    }

    /// Makes every NaN the canonical one.
    pub(super) fn canonical(&mut self, class: Class, vectors: Vec<Value>) -> Vec<Value> {
        let (float, ty) = if class == Class::W64 { (F64X2, I64X2) } else { (F32X4, I32X4) };
        let one = if class == Class::W64 {
            self.all(class, float64::bits(f64::NAN))
        } else {
            self.all(class, u64::from(float32::CANONICAL))
        };
        vectors
            .into_iter()
            .map(|v| {
                let f = self.cast(float, v);
                let nan = self.b.ins().fcmp(FloatCC::Unordered, f, f);
                let nan = self.cast(ty, nan);
                let v = self.cast(ty, v);
                self.b.ins().bitselect(nan, one, v)
            })
            .collect()
    }

    /// A predicate's masks as wide as the elements of a class.
    pub(super) fn masks(&mut self, class: Class, narrow: &[Value]) -> Vec<Value> {
        if class != Class::W64 {
            return narrow.to_vec();
        }
        narrow
            .iter()
            .flat_map(|&v| [self.b.ins().swiden_low(v), self.b.ins().swiden_high(v)])
            .collect()
    }

    /// Bit n for lane n of the masks.
    fn bits_of(&mut self, masks: &[Value]) -> Value {
        let mut out = self.n32(0);
        for (j, &mask) in masks.iter().enumerate() {
            let bits = self.b.ins().vhigh_bits(I32, mask);
            let bits = if j == 0 { bits } else { self.b.ins().ishl_imm_u(bits, 4 * j as i64) };
            out = if j == 0 { bits } else { self.b.ins().bor(out, bits) };
        }
        out
    }

    /// Puts one value a lane together.
    pub(super) fn assemble(&mut self, class: Class, lanes: &[Value]) -> Vec<Value> {
        let (ty, count) = vectors_of(class);
        lanes
            .chunks(GROUP / count)
            .map(|chunk| {
                let mut v = self.b.ins().scalar_to_vector(ty, chunk[0]);
                for (i, &lane) in chunk.iter().enumerate().skip(1) {
                    v = self.b.ins().insertlane(v, lane, i as u8);
                }
                v
            })
            .collect()
    }

    // Slots.

    /// Writes a result, in the lanes that the gate lets through.
    pub(super) fn put(&mut self, place: Place, gate: &Gate, wide: Wide) {
        let Some(number) = self.body.shape.number(place) else { return };
        let new = match wide {
            Wide::One(_, shape) => shape,
            Wide::Many { .. } => Shape::Varying,
        };
        let after = match gate {
            Gate::Open => new,
            Gate::Uniform(_) => new.join(self.group.state.shapes[number]),
            Gate::Varying(_) => Shape::Varying,
        };
        let old_shape = self.group.state.shapes[number];
        self.group.state.set(place, after);
        let after = self.group.state.shapes[number];
        self.group.state.shapes[number] = old_shape;
        if let (Shape::Step { .. }, Wide::One(new, _)) = (after, &wide) {
            let mut v = self.converted(number, *new);
            let variable = self.variable(number);
            if let Gate::Uniform(p) = gate {
                let old = self.b.use_var(variable);
                v = self.b.ins().select(*p, v, old);
            }
            self.b.def_var(variable, v);
        } else {
            let loose_slot = self.kinds[number] == Kind::Loose;
            let vectors = match wide {
                Wide::One(new, shape) => {
                    let bits = match new {
                        New::Bits(v) if place.0 == Class::Pred => v,
                        new => self.bits(place.0, new),
                    };
                    self.spread(place.0, bits, shape.step().unwrap_or(0))
                }
                Wide::Many { vectors, loose: true } if !loose_slot => {
                    self.canonical(place.0, vectors)
                }
                Wide::Many { vectors, .. } => vectors,
            };
            let vectors = match gate {
                Gate::Open => vectors,
                Gate::Uniform(p) => {
                    let old = self.raw(place);
                    let both = vectors.into_iter().zip(old);
                    both.map(|(v, old)| self.b.ins().select(*p, v, old)).collect()
                }
                Gate::Varying(masks) => {
                    let old = self.raw(place);
                    let masks = self.masks(place.0, masks);
                    let all = vectors.into_iter().zip(old).zip(masks);
                    all.map(|((v, old), m)| self.b.ins().bitselect(m, v, old)).collect()
                }
            };
            let variables = self.vector_variables(number);
            for (variable, v) in variables.into_iter().zip(vectors) {
                self.b.def_var(variable, v);
            }
        }
        self.group.state.shapes[number] = after;
    }

    /// Makes a slot's vectors, if it has none yet: what its shape says stays true.
    pub(super) fn unfold(&mut self, number: usize) {
        let place = self.body.shape.place(number);
        if self.group.state.shapes[number] != Shape::Varying {
            let vectors = self.raw(place);
            let variables = self.vector_variables(number);
            for (variable, v) in variables.into_iter().zip(vectors) {
                self.b.def_var(variable, v);
            }
        }
    }

    // Ways out.

    /// The block that leaves to the lane form at the current instruction, which is not executed.
    pub(super) fn parting(&mut self) -> Block {
        if let Some(block) = self.group.bail {
            return block;
        }
        let block = self.b.create_block();
        self.b.set_cold_block(block);
        self.group.bail = Some(block);
        let shapes = self.group.state.shapes.clone();
        self.group.leaves.push(Leave { block, pc: self.pc, issued: self.issued, shapes });
        block
    }

    /// Stores what is live at `pc` and was written.
    fn save_group(&mut self, pc: u32) {
        let live = self.body.liveness.at(self.body.code, pc, self.body.end, self.body.shape);
        for number in live.iter().filter(|&n| self.region.written.contains(n)) {
            let (class, slot) = self.body.shape.place(number);
            let vectors = self.many((class, slot));
            self.look(0);
            if class == Class::Pred {
                let preds = self.fixed(super::translate::Fixed::Field(offset_of!(Context, preds)));
                let offset = 4 * i32::from(slot);
                let bits = self.bits_of(&vectors);
                let bits = self.b.ins().ishl(bits, self.lane);
                let all = self.b.ins().iconst(I32, BITS);
                let all = self.b.ins().ishl(all, self.lane);
                let word = self.b.ins().load(I32, plain(), preds, offset);
                let word = self.b.ins().band_not(word, all);
                let word = self.b.ins().bor(word, bits);
                self.b.ins().store(plain(), word, preds, offset);
            } else {
                let (row, offset) = self.cell(class, slot);
                for (j, v) in vectors.into_iter().enumerate() {
                    self.b.ins().store(plain(), v, row, offset + 16 * j as i32);
                }
            }
        }
    }

    /// Writes a number into the group's part of a row of the context.
    fn note(&mut self, at: usize, number: u32) {
        let v = self.all(Class::W32, u64::from(number));
        let row = self.b.ins().iadd(self.context, self.group.first[1]);
        for j in 0..GROUP / 4 {
            self.b.ins().store(plain(), v, row, field(at) + 16 * j as i32);
        }
    }

    /// The group's bits among those of all lanes.
    fn lanes_of_group(&mut self) -> Value {
        let all = self.b.ins().iconst(I32, BITS);
        self.b.ins().ishl(all, self.group.first[0])
    }

    /// Goes on at `pc` with the interpreter.
    fn leave_region(&mut self, pc: u32) {
        self.save_group(pc);
        self.note(offset_of!(Context, exits), pc);
        let bits = self.lanes_of_group();
        let unfinished = self.b.use_var(self.unfinished);
        let unfinished = self.b.ins().bor(unfinished, bits);
        self.b.def_var(self.unfinished, unfinished);
        self.b.ins().jump(self.group.next, &[]);
    }

    /// Goes on at `pc` with each lane by itself.
    fn leave_group(&mut self, pc: u32) {
        self.save_group(pc);
        let known = self.group.resumes.iter().position(|&p| p == pc);
        let index = known.unwrap_or_else(|| {
            self.group.resumes.push(pc);
            self.group.resumes.len() - 1
        });
        self.note(offset_of!(Context, resumes), index as u32 + 1);
        self.give_up();
    }

    /// Leaves the group's lanes to the lane form.
    fn give_up(&mut self) {
        let bits = self.lanes_of_group();
        let left = self.b.use_var(self.group.left);
        let left = self.b.ins().bor(left, bits);
        self.b.def_var(self.group.left, left);
        self.b.ins().jump(self.group.next, &[]);
    }

    // Control.

    fn gate(&mut self, guard: Guard) -> Gate {
        if guard.is_always() {
            return Gate::Open;
        }
        let (slot, negated) = guard.parts();
        if self.group.state.of(Class::Pred, slot).is_uniform() {
            self.look(0);
            let p = self.pred(slot);
            return Gate::Uniform(if negated { self.b.ins().bxor_imm_u(p, 1) } else { p });
        }
        let masks = self.many((Class::Pred, slot));
        Gate::Varying(
            masks.into_iter().map(|m| if negated { self.b.ins().bnot(m) } else { m }).collect(),
        )
    }

    /// Goes to `yes` or `no` where all lanes agree, else parts.
    fn fork(&mut self, gate: &Gate, yes: Block, no: Block) {
        match gate {
            Gate::Open => {
                self.b.ins().jump(yes, &[]);
            }
            Gate::Uniform(p) => {
                self.b.ins().brif(*p, yes, &[], no, &[]);
            }
            Gate::Varying(masks) => {
                let part = self.parting();
                let mixed = self.b.create_block();
                let bits = self.bits_of(masks);
                let all = self.b.ins().icmp_imm_s(IntCC::Equal, bits, BITS);
                self.b.ins().brif(all, yes, &[], mixed, &[]);
                self.b.switch_to_block(mixed);
                self.b.ins().brif(bits, part, &[], no, &[]);
            }
        }
    }

    /// Goes to a place with the shapes that it expects.
    fn go_group(&mut self, to: u32) {
        if to <= self.pc {
            let (empty, stop, more, on) = (
                self.b.create_block(),
                self.b.create_block(),
                self.b.create_block(),
                self.b.create_block(),
            );
            [empty, stop, more].into_iter().for_each(|b| self.b.set_cold_block(b));
            let fuel = self.b.use_var(self.fuel);
            let over = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, fuel, 0);
            self.b.ins().brif(over, empty, &[], on, &[]);
            self.b.switch_to_block(empty);
            let fuel = self.ask(self.refill, &[self.context, fuel]);
            self.b.def_var(self.fuel, fuel);
            let over = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, fuel, 0);
            self.b.ins().brif(over, stop, &[], more, &[]);
            self.b.switch_to_block(stop);
            self.leave_region(to);
            self.b.switch_to_block(more);
            self.b.ins().jump(on, &[]);
            self.b.switch_to_block(on);
        }
        let target = self.group.blocks.get(&to).copied();
        let wanted = self.group.shapes.and_then(|s| s.at(to));
        let (Some(target), Some(wanted)) = (target, wanted) else {
            return self.leave_region(to);
        };
        let live = self.body.liveness.at(self.body.code, to, self.body.end, self.body.shape);
        for number in live.iter() {
            let (now, wanted) = (self.group.state.shapes[number], wanted[number]);
            if wanted == Shape::Varying {
                self.unfold(number);
            } else if now.join(wanted) != wanted {
                // The analysis says otherwise; it must not matter.
                return self.leave_group(to);
            }
        }
        self.b.ins().jump(target, &[]);
    }

    /// Translates the group form: a loop over the groups whose lanes are all in `mask`. Ends where the lane form begins.
    pub(super) fn groups(&mut self, mask: Value, head: Block, at: Variable) {
        let Some(entry) = self.group.shapes.and_then(|s| s.at(self.region.entry)) else {
            self.b.ins().jump(head, &[]);
            return;
        };
        self.group.active = true;
        let (loop_head, test, body) =
            (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let rows = self.b.ins().load(I64, plain(), self.context, field(offset_of!(Context, rows)));
        let zero = self.n32(0);
        self.b.def_var(at, zero);
        self.b.ins().brif(rows, loop_head, &[], head, &[]);
        self.b.switch_to_block(loop_head);
        let first = self.b.use_var(at);
        let some = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, first, 32);
        self.b.ins().brif(some, test, &[], head, &[]);
        self.b.switch_to_block(test);
        let bits = self.b.ins().ushr(mask, first);
        let bits = self.b.ins().band_imm_u(bits, BITS);
        let full = self.b.ins().icmp_imm_s(IntCC::Equal, bits, BITS);
        self.b.ins().brif(full, body, &[], self.group.next, &[]);
        self.b.switch_to_block(body);
        let wide = self.b.ins().uextend(I64, first);
        self.group.first = [first, self.b.ins().ishl_imm_u(wide, 2)];
        let bits = self.lanes_of_group();
        let left = self.b.use_var(self.group.left);
        let left = self.b.ins().band_not(left, bits);
        self.b.def_var(self.group.left, left);
        self.group.state.shapes = entry.to_vec();
        self.enter_group();
        for &pc in &self.region.leaders {
            let block = self.b.create_block();
            self.group.blocks.insert(pc, block);
        }
        let start = self.group.blocks[&self.region.entry];
        self.b.ins().jump(start, &[]);
        for (pc, block) in self.group.blocks.clone() {
            self.b.switch_to_block(block);
            match self.group.shapes.and_then(|s| s.at(pc)) {
                Some(shapes) => {
                    self.group.state.shapes = shapes.to_vec();
                    self.group_piece(pc);
                }
                // Nothing leads here.
                None => {
                    self.b.ins().jump(self.group.next, &[]);
                }
            }
        }
        for leave in std::mem::take(&mut self.group.leaves) {
            self.b.switch_to_block(leave.block);
            (self.pc, self.issued, self.group.state.shapes) =
                (leave.pc, leave.issued, leave.shapes);
            self.pay();
            self.leave_group(leave.pc);
        }
        self.b.switch_to_block(self.group.next);
        let first = self.b.use_var(at);
        let first = self.b.ins().iadd_imm_s(first, GROUP as i64);
        self.b.def_var(at, first);
        self.b.ins().jump(loop_head, &[]);
        self.group.active = false;
        self.variables.iter_mut().for_each(|v| *v = None);
    }

    /// Loads what is live at the entry. Lanes that do not lie as assumed go on by themselves.
    fn enter_group(&mut self) {
        self.look(0);
        let mut wrong: Vec<Value> = Vec::new();
        let mut wrong_bits: Vec<Value> = Vec::new();
        for number in self.region.live_in.iter().collect::<Vec<_>>() {
            let (class, slot) = self.body.shape.place(number);
            let shape = self.group.state.shapes[number];
            if class == Class::Pred {
                let preds = self.fixed(super::translate::Fixed::Field(offset_of!(Context, preds)));
                let word = self.b.ins().load(I32, plain(), preds, 4 * i32::from(slot));
                let bits = self.b.ins().ushr(word, self.lane);
                let bits = self.b.ins().band_imm_u(bits, BITS);
                if shape == Shape::Varying {
                    let masks = self.expand(bits);
                    let variables = self.vector_variables(number);
                    for (variable, v) in variables.into_iter().zip(masks) {
                        self.b.def_var(variable, v);
                    }
                } else {
                    let one = self.b.ins().band_imm_u(bits, 1);
                    let expected = self.b.ins().ineg(one);
                    let expected = self.b.ins().band_imm_u(expected, BITS);
                    wrong_bits.push(self.b.ins().bxor(bits, expected));
                    let v = self.b.ins().ireduce(I8, one);
                    let variable = self.variable(number);
                    self.b.def_var(variable, v);
                }
                continue;
            }
            let (row, offset) = self.cell(class, slot);
            let (ty, count) = vectors_of(class);
            let vectors: Vec<Value> = (0..count)
                .map(|j| self.b.ins().load(ty, plain(), row, offset + 16 * j as i32))
                .collect();
            let Shape::Step { step, align } = shape else {
                let variables = self.vector_variables(number);
                for (variable, v) in variables.into_iter().zip(vectors) {
                    self.b.def_var(variable, v);
                }
                continue;
            };
            let bits = self.b.ins().extractlane(vectors[0], 0);
            for (v, e) in vectors.into_iter().zip(self.spread(class, bits, step)) {
                let v = self.b.ins().bxor(v, e);
                wrong.push(self.cast(I64X2, v));
            }
            let align = u32::from(align).min(if class == Class::W64 { 63 } else { 31 });
            if align != 0 {
                let low = self.b.ins().band_imm_u(bits, (1 << align) - 1);
                let low = if class == Class::W64 {
                    let some = self.b.ins().icmp_imm_s(IntCC::NotEqual, low, 0);
                    self.b.ins().uextend(I32, some)
                } else {
                    low
                };
                wrong_bits.push(low);
            }
            let variable = self.variable(number);
            let v = match (class, self.kinds[number]) {
                (_, Kind::Integer | Kind::Predicate) => bits,
                (Class::W64, _) => self.b.ins().bitcast(F64, MemFlagsData::new(), bits),
                _ => self.b.ins().bitcast(F32, MemFlagsData::new(), bits),
            };
            self.b.def_var(variable, v);
        }
        if wrong.is_empty() && wrong_bits.is_empty() {
            return;
        }
        let apart = self.b.create_block();
        self.b.set_cold_block(apart);
        if let Some(any) = wrong.into_iter().reduce(|a, b| self.b.ins().bor(a, b)) {
            let bytes = self.cast(I8X16, any);
            let any = self.b.ins().vany_true(bytes);
            let next = self.b.create_block();
            self.b.ins().brif(any, apart, &[], next, &[]);
            self.b.switch_to_block(next);
        }
        if let Some(any) = wrong_bits.into_iter().reduce(|a, b| self.b.ins().bor(a, b)) {
            let next = self.b.create_block();
            self.b.ins().brif(any, apart, &[], next, &[]);
            self.b.switch_to_block(next);
        }
        let on = self.b.create_block();
        self.b.ins().jump(on, &[]);
        self.b.switch_to_block(apart);
        self.give_up();
        self.b.switch_to_block(on);
    }

    /// Masks from a bit a lane.
    fn expand(&mut self, bits: Value) -> Vec<Value> {
        (0..GROUP / 4)
            .map(|j| {
                let mut bytes = Vec::with_capacity(16);
                for lane in 4 * j..4 * j + 4 {
                    bytes.extend_from_slice(&(1u32 << lane).to_le_bytes());
                }
                let constant = self.b.func.dfg.constants.insert(bytes.into());
                let mine = self.b.ins().vconst(I32X4, constant);
                let all = self.b.ins().splat(I32X4, bits);
                let v = self.b.ins().band(all, mine);
                self.b.ins().icmp(IntCC::Equal, v, mine)
            })
            .collect()
    }

    /// Translates from a leader to the end of its piece, for a group.
    fn group_piece(&mut self, start: u32) {
        self.issued = 0;
        let mut pc = start;
        loop {
            self.pc = pc;
            self.group.bail = None;
            if self.region.exits.contains(&pc) {
                self.pay();
                return self.leave_region(pc);
            }
            if pc != start && self.group.blocks.contains_key(&pc) {
                self.pay();
                // Forward, whatever the number of the last instruction was.
                self.pc = pc - 1;
                return self.go_group(pc);
            }
            let inst = self.body.code[pc as usize];
            let gate = self.gate(inst.guard);
            match inst.op {
                Op::Branch { to } => {
                    let (yes, no) = (self.b.create_block(), self.b.create_block());
                    self.fork(&gate, yes, no);
                    self.issued += 1;
                    self.b.switch_to_block(yes);
                    self.pay();
                    self.go_group(to);
                    self.b.switch_to_block(no);
                    self.pay();
                    self.go_group(pc + 1);
                    return;
                }
                Op::Exit | Op::Return => {
                    let (yes, no) = (self.b.create_block(), self.b.create_block());
                    self.fork(&gate, yes, no);
                    self.issued += 1;
                    self.b.switch_to_block(yes);
                    self.pay();
                    self.b.ins().jump(self.group.next, &[]);
                    self.b.switch_to_block(no);
                    self.pay();
                    self.go_group(pc + 1);
                    return;
                }
                Op::Load(ref t) => self.group_load(t, &gate),
                Op::Store(ref t) => self.group_store(t, &gate),
                Op::Nop => {}
                _ => self.together(&inst, &gate),
            }
            self.issued += 1;
            pc += 1;
        }
    }

    /// Runs `code` where all lanes agree to.
    pub(super) fn gated(&mut self, gate: &Gate, code: impl FnOnce(&mut Self)) {
        if matches!(gate, Gate::Open) {
            return code(self);
        }
        let (yes, after) = (self.b.create_block(), self.b.create_block());
        self.fork(gate, yes, after);
        self.b.switch_to_block(yes);
        code(self);
        self.b.ins().jump(after, &[]);
        self.b.switch_to_block(after);
    }

    /// An instruction without memory or branches.
    fn together(&mut self, inst: &Inst, gate: &Gate) {
        let (shape, proof) = self.group.state.outcome(&inst.op);
        self.prove(proof, inst);
        if shape != Shape::Varying {
            for (place, new) in self.single_lane(0, inst) {
                self.put(place, gate, Wide::One(new, shape));
            }
            return;
        }
        if let Some(results) = self.wide(&inst.op) {
            for (place, vectors, loose) in results {
                self.put(place, gate, Wide::Many { vectors, loose });
            }
            return;
        }
        let mut lanes: Vec<Vec<(Place, Value)>> = Vec::new();
        for n in 0..GROUP {
            let set = self.single_lane(n, inst);
            let mut mine = Vec::new();
            for (place, new) in set {
                let v = match (place.0, new) {
                    (Class::Pred, New::Bits(v)) => {
                        let v = self.b.ins().uextend(I32, v);
                        self.b.ins().ineg(v)
                    }
                    (class, new) => self.bits(class, new),
                };
                mine.push((place, v));
            }
            lanes.push(mine);
        }
        for i in 0..lanes[0].len() {
            let place = lanes[0][i].0;
            let values: Vec<Value> = lanes.iter().map(|l| l[i].1).collect();
            let vectors = self.assemble(place.0, &values);
            self.put(place, gate, Wide::Many { vectors, loose: false });
        }
    }

    /// The first and the last lane's value of an integer slot.
    fn ends(&mut self, class: Class, slot: Slot) -> [Value; 2] {
        [0, GROUP - 1].map(|n| {
            self.look(n);
            if class == Class::W64 { self.int64(slot) } else { self.int32(slot) }
        })
    }

    /// Parts unless the slot counts without wrapping.
    fn counts(&mut self, class: Class, slot: Slot, signed: bool) {
        let up = self.group.state.of(class, slot).step().unwrap_or(0) > 0;
        let [first, last] = self.ends(class, slot);
        let (low, high) = if up { (first, last) } else { (last, first) };
        let condition =
            if signed { IntCC::SignedLessThanOrEqual } else { IntCC::UnsignedLessThanOrEqual };
        let ok = self.b.ins().icmp(condition, low, high);
        let part = self.parting();
        self.require(ok, part);
    }

    /// Parts unless what was assumed holds.
    fn prove(&mut self, proof: Proof, inst: &Inst) {
        match (proof, &inst.op) {
            (Proof::Counts { slot, signed }, _) => self.counts(Class::W32, slot, signed),
            (Proof::Sign { class, slot }, _) => {
                let [first, last] = self.ends(class, slot);
                let differ = self.b.ins().bxor(first, last);
                let ok = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, differ, 0);
                let part = self.parting();
                self.require(ok, part);
            }
            (Proof::Agrees { slot, signed }, Op::Compare { op, x, a, b, .. }) => {
                self.counts(op.class(), slot, signed);
                let [first, last] = [0, GROUP - 1].map(|n| {
                    self.look(n);
                    self.comparison(*op, *x, *a, *b)
                });
                let ok = self.b.ins().icmp(IntCC::Equal, first, last);
                let part = self.parting();
                self.require(ok, part);
            }
            _ => {}
        }
    }

    // The lane form's beginning, for lanes that come from a group.

    /// Goes to where the running lane begins: the entry, or where its group parted.
    pub(super) fn dispatch(&mut self) {
        let resumes = self.group.resumes.clone();
        let starts: Vec<(u32, Block)> = std::iter::once(self.region.entry)
            .chain(resumes)
            .map(|pc| (pc, self.b.create_block()))
            .collect();
        if starts.len() == 1 {
            self.b.ins().jump(starts[0].1, &[]);
        } else {
            let at = self.b.ins().iadd(self.context, self.lane4);
            let index = self.b.ins().load(I32, plain(), at, field(offset_of!(Context, resumes)));
            let calls: Vec<_> =
                starts.iter().map(|(_, block)| self.b.func.dfg.block_call(*block, &[])).collect();
            let table = self.b.create_jump_table(JumpTableData::new(calls[0], &calls));
            self.b.ins().br_table(index, table);
        }
        for (pc, block) in starts {
            self.b.switch_to_block(block);
            self.restore(pc);
            let piece = self.blocks[&pc];
            self.b.ins().jump(piece, &[]);
        }
    }
}

/// Whether the rows of a block's threads begin at multiples of a group, so that `%tid.x` counts through every group.
pub(super) fn has_whole_rows(block: [u32; 3]) -> bool {
    block[0].is_multiple_of(1 << LOG2) || block[1] * block[2] == 1
}
