//! Atomics and reductions on memory (PTX ISA, Parallel Synchronization: atom, red).
use crate::element::Tolerance;
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    atomics32 in op_atomic
        "every 32-bit operation, scopes and semantics, red, generic" [] atomics32;
    atomics64 in op_atomic "every 64-bit operation" [] atomics64;
    atomics_float in op_atomic "f32, f64, f16x2, bf16x2 and vector f32 adds" [] atomics_float;
    atomics_shared in op_atomic "atomics in shared memory" [] atomics_shared;
    cas_widths in op_atomic "compare-and-swap of 16, 32 and 64 bits, exchange" [] cas_widths;
    cas128 in op_wide128 "compare-and-swap and exchange of 16 bytes, b128 moves" [Wide128] cas128;
}

fn atomics32(size: Size) -> Setup {
    let n = size.pick(500, 1 << 18);
    let mut r = Random::new("atomics32");
    let x = r.edgy(n);
    let initial: Vec<u32> =
        (0..8).flat_map(|_| [100, !0, 0, 7, !0, 0, 5, 5, 3, 3, 0, 0, 0, 0, 0, 0]).collect();
    let (mut bins, mut old) = (initial.clone(), Vec::new());
    for (i, &v) in x.iter().enumerate() {
        let b: &mut [u32] = &mut bins[(i & 7) * 16..][..16];
        old.push(b[0]);
        b[0] += 1;
        b[1] &= v | 0xff00_00ff;
        b[2] |= v & 0x0f0f_0f0f;
        b[3] ^= v;
        b[4] = b[4].min(v);
        b[5] = b[5].max(v);
        b[6] = (b[6] as i32).min(v as i32) as u32;
        b[7] = (b[7] as i32).max(v as i32) as u32;
        b[8] = if b[8] >= 9 { 0 } else { b[8] + 1 };
        b[9] = if b[9] == 0 || b[9] > 6 { 6 } else { b[9] - 1 };
        b[10] += 1;
        b[11] = b[11].wrapping_add(v);
        b[12] = (b[12] as i32).max(v as i32) as u32;
        b[13] |= v;
        b[14] += 3;
        b[15] += 2;
    }
    // Additions of 1 return every number once, whatever their order.
    Setup::line(cover(n, 64), 64)
        .inout(&initial, &bins, Tolerance::Exact)
        .input(&x)
        .output(&old, Tolerance::Unordered)
        .arg(n as u32)
}

fn atomics64(size: Size) -> Setup {
    let n = size.pick(400, 1 << 17);
    let mut r = Random::new("atomics64");
    let x = r.u64s(n);
    let one = [1, u64::MAX, 0, 7, u64::MAX, 0, 5, 5, 9, 9, 9, 0, 0, 0, 0, 0];
    let initial: Vec<u64> = (0..4).flat_map(|_| one).collect();
    let mut bins = initial.clone();
    for (i, &v) in x.iter().enumerate() {
        let b: &mut [u64] = &mut bins[(i & 3) * 16..][..16];
        b[0] = b[0].wrapping_add(v);
        b[1] &= v | 0xffff_0000_0000_ffff;
        b[2] |= v & 0x0f0f_0f0f_0f0f_0f0f;
        b[3] ^= v;
        b[4] = b[4].min(v);
        b[5] = b[5].max(v);
        b[6] = (b[6] as i64).min(v as i64) as u64;
        b[7] = (b[7] as i64).max(v as i64) as u64;
        b[8] = b[8].wrapping_add(v);
        b[9] ^= v;
        b[10] = (b[10] as i64).min(v as i64) as u64;
    }
    Setup::line(cover(n, 64), 64).inout(&initial, &bins, Tolerance::Exact).input(&x).arg(n as u32)
}

fn atomics_float(size: Size) -> Setup {
    // Sums stay where f16 (2048) and bf16 (256) count by ones: each of 16 words takes n / 16 ones.
    let n = size.pick(400, 2048);
    let (mut f, mut d, mut v4) = (vec![0.0f32; 8], vec![0.0f64; 4], vec![0.0f32; 16]);
    let mut ones = [0u32; 16];
    for i in 0..n {
        let x = (i % 5) as f32;
        f[i & 3] += x;
        f[4 + (i & 3)] += x;
        d[i & 3] += f64::from(x);
        ones[i & 15] += 1;
        for (c, add) in [x, 1.0, -x, 2.0].into_iter().enumerate() {
            v4[(i & 3) * 4 + c] += add;
        }
    }
    let h: Vec<half::f16> =
        ones.iter().flat_map(|&c| [1.0, 2.0].map(|w| half::f16::from_f32(w * c as f32))).collect();
    let bf: Vec<half::bf16> =
        ones.iter().flat_map(|&c| [half::bf16::from_f32(c as f32); 2]).collect();
    let exact = Tolerance::Exact;
    Setup::line(cover(n, 64), 64)
        .inout(&[0.0f32; 8], &f, exact)
        .inout(&[0.0f64; 4], &d, exact)
        .inout(&[half::f16::ZERO; 32], &h, exact)
        .inout(&[half::bf16::ZERO; 32], &bf, exact)
        .inout(&[0.0f32; 16], &v4, exact)
        .arg(n as u32)
}

fn atomics_shared(size: Size) -> Setup {
    let blocks = size.pick(3u32, 1024);
    let (block, n) = (128u32, (blocks * 128 - 50) as usize);
    let x = Random::new("atomics_shared").below_each(n, 1 << 20);
    let mut want = vec![0xA5A5_A5A5u32; (blocks * 24) as usize];
    for b in 0..blocks as usize {
        let v: Vec<u32> =
            (0..block as usize).map(|t| x.get(b * 128 + t).copied().unwrap_or(0)).collect();
        let (sum, top) = (v.iter().sum::<u32>(), v.iter().copied().max().unwrap_or(0));
        let bins = [
            sum,
            top,
            v.iter().fold(0, |a, x| a | x),
            v.iter().fold(0, |a, x| a ^ x),
            // inc wraps to 0 after 100: 128 increments from 0.
            block % 101,
            v.iter().copied().min().unwrap_or(0),
            0,
            block,
            b as u32 + 77,
        ];
        let out = &mut want[b * 24..][..24];
        out[..9].copy_from_slice(&bins);
        out[9..20].fill(0);
        (out[16], out[17]) = (sum, top);
        out[20] = (0..block).map(|t| t & 3).sum();
    }
    Setup::line(blocks, block).input(&x).exact(&want).arg(n as u32)
}

fn cas_widths(size: Size) -> Setup {
    let n = size.pick(200, 1 << 12);
    let (mut h, mut w, mut l) = ([5u16; 8], [9u32; 8], [1u64; 8]);
    for i in 0..n {
        h[i & 7] = h[i & 7].wrapping_add(3);
        w[i & 7] = w[i & 7].wrapping_add(i as u32);
        l[i & 7] += (i as u64) << 20;
    }
    let came_out = 1000 + 7 * (n as u64 - 1);
    let exact = Tolerance::Exact;
    Setup::line(cover(n, 32), 32)
        .inout(&[5u16; 8], &h, exact)
        .inout(&[9u32; 8], &w, exact)
        .inout(&[1u64; 8], &l, exact)
        .inout(&[1000u64, 0], &[7, came_out], exact)
        .arg(n as u32)
}

fn cas128(size: Size) -> Setup {
    let n = size.pick(100, 1 << 12);
    let mut pairs = [0u64; 8];
    for i in 0..n {
        pairs[(i & 3) * 2] += i as u64;
        pairs[(i & 3) * 2 + 1] += 1;
    }
    let total = 30 + (n as u64 - 1) * 16;
    let exact = Tolerance::Exact;
    Setup::line(cover(n, 32), 32)
        .inout(&[0u64; 8], &pairs, exact)
        .inout(&[10u64, 20], &[7, 9], exact)
        .inout(&[0u64], &[total], exact)
        .arg(n as u32)
}
