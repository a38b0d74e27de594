//! Shifts and bit instructions (PTX ISA, Logic and Shift Instructions; bfe, bfi, prmt, fns, bmsk,
//! szext).
use crate::integers::planes;
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    shift_ops in op_bits "shifts that clamp, funnel shifts, 64-bit" [] shift_ops;
    bit_ops in op_bits "popc, clz, brev, bfind, bfe, bfi, prmt, lop3, fns, bmsk, szext" [] bit_ops;
}

fn shifts(a: u32, b: u32, c: u32) -> Vec<u32> {
    let w = u64::from(b) << 32 | u64::from(a);
    let clamp = c.min(32);
    // shf.l takes the high word of {b,a} shifted left, shf.r the low word of it shifted right.
    let left = |n: u32| (u128::from(w) << n >> 32) as u32;
    let right = |n: u32| (w >> n) as u32;
    let (l, r) = (w.checked_shl(c).unwrap_or(0), w.checked_shr(c).unwrap_or(0));
    let s = (w as i64 >> c.min(63)) as u64;
    vec![
        a.checked_shl(c).unwrap_or(0),
        a.checked_shr(c).unwrap_or(0),
        (a as i32 >> c.min(31)) as u32,
        left(c & 31),
        right(c & 31),
        left(clamp),
        right(clamp),
        l as u32,
        (l >> 32) as u32,
        r as u32,
        (r >> 32) as u32,
        s as u32,
        (s >> 32) as u32,
    ]
}

fn shift_ops(size: Size) -> Setup {
    let n = size.pick(400, 1 << 16);
    let mut r = Random::new("shift_ops");
    let (a, b) = (r.edgy(n), r.edgy(n));
    let c: Vec<u32> = (0..n).map(|i| if i % 17 == 0 { r.u32() } else { r.below(70) }).collect();
    let rows: Vec<Vec<u32>> = (0..n).map(|i| shifts(a[i], b[i], c[i])).collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&b).input(&c).exact(&planes(&rows)).arg(n as u32)
}

/// bfe over a word of `width` bits: bits past the top repeat the sign (signed) or are 0.
fn bfe(a: u64, pos: u32, len: u32, width: u32, signed: bool) -> u64 {
    let top = if len == 0 { return 0 } else { (pos + len - 1).min(width - 1) };
    let sign = signed && a >> top & 1 == 1;
    (0..width).fold(0, |out, i| {
        let bit = if i < len && pos + i < width { a >> (pos + i) & 1 == 1 } else { sign };
        out | u64::from(bit) << i
    })
}

/// bfi: bits of a replace `len` bits of b from `pos` on.
fn bfi(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    (0..len.min(width))
        .filter(|i| pos + i < width)
        .fold(b, |out, i| out & !(1 << (pos + i)) | (a >> i & 1) << (pos + i))
}

/// prmt by a selector of four nibbles; bit 3 of each repeats the byte's sign.
fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |i: u32| {
        let s = selector >> (4 * i) & 15;
        let byte = bytes[(s & 7) as usize];
        if s & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

/// prmt in a named mode: the table of the PTX ISA, selectors for c & 3 = 0, 1, 2, 3 (most
/// significant byte first).
fn prmt_mode(a: u32, b: u32, c: u32, selectors: [u32; 4]) -> u32 {
    prmt(a, b, selectors[(c & 3) as usize])
}

/// fns: the position of the n-th set bit from `base` on, upwards for n > 0 and downwards for n < 0
/// (none here); n = 0 asks for base itself.
fn fns(mask: u32, base: u32, n: u32) -> u32 {
    if n == 0 {
        return if mask >> base & 1 == 1 { base } else { u32::MAX };
    }
    (base..32).filter(|i| mask >> i & 1 == 1).nth(n as usize - 1).unwrap_or(u32::MAX)
}

fn bmsk(pos: u32, len: u32) -> u32 {
    (0..32).filter(|&i| i >= pos && i < pos + len).fold(0, |m, i| m | 1 << i)
}

fn bits(a: u32, b: u32, c: u32) -> Vec<u32> {
    let (pos, len) = (c & 63, c >> 8 & 63);
    let w = u64::from(b) << 32 | u64::from(a);
    let find = |x: u32| x.checked_ilog2().unwrap_or(u32::MAX);
    let magnitude = if (a as i32) < 0 { !a } else { a };
    let fold = |x: u64| x as u32 ^ (x >> 32) as u32;
    let lop = |table: u32| {
        (0..32).fold(0, |out, i| {
            let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1;
            out | (table >> index & 1) << i
        })
    };
    let low = |n: u32| if n >= 32 { a } else { a & ((1 << n) - 1) };
    let signed = |n: u32| if n == 0 { 0 } else { ((a << (32 - n)) as i32 >> (32 - n)) as u32 };
    let ffs = |x: u64| if x == 0 { 0 } else { x.trailing_zeros() + 1 };
    vec![
        a.count_ones(),
        (a & b & c).leading_zeros(),
        a.reverse_bits(),
        find(a & b & c),
        find(magnitude),
        (a & b).checked_ilog2().map_or(u32::MAX, |p| 31 - p),
        bfe(u64::from(a), pos, len, 32, false) as u32,
        bfe(u64::from(a), pos, len, 32, true) as u32,
        bfi(u64::from(a), u64::from(b), pos, len, 32) as u32,
        prmt(a, b, c),
        prmt_mode(a, b, c, [0x3210, 0x4321, 0x5432, 0x6543]),
        prmt_mode(a, b, c, [0x5670, 0x6701, 0x7012, 0x0123]),
        prmt_mode(a, b, c, [0x0000, 0x1111, 0x2222, 0x3333]),
        prmt_mode(a, b, c, [0x3210, 0x3211, 0x3222, 0x3333]),
        prmt_mode(a, b, c, [0x0000, 0x1110, 0x2210, 0x3210]),
        prmt_mode(a, b, c, [0x1010, 0x3232, 0x1010, 0x3232]),
        lop(0xe8),
        lop(0x1d),
        fns(a, b & 31, c & 3),
        bmsk(pos, len),
        bmsk(pos & 31, len & 31),
        low(pos),
        signed(pos & 31),
        w.count_ones(),
        (w >> pos).leading_zeros(),
        w.reverse_bits().wrapping_shr(32) as u32,
        fold(bfe(w, pos, len, 64, false)),
        fold(bfe(w, pos, len, 64, true)),
        fold(bfi(w, (!w).wrapping_mul(5), pos, len, 64)),
        ffs(u64::from(a & b)) + (ffs(w) << 8),
    ]
}

fn bit_ops(size: Size) -> Setup {
    let n = size.pick(400, 1 << 15);
    let mut r = Random::new("bit_ops");
    let (a, b, c) = (r.edgy(n), r.edgy(n), r.u32s(n));
    let rows: Vec<Vec<u32>> = (0..n).map(|i| bits(a[i], b[i], c[i])).collect();
    Setup::line(cover(n, 64), 64).input(&a).input(&b).input(&c).exact(&planes(&rows)).arg(n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_out_as_they_went_in() {
        for pos in 0..32 {
            for len in 0..32 - pos {
                let put = bfi(0x15a5_c3f0, 0xffff_0000, pos, len, 32);
                assert_eq!(bfe(put, pos, len, 32, false), 0x15a5_c3f0 & ((1 << len) - 1));
            }
        }
        assert_eq!(bfe(0x80, 4, 4, 32, true), 0xffff_fff8);
        assert_eq!(bfe(0x8000_0000, 28, 12, 32, true), 0xffff_fff8);
    }

    #[test]
    fn permutes() {
        assert_eq!(prmt(0x4433_2211, 0x8877_6655, 0x7531), 0x8866_4422);
        assert_eq!(prmt(0x0000_0080, 0, 0x8888), 0xffff_ffff);
    }

    #[test]
    fn the_nth_set_bit() {
        assert_eq!(
            (fns(0b1010_0110, 2, 1), fns(0b1010_0110, 2, 2), fns(0b1010_0110, 0, 0)),
            (2, 5, u32::MAX)
        );
    }
}
