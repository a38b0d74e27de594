//! Reductions, prefix sums, histograms, compaction.
use crate::element::Tolerance;
use crate::random::Random;
use crate::setup::{POISON, Setup, cover};
use crate::table::{Size, entries};

entries! {
    reduce_f32 in reduce
        "sum of floats: grid stride, shared tree, shuffles, f32 atomic" [] reduce_f32;
    reduce_u32 in reduce "sum of words: grid stride, shared tree, atomic" [] reduce_u32;
    scan_block in scan
        "inclusive prefix sum inside each block, and the blocks' totals" [] scan_block;
    scan_chained in scan
        "prefix sum of the whole array in one launch, blocks wait for the one before"
        [Progress] scan_chained;
    histogram in histogram "256 bins of bytes, shared then global atomics" [] histogram;
    compact in compact
        "keeps what exceeds a threshold: ballot, one atomic a warp, any order" [] compact;
}

fn reduce_f32(size: Size) -> Setup {
    let n = size.pick(5000, 4 << 20);
    let x = Random::new("reduce_f32").f32s(n, 0.0, 1.0);
    let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
    let near = Tolerance::Near { relative: 1e-5, absolute: 0.0 };
    Setup::line(size.pick(4, 512), 256)
        .input(&x)
        .inout(&[0.0f32], &[sum as f32], near)
        .arg(n as u32)
}

fn reduce_u32(size: Size) -> Setup {
    let n = size.pick(5000, 4 << 20);
    let x = Random::new("reduce_u32").u32s(n);
    let sum = x.iter().fold(7u32, |s, &v| s.wrapping_add(v));
    Setup::line(size.pick(4, 512), 256)
        .input(&x)
        .inout(&[7u32], &[sum], Tolerance::Exact)
        .arg(n as u32)
}

fn running(x: &[u32]) -> Vec<u32> {
    x.iter()
        .scan(0u32, |s, &v| {
            *s = s.wrapping_add(v);
            Some(*s)
        })
        .collect()
}

fn scan_block(size: Size) -> Setup {
    let n = size.pick(900, 1 << 20);
    let x = Random::new("scan_block").u32s(n);
    let want: Vec<u32> = x.chunks(256).flat_map(running).collect();
    let totals: Vec<u32> =
        x.chunks(256).map(|c| c.iter().fold(0u32, |s, &v| s.wrapping_add(v))).collect();
    Setup::line(cover(n, 256), 256).input(&x).exact(&want).exact(&totals).arg(n as u32)
}

fn scan_chained(size: Size) -> Setup {
    let n = size.pick(900, 1 << 20);
    let x = Random::new("scan_chained").below_each(n, 1000);
    let want = running(&x);
    let blocks = cover(n, 256);
    let mut state = vec![u64::from(blocks)];
    state.extend((1..=blocks as usize).map(|b| 1 << 63 | u64::from(want[(b * 256).min(n) - 1])));
    Setup::line(blocks, 256)
        .input(&x)
        .exact(&want)
        .inout(&vec![0u64; state.len()], &state, Tolerance::Exact)
        .arg(n as u32)
}

fn histogram(size: Size) -> Setup {
    let n = size.pick(4000, 4 << 20);
    let mut r = Random::new("histogram");
    // Skewed, so that some bins are contended: the smaller of two bytes.
    let data: Vec<u8> = (0..n).map(|_| (r.below(256).min(r.below(256))) as u8).collect();
    let mut bins = vec![3u32; 256];
    for &b in &data {
        bins[usize::from(b)] += 1;
    }
    Setup::line(size.pick(5, 512), 256)
        .input(&data)
        .inout(&vec![3u32; 256], &bins, Tolerance::Exact)
        .arg(n as u32)
}

fn compact(size: Size) -> Setup {
    let n = size.pick(1000, 2 << 20);
    let x = Random::new("compact").below_each(n, 1000);
    let threshold = 600;
    let mut kept: Vec<u32> = x.iter().copied().filter(|&v| v > threshold).collect();
    let count = kept.len() as u32;
    kept.resize(n, u32::from_le_bytes([POISON; 4]));
    Setup::line(cover(n, 128), 128)
        .input(&x)
        .output(&kept, Tolerance::Unordered)
        .inout(&[0u32], &[count], Tolerance::Exact)
        .arg(threshold)
        .arg(n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_sums_end_in_the_total() {
        assert_eq!(running(&[1, 2, 3, u32::MAX]), [1, 3, 6, 5]);
    }
}
