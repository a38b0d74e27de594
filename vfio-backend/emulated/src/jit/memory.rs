//! Loads and stores of compiled code: the check before every access, and where it leads.
//!
//! Bounds and alignment are one comparison: the offset is rotated right by the logarithm of the size, so that a misaligned
//! one becomes enormous, and compared with the number of such elements. Device memory is compared with what the
//! instruction's site has learnt; what the site does not know is looked up, and what the lookup refuses is left to the
//! interpreter, which executes the access again and names the fault.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F64, I32, I64};
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value};

use super::code::{Context, Kind as Access, Site};
use super::translate::{Fixed, New, Translator, plain};
use super::values::Kind;
use crate::fault::Space;
use crate::ir::{CONSTANT, Memory, NONE, Slot, Target, Transfer, window};
use crate::ops::Class;

/// Where a checked access goes.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Bytes in a row.
    Bytes(Value),
    /// A thread's local memory: address of the word's element for this lane, and the byte's place in it.
    Words(Value),
}

impl Translator<'_, '_> {
    /// A memory operand's address, 64 bits wide.
    pub(super) fn address(&mut self, m: &Memory) -> Value {
        if m.base == NONE {
            return self.b.ins().iconst(I64, i64::from(m.offset as u32));
        }
        if m.wide {
            let base = self.int64(m.base);
            if m.offset == 0 { base } else { self.b.ins().iadd_imm_s(base, i64::from(m.offset)) }
        } else {
            let base = self.int32(m.base);
            let v = if m.offset == 0 {
                base
            } else {
                self.b.ins().iadd_imm_s(base, i64::from(m.offset))
            };
            self.b.ins().uextend(I64, v)
        }
    }

    /// Goes on where `ok` holds, else to `otherwise`.
    pub(super) fn require(&mut self, ok: Value, otherwise: Block) {
        let next = self.b.create_block();
        self.b.ins().brif(ok, next, &[], otherwise, &[]);
        self.b.switch_to_block(next);
    }

    /// The offset in elements when bounds and alignment hold, else goes to `otherwise`.
    pub(super) fn element(
        &mut self,
        offset: Value,
        log2: u32,
        count: Value,
        otherwise: Block,
    ) -> Value {
        let turned =
            if log2 == 0 { offset } else { self.b.ins().rotr_imm_u(offset, i64::from(log2)) };
        let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, turned, count);
        self.require(inside, otherwise);
        turned
    }

    /// An element's host address.
    pub(super) fn at(&mut self, base: Value, element: Value, log2: u32) -> Value {
        let bytes =
            if log2 == 0 { element } else { self.b.ins().ishl_imm_u(element, i64::from(log2)) };
        self.b.ins().iadd(base, bytes)
    }

    /// Checks an access of 2^`log2` bytes and says where it leads.
    pub(super) fn place(&mut self, m: &Memory, log2: u32, store: bool) -> Place {
        let bail = self.bail();
        match m.target {
            Target::Frame => {
                // Lowering checked it against the frame; here once more, against a mistake.
                let end = i64::from(m.offset) + (1 << log2);
                if m.offset < 0
                    || end > i64::from(self.body.frame_bytes)
                    || m.offset % (1 << log2) != 0
                {
                    let never = self.b.ins().iconst(cranelift_codegen::ir::types::I8, 0);
                    self.require(never, bail);
                }
                let frame = self.fixed(Fixed::Frame);
                let word = self.b.ins().iadd(frame, self.lane4);
                let at = i64::from(m.offset / 4) * 128 + i64::from(m.offset % 4);
                Place::Words(self.b.ins().iadd_imm_s(word, at))
            }
            Target::Space(Space::Local) => {
                let address = self.address(m);
                let count = self.fixed(Fixed::Shifted(offset_of!(Context, local_bytes), log2));
                self.element(address, log2, count, bail);
                let local = self.fixed(Fixed::Field(offset_of!(Context, local)));
                let word = self.b.ins().ushr_imm_u(address, 2);
                let row = self.b.ins().ishl_imm_u(word, 7);
                let base = self.b.ins().iadd(local, self.lane4);
                let mut v = self.b.ins().iadd(base, row);
                if log2 < 2 {
                    let byte = self.b.ins().band_imm_u(address, 3);
                    v = self.b.ins().iadd(v, byte);
                }
                Place::Words(v)
            }
            Target::Space(Space::Shared) => {
                let address = self.address(m);
                let (base, bytes) =
                    (offset_of!(Context, shared), offset_of!(Context, shared_bytes));
                Place::Bytes(self.linear(address, log2, base, bytes, bail))
            }
            Target::Space(Space::Param) if !store => {
                let address = self.address(m);
                let (base, bytes) =
                    (offset_of!(Context, params), offset_of!(Context, params_bytes));
                Place::Bytes(self.linear(address, log2, base, bytes, bail))
            }
            Target::Space(Space::Param) => {
                let never = self.b.ins().iconst(cranelift_codegen::ir::types::I8, 0);
                self.require(never, bail);
                Place::Bytes(self.context)
            }
            Target::Space(Space::Const) if store => {
                let never = self.b.ins().iconst(cranelift_codegen::ir::types::I8, 0);
                self.require(never, bail);
                Place::Bytes(self.context)
            }
            // See `device`.
            Target::Space(Space::Global | Space::Const) | Target::Generic => {
                let never = self.b.ins().iconst(cranelift_codegen::ir::types::I8, 0);
                self.require(never, bail);
                Place::Bytes(self.context)
            }
        }
    }

    /// An access to memory whose base and length are in the context.
    fn linear(
        &mut self,
        address: Value,
        log2: u32,
        base: usize,
        bytes: usize,
        bail: Block,
    ) -> Value {
        let count = self.fixed(Fixed::Shifted(bytes, log2));
        let element = self.element(address, log2, count, bail);
        let base = self.fixed(Fixed::Field(base));
        self.at(base, element, log2)
    }

    /// An access to device memory, or to any window of generic addressing: `emit` makes it, once where the site knows the
    /// address and once where it was looked up. Its values.
    fn device(
        &mut self,
        m: &Memory,
        log2: u32,
        (store, generic): (bool, bool),
        emit: &mut dyn FnMut(&mut Self, Value) -> Vec<Value>,
    ) -> Vec<Value> {
        let bail = self.bail();
        let address = self.address(m);
        let site = *self.sites;
        *self.sites += 1;
        let sites = self.fixed(Fixed::Field(offset_of!(Context, sites)));
        // CAST: at most some ten thousand sites of 24 bytes.
        let row = (site as usize * size_of::<Site>()) as i32;
        let at = |field: usize| row + field as i32;
        let (done, miss) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(miss);
        let start = self.b.ins().load(I64, plain(), sites, at(offset_of!(Site, start)));
        let offset = self.b.ins().isub(address, start);
        let count = self.b.ins().load(I64, plain(), sites, at(offset_of!(Site, count)));
        let element = self.element(offset, log2, count, miss);
        let host = self.b.ins().load(I64, plain(), sites, at(offset_of!(Site, host)));
        let hit = self.at(host, element, log2);
        let values = emit(self, hit);
        for &v in &values {
            let ty = self.b.func.dfg.value_type(v);
            self.b.append_block_param(done, ty);
        }
        self.join(done, values);
        self.b.switch_to_block(miss);
        if generic {
            // A block's shared memory is not the site's to remember.
            let lookup = self.b.create_block();
            self.b.set_cold_block(lookup);
            let base = (window::SHARED as i64).wrapping_neg();
            let inside = self.b.ins().iadd_imm_s(address, base);
            let (base, bytes) = (offset_of!(Context, shared), offset_of!(Context, shared_bytes));
            let v = self.linear(inside, log2, base, bytes, lookup);
            let values = emit(self, v);
            self.join(done, values);
            self.b.switch_to_block(lookup);
        }
        let kind = Access { width: 1 << log2, store, generic }.pack();
        let kind = self.b.ins().iconst(I64, kind);
        let number = self.b.ins().iconst(I64, i64::from(site));
        let found = self.ask(self.translate, &[self.context, number, address, kind]);
        let good = self.b.create_block();
        self.b.set_cold_block(good);
        self.b.ins().brif(found, good, &[], bail, &[]);
        self.b.switch_to_block(good);
        let values = emit(self, found);
        self.join(done, values);
        self.b.switch_to_block(done);
        self.b.block_params(done).to_vec()
    }

    /// Goes to a block with these values.
    fn join(&mut self, block: Block, values: Vec<Value>) {
        let args: Vec<BlockArg> = values.into_iter().map(BlockArg::from).collect();
        self.b.ins().jump(block, &args);
    }

    pub(super) fn log2(t: &Transfer) -> u32 {
        (u32::from(t.width) * u32::from(t.count)).trailing_zeros()
    }

    /// Whether an operand goes to device memory, and whether generically.
    pub(super) fn is_device(m: &Memory, store: bool) -> Option<bool> {
        match m.target {
            Target::Generic => Some(true),
            Target::Space(Space::Global) => Some(false),
            Target::Space(Space::Const) if !store => Some(false),
            _ => None,
        }
    }

    /// `ld`.
    pub(super) fn load(&mut self, t: &Transfer) {
        let class = Self::class_of(t);
        let wanted: Vec<(usize, Slot, bool)> = t
            .slots
            .iter()
            .take(usize::from(t.count))
            .enumerate()
            .filter(|(_, slot)| **slot != NONE)
            .map(|(e, &slot)| {
                let float = matches!(self.kind((class, slot)), Kind::Float | Kind::Loose);
                let whole = t.width == if class == Class::W64 { 8 } else { 4 };
                (e, slot, float && whole)
            })
            .collect();
        // CAST: at most 16 bytes.
        let skip = |e: usize| (e * usize::from(t.width)) as i32;
        let news: Vec<New> = match Self::is_device(&t.memory, false) {
            Some(generic) => {
                let mut emit = |s: &mut Self, base: Value| -> Vec<Value> {
                    wanted.iter().map(|&(e, _, float)| s.take(t, base, skip(e), float)).collect()
                };
                let values = self.device(&t.memory, Self::log2(t), (false, generic), &mut emit);
                let floats = wanted.iter().map(|w| w.2);
                values
                    .into_iter()
                    .zip(floats)
                    .map(|(v, float)| if float { New::Exact(v) } else { New::Bits(v) })
                    .collect()
            }
            None => {
                let place = self.place(&t.memory, Self::log2(t), false);
                let one = |s: &mut Self, e: usize, float: bool| match place {
                    Place::Bytes(base) => {
                        let v = s.take(t, base, skip(e), float);
                        if float { New::Exact(v) } else { New::Bits(v) }
                    }
                    Place::Words(base) if t.width == 8 => {
                        let low = s.b.ins().load(I32, plain(), base, skip(e) * 32);
                        let high = s.b.ins().load(I32, plain(), base, skip(e) * 32 + 128);
                        New::Bits(s.pair(low, high))
                    }
                    Place::Words(base) => {
                        New::Bits(s.extended(base, words(skip(e)), t.width, t.value))
                    }
                };
                wanted.iter().map(|&(e, _, float)| one(self, e, float)).collect()
            }
        };
        for ((_, slot, _), new) in wanted.into_iter().zip(news) {
            self.set((class, slot), new);
        }
    }

    /// Loads one element from bytes in a row.
    pub(super) fn take(&mut self, t: &Transfer, base: Value, skip: i32, float: bool) -> Value {
        match (float, t.width) {
            (true, 4) => self.b.ins().load(F32, plain(), base, skip),
            (true, _) => self.b.ins().load(F64, plain(), base, skip),
            _ => self.extended(base, skip, t.width, t.value),
        }
    }

    /// `st`.
    pub(super) fn store(&mut self, t: &Transfer) {
        let class = Self::class_of(t);
        // CAST: as in `load`.
        let skip = |e: usize| (e * usize::from(t.width)) as i32;
        let device = Self::is_device(&t.memory, true);
        let bytes = device.is_some()
            || !matches!(t.memory.target, Target::Frame | Target::Space(Space::Local));
        let values: Vec<Value> = t
            .slots
            .iter()
            .take(usize::from(t.count))
            .map(|&slot| {
                let exact = self.kind((class, slot)) == Kind::Float && slot & CONSTANT == 0;
                match class {
                    Class::W64 if exact && t.width == 8 && bytes => self.double_of(slot),
                    Class::W64 => self.int64(slot),
                    _ if exact && t.width == 4 => self.single_of(slot),
                    _ => self.int32(slot),
                }
            })
            .collect();
        let put = |s: &mut Self, value: Value, base: Value, at: i32| {
            s.put_bytes(t, class, value, (base, at));
        };
        if let Some(generic) = device {
            let mut emit = |s: &mut Self, base: Value| -> Vec<Value> {
                for (e, &value) in values.iter().enumerate() {
                    put(s, value, base, skip(e));
                }
                Vec::new()
            };
            self.device(&t.memory, Self::log2(t), (true, generic), &mut emit);
            return;
        }
        let place = self.place(&t.memory, Self::log2(t), true);
        for (e, value) in values.into_iter().enumerate() {
            match place {
                Place::Bytes(base) => {
                    put(self, value, base, skip(e));
                }
                Place::Words(base) if t.width == 8 => {
                    let low = self.b.ins().ireduce(I32, value);
                    let high = self.b.ins().ushr_imm_u(value, 32);
                    let high = self.b.ins().ireduce(I32, high);
                    self.b.ins().store(plain(), low, base, skip(e) * 32);
                    self.b.ins().store(plain(), high, base, skip(e) * 32 + 128);
                }
                Place::Words(base) => {
                    put(self, value, base, words(skip(e)));
                }
            }
        }
    }
}

/// Distance of a thread's byte `skip` from the first, where it lies among those of all lanes. The first is aligned to the
/// whole access, so elements narrower than a word share its words as they do in a row.
pub(super) fn words(skip: i32) -> i32 {
    skip / 4 * 128 + skip % 4
}
