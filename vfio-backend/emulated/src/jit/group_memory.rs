//! Loads and stores of a whole group: one check for a run of addresses a step apart, or one a lane. All checks of an
//! instruction come before its first access, so that it can still be left to the lanes by themselves.

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I32X4, I64};
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, Value};

use super::code::{Context, Kind as Access, Site};
use super::group::{Gate, Wide};
use super::memory::Place;
use super::shape::{GROUP, Shape, UNIFORM};
use super::translate::{Fixed, New, Translator, plain};
use super::values::Kind;
use crate::fault::Space;
use crate::ir::{Memory, NONE, Slot, Target, Transfer};
use crate::ops::Class;

/// Where a group's accesses lead.
enum Places {
    /// Bytes in a row, from lane to lane so far apart.
    Run { base: Value, step: i64 },
    /// Local memory: whole words of all lanes side by side.
    Words(Value),
    /// Anywhere, lane by lane.
    Each(Vec<Place>),
}

/// Accesses that were checked, of vectors that need not be aligned.
pub(super) fn anywhere() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

impl Translator<'_, '_> {
    /// The shape of an operand's addresses.
    fn address_shape(&self, m: &Memory) -> Shape {
        if m.base == NONE || m.target == Target::Frame {
            return UNIFORM;
        }
        self.group.state.of(if m.wide { Class::W64 } else { Class::W32 }, m.base)
    }

    /// Checks the accesses of 2^`log2` bytes of a whole group, without making any.
    fn places(&mut self, m: &Memory, log2: u32, (store, generic): (bool, Option<bool>)) -> Places {
        let shape = self.address_shape(m);
        let local = matches!(m.target, Target::Frame | Target::Space(Space::Local));
        if local && shape.is_uniform() && log2 >= 2 {
            self.look(0);
            if let Place::Words(base) = self.place(m, log2, store) {
                return Places::Words(base);
            }
        }
        let step = shape.step().map(i64::from).filter(|s| s % (1 << log2) == 0);
        let bytes = match m.target {
            Target::Space(Space::Shared) => {
                Some((offset_of!(Context, shared), offset_of!(Context, shared_bytes)))
            }
            Target::Space(Space::Param) if !store => {
                Some((offset_of!(Context, params), offset_of!(Context, params_bytes)))
            }
            _ => None,
        };
        if let Some(step) = step.filter(|_| generic.is_some() || bytes.is_some()) {
            if !m.wide && step != 0 && m.base != NONE {
                self.counts_from(m, step > 0);
            }
            self.look(0);
            let address = self.address(m);
            let base = match bytes {
                Some((base, bytes)) => {
                    let part = self.parting();
                    let count = self.fixed(Fixed::Shifted(bytes, log2));
                    let element = self.run_of_elements(address, log2, count, (step, part));
                    let base = self.fixed(Fixed::Field(base));
                    self.at(base, element, log2)
                }
                None => self.device_run(address, log2, step, (store, generic == Some(true))),
            };
            return Places::Run { base, step };
        }
        let each = (0..GROUP).map(|n| {
            self.look(n);
            match generic {
                Some(generic) => {
                    let address = self.address(m);
                    Place::Bytes(self.device_run(address, log2, 0, (store, generic)))
                }
                None => self.place(m, log2, store),
            }
        });
        Places::Each(each.collect())
    }

    /// Parts unless 32-bit addresses count up (or down) without wrapping.
    fn counts_from(&mut self, m: &Memory, up: bool) {
        let [first, last] = [0, GROUP - 1].map(|n| {
            self.look(n);
            self.address(m)
        });
        let (low, high) = if up { (first, last) } else { (last, first) };
        let ok = self.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, low, high);
        let part = self.parting();
        self.require(ok, part);
    }

    /// The first lane's offset in elements when that and the last lane's are in bounds and aligned, else goes to
    /// `otherwise`. The lanes between are then as well.
    fn run_of_elements(
        &mut self,
        offset: Value,
        log2: u32,
        count: Value,
        (step, otherwise): (i64, Block),
    ) -> Value {
        let first = self.element(offset, log2, count, otherwise);
        let reach = (step >> log2) * (GROUP as i64 - 1);
        if reach != 0 {
            let last = self.b.ins().iadd_imm_s(first, reach);
            let inside = self.b.ins().icmp(IntCC::UnsignedLessThan, last, count);
            self.require(inside, otherwise);
        }
        first
    }

    /// The host address of the first of a run of accesses to device memory.
    fn device_run(
        &mut self,
        address: Value,
        log2: u32,
        step: i64,
        (store, generic): (bool, bool),
    ) -> Value {
        let part = self.parting();
        let site = *self.sites;
        *self.sites += 1;
        let sites = self.fixed(Fixed::Field(offset_of!(Context, sites)));
        // CAST: at most some ten thousand sites of 24 bytes.
        let row = (site as usize * size_of::<Site>()) as i32;
        let at = |field: usize| row + field as i32;
        let (done, miss) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(done, I64);
        self.b.set_cold_block(miss);
        let known = |t: &mut Self, otherwise: Block| {
            let start = t.b.ins().load(I64, plain(), sites, at(offset_of!(Site, start)));
            let offset = t.b.ins().isub(address, start);
            let count = t.b.ins().load(I64, plain(), sites, at(offset_of!(Site, count)));
            let element = t.run_of_elements(offset, log2, count, (step, otherwise));
            let host = t.b.ins().load(I64, plain(), sites, at(offset_of!(Site, host)));
            let host = t.at(host, element, log2);
            t.b.ins().jump(done, &[host.into()]);
        };
        known(self, miss);
        self.b.switch_to_block(miss);
        let kind = Access { width: 1 << log2, store, generic }.pack();
        let kind = self.b.ins().iconst(I64, kind);
        let number = self.b.ins().iconst(I64, i64::from(site));
        let found = self.ask(self.translate, &[self.context, number, address, kind]);
        let again = self.b.create_block();
        self.b.set_cold_block(again);
        self.b.ins().brif(found, again, &[], part, &[]);
        self.b.switch_to_block(again);
        if step == 0 {
            self.b.ins().jump(done, &[found.into()]);
        } else {
            // The site knows the region now; does all of the run lie in it?
            known(self, part);
        }
        self.b.switch_to_block(done);
        self.b.block_params(done)[0]
    }

    /// `ld`.
    pub(super) fn group_load(&mut self, t: &Transfer, gate: &Gate) {
        let class = Self::class_of(t);
        let (shape, _) = self.group.state.outcome(&crate::ir::Op::Load(*t));
        let wanted: Vec<(usize, Slot)> = t
            .slots
            .iter()
            .copied()
            .take(usize::from(t.count))
            .enumerate()
            .filter(|(_, slot)| *slot != NONE)
            .collect();
        // Lanes that do not load keep what they have: in the form that the others will have.
        let mut after = Vec::new();
        for &(_, slot) in &wanted {
            let Some(number) = self.body.shape.number((class, slot)) else { continue };
            let old = self.group.state.shapes[number];
            let joined = if matches!(gate, Gate::Open) { shape } else { old.join(shape) };
            if joined == Shape::Varying && !matches!(gate, Gate::Open) {
                self.unfold(number);
            }
            after.push((number, joined));
        }
        self.gated(gate, |s| {
            let log2 = Self::log2(t);
            let places = s.places(&t.memory, log2, (false, Self::is_device(&t.memory, false)));
            let loaded = s.loaded(t, class, &wanted, &places, shape);
            for (((_, slot), wide), &(_, joined)) in wanted.iter().zip(loaded).zip(&after) {
                let wide = match (wide, joined) {
                    (Wide::One(new, shape), Shape::Varying) => {
                        let bits = s.bits(class, new);
                        let vectors = s.spread(class, bits, shape.step().unwrap_or(0));
                        Wide::Many { vectors, loose: false }
                    }
                    (wide, _) => wide,
                };
                s.put((class, *slot), &Gate::Open, wide);
            }
        });
        for (number, joined) in after {
            self.group.state.shapes[number] = joined;
        }
    }

    /// The elements of a load.
    fn loaded(
        &mut self,
        t: &Transfer,
        class: Class,
        wanted: &[(usize, Slot)],
        places: &Places,
        shape: Shape,
    ) -> Vec<Wide> {
        // CAST: at most 16 bytes.
        let skip = |e: usize| (e * usize::from(t.width)) as i32;
        let size = i64::from(t.width) * i64::from(t.count);
        match *places {
            Places::Run { base, .. } if shape != Shape::Varying => wanted
                .iter()
                .map(|&(e, slot)| {
                    let kind = self.kind((class, slot));
                    let float = matches!(kind, Kind::Float | Kind::Loose)
                        && t.width == if class == Class::W64 { 8 } else { 4 };
                    let v = self.take(t, base, skip(e), float);
                    Wide::One(if float { New::Exact(v) } else { New::Bits(v) }, UNIFORM)
                })
                .collect(),
            Places::Run { base, step } if step == size && t.count == 1 => {
                let vectors = self.row(base, t.width, t.value);
                wanted
                    .iter()
                    .map(|_| Wide::Many { vectors: vectors.clone(), loose: false })
                    .collect()
            }
            Places::Run { base, step } if step == size && t.width == 4 && class == Class::W32 => {
                let columns = self.columns(base, usize::from(t.count));
                let wide = |&(e, _): &(usize, Slot)| Wide::Many {
                    vectors: columns[e].clone(),
                    loose: false,
                };
                wanted.iter().map(wide).collect()
            }
            Places::Words(base) if t.width == 4 && class == Class::W32 => wanted
                .iter()
                .map(|&(e, _)| {
                    let vectors = self.lanes_of_word(base, skip(e) * 32);
                    Wide::Many { vectors, loose: false }
                })
                .collect(),
            Places::Words(base) if t.width == 8 => wanted
                .iter()
                .map(|&(e, _)| {
                    let low = self.lanes_of_word(base, skip(e) * 32);
                    let high = self.lanes_of_word(base, skip(e) * 32 + 128);
                    let vectors = self.paired(&low, &high);
                    Wide::Many { vectors, loose: false }
                })
                .collect(),
            _ => wanted
                .iter()
                .map(|&(e, _)| {
                    let lanes: Vec<Value> = (0..GROUP)
                        .map(|n| match self.lane_place(places, n) {
                            (Place::Bytes(base), more) => self.take(t, base, more + skip(e), false),
                            (Place::Words(base), more) if t.width == 8 => {
                                let at = skip(e) * 32 + more;
                                let low = self.b.ins().load(I32, plain(), base, at);
                                let high = self.b.ins().load(I32, plain(), base, at + 128);
                                self.pair(low, high)
                            }
                            (Place::Words(base), more) => {
                                let at = super::memory::words(skip(e)) + more;
                                self.extended(base, at, t.width, t.value)
                            }
                        })
                        .collect();
                    let vectors = self.assemble(class, &lanes);
                    Wide::Many { vectors, loose: false }
                })
                .collect(),
        }
    }

    /// One lane's place, and bytes from it.
    fn lane_place(&mut self, places: &Places, n: usize) -> (Place, i32) {
        match places {
            Places::Run { base, step } => {
                let more = step * n as i64;
                match i32::try_from(more) {
                    Ok(more) if more < 1 << 30 => (Place::Bytes(*base), more),
                    _ => (Place::Bytes(self.b.ins().iadd_imm_s(*base, more)), 0),
                }
            }
            Places::Words(base) => (Place::Words(*base), 4 * n as i32),
            Places::Each(each) => (each[n], 0),
        }
    }

    /// `st`.
    pub(super) fn group_store(&mut self, t: &Transfer, gate: &Gate) {
        let class = Self::class_of(t);
        let slots: Vec<Slot> = t.slots.iter().copied().take(usize::from(t.count)).collect();
        self.gated(gate, |s| {
            let log2 = Self::log2(t);
            let places = s.places(&t.memory, log2, (true, Self::is_device(&t.memory, true)));
            s.stored(t, class, &slots, &places);
        });
    }

    fn stored(&mut self, t: &Transfer, class: Class, slots: &[Slot], places: &Places) {
        // CAST: as in `loaded`.
        let skip = |e: usize| (e * usize::from(t.width)) as i32;
        let size = i64::from(t.width) * i64::from(t.count);
        match *places {
            Places::Run { base, step } if step == size && t.count == 1 => {
                let vectors = self.many((class, slots[0]));
                self.store_row(base, t.width, class, vectors);
            }
            Places::Run { base, step }
                if step == size && t.width == 4 && class == Class::W32 && t.count > 1 =>
            {
                let columns: Vec<Vec<Value>> =
                    slots.iter().map(|&slot| self.many((class, slot))).collect();
                for j in 0..GROUP / 4 {
                    let mine: Vec<Value> = columns.iter().map(|c| c[j]).collect();
                    let rows = match mine[..] {
                        [a, b] => vec![
                            self.pick(I32X4, a, b, [0, 4, 1, 5]),
                            self.pick(I32X4, a, b, [2, 6, 3, 7]),
                        ],
                        _ => self.turned(&mine),
                    };
                    for (i, v) in rows.into_iter().enumerate() {
                        let at = 16 * (slots.len() * j + i) as i32;
                        self.b.ins().store(anywhere(), v, base, at);
                    }
                }
            }
            Places::Words(base) if t.width == 4 && class == Class::W32 => {
                for (e, &slot) in slots.iter().enumerate() {
                    let vectors = self.many((class, slot));
                    self.store_words(base, skip(e) * 32, vectors);
                }
            }
            Places::Words(base) if t.width == 8 => {
                for (e, &slot) in slots.iter().enumerate() {
                    let vectors = self.many((class, slot));
                    let (low, high) =
                        (self.words_of(&vectors, false), self.words_of(&vectors, true));
                    self.store_words(base, skip(e) * 32, low);
                    self.store_words(base, skip(e) * 32 + 128, high);
                }
            }
            // All lanes to one place: the last wins, as when they go one after the other.
            Places::Run { base, step: 0 } => {
                self.store_lane(t, class, slots, (Place::Bytes(base), 0), GROUP - 1);
            }
            _ => {
                for n in 0..GROUP {
                    let place = self.lane_place(places, n);
                    self.store_lane(t, class, slots, place, n);
                }
            }
        }
    }

    /// Stores one lane's elements.
    fn store_lane(
        &mut self,
        t: &Transfer,
        class: Class,
        slots: &[Slot],
        (place, more): (Place, i32),
        n: usize,
    ) {
        // CAST: as in `loaded`.
        let skip = |e: usize| (e * usize::from(t.width)) as i32;
        self.look(n);
        for (e, &slot) in slots.iter().enumerate() {
            let v = if class == Class::W64 { self.int64(slot) } else { self.int32(slot) };
            match place {
                Place::Bytes(base) => self.put_bytes(t, class, v, (base, more + skip(e))),
                Place::Words(base) if t.width == 8 => {
                    let at = skip(e) * 32 + more;
                    let low = self.b.ins().ireduce(I32, v);
                    let high = self.b.ins().ushr_imm_u(v, 32);
                    let high = self.b.ins().ireduce(I32, high);
                    self.b.ins().store(plain(), low, base, at);
                    self.b.ins().store(plain(), high, base, at + 128);
                }
                Place::Words(base) => {
                    let at = super::memory::words(skip(e)) + more;
                    self.put_bytes(t, class, v, (base, at));
                }
            }
        }
    }

    /// Stores one element's low bytes.
    pub(super) fn put_bytes(
        &mut self,
        t: &Transfer,
        class: Class,
        value: Value,
        (base, at): (Value, i32),
    ) {
        match (t.width, class) {
            (1, _) => self.b.ins().istore8(plain(), value, base, at),
            (2, _) => self.b.ins().istore16(plain(), value, base, at),
            (4, Class::W64) => self.b.ins().istore32(plain(), value, base, at),
            _ => self.b.ins().store(plain(), value, base, at),
        };
    }
}
