//! Branch tables, indirect calls, frames, recursion.
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    bytecode in switch
        "a switch of sixteen bodies in a loop: an interpreter of byte code" [] bytecode;
    switch_brx in switch_brx
        "a jump through a table of eight labels, by hand" [BranchTable] switch_brx;
    call_table in funcptr
        "calls through a table of functions in a module variable" [IndirectCall] call_table;
    call_chosen in funcptr
        "calls through a function address chosen in registers" [IndirectCall] call_chosen;
    frames in frames
        "calls with structures, pointers to local arrays, indexed local memory" [] frames;
    recursion in recursion "Ackermann's function" [Recursion] recursion;
}

fn bytecode(size: Size) -> Setup {
    let (n, length) = size.pick((200, 40), (1 << 17, 96));
    let mut r = Random::new("bytecode");
    let mut code: Vec<u8> = r.u32s(length).iter().map(|&w| w as u8).collect();
    code.extend([0; 4]);
    let x = r.u32s(n);
    let want: Vec<u32> = x
        .iter()
        .enumerate()
        .map(|(i, &x)| {
            let (mut a, mut b, mut pc) = (x, i as u32, 0);
            for _ in 0..64 {
                if pc >= length {
                    break;
                }
                let (op, arg) =
                    ((u32::from(code[pc]) + (i as u32 & 1)) & 15, u32::from(code[pc + 1]));
                pc += 2;
                match op {
                    0 => a = a.wrapping_add(b),
                    1 => a = a.wrapping_sub(arg),
                    2 => a = a.wrapping_mul(b | 1),
                    3 => a ^= b << 3,
                    4 => b = a >> (arg & 31),
                    5 => b = b.wrapping_add(a.count_ones()),
                    6 => a = a.reverse_bits(),
                    7 => std::mem::swap(&mut a, &mut b),
                    8 => a = a.max(b),
                    9 => b = a.min(b).wrapping_add(arg),
                    10 => a %= arg + 1,
                    11 => pc += if b & 1 == 1 { 2 } else { 0 },
                    12 => a = !a,
                    13 => b = b.rotate_left(7),
                    14 => a |= arg,
                    _ => b &= a | 0xff,
                }
            }
            a ^ b
        })
        .collect();
    Setup::line(cover(n, 64), 64)
        .input(&code)
        .arg(length as u32)
        .input(&x)
        .exact(&want)
        .arg(n as u32)
}

fn switch_brx(size: Size) -> Setup {
    let n = size.pick(300, 1 << 20);
    let x = Random::new("switch_brx").u32s(n);
    let want: Vec<u32> = (0u32..)
        .zip(&x)
        .map(|(i, &x)| match x & 7 {
            0 => x.wrapping_add(i),
            1 => x.wrapping_sub(i),
            2 => x.wrapping_mul(i),
            3 => x ^ i,
            4 => !x,
            5 => (x << 3).wrapping_add(6),
            6 => x.wrapping_add(6),
            _ => x.count_ones(),
        })
        .collect();
    Setup::line(cover(n, 128), 128).input(&x).exact(&want).arg(n as u32)
}

fn call_body(which: u32, a: u32, b: u32) -> u32 {
    match which {
        0 => a.wrapping_add(b),
        1 => a.wrapping_mul(b).wrapping_add(1),
        2 => a ^ b << 1,
        _ => a.rotate_left(b & 31),
    }
}

fn call_table(size: Size) -> Setup {
    let n = size.pick(300, 1 << 18);
    let mut r = Random::new("call_table");
    let (a, b) = (r.u32s(n), r.u32s(n));
    let want: Vec<u32> = a.iter().zip(&b).map(|(&a, &b)| call_body((a ^ b) & 3, a, b)).collect();
    Setup::line(cover(n, 128), 128).input(&a).input(&b).exact(&want).arg(n as u32)
}

fn call_chosen(size: Size) -> Setup {
    let n = size.pick(300, 1 << 18);
    let mut r = Random::new("call_chosen");
    let (a, b) = (r.u32s(n), r.u32s(n));
    let want: Vec<u32> = (0u32..)
        .zip(a.iter().zip(&b))
        .map(|(i, (&a, &b))| {
            let chosen = call_body(if a > b { 2 } else { 3 }, a, b);
            chosen.wrapping_add(if i % 2 == 1 { call_body(0, i, 2) } else { call_body(1, i, 3) })
        })
        .collect();
    Setup::line(cover(n, 128), 128).input(&a).input(&b).exact(&want).arg(n as u32)
}

fn frames(size: Size) -> Setup {
    let n = size.pick(300, 1 << 16);
    let x: Vec<i32> = Random::new("frames").u32s(n).iter().map(|&v| v as i32 >> 8).collect();
    let want: Vec<i32> = (0..n)
        .flat_map(|i| {
            let w: Vec<i32> = (0..9).map(|j| x[(i + j) % n]).collect();
            let mut sorted = w.clone();
            sorted.sort_unstable();
            let minor = |p: usize, q: usize| {
                w[p].wrapping_mul(w[q + 3]).wrapping_sub(w[q].wrapping_mul(w[p + 3]))
            };
            let mix = minor(1, 2)
                .wrapping_add(minor(2, 0).wrapping_mul(3))
                .wrapping_add(minor(0, 1).wrapping_mul(7));
            [sorted[4], mix, w[x[i] as u32 as usize % 9]]
        })
        .collect();
    Setup::line(cover(n, 64), 64).input(&x).exact(&want).arg(n as i32)
}

fn recursion(size: Size) -> Setup {
    let n = size.pick(100, 1 << 15);
    // Closed forms: A(0, n) = n + 1, A(1, n) = n + 2, A(2, n) = 2 n + 3.
    let want: Vec<u32> = (0..n as u32)
        .map(|i| match i % 3 {
            0 => i % 5 + 1,
            1 => i % 5 + 2,
            _ => 2 * (i % 5) + 3,
        })
        .collect();
    Setup::line(cover(n, 64), 64).exact(&want).arg(n as u32)
}
