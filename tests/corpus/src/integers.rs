//! Integer instructions (PTX ISA, Integer Arithmetic and Extended-Precision Arithmetic
//! Instructions).
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    int32_ops in op_int
        "32-bit: add to dp2a, saturation, carries, packed 16-bit, vabsdiff4" [] int32_ops;
    int64_ops in op_int "64-bit: wide products, high products, division, 128-bit" [] int64_ops;
    int16_ops in op_int "16-bit: arithmetic, shifts, wide products" [] int16_ops;
}

fn low24(x: u32) -> u32 {
    x & 0xff_ffff
}

fn low24s(x: u32) -> i32 {
    (x << 8) as i32 >> 8
}

/// Sum of products, plus c.
fn dots(a: &[i64], b: &[i64], c: u32) -> u32 {
    a.iter().zip(b).fold(c, |sum, (x, y)| sum.wrapping_add((x * y) as u32))
}

fn bytes(x: u32, signed: bool) -> Vec<i64> {
    x.to_le_bytes()
        .iter()
        .map(|&b| if signed { i64::from(b as i8) } else { i64::from(b) })
        .collect()
}

fn shorts(x: u32, signed: bool) -> Vec<i64> {
    [x as u16, (x >> 16) as u16]
        .iter()
        .map(|&h| if signed { i64::from(h as i16) } else { i64::from(h) })
        .collect()
}

fn pair(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn int32(a: u32, b: u32, c: u32) -> Vec<u32> {
    let (sa, sb, sc) = (a as i32, b as i32, c as i32);
    let wide = i64::from(sa) * i64::from(sb);
    let uwide = u64::from(a) * u64::from(b);
    let hi = (wide >> 32) as i32;
    let sum96 = {
        let x = u128::from(a) | u128::from(b) << 32 | u128::from(c) << 64;
        let y = u128::from(b) | u128::from(c) << 32 | u128::from(a) << 64;
        (x.wrapping_add(y), x.wrapping_sub(y))
    };
    let product = uwide.wrapping_add(u64::from(c));
    vec![
        a.wrapping_add(b),
        a.wrapping_sub(b),
        a.wrapping_mul(b),
        hi as u32,
        (uwide >> 32) as u32,
        (i64::from(low24s(a)) * i64::from(low24s(b))) as u32,
        (u64::from(low24(a)) * u64::from(low24(b))) as u32,
        ((i64::from(low24s(a)) * i64::from(low24s(b))) >> 16) as u32,
        ((u64::from(low24(a)) * u64::from(low24(b))) >> 16) as u32,
        a.wrapping_mul(b).wrapping_add(c),
        hi.wrapping_add(sc) as u32,
        ((uwide >> 32) as u32).wrapping_add(c),
        hi.saturating_add(sc) as u32,
        ((i64::from(low24s(a)) * i64::from(low24s(b))) as u32).wrapping_add(c),
        (((u64::from(low24(a)) * u64::from(low24(b))) >> 16) as u32).wrapping_add(c),
        sa.abs_diff(sb).wrapping_add(c),
        a.abs_diff(b).wrapping_add(c),
        sa.wrapping_div(sb) as u32,
        a / b,
        sa.wrapping_rem(sb) as u32,
        a % b,
        sa.wrapping_abs() as u32,
        sa.wrapping_neg() as u32,
        sa.min(sb) as u32,
        a.min(b),
        sa.max(sb) as u32,
        a.max(b),
        sa.saturating_add(sb) as u32,
        sa.saturating_sub(sb) as u32,
        a & b,
        a | b,
        a ^ b,
        !a,
        u32::from(a & 3 == 0),
        dots(&bytes(a, true), &bytes(b, true), c),
        dots(&bytes(a, false), &bytes(b, false), c),
        dots(&bytes(a, true), &bytes(b, false), c),
        dots(&bytes(a, false), &bytes(b, true), c),
        dots(&shorts(a, true), &bytes(b, true)[..2], c),
        dots(&shorts(a, false), &bytes(b, false)[2..], c),
        a.to_le_bytes()
            .iter()
            .zip(b.to_le_bytes())
            .fold(c, |s, (x, y)| s.wrapping_add(u32::from(x.abs_diff(y)))),
        pair(a, b, |x, y| (x as i16).min(y as i16) as u16),
        pair(a, b, u16::max),
        pair(a, b, u16::wrapping_add),
        sa.min(sb).max(0) as u32,
        sum96.0 as u32,
        (sum96.0 >> 32) as u32,
        (sum96.0 >> 64) as u32,
        sum96.1 as u32,
        (sum96.1 >> 32) as u32,
        (sum96.1 >> 64) as u32,
        product as u32,
        (product >> 32) as u32,
    ]
}

/// Turns one row of results an element into planes.
pub(crate) fn planes<T: Copy>(rows: &[Vec<T>]) -> Vec<T> {
    (0..rows[0].len()).flat_map(|k| rows.iter().map(move |row| row[k])).collect()
}

fn int32_ops(size: Size) -> Setup {
    let n = size.pick(500, 1 << 15);
    let mut r = Random::new("int32_ops");
    let a = r.edgy(n);
    // Dividing by 0 is undefined in PTX, and so is the least value divided by -1.
    let b: Vec<u32> = r
        .edgy(n)
        .iter()
        .zip(&a)
        .map(|(&b, &a)| if b == 0 || (a == 1 << 31 && b == u32::MAX) { 3 } else { b })
        .collect();
    let c = r.edgy(n);
    let rows: Vec<Vec<u32>> = (0..n).map(|i| int32(a[i], b[i], c[i])).collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&b).input(&c).exact(&planes(&rows)).arg(n as u32)
}

fn int64(a: u64, b: u64) -> Vec<u64> {
    let (sa, sb) = (a as i64, b as i64);
    let wide = u128::from(a).wrapping_mul(u128::from(b));
    let mixed = wide.wrapping_add(u128::from(b) << 64 | u128::from(a));
    let low = i64::from(a as u32 as i32) * i64::from(b as u32 as i32);
    vec![
        a.wrapping_add(b),
        a.wrapping_sub(b),
        a.wrapping_mul(b),
        ((i128::from(sa) * i128::from(sb)) >> 64) as u64,
        (wide >> 64) as u64,
        low as u64,
        u64::from(a as u32) * u64::from(b as u32),
        sa.wrapping_div(sb) as u64,
        a / b,
        sa.wrapping_rem(sb) as u64,
        a % b,
        sa.wrapping_abs() as u64,
        sa.wrapping_neg() as u64,
        sa.min(sb) as u64,
        a.max(b),
        a & b,
        a | b,
        a ^ b,
        !a,
        (low as u64).wrapping_add(a ^ b),
        a.wrapping_mul(b).wrapping_add(a ^ b),
        mixed as u64,
        (mixed >> 64) as u64,
    ]
}

fn int64_ops(size: Size) -> Setup {
    let n = size.pick(400, 1 << 15);
    let mut r = Random::new("int64_ops");
    let mut words = || -> Vec<u64> {
        let (lo, hi) = (r.edgy(n), r.edgy(n));
        lo.iter().zip(hi).map(|(&l, h)| u64::from(h) << 32 | u64::from(l)).collect()
    };
    let (a, mut b) = (words(), words());
    for (b, &a) in b.iter_mut().zip(&a) {
        if *b == 0 || (a == 1 << 63 && *b == u64::MAX) {
            *b = 3;
        }
    }
    let rows: Vec<Vec<u64>> = a.iter().zip(&b).map(|(&a, &b)| int64(a, b)).collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&b).exact(&planes(&rows)).arg(n as u32)
}

fn int16(a: u16, b: u16, i: u16) -> Vec<u32> {
    let (sa, sb) = (a as i16, b as i16);
    let amount = u32::from(b) & 31;
    let (wide, uwide) = (i32::from(sa) * i32::from(sb), u32::from(a) * u32::from(b));
    // Shifts of 16-bit values clamp their amount to 16.
    let narrow = [
        a.wrapping_add(b),
        a.wrapping_sub(b),
        a.wrapping_mul(b),
        (wide >> 16) as u16,
        (uwide >> 16) as u16,
    ];
    let rest = [
        sa.wrapping_div(sb) as u16,
        a % b,
        sa.min(sb) as u16,
        a.max(b),
        a & b,
        a ^ b,
        a.checked_shl(amount).unwrap_or(0),
        (sa >> amount.min(15)) as u16,
        a.checked_shr(amount).unwrap_or(0),
        a.wrapping_mul(b).wrapping_add(i),
        sa.wrapping_abs() as u16,
    ];
    let widen = |x: &u16| u32::from(*x);
    narrow.iter().map(widen).chain([wide as u32, uwide]).chain(rest.iter().map(widen)).collect()
}

fn int16_ops(size: Size) -> Setup {
    let n = size.pick(400, 1 << 15);
    let mut r = Random::new("int16_ops");
    let a: Vec<u16> = r.edgy(n).iter().map(|&v| v as u16).collect();
    let b: Vec<u16> = r
        .edgy(n)
        .iter()
        .zip(&a)
        .map(
            |(&b, &a)| {
                if b as u16 == 0 || (a == 1 << 15 && b as u16 == u16::MAX) { 3 } else { b as u16 }
            },
        )
        .collect();
    let rows: Vec<Vec<u32>> = (0..n).map(|i| int16(a[i], b[i], i as u16)).collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&b).exact(&planes(&rows)).arg(n as u32)
}
