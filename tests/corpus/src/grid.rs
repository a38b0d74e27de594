//! Two- and three-dimensional grids: transpose, stencils, convolutions, cellular automata, dynamic
//! programming.
use crate::element::{Tolerance, to_bytes};
use crate::random::Random;
use crate::setup::{Setup, cover};
use crate::table::{Size, entries};

entries! {
    transpose in transpose "transpose through a padded shared tile" [] transpose;
    stencil2d in stencil "Jacobi step, five points, shared halo" [] stencil2d;
    stencil3d in stencil "heat step, seven points, three dimensions" [] stencil3d;
    conv1d in convolution "17 taps from constant memory" [] conv1d;
    conv2d in convolution "5x5 mask passed by value" [] conv2d;
    life in life "Game of Life on a torus of bytes" [] life;
    levenshtein in levenshtein "edit distance by antidiagonals in shared memory" [] levenshtein;
}

fn transpose(size: Size) -> Setup {
    let (w, h) = size.pick((70, 45), (1024, 1024));
    let x = Random::new("transpose").f32s(w * h, -1.0, 1.0);
    let want: Vec<f32> = (0..w * h).map(|i| x[i % h * w + i / h]).collect();
    Setup::new([cover(w, 32), cover(h, 32), 1], [32, 8, 1])
        .input(&x)
        .exact(&want)
        .arg(w as u32)
        .arg(h as u32)
}

fn stencil2d(size: Size) -> Setup {
    let (w, h) = size.pick((50, 37), (1024, 512));
    let x = Random::new("stencil2d").f32s(w * h, -1.0, 1.0);
    let want: Vec<f32> = (0..w * h)
        .map(|i| {
            let (c, r) = (i % w, i / w);
            if c == 0 || r == 0 || c == w - 1 || r == h - 1 {
                return x[i];
            }
            0.25 * ((x[i - 1] + x[i + 1]) + (x[i - w] + x[i + w]))
        })
        .collect();
    Setup::new([cover(w, 16), cover(h, 16), 1], [16, 16, 1])
        .input(&x)
        .exact(&want)
        .arg(w as i32)
        .arg(h as i32)
}

fn stencil3d(size: Size) -> Setup {
    let (nx, ny, nz) = size.pick((17, 9, 7), (128, 64, 64));
    let x = Random::new("stencil3d").f32s(nx * ny * nz, -1.0, 1.0);
    let at = |i: usize| f64::from(x[i]);
    let want: Vec<f32> = (0..nx * ny * nz)
        .map(|i| {
            let (c, r, p) = (i % nx, i / nx % ny, i / nx / ny);
            let inside = c > 0 && r > 0 && p > 0 && c < nx - 1 && r < ny - 1 && p < nz - 1;
            if !inside {
                return x[i];
            }
            let s =
                at(i - 1) + at(i + 1) + at(i - nx) + at(i + nx) + at(i - nx * ny) + at(i + nx * ny);
            (at(i) + 0.1 * (s - 6.0 * at(i))) as f32
        })
        .collect();
    let near = Tolerance::Near { relative: 0.0, absolute: 2e-6 };
    Setup::new([cover(nx, 8), cover(ny, 4), cover(nz, 4)], [8, 4, 4])
        .input(&x)
        .output(&want, near)
        .arg(nx as i32)
        .arg(ny as i32)
        .arg(nz as i32)
        .arg(0.1f32)
}

fn conv1d(size: Size) -> Setup {
    let n = size.pick(500, 1 << 20);
    let taps: Vec<f64> = (0..17i32).map(|i| f64::from(9 - (i - 8).abs()) * 0.0125).collect();
    let x = Random::new("conv1d").f32s(n, -1.0, 1.0);
    let want: Vec<f32> = (0..n)
        .map(|i| {
            let inside = |t: &usize| (i + t).checked_sub(8).is_some_and(|j| j < n);
            (0..17).filter(inside).map(|t| taps[t] * f64::from(x[i + t - 8])).sum::<f64>() as f32
        })
        .collect();
    let near = Tolerance::Near { relative: 0.0, absolute: 2e-6 };
    Setup::line(cover(n, 128), 128).input(&x).output(&want, near).arg(n as i32)
}

fn conv2d(size: Size) -> Setup {
    let (w, h) = size.pick((33, 21), (512, 512));
    let mut r = Random::new("conv2d");
    let (x, mask) = (r.f32s(w * h, -1.0, 1.0), r.f32s(25, -0.2, 0.2));
    let want: Vec<f32> = (0..w * h)
        .map(|i| {
            let clamp = |v: usize, d: usize, top: usize| (v + d).saturating_sub(2).min(top - 1);
            let tap = |m: usize| x[clamp(i / w, m / 5, h) * w + clamp(i % w, m % 5, w)];
            mask.iter().enumerate().map(|(m, &k)| f64::from(k) * f64::from(tap(m))).sum::<f64>()
                as f32
        })
        .collect();
    let near = Tolerance::Near { relative: 0.0, absolute: 2e-6 };
    Setup::new([cover(w, 32), cover(h, 4), 1], [32, 4, 1])
        .input(&x)
        .output(&want, near)
        .arg(w as i32)
        .arg(h as i32)
        .bytes(to_bytes(&mask))
}

fn life(size: Size) -> Setup {
    let (w, h) = size.pick((37, 23), (1024, 1024));
    let cells: Vec<u8> =
        Random::new("life").below_each(w * h, 3).iter().map(|&v| u8::from(v == 0)).collect();
    let want = generation(&cells, w, h);
    Setup::new([cover(w, 32), cover(h, 8), 1], [32, 8, 1])
        .input(&cells)
        .exact(&want)
        .arg(w as u32)
        .arg(h as u32)
}

fn generation(cells: &[u8], w: usize, h: usize) -> Vec<u8> {
    (0..w * h)
        .map(|i| {
            let mut alive = 0;
            for dy in [h - 1, 0, 1] {
                for dx in [w - 1, 0, 1] {
                    alive += cells[(i / w + dy) % h * w + (i % w + dx) % w];
                }
            }
            u8::from(alive == 3 || (alive == 4 && cells[i] == 1))
        })
        .collect()
}

fn levenshtein(size: Size) -> Setup {
    let pairs = size.pick(3, 256);
    let mut r = Random::new("levenshtein");
    let left: Vec<u8> = (0..pairs * 64).map(|_| b'a' + r.below(4) as u8).collect();
    let right: Vec<u8> =
        left.iter().map(|&c| if r.below(3) == 0 { b'a' + r.below(4) as u8 } else { c }).collect();
    let want: Vec<u32> =
        left.chunks(64).zip(right.chunks(64)).map(|(a, b)| distance(a, b)).collect();
    Setup::line(pairs as u32, 64).input(&left).input(&right).exact(&want)
}

/// Edit distance, row by row.
fn distance(a: &[u8], b: &[u8]) -> u32 {
    let mut row: Vec<u32> = (0..=b.len() as u32).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i as u32 + 1;
        for (j, y) in b.iter().enumerate() {
            let best = (corner + u32::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = best;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_edit_distances() {
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(distance(b"", b"abc"), 3);
        assert_eq!(distance(b"flaw", b"lawn"), 2);
    }

    #[test]
    fn a_blinker_turns() {
        let mut cells = vec![0; 25];
        cells[11..14].fill(1);
        let turned = generation(&cells, 5, 5);
        assert_eq!((turned[7], turned[12], turned[17]), (1, 1, 1));
        assert_eq!(generation(&turned, 5, 5), cells);
    }
}
