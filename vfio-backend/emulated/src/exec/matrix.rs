//! Products of matrices: `mma.sync` and `wmma.mma`.
//! Source: PTX ISA 9.0, section 9.7.15 (fragment layouts).
//!
//! With g = lane / 4, t = lane % 4 and e elements in a 32-bit register (one in a 64-bit register), every shape follows
//! one rule. A, register r, element i: row g + 8 * (r mod (M / 8)), column e * t + i + 4e * (r div (M / 8)). B: row
//! e * t + i + 4e * r, column g. C and D: row g + 8 * (r div 2), column 2t + (r mod 2), two per register for f16.
//!
//! Products of small floats are summed in double precision and rounded once, which is at least as exact as the GPU.

use super::registers::{Lane, Registers};
use crate::ir::{Matrix, MatrixType, Slot};
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

/// Elements of the largest factor of floats, and of integers (`.b1`, 16 by 256).
const MOST_FLOATS: usize = 512;
const MOST_INTEGERS: usize = 4096;
/// Elements of the largest product.
const MOST_RESULTS: usize = 256;

/// The factors, widened. A lies column by column, B row by row.
struct Factors<T, const N: usize> {
    a: [T; N],
    b: [T; N],
}

/// `mma.sync` and `wmma.mma`. `FUSED`: multiplying and adding in one go is one instruction of the processor.
#[inline(always)]
pub(crate) fn multiply<const FUSED: bool>(m: &Matrix, registers: &mut Registers<'_>, mask: u32) {
    if m.a_type.is_integer() {
        let f = integer_factors(m, registers);
        return integers(m, registers, mask, &f);
    }
    // Each widening is its own loop, for the compiler to turn into vector instructions.
    let f = match m.a_type {
        MatrixType::F64 => factors::<u64>(m, registers, |v, _| f64::from_bits(v)),
        MatrixType::F16 => {
            factors::<u32>(m, registers, |v, i| f64::from(f16_to_f32(v >> (16 * i) & 0xffff)))
        }
        MatrixType::Bf16 => {
            factors::<u32>(m, registers, |v, i| f64::from(bf16_to_f32(v >> (16 * i) & 0xffff)))
        }
        MatrixType::Tf32 => {
            factors::<u32>(m, registers, |v, _| f64::from(f32::from_bits(v & !0x1fff)))
        }
        ty => small_factors((ty, m.b_type), m, registers),
    };
    floats::<FUSED>(m, registers, mask, &f);
}

/// The factors of 8-bit floats, whose types may differ.
#[inline(never)]
fn small_factors(
    (a, b): (MatrixType, MatrixType),
    m: &Matrix,
    registers: &Registers<'_>,
) -> Factors<f64, MOST_FLOATS> {
    let widen = |ty: MatrixType| {
        move |v: u32, i: u32| match element(ty, u64::from(v), i) {
            Element::Float(v) => v,
            Element::Integer(v) => f64::from(v),
        }
    };
    let mut f = Factors { a: [0.0; MOST_FLOATS], b: [0.0; MOST_FLOATS] };
    spread_a::<f64, u32>(&mut f.a, &m.a, (a, m.shape, m.opaque), registers, widen(a));
    spread_b::<f64, u32>(&mut f.b, &m.b, (b, m.shape, m.opaque), registers, widen(b));
    f
}

/// The factors of the rarer integer types, which may differ.
#[inline(never)]
fn integer_factors(m: &Matrix, registers: &Registers<'_>) -> Factors<i32, MOST_INTEGERS> {
    let widen = |ty: MatrixType| {
        move |v: u32, i: u32| match element(ty, u64::from(v), i) {
            Element::Integer(v) => v,
            Element::Float(_) => 0,
        }
    };
    let mut f = Factors { a: [0; MOST_INTEGERS], b: [0; MOST_INTEGERS] };
    let shape = m.shape;
    let (a, b) = (widen(m.a_type), widen(m.b_type));
    spread_a::<i32, u32>(&mut f.a, &m.a, (m.a_type, shape, m.opaque), registers, a);
    spread_b::<i32, u32>(&mut f.b, &m.b, (m.b_type, shape, m.opaque), registers, b);
    f
}

/// Both factors, of one type of floats. `widen` gives element `i` of a register.
#[inline(always)]
fn factors<R: Lane>(
    m: &Matrix,
    registers: &Registers<'_>,
    widen: impl Fn(R, u32) -> f64,
) -> Factors<f64, MOST_FLOATS> {
    let mut f = Factors { a: [0.0; MOST_FLOATS], b: [0.0; MOST_FLOATS] };
    spread_a::<f64, R>(&mut f.a, &m.a, (m.a_type, m.shape, m.opaque), registers, &widen);
    spread_b::<f64, R>(&mut f.b, &m.b, (m.b_type, m.shape, m.opaque), registers, &widen);
    f
}

type Shape = (u16, u16, u16);

/// Elements that a register holds.
#[inline(always)]
fn per(ty: MatrixType) -> usize {
    (32 / ty.bits()).max(1) as usize
}

/// Lanes 4g + t in the order 8t + g: what lies in one row or column comes together.
#[inline(always)]
fn turned<R: Lane>(v: &[R; LANES]) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for t in 0..4 {
        for g in 0..8 {
            out[8 * t + g] = v[4 * g + t];
        }
    }
    out
}

/// Widens the fragments of A into `a`, column by column.
#[inline(always)]
fn spread_a<T: Copy, R: Lane>(
    a: &mut [T],
    slots: &[Slot],
    (ty, shape, opaque): (MatrixType, Shape, bool),
    registers: &Registers<'_>,
    widen: impl Fn(R, u32) -> T,
) {
    let (rows, depth) = (usize::from(shape.0), usize::from(shape.2));
    let (e, bands) = (per(ty), (rows / 8).max(1));
    for (r, &slot) in slots.iter().enumerate() {
        let bits = R::read(registers, slot);
        if opaque {
            for (lane, &v) in bits.iter().enumerate() {
                for i in (0..e).filter(|i| e * r + i < rows * depth / LANES) {
                    let at = lane * rows * depth / LANES + e * r + i;
                    if let Some(place) = a.get_mut(at % depth * rows + at / depth) {
                        *place = widen(v, i as u32);
                    }
                }
            }
            continue;
        }
        let bits = turned(bits);
        for i in 0..e {
            for t in 0..4 {
                let k = e * t + i + 4 * e * (r / bands);
                let at = k * rows + 8 * (r % bands);
                if let Some(place) = a.get_mut(at..at + 8) {
                    for g in 0..8 {
                        place[g] = widen(bits[8 * t + g], i as u32);
                    }
                }
            }
        }
    }
}

/// Widens the fragments of B into `b`, row by row.
#[inline(always)]
fn spread_b<T: Copy, R: Lane>(
    b: &mut [T],
    slots: &[Slot],
    (ty, shape, opaque): (MatrixType, Shape, bool),
    registers: &Registers<'_>,
    widen: impl Fn(R, u32) -> T,
) {
    let (columns, depth) = (usize::from(shape.1), usize::from(shape.2));
    let e = per(ty);
    for (r, &slot) in slots.iter().enumerate() {
        let bits = R::read(registers, slot);
        if opaque {
            for (lane, &v) in bits.iter().enumerate() {
                for i in (0..e).filter(|i| e * r + i < columns * depth / LANES) {
                    let at = lane * columns * depth / LANES + e * r + i;
                    if let Some(place) = b.get_mut(at) {
                        *place = widen(v, i as u32);
                    }
                }
            }
            continue;
        }
        let bits = turned(bits);
        for i in 0..e {
            for t in 0..4 {
                let at = (e * t + i + 4 * e * r) * columns;
                if let Some(place) = b.get_mut(at..at + 8) {
                    for g in 0..8 {
                        place[g] = widen(bits[8 * t + g], i as u32);
                    }
                }
            }
        }
    }
}

/// Adds the products of eight rows of A and eight columns of B to `sums`, one k after the other.
#[inline(always)]
fn tile<T: Copy>(
    (a, b): (&[T], &[T]),
    (rows, columns, depth): (usize, usize, usize),
    sums: &mut [[T; 8]; 8],
    add: impl Fn(T, T, T) -> T,
) {
    for k in 0..depth {
        let (Some(x), Some(y)) = (
            a.get(k * rows..).and_then(<[T]>::first_chunk::<8>),
            b.get(k * columns..).and_then(<[T]>::first_chunk::<8>),
        ) else {
            return;
        };
        for r in 0..8 {
            for c in 0..8 {
                sums[r][c] = add(x[r], y[c], sums[r][c]);
            }
        }
    }
}

/// Where element `n` of a lane's part of C and D lies.
#[inline(always)]
fn cell(m: &Matrix, lane: usize, n: usize) -> usize {
    let (rows, columns) = (usize::from(m.shape.0), usize::from(m.shape.1));
    if m.opaque {
        lane * rows * columns / LANES + n
    } else {
        (lane / 4 + 8 * (n / 2)) * columns + 2 * (lane % 4) + n % 2
    }
}

/// The products of all rows and columns, in order of the rows. `start` gives a sum's first value.
#[inline(always)]
fn products<T: Copy + Default, const N: usize>(
    m: &Matrix,
    f: &Factors<T, N>,
    start: impl Fn(usize) -> T,
    add: impl Fn(T, T, T) -> T,
) -> [T; MOST_RESULTS] {
    let (rows, columns, depth) =
        (usize::from(m.shape.0), usize::from(m.shape.1), usize::from(m.shape.2));
    let mut out = [T::default(); MOST_RESULTS];
    for row in (0..rows).step_by(8) {
        for column in (0..columns).step_by(8) {
            let at = |r: usize| (row + r) * columns + column;
            let mut sums = [[T::default(); 8]; 8];
            for r in 0..8 {
                for c in 0..8 {
                    sums[r][c] = start(at(r) + c);
                }
            }
            tile((&f.a[row..], &f.b[column..]), (rows, columns, depth), &mut sums, &add);
            for r in 0..8 {
                if let Some(place) = out.get_mut(at(r)..at(r) + 8) {
                    place.copy_from_slice(&sums[r]);
                }
            }
        }
    }
    out
}

/// Element `n` of every lane's part of C, of floats.
#[inline(always)]
fn floats_of_c(m: &Matrix, registers: &Registers<'_>, n: usize) -> [f64; LANES] {
    let Some(&slot) = m.c.get(n / per(m.c_type)) else { return [0.0; LANES] };
    match m.c_type {
        MatrixType::F64 => u64::read(registers, slot).map(f64::from_bits),
        MatrixType::F16 => {
            let shift = 16 * (n % 2);
            u32::read(registers, slot).map(|v| f64::from(f16_to_f32(v >> shift & 0xffff)))
        }
        _ => u32::read(registers, slot).map(|v| f64::from(f32::from_bits(v))),
    }
}

/// Writes D = A B + C.
#[inline(always)]
fn floats<const FUSED: bool>(
    m: &Matrix,
    registers: &mut Registers<'_>,
    mask: u32,
    f: &Factors<f64, MOST_FLOATS>,
) {
    let mine = usize::from(m.shape.0) * usize::from(m.shape.1) / LANES;
    let exact = m.a_type == MatrixType::F64;
    // Doubles are summed onto C; the others' products, which are exact, first among themselves.
    let mut first = [-0.0; MOST_RESULTS];
    if exact {
        for n in 0..mine {
            for (lane, v) in floats_of_c(m, registers, n).into_iter().enumerate() {
                first[cell(m, lane, n) % MOST_RESULTS] = v;
            }
        }
    }
    let sums = products(
        m,
        f,
        |at| first[at % MOST_RESULTS],
        |x, y, sum| {
            if FUSED || exact { x.mul_add(y, sum) } else { x * y + sum }
        },
    );
    let value = |registers: &Registers<'_>, n: usize| -> [f64; LANES] {
        let sum: [f64; LANES] = std::array::from_fn(|lane| sums[cell(m, lane, n) % MOST_RESULTS]);
        if exact {
            return sum;
        }
        let start = floats_of_c(m, registers, n);
        std::array::from_fn(|lane| start[lane] + sum[lane])
    };
    // All of C is read before any of D is written: they may be the same registers.
    let mut values = [[0.0; LANES]; MOST_RESULTS / LANES];
    for (n, v) in values.iter_mut().enumerate().take(mine) {
        *v = value(registers, n);
    }
    for (r, &slot) in m.d.iter().enumerate().take(mine.div_ceil(per(m.d_type))) {
        match m.d_type {
            MatrixType::F64 => u64::write(registers, slot, mask, values[r].map(float64::bits)),
            MatrixType::F16 => {
                let half = |v: f64| f32_to_f16(round_f64_to_f32(v, Rounding::Odd));
                let (low, high) = (&values[2 * r], &values[2 * r + 1]);
                let out = std::array::from_fn(|lane| half(low[lane]) | half(high[lane]) << 16);
                u32::write(registers, slot, mask, out);
            }
            _ => u32::write(registers, slot, mask, values[r].map(|v| float32::bits(v as f32))),
        }
    }
}

/// The same for integers.
#[inline(always)]
fn integers(m: &Matrix, registers: &mut Registers<'_>, mask: u32, f: &Factors<i32, MOST_INTEGERS>) {
    let mine = usize::from(m.shape.0) * usize::from(m.shape.1) / LANES;
    let xor = m.a_type == MatrixType::B1Xor;
    // At most 256 products of 16 bits: the sum fits.
    let sums = products(
        m,
        f,
        |_| 0,
        |x: i32, y, sum: i32| sum.wrapping_add(if xor { x ^ y } else { x.wrapping_mul(y) }),
    );
    // All of C is read before any of D is written: they may be the same registers.
    let mut values = [[0u32; LANES]; MOST_RESULTS / LANES];
    for (n, (out, &c)) in values.iter_mut().zip(&m.c).enumerate().take(mine) {
        let start = u32::read(registers, c);
        for lane in 0..LANES {
            let (start, sum) = (start[lane] as i32, sums[cell(m, lane, n) % MOST_RESULTS]);
            let v = if m.saturate { start.saturating_add(sum) } else { start.wrapping_add(sum) };
            out[lane] = v as u32;
        }
    }
    for (&slot, v) in m.d.iter().zip(values).take(mine) {
        u32::write(registers, slot, mask, v);
    }
}
