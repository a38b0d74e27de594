//! Integer arithmetic with a 64-bit operand or result. Source: PTX ISA 9.0, sections 9.7.1, 9.7.2 and 9.7.8.

use super::lane_ops;

/// The high half of an unsigned product, in the shape that vectorises.
#[inline(always)]
fn mul_hi(a: u64, b: u64) -> u64 {
    let (al, ah, bl, bh) = (a & 0xffff_ffff, a >> 32, b & 0xffff_ffff, b >> 32);
    let mid = ah * bl + ((al * bl) >> 32);
    let mid2 = al * bh + (mid & 0xffff_ffff);
    ah * bh + (mid >> 32) + (mid2 >> 32)
}

/// Extracts `len` bits at `pos`, both taken from the low byte; the sign bit replicated when `signed`.
#[inline(always)]
fn extract(a: u64, pos: u32, len: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let top = (pos + len - 1).min(63);
    let sign = if signed && a >> top & 1 != 0 { u64::MAX } else { 0 };
    let shifted = if pos > 63 { 0 } else { a >> pos };
    let keep = if len > 63 { u64::MAX } else { (1 << len) - 1 };
    let real = if pos > 63 { 0 } else { u64::MAX >> pos };
    let keep = keep & real;
    (shifted & keep) | (sign & !keep)
}

lane_ops! {
    /// Integer operations with a 64-bit operand or result.
    Int64, x;

    Mov(a: u64) -> u64 { a }
    Add(a: u64, b: u64) -> u64 { a.wrapping_add(b) }
    Sub(a: u64, b: u64) -> u64 { a.wrapping_sub(b) }
    /// a + b + carry (0 or 1).
    AddC(a: u64, b: u64, c: u32) -> u64 { a.wrapping_add(b).wrapping_add(u64::from(c)) }
    /// Carry out of a + b + carry.
    CarryAdd(a: u64, b: u64, c: u32) -> u32 { ((u128::from(a) + u128::from(b) + u128::from(c)) >> 64) as u32 }
    /// a - b - borrow (0 or 1).
    SubC(a: u64, b: u64, c: u32) -> u64 { a.wrapping_sub(b).wrapping_sub(u64::from(c)) }
    /// Borrow out of a - b - borrow.
    BorrowSub(a: u64, b: u64, c: u32) -> u32 { u32::from(u128::from(a) < u128::from(b) + u128::from(c)) }
    MulLo(a: u64, b: u64) -> u64 { a.wrapping_mul(b) }
    MulHiU(a: u64, b: u64) -> u64 { mul_hi(a, b) }
    MulHiS(a: u64, b: u64) -> u64 {
        mul_hi(a, b)
            .wrapping_sub(if (a as i64) < 0 { b } else { 0 })
            .wrapping_sub(if (b as i64) < 0 { a } else { 0 })
    }
    MadLo(a: u64, b: u64, c: u64) -> u64 { a.wrapping_mul(b).wrapping_add(c) }
    MadHiU(a: u64, b: u64, c: u64) -> u64 { mul_hi(a, b).wrapping_add(c) }
    MadHiS(a: u64, b: u64, c: u64) -> u64 {
        mul_hi(a, b)
            .wrapping_sub(if (a as i64) < 0 { b } else { 0 })
            .wrapping_sub(if (b as i64) < 0 { a } else { 0 })
            .wrapping_add(c)
    }
    MulWideU(a: u32, b: u32) -> u64 { u64::from(a) * u64::from(b) }
    MulWideS(a: u32, b: u32) -> u64 { (i64::from(a as i32) * i64::from(b as i32)) as u64 }
    MadWideU(a: u32, b: u32, c: u64) -> u64 { (u64::from(a) * u64::from(b)).wrapping_add(c) }
    MadWideS(a: u32, b: u32, c: u64) -> u64 { ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c) }
    DivU(a: u64, b: u64) -> u64 { a.checked_div(b).unwrap_or(u64::MAX) }
    DivS(a: u64, b: u64) -> u64 { if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 } }
    RemU(a: u64, b: u64) -> u64 { a.checked_rem(b).unwrap_or(a) }
    RemS(a: u64, b: u64) -> u64 { if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 } }
    MinU(a: u64, b: u64) -> u64 { a.min(b) }
    MaxU(a: u64, b: u64) -> u64 { a.max(b) }
    MinS(a: u64, b: u64) -> u64 { (a as i64).min(b as i64) as u64 }
    MaxS(a: u64, b: u64) -> u64 { (a as i64).max(b as i64) as u64 }
    And(a: u64, b: u64) -> u64 { a & b }
    Or(a: u64, b: u64) -> u64 { a | b }
    Xor(a: u64, b: u64) -> u64 { a ^ b }
    Not(a: u64) -> u64 { !a }
    CNot(a: u64) -> u64 { u64::from(a == 0) }
    Shl(a: u64, b: u32) -> u64 { if b > 63 { 0 } else { a << (b & 63) } }
    ShrU(a: u64, b: u32) -> u64 { if b > 63 { 0 } else { a >> (b & 63) } }
    ShrS(a: u64, b: u32) -> u64 { ((a as i64) >> b.min(63)) as u64 }
    Neg(a: u64) -> u64 { a.wrapping_neg() }
    Abs(a: u64) -> u64 { (a as i64).wrapping_abs() as u64 }
    Popc(a: u64) -> u32 { a.count_ones() }
    Clz(a: u64) -> u32 { a.leading_zeros() }
    Brev(a: u64) -> u64 { a.reverse_bits() }
    /// Highest set bit (x = 1: as a left shift that would bring it to the top), or all ones.
    BfindU(a: u64) -> u32 {
        if a == 0 { u32::MAX } else if x == 1 { a.leading_zeros() } else { 63 - a.leading_zeros() }
    }
    /// Highest bit that differs from the sign.
    BfindS(a: u64) -> u32 {
        let v = if (a as i64) < 0 { !a } else { a };
        if v == 0 { u32::MAX } else if x == 1 { v.leading_zeros() } else { 63 - v.leading_zeros() }
    }
    BfeU(a: u64, b: u32, c: u32) -> u64 { extract(a, b, c, false) }
    BfeS(a: u64, b: u32, c: u32) -> u64 { extract(a, b, c, true) }
    /// Inserts a's low bits into b; c is position and length as `Int32::Pair8` makes it.
    Bfi(a: u64, b: u64, c: u32) -> u64 {
        let (pos, len) = (c & 0xff, c >> 8 & 0xff);
        let ones = if len > 63 { u64::MAX } else { (1u64 << (len & 63)) - 1 };
        if pos > 63 { b } else { (b & !(ones << (pos & 63))) | ((a & ones) << (pos & 63)) }
    }
    SadU(a: u64, b: u64, c: u64) -> u64 { c.wrapping_add(a.abs_diff(b)) }
    SadS(a: u64, b: u64, c: u64) -> u64 { c.wrapping_add((a as i64).abs_diff(b as i64)) }
    /// a when c is not negative, else b.
    SlctS(a: u64, b: u64, c: u32) -> u64 { if c as i32 >= 0 { a } else { b } }
    /// a when the float c is not negative (x = 1: subnormals count as zero), else b; a NaN selects b.
    SlctF(a: u64, b: u64, c: u32) -> u64 {
        let c = if x == 1 && c & 0x7f80_0000 == 0 { 0 } else { c };
        if f32::from_bits(c) >= 0.0 { a } else { b }
    }
    /// Two words into one.
    Pack32(a: u32, b: u32) -> u64 { u64::from(a) | u64::from(b) << 32 }
    Low32(a: u64) -> u32 { a as u32 }
    High32(a: u64) -> u32 { (a >> 32) as u32 }
    Zext32(a: u32) -> u64 { u64::from(a) }
    Sext32(a: u32) -> u64 { a as i32 as i64 as u64 }
    /// Sign-extends 16 bits.
    Sext16(a: u32) -> u64 { a as i16 as i64 as u64 }
    /// Sign-extends 8 bits.
    Sext8(a: u32) -> u64 { a as i8 as i64 as u64 }
}
