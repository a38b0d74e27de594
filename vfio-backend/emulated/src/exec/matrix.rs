//! Matrix instructions of a warp: `mma.sync`, `ldmatrix`, `stmatrix`, `movmatrix`.
//! Source: PTX ISA 9.0, section 9.7.15 (fragment layouts).
//!
//! With g = lane / 4, t = lane % 4 and e elements in a 32-bit register (one in a 64-bit register), every shape follows
//! one rule. A, register r, element i: row g + 8 * (r mod (M / 8)), column e * t + i + 4e * (r div (M / 8)). B: row
//! e * t + i + 4e * r, column g. C and D: row g + 8 * (r div 2), column 2t + (r mod 2), two per register for f16.
//!
//! Products of small floats are summed in double precision and rounded once, which is at least as exact as the GPU.

use super::mbarrier::shared_offsets;
use super::memory_ops::View;
use super::registers::{Lane, Registers};
use super::warp::Outcome;
use crate::fault::Intent;
use crate::ir::{Matrix, MatrixType, Op, Slot};
use crate::ops::half::{bf16_to_f32, f16_to_f32, f32_to_f16};
use crate::ops::rounding::{Rounding, round_f64_to_f32};
use crate::ops::{float32, float64};
use crate::raw::LANES;

impl MatrixType {
    /// Bits of an element.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::B1Xor | Self::B1And => 1,
            Self::S4 | Self::U4 => 4,
            Self::S8 | Self::U8 | Self::E4m3 | Self::E5m2 => 8,
            Self::F16 | Self::Bf16 => 16,
            Self::Tf32 | Self::F32 | Self::S32 => 32,
            Self::F64 => 64,
        }
    }

    /// Whether sums are integers.
    fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8 | Self::S4 | Self::U4 | Self::B1Xor | Self::B1And)
    }
}

/// An element widened: floats to double precision, integers to 32 bits.
#[derive(Clone, Copy)]
enum Element {
    Float(f64),
    Integer(i32),
}

/// Element `i` of a register.
fn element(ty: MatrixType, register: u64, i: u32) -> Element {
    let raw = (register >> (ty.bits() % 64 * i)) as u32;
    match ty {
        MatrixType::F64 => Element::Float(f64::from_bits(register)),
        MatrixType::F16 => Element::Float(f64::from(f16_to_f32(raw & 0xffff))),
        MatrixType::Bf16 => Element::Float(f64::from(bf16_to_f32(raw & 0xffff))),
        MatrixType::Tf32 => Element::Float(f64::from(f32::from_bits(raw & !0x1fff))),
        MatrixType::F32 => Element::Float(f64::from(f32::from_bits(raw))),
        MatrixType::E4m3 | MatrixType::E5m2 => {
            use crate::ops::convert::Convert;
            let x = u8::from(ty == MatrixType::E5m2);
            let half = Convert::SmallToF16x2.scalar([u64::from(raw & 0xff), 0, 0], x) as u32;
            Element::Float(f64::from(f16_to_f32(half & 0xffff)))
        }
        MatrixType::S8 => Element::Integer(i32::from(raw as i8)),
        MatrixType::U8 => Element::Integer(i32::from(raw as u8)),
        MatrixType::S4 => Element::Integer((raw << 28) as i32 >> 28),
        MatrixType::U4 => Element::Integer((raw & 0xf) as i32),
        MatrixType::B1Xor | MatrixType::B1And => Element::Integer((raw & 1) as i32),
        MatrixType::S32 => Element::Integer(raw as i32),
    }
}

fn register(registers: &Registers<'_>, ty: MatrixType, slot: Slot, lane: usize) -> u64 {
    if ty == MatrixType::F64 {
        u64::read(registers, slot)[lane]
    } else {
        u64::from(u32::read(registers, slot)[lane])
    }
}

/// `mma.sync` and `wmma.mma`.
pub(crate) fn multiply(m: &Matrix, registers: &mut Registers<'_>, mask: u32) {
    let (rows, columns, depth) =
        (usize::from(m.shape.0), usize::from(m.shape.1), usize::from(m.shape.2));
    // All of A, B and C is read before any of D is written: they may be the same registers.
    let c: Vec<[u64; LANES]> =
        m.c.iter()
            .map(|&s| std::array::from_fn(|lane| register(registers, m.c_type, s, lane)))
            .collect();
    // Where element n of a lane's part of C and D lies.
    let cell = |lane: usize, n: usize| {
        if m.opaque {
            let at = lane * rows * columns / LANES + n;
            (at / columns, at % columns)
        } else {
            (lane / 4 + 8 * (n / 2), 2 * (lane % 4) + n % 2)
        }
    };
    let per = |ty: MatrixType| (32 / ty.bits()).max(1) as usize;
    let mine = rows * columns / LANES;
    let start = |lane: usize, n: usize| {
        element(m.c_type, c[n / per(m.c_type)][lane], (n % per(m.c_type)) as u32)
    };
    if m.a_type.is_integer() {
        let (mut a, mut b) = (vec![0i32; rows * depth], vec![0i32; depth * columns]);
        fill(&mut a, &mut b, m, registers, |e| match e {
            Element::Integer(v) => v,
            Element::Float(_) => 0,
        });
        let xor = m.a_type == MatrixType::B1Xor;
        for (n, &slot) in m.d.iter().enumerate().take(mine) {
            let out = std::array::from_fn(|lane| {
                let (row, column) = cell(lane, n);
                let start = match start(lane, n) {
                    Element::Integer(v) => i64::from(v),
                    Element::Float(_) => 0,
                };
                let products = (0..depth).map(|k| {
                    let (x, y) = (a[row * depth + k], b[k * columns + column]);
                    if xor { i64::from(x ^ y) } else { i64::from(x) * i64::from(y) }
                });
                let sum = start + products.sum::<i64>();
                if m.saturate {
                    sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32
                } else {
                    sum as u32
                }
            });
            u32::write(registers, slot, mask, out);
        }
        return;
    }
    let (mut a, mut b) = (vec![0f64; rows * depth], vec![0f64; depth * columns]);
    fill(&mut a, &mut b, m, registers, |e| match e {
        Element::Float(v) => v,
        Element::Integer(v) => f64::from(v),
    });
    let value = |lane: usize, n: usize| -> f64 {
        let (row, column) = cell(lane, n);
        let start = match start(lane, n) {
            Element::Float(v) => v,
            Element::Integer(v) => f64::from(v),
        };
        let terms = (0..depth).map(|k| (a[row * depth + k], b[k * columns + column]));
        if m.a_type == MatrixType::F64 {
            terms.fold(start, |sum, (x, y)| x.mul_add(y, sum))
        } else {
            start + terms.map(|(x, y)| x * y).sum::<f64>()
        }
    };
    let each = per(m.d_type);
    for (r, &slot) in m.d.iter().enumerate().take(mine.div_ceil(each)) {
        match m.d_type {
            MatrixType::F64 => {
                let out = std::array::from_fn(|lane| float64::bits(value(lane, r)));
                u64::write(registers, slot, mask, out);
            }
            MatrixType::F16 => {
                let half = |lane, n| f32_to_f16(round_f64_to_f32(value(lane, n), Rounding::Odd));
                let out =
                    std::array::from_fn(|lane| half(lane, 2 * r) | half(lane, 2 * r + 1) << 16);
                u32::write(registers, slot, mask, out);
            }
            _ => {
                let out = std::array::from_fn(|lane| float32::bits(value(lane, r) as f32));
                u32::write(registers, slot, mask, out);
            }
        }
    }
}

/// Spreads the fragments of A and B into whole matrices, row by row.
fn fill<T>(
    a: &mut [T],
    b: &mut [T],
    m: &Matrix,
    registers: &Registers<'_>,
    widen: impl Fn(Element) -> T,
) {
    let (rows, columns, depth) =
        (usize::from(m.shape.0), usize::from(m.shape.1), usize::from(m.shape.2));
    let per = |ty: MatrixType| (32 / ty.bits()).max(1) as usize;
    let (ea, eb, bands) = (per(m.a_type), per(m.b_type), (rows / 8).max(1));
    for lane in 0..LANES {
        let (g, t) = (lane / 4, lane % 4);
        for (r, &slot) in m.a.iter().enumerate() {
            let bits = register(registers, m.a_type, slot, lane);
            for i in 0..ea {
                let at = if m.opaque {
                    let n = ea * r + i;
                    if n >= rows * depth / LANES {
                        continue;
                    } else {
                        lane * rows * depth / LANES + n
                    }
                } else {
                    (g + 8 * (r % bands)) * depth + ea * t + i + 4 * ea * (r / bands)
                };
                if let Some(place) = a.get_mut(at) {
                    *place = widen(element(m.a_type, bits, i as u32));
                }
            }
        }
        for (r, &slot) in m.b.iter().enumerate() {
            let bits = register(registers, m.b_type, slot, lane);
            for i in 0..eb {
                let at = if m.opaque {
                    let n = eb * r + i;
                    if n >= columns * depth / LANES {
                        continue;
                    } else {
                        lane * columns * depth / LANES + n
                    }
                } else {
                    (eb * t + i + 4 * eb * r) * columns + g
                };
                if let Some(place) = b.get_mut(at) {
                    *place = widen(element(m.b_type, bits, i as u32));
                }
            }
        }
    }
}

/// `ldmatrix` and `stmatrix`: lane 8j + i gives the address of row i of matrix j.
pub(crate) fn transfer(
    view: &mut View<'_>,
    registers: &mut Registers<'_>,
    op: &Op,
    mask: u32,
) -> Outcome<()> {
    let (memory, count, turned, slots, load) = match op {
        Op::LoadMatrix { memory, count, transpose, slots } => {
            (memory, *count, *transpose, slots, true)
        }
        Op::StoreMatrix { memory, count, transpose, slots } => {
            (memory, *count, *transpose, slots, false)
        }
        _ => return Ok(()),
    };
    let rows = shared_offsets(registers, memory, mask);
    let intent = if load { Intent::Read } else { Intent::Write };
    for j in 0..usize::from(count).min(4) {
        let lanes = 8 * j..8 * j + 8;
        for lane in lanes.clone() {
            let inside = rows[lane].checked_add(16).is_some_and(|end| end <= view.shared.len());
            if !inside || !rows[lane].is_multiple_of(16) {
                return view.blame_shared(&rows, 1 << lane, intent, 16);
            }
        }
        // Element (row, column) of this matrix.
        let place = |row: usize, column: usize| rows[8 * j + row] + 2 * column as u64;
        let halves = |lane: usize| -> [(usize, usize); 2] {
            let (major, minor) = (lane / 4, 2 * (lane % 4));
            if turned {
                [(minor, major), (minor + 1, major)]
            } else {
                [(major, minor), (major, minor + 1)]
            }
        };
        if load {
            let out = std::array::from_fn(|lane| {
                let [low, high] =
                    halves(lane).map(|(r, c)| view.shared.load::<u16>(place(r, c)).unwrap_or(0));
                u32::from(low) | u32::from(high) << 16
            });
            u32::write(registers, slots[j], mask, out);
        } else {
            let values = u32::read(registers, slots[j]);
            for lane in (0..LANES).filter(|l| mask >> l & 1 != 0) {
                for (n, (r, c)) in halves(lane).into_iter().enumerate() {
                    let _ = view.shared.store(place(r, c), (values[lane] >> (16 * n)) as u16);
                }
            }
        }
    }
    Ok(())
}

/// `movmatrix.trans`: lane (row, column pair) gives and takes an 8x8 matrix of 16-bit elements.
pub(crate) fn transpose(registers: &mut Registers<'_>, d: Slot, a: Slot, mask: u32) {
    let source = *u32::read(registers, a);
    let at =
        |row: usize, column: usize| source[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    let out = std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        at(column, row) | at(column + 1, row) << 16
    });
    u32::write(registers, d, mask, out);
}
