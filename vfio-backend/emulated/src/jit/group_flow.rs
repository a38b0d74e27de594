//! How a group goes through its region: branches, ways out to the lanes and to the interpreter, and what has to be found
//! out on the way.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{Block, InstBuilder, Value};
use cranelift_frontend::Variable;

use super::code::Context;
use super::group::{BITS, Gate, Leave, Wide};
use super::liveness::Place;
use super::shape::{GROUP, Proof, Shape};
use super::translate::{Fixed, New, Translator, field, plain};
use crate::ir::{Guard, Inst, Op, Slot};
use crate::ops::Class;

impl Translator<'_, '_> {
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
                let preds = self.fixed(Fixed::Field(offset_of!(Context, preds)));
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
    pub(super) fn give_up(&mut self) {
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
}
