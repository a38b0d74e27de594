//! Deterministic inputs: SplitMix64 seeded by a name, so a case is the same on every machine and in
//! every run.

/// A generator. (SplitMix64: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number
/// generators", 2014.)
pub(crate) struct Random(u64);

impl Random {
    /// A stream of its own for each name (FNV-1a of the name is the seed).
    pub(crate) fn new(name: &str) -> Self {
        Self(
            name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
            }),
        )
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn u32(&mut self) -> u32 {
        (self.u64() >> 32) as u32
    }

    /// Below `n` (which is not 0).
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.u32()) * u64::from(n)) >> 32) as u32
    }

    /// Uniform in [low, high).
    pub(crate) fn f64(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn f32(&mut self, low: f32, high: f32) -> f32 {
        self.f64(f64::from(low), f64::from(high)) as f32
    }

    pub(crate) fn u32s(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.u32()).collect()
    }

    pub(crate) fn u64s(&mut self, n: usize) -> Vec<u64> {
        (0..n).map(|_| self.u64()).collect()
    }

    pub(crate) fn f32s(&mut self, n: usize, low: f32, high: f32) -> Vec<f32> {
        (0..n).map(|_| self.f32(low, high)).collect()
    }

    pub(crate) fn below_each(&mut self, n: usize, bound: u32) -> Vec<u32> {
        (0..n).map(|_| self.below(bound)).collect()
    }

    /// Whole numbers in -bound..=bound: sums of products of them are exact in any order while they
    /// stay small.
    pub(crate) fn whole(&mut self, n: usize, bound: u32) -> Vec<f32> {
        (0..n).map(|_| self.below(2 * bound + 1) as f32 - bound as f32).collect()
    }

    /// Words with many edges among them: the first values are all pairs' worth of edges, the rest
    /// random and of random bit length.
    pub(crate) fn edgy(&mut self, n: usize) -> Vec<u32> {
        const EDGES: [u32; 12] =
            [0, 1, 2, 31, 32, 0x7f, 0x80, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
        (0..n)
            .map(|_| match self.below(3) {
                0 => EDGES[self.below(12) as usize],
                1 => self.u32() >> self.below(32),
                _ => self.u32(),
            })
            .collect()
    }

    /// A permutation of 0..n.
    pub(crate) fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut p: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            p.swap(i, self.below(i as u32 + 1) as usize);
        }
        p
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        assert_eq!(Random::new("a").u64s(4), Random::new("a").u64s(4));
        assert_ne!(Random::new("a").u64(), Random::new("b").u64());
    }

    #[test]
    fn permutations_hold_every_index_once() {
        let mut p = Random::new("p").permutation(1000);
        p.sort_unstable();
        assert!(p.iter().enumerate().all(|(i, &v)| v == i as u32));
    }

    #[test]
    fn ranges_hold() {
        let mut r = Random::new("r");
        assert!((0..1000).all(|_| (-2.0..3.0).contains(&r.f64(-2.0, 3.0))));
        assert!(r.whole(1000, 4).iter().all(|v| v.abs() <= 4.0 && v.fract() == 0.0));
    }
}
