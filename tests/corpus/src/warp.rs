//! Shuffles, votes, matches, reductions over a warp, from their definitions in the PTX ISA.
use crate::random::Random;
use crate::setup::Setup;
use crate::table::{Size, entries};

entries! {
    shuffles in warp
        "shfl.sync in all four modes, segments, predicates, 64 bits, partial masks" [] shuffles;
    votes in warp "vote, ballot, match, redux, elect, activemask, partial masks" [] votes;
}

/// PTX ISA, shfl.sync: the lane that is read and whether it was in range. `c` holds clamp and
/// segment mask.
fn shfl(mode: char, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (segment, clamp) = (c >> 8 & 31, c & 31);
    let max = lane & segment | clamp & !segment;
    let min = lane & segment;
    let (from, inside) = match mode {
        'u' => (lane.wrapping_sub(b), lane as i32 - b as i32 >= max as i32),
        'd' => (lane + b, lane + b <= max),
        'x' => (lane ^ b, lane ^ b <= max),
        _ => (min | b & !segment & 31, min | b & !segment & 31 <= max),
    };
    if inside { (from, true) } else { (lane, false) }
}

fn shuffles(size: Size) -> Setup {
    let (blocks, block) = size.pick((2, 64), (512, 256));
    let n = blocks * block;
    let x = Random::new("shuffles").u32s(n);
    let width = |w: u32, up: bool| (32 - w) << 8 | if up { 0 } else { 31 };
    let planes = 14;
    let mut want = vec![0u32; planes * n];
    for i in 0..n {
        let (lane, base) = (i as u32 % 32, i / 32 * 32);
        let read = |mode, b, c| x[base + shfl(mode, lane, b, c).0 as usize];
        let inside = |mode, b, c| u32::from(shfl(mode, lane, b, c).1);
        let odd = if lane % 2 == 1 { x[base + (((lane as usize + 2) % 32) | 1)] } else { 0 };
        let plane = [
            read('i', x[i] & 31, width(32, false)),
            read('i', lane + 3, width(8, false)),
            read('u', 5, width(32, true)),
            read('u', 3, width(16, true)),
            read('d', 7, width(32, false)),
            read('d', 2, width(4, false)),
            read('x', 21, width(32, false)),
            read('x', 3, width(8, false)),
            read('u', 6, 0),
            inside('u', 6, 0),
            read('x', 9, 0x0807),
            inside('x', 9, 0x0807),
            x[i ^ 1] << 1,
            odd,
        ];
        for (k, v) in plane.into_iter().enumerate() {
            want[k * n + i] = v;
        }
    }
    Setup::line(blocks as u32, block as u32).input(&x).exact(&want).arg(n as u32)
}

fn votes(size: Size) -> Setup {
    let (blocks, block) = size.pick((3, 64), (512, 256));
    let n = blocks * block;
    let mut r = Random::new("votes");
    let mut x = r.u32s(n);
    for (w, warp) in x.chunks_mut(32).enumerate() {
        match w % 4 {
            0 => {}
            1 => warp.iter_mut().for_each(|v| *v &= 7),
            2 => warp.iter_mut().for_each(|v| *v |= 0x8000_0000),
            _ => warp.fill(7),
        }
    }
    let ballot = |warp: &[u32], f: &dyn Fn(u32) -> bool| {
        warp.iter().enumerate().fold(0u32, |m, (l, &v)| m | u32::from(f(v)) << l)
    };
    let planes = 19;
    let mut want = vec![0u32; planes * n];
    for i in 0..n {
        let (warp, lane, v) = (&x[i / 32 * 32..][..32], i % 32, x[i]);
        let all_same = i / 32 % 2 == 1 || warp.iter().all(|&w| w == v);
        let low: Vec<u32> = warp[..11].to_vec();
        let plane = [
            ballot(warp, &|v| v & 1 == 1),
            u32::from(warp.iter().all(|&v| v != 0)),
            u32::from(warp.contains(&7)),
            u32::from(warp.iter().all(|&w| w >> 31 == v >> 31)),
            ballot(warp, &|w| w & 3 == v & 3),
            if all_same { u32::MAX } else { 0 },
            u32::from(all_same),
            ballot(warp, &|w| w & 5 == v & 5).count_ones(),
            warp.iter().fold(0u32, |s, &v| s.wrapping_add(v)),
            warp.iter().copied().fold(u32::MAX, u32::min),
            warp.iter().copied().fold(0, u32::max),
            warp.iter().map(|&v| v as i32).fold(i32::MAX, i32::min) as u32,
            warp.iter().map(|&v| v as i32).fold(i32::MIN, i32::max) as u32,
            warp.iter().fold(u32::MAX, |s, &v| s & (v | 0xff)),
            warp.iter().fold(0, |s, &v| s | v & 0xff00),
            warp.iter().fold(0, |s, &v| s ^ v),
            if lane < 11 {
                low.iter()
                    .map(|v| v & 0xffff)
                    .sum::<u32>()
                    .wrapping_add(ballot(&low, &|v| v & 2 != 0))
            } else {
                0
            },
            1,
            1,
        ];
        for (k, v) in plane.into_iter().enumerate() {
            want[k * n + i] = v;
        }
    }
    Setup::line(blocks as u32, block as u32).input(&x).exact(&want).arg(n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_stay_in_their_segment() {
        for lane in 0..32 {
            assert_eq!(shfl('i', lane, lane + 3, 24 << 8 | 31).0 / 8, lane / 8);
            assert_eq!(shfl('d', lane, 2, 28 << 8 | 31).0 / 4, lane / 4);
            assert_eq!(
                shfl('u', lane, 5, 0),
                if lane < 5 { (lane, false) } else { (lane - 5, true) }
            );
        }
    }
}
