//! Integer arithmetic on 32-bit slots: `.u32`, `.s32`, `.b32` and the 16-bit types, which live in the low half of a slot
//! with the high half zero. Source: PTX ISA 9.0, sections 9.7.1, 9.7.2 and 9.7.8.
//!
//! Division by zero has no defined result in PTX; here it gives all ones (and the dividend as remainder).

use super::lane_ops;

/// Sign-extends the low 16 bits.
#[inline(always)]
pub(crate) fn s16(a: u32) -> i32 {
    i32::from(a as i16)
}

/// Keeps the low 16 bits.
#[inline(always)]
fn low16(a: i32) -> u32 {
    a as u32 & 0xffff
}

/// Sign-extends 24 bits.
#[inline(always)]
fn s24(a: u32) -> i64 {
    i64::from((a << 8) as i32 >> 8)
}

/// Every byte of `selector` picks one of eight bytes: the general mode of `prmt`.
#[inline(always)]
fn pick_bytes(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut out = 0;
    let mut i = 0;
    while i < 4 {
        let s = selector >> (4 * i) & 0xf;
        let byte = (bytes >> ((s & 7) * 8)) as u32 & 0xff;
        // Bit 3 replicates the byte's sign.
        let sign = if byte & 0x80 != 0 { 0xff } else { 0 };
        out |= (if s & 8 != 0 { sign } else { byte }) << (8 * i);
        i += 1;
    }
    out
}

/// `prmt` in the mode `x`: 0 general, 1 f4e, 2 b4e, 3 rc8, 4 ecl, 5 ecr, 6 rc16.
#[inline(always)]
fn permute(a: u32, b: u32, c: u32, x: u8) -> u32 {
    let s = c & 3;
    let selector = match x {
        0 => c & 0xffff,
        1 => [0x3210, 0x4321, 0x5432, 0x6543][s as usize],
        2 => [0x5670, 0x6701, 0x7012, 0x0123][s as usize],
        3 => s * 0x1111,
        4 => [0x3210, 0x3211, 0x3222, 0x3333][s as usize],
        5 => [0x0000, 0x1110, 0x2210, 0x3210][s as usize],
        _ => [0x1010, 0x3232, 0x1010, 0x3232][s as usize],
    };
    pick_bytes(a, b, selector)
}

/// The bit-wise function of three inputs whose truth table is `x`.
#[inline(always)]
pub(crate) fn lut3(a: u32, b: u32, c: u32, x: u8) -> u32 {
    let mut out = 0;
    let t = |bit: u8| if x >> bit & 1 != 0 { u32::MAX } else { 0 };
    out |= t(0) & !a & !b & !c;
    out |= t(1) & !a & !b & c;
    out |= t(2) & !a & b & !c;
    out |= t(3) & !a & b & c;
    out |= t(4) & a & !b & !c;
    out |= t(5) & a & !b & c;
    out |= t(6) & a & b & !c;
    out |= t(7) & a & b & c;
    out
}

/// Byte `i` of `a`, widened as `signed` says.
#[inline(always)]
fn byte(a: u32, i: u32, signed: bool) -> i32 {
    let b = (a >> (8 * i)) as u8;
    if signed { i32::from(b as i8) } else { i32::from(b) }
}

/// Half `i` of `a`, widened as `signed` says.
#[inline(always)]
fn half(a: u32, i: u32, signed: bool) -> i32 {
    let h = (a >> (16 * i)) as u16;
    if signed { i32::from(h as i16) } else { i32::from(h) }
}

/// Extracts `len` bits at `pos`, both taken from the low byte; the sign bit replicated when `signed`.
#[inline(always)]
fn extract(a: u32, pos: u32, len: u32, signed: bool) -> u32 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let top = (pos + len - 1).min(31);
    let sign = if signed && a >> top & 1 != 0 { u32::MAX } else { 0 };
    let shifted = if pos > 31 { 0 } else { a >> pos };
    let keep = if len > 31 { u32::MAX } else { (1 << len) - 1 };
    // Bits beyond the word count as sign bits.
    let real = if pos > 31 { 0 } else { u32::MAX >> pos };
    let keep = keep & real;
    (shifted & keep) | (sign & !keep)
}

/// The `offset`-th set bit of `mask` counted from `base` (upwards when positive), or all ones.
fn nth_set(mask: u32, base: u32, offset: u32) -> u32 {
    let offset = offset as i32;
    let base = base & 31;
    if offset == 0 {
        return if mask >> base & 1 != 0 { base } else { u32::MAX };
    }
    let (step, mut left) = if offset > 0 { (1i32, offset) } else { (-1, offset.saturating_neg()) };
    let mut at = base as i32;
    while (0..32).contains(&at) {
        if mask >> at & 1 != 0 {
            left -= 1;
            if left == 0 {
                return at as u32;
            }
        }
        at += step;
    }
    u32::MAX
}

/// Applies a function to both halves.
#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    (f(a & 0xffff, b & 0xffff) & 0xffff) | f(a >> 16, b >> 16) << 16
}

/// In `x` of `Simd…`: what is done with each pair of parts (low three bits).
pub(crate) const SIMD_ADD: u8 = 0;
pub(crate) const SIMD_SUB: u8 = 1;
pub(crate) const SIMD_AVERAGE: u8 = 2;
pub(crate) const SIMD_DIFFERENCE: u8 = 3;
pub(crate) const SIMD_MIN: u8 = 4;
pub(crate) const SIMD_MAX: u8 = 5;
/// a, b and the result are signed; results saturate; results are summed onto c.
pub(crate) const SIMD_SIGNED_A: u8 = 8;
pub(crate) const SIMD_SIGNED_B: u8 = 16;
pub(crate) const SIMD_SIGNED_D: u8 = 32;
pub(crate) const SIMD_SATURATE: u8 = 64;
pub(crate) const SIMD_SUM: u8 = 128;

/// The video instructions on parts of `width` bits.
fn simd(a: u32, b: u32, c: u32, x: u8, width: u32) -> u32 {
    let ones = (1u32 << width) - 1;
    let part = |v: u32, i: u32, signed: bool| {
        let raw = v >> (i * width) & ones;
        if signed { ((raw << (32 - width)) as i32) >> (32 - width) } else { raw as i32 }
    };
    let signed = x & SIMD_SIGNED_D != 0;
    let (low, high) =
        if signed { (-(1i32 << (width - 1)), (1i32 << (width - 1)) - 1) } else { (0, ones as i32) };
    let mut out = if x & SIMD_SUM != 0 { c } else { 0 };
    let mut i = 0;
    while i < 32 / width {
        let (p, q) = (part(a, i, x & SIMD_SIGNED_A != 0), part(b, i, x & SIMD_SIGNED_B != 0));
        let v = match x & 7 {
            SIMD_ADD => p + q,
            SIMD_SUB => p - q,
            SIMD_AVERAGE => (p + q + i32::from(p + q >= 0)) >> 1,
            SIMD_DIFFERENCE => (p - q).abs(),
            SIMD_MIN => p.min(q),
            _ => p.max(q),
        };
        let v = if x & SIMD_SATURATE != 0 { v.clamp(low, high) } else { v };
        out = if x & SIMD_SUM != 0 {
            out.wrapping_add(v as u32)
        } else {
            out | (v as u32 & ones) << (i * width)
        };
        i += 1;
    }
    out
}

lane_ops! {
    /// Integer operations with a 32-bit result.
    Int32, x;

    Mov(a: u32) -> u32 { a }
    Add(a: u32, b: u32) -> u32 { a.wrapping_add(b) }
    Sub(a: u32, b: u32) -> u32 { a.wrapping_sub(b) }
    AddSat(a: u32, b: u32) -> u32 { (a as i32).saturating_add(b as i32) as u32 }
    SubSat(a: u32, b: u32) -> u32 { (a as i32).saturating_sub(b as i32) as u32 }
    /// a + b + carry (0 or 1).
    AddC(a: u32, b: u32, c: u32) -> u32 { a.wrapping_add(b).wrapping_add(c) }
    /// Carry out of a + b + carry.
    CarryAdd(a: u32, b: u32, c: u32) -> u32 { ((u64::from(a) + u64::from(b) + u64::from(c)) >> 32) as u32 }
    /// a - b - borrow (0 or 1).
    SubC(a: u32, b: u32, c: u32) -> u32 { a.wrapping_sub(b).wrapping_sub(c) }
    /// Borrow out of a - b - borrow.
    BorrowSub(a: u32, b: u32, c: u32) -> u32 { u32::from(u64::from(a) < u64::from(b) + u64::from(c)) }
    MulLo(a: u32, b: u32) -> u32 { a.wrapping_mul(b) }
    MulHiU(a: u32, b: u32) -> u32 { ((u64::from(a) * u64::from(b)) >> 32) as u32 }
    MulHiS(a: u32, b: u32) -> u32 { ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32 }
    MadLo(a: u32, b: u32, c: u32) -> u32 { a.wrapping_mul(b).wrapping_add(c) }
    MadHiU(a: u32, b: u32, c: u32) -> u32 { (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c) }
    MadHiS(a: u32, b: u32, c: u32) -> u32 {
        (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c)
    }
    MadHiSat(a: u32, b: u32, c: u32) -> u32 {
        (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as i32).saturating_add(c as i32) as u32
    }
    Mul24LoU(a: u32, b: u32) -> u32 { (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff) }
    Mul24LoS(a: u32, b: u32) -> u32 { (s24(a) * s24(b)) as u32 }
    Mul24HiU(a: u32, b: u32) -> u32 { ((u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) >> 16) as u32 }
    Mul24HiS(a: u32, b: u32) -> u32 { ((s24(a) * s24(b)) >> 16) as u32 }
    // Quotients of 32-bit integers are exact in double precision, which vectorises.
    DivU(a: u32, b: u32) -> u32 { if b == 0 { u32::MAX } else { (f64::from(a) / f64::from(b)) as u32 } }
    DivS(a: u32, b: u32) -> u32 {
        if b == 0 { u32::MAX } else { (f64::from(a as i32) / f64::from(b as i32)) as i64 as u32 }
    }
    RemU(a: u32, b: u32) -> u32 {
        if b == 0 { a } else { a.wrapping_sub(((f64::from(a) / f64::from(b)) as u32).wrapping_mul(b)) }
    }
    RemS(a: u32, b: u32) -> u32 {
        if b == 0 {
            a
        } else {
            a.wrapping_sub(((f64::from(a as i32) / f64::from(b as i32)) as i64 as u32).wrapping_mul(b))
        }
    }
    MinU(a: u32, b: u32) -> u32 { a.min(b) }
    MaxU(a: u32, b: u32) -> u32 { a.max(b) }
    MinS(a: u32, b: u32) -> u32 { (a as i32).min(b as i32) as u32 }
    MaxS(a: u32, b: u32) -> u32 { (a as i32).max(b as i32) as u32 }
    MinSRelu(a: u32, b: u32) -> u32 { (a as i32).min(b as i32).max(0) as u32 }
    MaxSRelu(a: u32, b: u32) -> u32 { (a as i32).max(b as i32).max(0) as u32 }
    And(a: u32, b: u32) -> u32 { a & b }
    Or(a: u32, b: u32) -> u32 { a | b }
    Xor(a: u32, b: u32) -> u32 { a ^ b }
    Not(a: u32) -> u32 { !a }
    CNot(a: u32) -> u32 { u32::from(a == 0) }
    Shl(a: u32, b: u32) -> u32 { if b > 31 { 0 } else { a << (b & 31) } }
    ShrU(a: u32, b: u32) -> u32 { if b > 31 { 0 } else { a >> (b & 31) } }
    ShrS(a: u32, b: u32) -> u32 { ((a as i32) >> b.min(31)) as u32 }
    Neg(a: u32) -> u32 { a.wrapping_neg() }
    Abs(a: u32) -> u32 { (a as i32).wrapping_abs() as u32 }
    Popc(a: u32) -> u32 { a.count_ones() }
    Clz(a: u32) -> u32 { a.leading_zeros() }
    Brev(a: u32) -> u32 { a.reverse_bits() }
    /// Highest set bit (x = 1: as a left shift that would bring it to the top), or all ones.
    BfindU(a: u32) -> u32 {
        if a == 0 { u32::MAX } else if x == 1 { a.leading_zeros() } else { 31 - a.leading_zeros() }
    }
    /// Highest bit that differs from the sign.
    BfindS(a: u32) -> u32 {
        let v = if (a as i32) < 0 { !a } else { a };
        if v == 0 { u32::MAX } else if x == 1 { v.leading_zeros() } else { 31 - v.leading_zeros() }
    }
    BfeU(a: u32, b: u32, c: u32) -> u32 { extract(a, b, c, false) }
    BfeS(a: u32, b: u32, c: u32) -> u32 { extract(a, b, c, true) }
    /// Low bytes of two registers side by side: position and length for `Bfi`.
    Pair8(a: u32, b: u32) -> u32 { (a & 0xff) | (b & 0xff) << 8 }
    /// Inserts a's low bits into b; c is position and length as `Pair8` makes it.
    Bfi(a: u32, b: u32, c: u32) -> u32 {
        let (pos, len) = (c & 0xff, c >> 8 & 0xff);
        let ones = if len > 31 { u32::MAX } else { (1u32 << (len & 31)) - 1 };
        if pos > 31 { b } else { (b & !(ones << (pos & 31))) | ((a & ones) << (pos & 31)) }
    }
    /// Truth table in x.
    Lop3(a: u32, b: u32, c: u32) -> u32 { lut3(a, b, c, x) }
    /// Mode in x, see `permute`.
    Prmt(a: u32, b: u32, c: u32) -> u32 { permute(a, b, c, x) }
    /// Funnel shift left; x = 1 clamps the count at 32, else it wraps.
    ShfL(a: u32, b: u32, c: u32) -> u32 {
        let n = if x == 1 { c.min(32) } else { c & 31 };
        (((u64::from(b) << 32 | u64::from(a)) << n) >> 32) as u32
    }
    /// Funnel shift right; x = 1 clamps the count at 32, else it wraps.
    ShfR(a: u32, b: u32, c: u32) -> u32 {
        let n = if x == 1 { c.min(32) } else { c & 31 };
        ((u64::from(b) << 32 | u64::from(a)) >> n) as u32
    }
    SadU(a: u32, b: u32, c: u32) -> u32 { c.wrapping_add(a.abs_diff(b)) }
    SadS(a: u32, b: u32, c: u32) -> u32 { c.wrapping_add((a as i32).abs_diff(b as i32)) }
    /// c + dot product of four bytes; x bit 0: a signed, bit 1: b signed.
    Dp4a(a: u32, b: u32, c: u32) -> u32 {
        let (sa, sb) = (x & 1 != 0, x & 2 != 0);
        let mut sum = c;
        let mut i = 0;
        while i < 4 {
            sum = sum.wrapping_add((byte(a, i, sa) * byte(b, i, sb)) as u32);
            i += 1;
        }
        sum
    }
    /// c + dot product of a's halves and two bytes of b; x bits 0 and 1 as `Dp4a`, bit 2: the upper bytes.
    Dp2a(a: u32, b: u32, c: u32) -> u32 {
        let (sa, sb, up) = (x & 1 != 0, x & 2 != 0, if x & 4 != 0 { 2 } else { 0 });
        c.wrapping_add(half(a, 0, sa).wrapping_mul(byte(b, up, sb)) as u32)
            .wrapping_add(half(a, 1, sa).wrapping_mul(byte(b, up + 1, sb)) as u32)
    }
    /// a when c is not negative, else b.
    SlctS(a: u32, b: u32, c: u32) -> u32 { if c as i32 >= 0 { a } else { b } }
    /// a when the float c is not negative (x = 1: subnormals count as zero), else b; a NaN selects b.
    SlctF(a: u32, b: u32, c: u32) -> u32 {
        let c = if x == 1 && c & 0x7f80_0000 == 0 { 0 } else { c };
        if f32::from_bits(c) >= 0.0 { a } else { b }
    }
    Fns(a: u32, b: u32, c: u32) -> u32 { nth_set(a, b, c) }
    /// b ones from bit a on; x = 1 clamps the numbers, else they wrap.
    Bmsk(a: u32, b: u32) -> u32 {
        let (pos, len) = if x == 1 { (a.min(32), b.min(32)) } else { (a & 31, b & 31) };
        ((((1u64 << len) - 1) << pos) & 0xffff_ffff) as u32
    }
    /// a cut to b bits and extended; x bit 0: signed, bit 1: clamp b at 32, else it wraps.
    Szext(a: u32, b: u32) -> u32 {
        let n = if x & 2 != 0 { b.min(32) } else { b & 31 };
        if n == 0 {
            0
        } else if x & 1 != 0 {
            ((a << (32 - n)) as i32 >> (32 - n)) as u32
        } else {
            a << (32 - n) >> (32 - n)
        }
    }

    Add16(a: u32, b: u32) -> u32 { a.wrapping_add(b) & 0xffff }
    Sub16(a: u32, b: u32) -> u32 { a.wrapping_sub(b) & 0xffff }
    MulLo16(a: u32, b: u32) -> u32 { a.wrapping_mul(b) & 0xffff }
    MulHiU16(a: u32, b: u32) -> u32 { (a & 0xffff).wrapping_mul(b & 0xffff) >> 16 }
    MulHiS16(a: u32, b: u32) -> u32 { low16((s16(a) * s16(b)) >> 16) }
    MulWideS16(a: u32, b: u32) -> u32 { (s16(a) * s16(b)) as u32 }
    MulWideU16(a: u32, b: u32) -> u32 { (a & 0xffff).wrapping_mul(b & 0xffff) }
    DivS16(a: u32, b: u32) -> u32 { low16(s16(a).checked_div(s16(b)).unwrap_or(-1)) }
    RemS16(a: u32, b: u32) -> u32 { low16(s16(a).checked_rem(s16(b)).unwrap_or(s16(a))) }
    MinS16(a: u32, b: u32) -> u32 { low16(s16(a).min(s16(b))) }
    MaxS16(a: u32, b: u32) -> u32 { low16(s16(a).max(s16(b))) }
    Not16(a: u32) -> u32 { !a & 0xffff }
    Shl16(a: u32, b: u32) -> u32 { if b > 15 { 0 } else { (a << (b & 15)) & 0xffff } }
    ShrS16(a: u32, b: u32) -> u32 { low16(s16(a) >> b.min(15)) }
    Neg16(a: u32) -> u32 { a.wrapping_neg() & 0xffff }
    Abs16(a: u32) -> u32 { low16(s16(a).wrapping_abs()) }
    SadU16(a: u32, b: u32, c: u32) -> u32 { c.wrapping_add((a & 0xffff).abs_diff(b & 0xffff)) & 0xffff }
    SadS16(a: u32, b: u32, c: u32) -> u32 { c.wrapping_add(s16(a).abs_diff(s16(b))) & 0xffff }

    Add16x2(a: u32, b: u32) -> u32 { halves(a, b, |a, b| a.wrapping_add(b)) }
    MinU16x2(a: u32, b: u32) -> u32 { halves(a, b, u32::min) }
    MaxU16x2(a: u32, b: u32) -> u32 { halves(a, b, u32::max) }
    /// x = 1: negative results become zero.
    MinS16x2(a: u32, b: u32) -> u32 {
        halves(a, b, |a, b| { let v = s16(a).min(s16(b)); (if x == 1 { v.max(0) } else { v }) as u32 })
    }
    /// x = 1: negative results become zero.
    MaxS16x2(a: u32, b: u32) -> u32 {
        halves(a, b, |a, b| { let v = s16(a).max(s16(b)); (if x == 1 { v.max(0) } else { v }) as u32 })
    }
    /// Four bytes at a time; x as the `SIMD_` constants say.
    Simd4(a: u32, b: u32, c: u32) -> u32 { simd(a, b, c, x, 8) }
    /// Two halves at a time.
    Simd2(a: u32, b: u32, c: u32) -> u32 { simd(a, b, c, x, 16) }

    /// Two halves into one word.
    Pack16(a: u32, b: u32) -> u32 { (a & 0xffff) | b << 16 }
    Low16(a: u32) -> u32 { a & 0xffff }
    High16(a: u32) -> u32 { a >> 16 }
    /// Byte x.
    Byte(a: u32) -> u32 { a >> (8 * u32::from(x & 3)) & 0xff }
    Sext8(a: u32) -> u32 { a as i8 as i32 as u32 }
    Sext16(a: u32) -> u32 { a as i16 as i32 as u32 }
    /// Sign-extends a byte to 16 bits.
    Sext8To16(a: u32) -> u32 { a as i8 as i32 as u32 & 0xffff }
    Zext8(a: u32) -> u32 { a & 0xff }
}
