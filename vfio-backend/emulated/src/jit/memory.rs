//! Loads and stores of compiled code: the check before every access, and where it leads.
//!
//! Bounds and alignment are one comparison: the offset is rotated right by the logarithm of the size, so that a misaligned
//! one becomes enormous, and compared with the number of such elements. Device memory is compared with what the
//! instruction's site has learnt; what the site does not know is looked up, and what the lookup refuses is left to the
//! interpreter, which executes the access again and names the fault.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F64, I32, I64};
use cranelift_codegen::ir::{Block, InstBuilder, Value};

use super::code::{self, Context, Kind as Access, Site};
use super::translate::{Fixed, New, Translator, plain};
use super::values::Kind;
use crate::fault::Space;
use crate::ir::{Memory, NONE, Target, Transfer, window};
use crate::ops::Class;

/// Where a checked access goes.
enum Place {
    /// Bytes in a row.
    Bytes(Value),
    /// A thread's local memory: address of the word's element for this lane, and the byte's place in it.
    Words(Value),
}

impl Translator<'_, '_> {
    /// A memory operand's address, 64 bits wide.
    fn address(&mut self, m: &Memory) -> Value {
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
    fn require(&mut self, ok: Value, otherwise: Block) {
        let next = self.b.create_block();
        self.b.ins().brif(ok, next, &[], otherwise, &[]);
        self.b.switch_to_block(next);
    }

    /// The offset in elements when bounds and alignment hold, else goes to `otherwise`.
    fn element(&mut self, offset: Value, log2: u32, count: Value, otherwise: Block) -> Value {
        let turned =
            if log2 == 0 { offset } else { self.b.ins().rotr_imm_u(offset, i64::from(log2)) };
        let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, turned, count);
        self.require(inside, otherwise);
        turned
    }

    /// An element's host address.
    fn at(&mut self, base: Value, element: Value, log2: u32) -> Value {
        let bytes =
            if log2 == 0 { element } else { self.b.ins().ishl_imm_u(element, i64::from(log2)) };
        self.b.ins().iadd(base, bytes)
    }

    /// Checks an access of 2^`log2` bytes and says where it leads.
    fn place(&mut self, m: &Memory, log2: u32, store: bool) -> Place {
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
            Target::Space(Space::Global | Space::Const) => {
                self.device(m, log2, (store, false), bail)
            }
            Target::Generic => self.device(m, log2, (store, true), bail),
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

    /// An access to device memory, or to any window of generic addressing.
    fn device(
        &mut self,
        m: &Memory,
        log2: u32,
        (store, generic): (bool, bool),
        bail: Block,
    ) -> Place {
        let address = self.address(m);
        let site = *self.sites;
        *self.sites += 1;
        let sites = self.fixed(Fixed::Field(offset_of!(Context, sites)));
        // CAST: at most some ten thousand sites of 24 bytes.
        let row = (site as usize * size_of::<Site>()) as i32;
        let at = |field: usize| row + field as i32;
        let (done, miss) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(done, I64);
        self.b.set_cold_block(miss);
        let start = self.b.ins().load(I64, plain(), sites, at(offset_of!(Site, start)));
        let count = self.b.ins().load(I64, plain(), sites, at(offset_of!(Site, count)));
        let offset = self.b.ins().isub(address, start);
        let element = self.element(offset, log2, count, miss);
        let host = self.b.ins().load(I64, plain(), sites, at(offset_of!(Site, host)));
        let hit = self.at(host, element, log2);
        self.b.ins().jump(done, &[hit.into()]);
        self.b.switch_to_block(miss);
        if generic {
            // A block's shared memory is not the site's to remember.
            let lookup = self.b.create_block();
            self.b.set_cold_block(lookup);
            let inside = self.b.ins().iadd_imm_s(address, (window::SHARED as i64).wrapping_neg());
            let (base, bytes) = (offset_of!(Context, shared), offset_of!(Context, shared_bytes));
            let v = self.linear(inside, log2, base, bytes, lookup);
            self.b.ins().jump(done, &[v.into()]);
            self.b.switch_to_block(lookup);
        }
        let kind = Access { width: 1 << log2, store, generic }.pack();
        let kind = self.b.ins().iconst(I64, kind);
        let number = self.b.ins().iconst(I64, i64::from(site));
        let args = [self.context, number, address, kind];
        let found = self.call_host(code::translate as *const u8, self.translate_signature, &args);
        self.b.ins().brif(found, done, &[found.into()], bail, &[]);
        self.b.switch_to_block(done);
        Place::Bytes(self.b.block_params(done)[0])
    }

    fn log2(t: &Transfer) -> u32 {
        (u32::from(t.width) * u32::from(t.count)).trailing_zeros()
    }

    /// `ld`.
    pub(super) fn load(&mut self, t: &Transfer) {
        let place = self.place(&t.memory, Self::log2(t), false);
        let class = Self::class_of(t);
        let mut loaded = [None; 4];
        for (e, slot) in t.slots.iter().take(usize::from(t.count)).enumerate() {
            if *slot == NONE {
                continue;
            }
            let float = matches!(self.kind((class, *slot)), Kind::Float | Kind::Loose);
            // CAST: at most 16 bytes, or eight words of 128.
            let skip = (e * usize::from(t.width)) as i32;
            let new = match place {
                Place::Bytes(base) if float && t.width == 4 && class == Class::W32 => {
                    New::Exact(self.b.ins().load(F32, plain(), base, skip))
                }
                Place::Bytes(base) if float && t.width == 8 && class == Class::W64 => {
                    New::Exact(self.b.ins().load(F64, plain(), base, skip))
                }
                Place::Bytes(base) => New::Bits(self.extended(base, skip, t.width, t.value)),
                Place::Words(base) if t.width == 8 => {
                    let low = self.b.ins().load(I32, plain(), base, skip * 32);
                    let high = self.b.ins().load(I32, plain(), base, skip * 32 + 128);
                    New::Bits(self.pair(low, high))
                }
                Place::Words(base) => {
                    let at = self.words(t, skip);
                    New::Bits(self.extended(base, at, t.width, t.value))
                }
            };
            loaded[e] = Some(new);
        }
        for (slot, new) in t.slots.iter().zip(loaded) {
            if let Some(new) = new {
                self.set((class, *slot), new);
            }
        }
    }

    /// Distance of a thread's byte `skip` from the first, where it lies among those of all lanes. Elements narrower than a
    /// word that share one with the first are only known to when the first is aligned, which the check saw to.
    fn words(&self, t: &Transfer, skip: i32) -> i32 {
        let _ = t;
        skip / 4 * 128 + skip % 4
    }

    /// `st`.
    pub(super) fn store(&mut self, t: &Transfer) {
        let place = self.place(&t.memory, Self::log2(t), true);
        let class = Self::class_of(t);
        for (e, &slot) in t.slots.iter().take(usize::from(t.count)).enumerate() {
            // CAST: as in `load`.
            let skip = (e * usize::from(t.width)) as i32;
            let float = self.kind((class, slot)) == Kind::Float && slot & crate::ir::CONSTANT == 0;
            let value = match class {
                Class::W64 if float && t.width == 8 && matches!(place, Place::Bytes(_)) => {
                    self.double_of(slot)
                }
                Class::W64 => self.int64(slot),
                _ if float && t.width == 4 => self.single_of(slot),
                _ => self.int32(slot),
            };
            let (base, at) = match place {
                Place::Bytes(base) => (base, skip),
                Place::Words(base) if t.width == 8 => {
                    let low = self.b.ins().ireduce(I32, value);
                    let high = self.b.ins().ushr_imm_u(value, 32);
                    let high = self.b.ins().ireduce(I32, high);
                    self.b.ins().store(plain(), low, base, skip * 32);
                    self.b.ins().store(plain(), high, base, skip * 32 + 128);
                    continue;
                }
                Place::Words(base) => (base, self.words(t, skip)),
            };
            match (t.width, class) {
                (1, _) => self.b.ins().istore8(plain(), value, base, at),
                (2, _) => self.b.ins().istore16(plain(), value, base, at),
                (4, Class::W64) => self.b.ins().istore32(plain(), value, base, at),
                _ => self.b.ins().store(plain(), value, base, at),
            };
        }
    }
}
