//! The group form of a region: eight lanes go through it together, as long as all take the same way.
//!
//! What is the same in all lanes, or counts from lane to lane, is one value of the machine ([`super::shape`]); everything
//! else is vectors. Where lanes part, or something that was assumed of them does not hold, the group puts what it knows
//! into the register file and each lane goes on by itself, in the lane form of the same region, at that very instruction.
//! So nothing here has to handle divergence, faults or odd addresses: it only has to notice them before it acts.

use std::collections::BTreeMap;

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::{F32X4, F64X2, I8, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{Block, Endianness, InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::Variable;

use super::liveness::Place;
use super::shape::{GROUP, LOG2, Shape, Shapes, State};
use super::translate::{New, Translator};
use super::values::Kind;
use crate::ir::{CONSTANT, Inst, NONE};
use crate::ops::{Class, float32, float64};

/// A group's bits in a mask of lanes.
pub(super) const BITS: i64 = (1 << GROUP) - 1;

/// A way out of the group form.
pub(super) struct Leave {
    pub(super) block: Block,
    pub(super) pc: u32,
    pub(super) issued: i64,
    pub(super) shapes: Vec<Shape>,
}

/// The state of translating the group form.
pub(super) struct Group<'a> {
    /// Whether the group form is being translated.
    pub(super) active: bool,
    pub(super) state: State<'a>,
    pub(super) shapes: Option<&'a Shapes>,
    pub(super) vectors: Vec<Option<Vec<Variable>>>,
    /// Which lane of the group `Translator::value` means.
    pub(super) view: usize,
    /// What `Translator::set` was given, while it is listened to.
    pub(super) captured: Option<Vec<(Place, New)>>,
    /// The way out at the current instruction.
    pub(super) bail: Option<Block>,
    pub(super) leaves: Vec<Leave>,
    pub(super) blocks: BTreeMap<u32, Block>,
    /// Number and four times the number of the group's first lane.
    pub(super) first: [Value; 2],
    /// The lanes left to the lane form.
    pub(super) left: Variable,
    pub(super) next: Block,
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

    pub(super) fn vector_variables(&mut self, number: usize) -> Vec<Variable> {
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
    pub(super) fn bits_of(&mut self, masks: &[Value]) -> Value {
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
}

/// Whether the rows of a block's threads begin at multiples of a group, so that `%tid.x` counts through every group.
pub(super) fn has_whole_rows(block: [u32; 3]) -> bool {
    block[0].is_multiple_of(1 << LOG2) || block[1] * block[2] == 1
}
