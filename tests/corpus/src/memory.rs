//! Loads, stores, generic addresses, ordering, moves (PTX ISA, Data Movement and Conversion
//! Instructions).
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    widths in op_memory "every width, vectors, cache operators, read-only loads" [] widths;
    generic in op_memory
        "generic addresses into global, shared, local and constant memory, isspacep" [] generic;
    ordered in op_memory "volatile, relaxed, acquire, release, fences, prefetch" [] ordered;
    packing in op_memory "mov between words and halves, 16-byte accesses" [] packing;
}

fn widths(size: Size) -> Setup {
    let n = size.pick(100, 1 << 17);
    let x: Vec<u8> = Random::new("widths").u32s(n * 64).iter().map(|&w| w as u8).collect();
    let want: Vec<u8> = x
        .chunks(64)
        .flat_map(|c| {
            // (element size, bytes) of each run whose elements are reversed.
            let mut out = c[..4].to_vec();
            let mut at = 4;
            for (width, bytes) in [(1, 4), (2, 4), (4, 4), (4, 8), (8, 8), (4, 16), (8, 16)] {
                out.extend(c[at..at + bytes].chunks(width).rev().flatten());
                at += bytes;
            }
            out
        })
        .collect();
    Setup::line(cover(n, 64), 64).input(&x).exact(&want).arg(n as u32)
}

fn generic(size: Size) -> Setup {
    let n = size.pick(300, 1 << 19);
    let x = Random::new("generic").u64s(n);
    let mut want = vec![0u64; 2 * n];
    for i in 0..n {
        let j = i as u64;
        let v = match i & 3 {
            0 => x[i],
            1 => (j ^ 1) * 7,
            2 => j * if i >> 2 & 1 == 0 { 3 } else { 5 },
            _ => [11, 22, 33, 44][i >> 2 & 3],
        };
        want[i] = v.wrapping_mul(2).wrapping_add(u64::from(i & 4 == 0));
        want[n + i] = [1, 2, 4, 1][i & 3];
    }
    Setup::line(cover(n, 128), 128).input(&x).exact(&want).arg(n as u32)
}

fn ordered(size: Size) -> Setup {
    let n = size.pick(200, 1 << 14);
    let x = Random::new("ordered").u32s(n);
    let want: Vec<u32> =
        x.iter().map(|v| (v.wrapping_add(1).wrapping_mul(2) ^ 1).wrapping_add(5)).collect();
    Setup::line(cover(n, 64), 64).input(&x).exact(&want).arg(n as u32)
}

fn packing(size: Size) -> Setup {
    let n = size.pick(200, 1 << 19);
    let x = Random::new("packing").u64s(2 * n);
    let want: Vec<u64> = x
        .chunks(2)
        .flat_map(|p| {
            let (swapped, y) = (p[0].rotate_left(32), p[1]);
            [swapped, u64::from((y as u32).rotate_left(16)) << 32 ^ swapped.wrapping_add(y)]
        })
        .collect();
    Setup::line(cover(n, 64), 64).input(&x).exact(&want).arg(n as u32)
}
