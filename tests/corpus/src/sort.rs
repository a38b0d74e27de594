//! Sorting.
use crate::random::Random;
use crate::setup::Setup;
use crate::table::{Size, entries};

entries! {
    bitonic_sort in bitonic "sorts runs of 1024 keys in shared memory" [] bitonic_sort;
    radix_pass in radix "stable pass over 4 bits of (key, value), match.any ranks" [] radix_pass;
}

fn bitonic_sort(size: Size) -> Setup {
    let blocks = size.pick(2, 256);
    let mut r = Random::new("bitonic_sort");
    let mut keys = r.u32s(blocks * 1024);
    // Ties: a tenth of the keys are small.
    for k in keys.iter_mut().step_by(10) {
        *k &= 15;
    }
    let mut want = keys.clone();
    want.chunks_mut(1024).for_each(<[u32]>::sort_unstable);
    Setup::line(blocks as u32, 512).input(&keys).exact(&want)
}

fn radix_pass(size: Size) -> Setup {
    let (blocks, shift) = (size.pick(3, 2048), 8);
    let mut r = Random::new("radix_pass");
    let (keys, values) = (r.u32s(blocks * 256), r.u32s(blocks * 256));
    let mut pairs: Vec<(u32, u32)> = keys.iter().copied().zip(values.iter().copied()).collect();
    // The standard library's stable sort stands for the pass.
    pairs.chunks_mut(256).for_each(|run| run.sort_by_key(|&(key, _)| key >> shift & 15));
    let (sorted, moved): (Vec<u32>, Vec<u32>) = pairs.into_iter().unzip();
    Setup::line(blocks as u32, 256)
        .input(&keys)
        .input(&values)
        .exact(&sorted)
        .exact(&moved)
        .arg(shift)
}

#[cfg(test)]
mod tests {
    use crate::table::{Size, find};

    #[test]
    fn what_is_expected_is_sorted() {
        let case = find("bitonic_sort").unwrap().case(Size::Small);
        let want = &case.expects[0].values;
        let keys: Vec<u32> =
            want.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        assert!(keys.chunks(1024).all(<[u32]>::is_sorted));
        assert!(!keys.is_sorted());
    }
}
