//! Locks, barriers, blocks that wait for blocks, asynchronous copies.
use crate::element::Tolerance;
use crate::random::Random;
use crate::setup::Setup;
use crate::table::{Size, entries};

entries! {
    lock_blocks in spinlock "a spin lock between blocks" [Progress] lock_blocks;
    lock_threads in spinlock
        "a spin lock that lanes of one warp contend for" [Progress, Fairness] lock_threads;
    grid_barrier in gridsync
        "phases with a barrier over the grid, built from atomics" [Resident] |s| grid(s, false);
    grid_group in coopgroups
        "the same through cooperative groups" [Resident, Cooperative] |s| grid(s, true);
    message in message "blocks hand data over with release and acquire" [Progress] message;
    barriers in barriers "named barriers, arrive, barrier reductions, early exits" [] barriers;
    cpasync_tile in cpasync "tiles by 16-byte cp.async, two stages" [AsyncCopy] cpasync_tile;
    cpasync_small in cpasync "cp.async of 4 and 8 bytes, zero fill" [AsyncCopy] cpasync_small;
    mbarrier_pipe in mbarrier
        "producer and consumer warps over mbarriers" [AsyncCopy, Mbarrier] mbarrier_pipe;
}

fn lock_blocks(size: Size) -> Setup {
    let (blocks, rounds) = size.pick((6, 5), (64, 100));
    let total = blocks * rounds;
    Setup::line(blocks, 32)
        .inout(&[0u32], &[0], Tolerance::Exact)
        .inout(&[0u32; 2], &[total, total / 2], Tolerance::Exact)
        .arg(rounds)
}

fn lock_threads(size: Size) -> Setup {
    let (blocks, block) = size.pick((2, 64), (8, 128));
    let total = blocks * block;
    Setup::line(blocks, block).inout(&[0u32], &[0], Tolerance::Exact).inout(
        &[0u32; 2],
        &[total, total / 2],
        Tolerance::Exact,
    )
}

fn grid(size: Size, cooperative: bool) -> Setup {
    let (blocks, block, rounds) = size.pick((4, 32, 3), (16, 128, 50));
    let n = blocks * block;
    let start = Random::new("grid").u32s(n);
    let (mut from, mut to) = (start.clone(), vec![0u32; n]);
    for _ in 0..rounds {
        for i in 0..n {
            to[i] = from[(i + block) % n].wrapping_add(from[i]);
        }
        std::mem::swap(&mut from, &mut to);
    }
    // After an odd number of rounds the newest values are in the second buffer.
    let (data, out) = if rounds % 2 == 1 { (to, from) } else { (from, to) };
    let setup =
        Setup::line(blocks as u32, block as u32).inout(&start, &data, Tolerance::Exact).exact(&out);
    if cooperative {
        setup.arg(rounds as u32).cooperative()
    } else {
        setup.inout(&[0u32], &[(rounds * blocks) as u32], Tolerance::Exact).arg(rounds as u32)
    }
}

fn message(size: Size) -> Setup {
    let (pairs, block) = size.pick((3, 64), (256, 128));
    let mail: Vec<u32> = (0..pairs * block).map(|i| i / block * 1000 + i % block * 7).collect();
    let out: Vec<u32> = (0..pairs * block).map(|i| mail[(i ^ 1) as usize] + 1).collect();
    Setup::line(pairs * 2, block)
        .inout(&[0u32], &[pairs * 2], Tolerance::Exact)
        .exact(&mail)
        .inout(&vec![0u32; pairs as usize], &vec![1u32; pairs as usize], Tolerance::Exact)
        .exact(&out)
}

fn barriers(size: Size) -> Setup {
    let blocks = size.pick(4, 2048);
    let mut x = Random::new("barriers").u32s(blocks * 64);
    // One block of only odd, one of only even values: the reductions get to say yes and no.
    x[..64].iter_mut().for_each(|v| *v |= 1);
    x[64..128].iter_mut().for_each(|v| *v &= !1);
    let want: Vec<u32> = x
        .chunks(64)
        .flat_map(|v| {
            let odd = v.iter().filter(|&&x| x & 1 == 1).count() as u32;
            let votes = 2 * odd * 4 + if odd == 64 { 2 } else { 0 } + u32::from(odd > 0);
            let v = v.to_vec();
            (0..256usize).map(move |i| match i / 64 {
                0 => v[i ^ 5].wrapping_mul(3),
                1 => votes,
                2 => (191 - i as u32).wrapping_add(v[191 - i]),
                _ => i as u32 - 192,
            })
        })
        .collect();
    Setup::line(blocks as u32, 128).input(&x).exact(&want)
}

fn cpasync_tile(size: Size) -> Setup {
    let (blocks, tiles) = size.pick((2, 3), (128, 16));
    let x = Random::new("cpasync_tile").f32s(blocks * tiles * 512, -1.0, 1.0);
    let want: Vec<f32> = x.chunks(512).flat_map(|tile| tile.iter().rev().copied()).collect();
    Setup::line(blocks as u32, 128).input(&x).exact(&want).arg(tiles as u32)
}

fn cpasync_small(_: Size) -> Setup {
    let n = 203;
    let x = Random::new("cpasync_small").u32s(n);
    let word = |i: usize| x.get(i).copied().unwrap_or(0);
    let want: Vec<u32> = (0..192)
        .map(|i| {
            let t = (i % 64) ^ 1;
            match i / 64 {
                0 => x[63 - i],
                1 => x[2 * t] ^ x[2 * t + 1],
                _ => (0..4).fold(0u32, |s, c| {
                    s.wrapping_add(word(4 * t + c).wrapping_mul([1, 3, 5, 7][c]))
                }),
            }
        })
        .collect();
    Setup::line(1, 64).input(&x).exact(&want).arg(n as u32)
}

fn mbarrier_pipe(size: Size) -> Setup {
    let (blocks, tiles) = size.pick((2, 5), (128, 32));
    let x = Random::new("mbarrier_pipe").u32s(blocks * tiles * 96);
    let want: Vec<u32> = x
        .chunks(tiles * 96)
        .flat_map(|run| {
            let pipeline = run
                .chunks(96)
                .flat_map(|tile| tile.iter().rev().map(|v| v.wrapping_add(1).wrapping_mul(2)));
            pipeline.chain((0..128).map(|t| run[(127 - t) % 96]))
        })
        .collect();
    Setup::line(blocks as u32, 128).input(&x).exact(&want).arg(tiles as u32)
}
