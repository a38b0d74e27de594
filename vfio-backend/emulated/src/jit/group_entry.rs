//! Where a group enters its region, and where its lanes begin that go on by themselves.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F64, I8, I8X16, I32, I32X4, I64X2};
use cranelift_codegen::ir::{Block, InstBuilder, JumpTableData, MemFlagsData, Value};

use super::code::Context;
use super::group::{BITS, vectors_of};
use super::shape::{GROUP, Shape};
use super::translate::{Fixed, Translator, field, plain};
use super::values::Kind;
use crate::ops::Class;

impl Translator<'_, '_> {
    /// Loads what is live at the entry. Lanes that do not lie as assumed go on by themselves.
    pub(super) fn enter_group(&mut self) {
        self.look(0);
        let mut wrong: Vec<Value> = Vec::new();
        let mut wrong_bits: Vec<Value> = Vec::new();
        for number in self.region.live_in.iter().collect::<Vec<_>>() {
            let (class, slot) = self.body.shape.place(number);
            let shape = self.group.state.shapes[number];
            if class == Class::Pred {
                let preds = self.fixed(Fixed::Field(offset_of!(Context, preds)));
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
