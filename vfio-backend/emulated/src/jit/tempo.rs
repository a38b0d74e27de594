//! Machine code or interpreter: what is faster for a kernel, found out by its first blocks.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Thread instructions that each must have executed before the choice is made.
const SAMPLE: u64 = 200_000;

/// One kernel's choice. Races between workers cost a measurement, never a result.
#[derive(Debug, Default)]
pub(crate) struct Tempo {
    /// Nanoseconds and thread instructions, of the interpreter and of machine code.
    spent: [AtomicU64; 2],
    done: [AtomicU64; 2],
    /// 0 open, 1 interpreter, 2 machine code.
    decision: AtomicU8,
}

impl Tempo {
    /// Whether the choice is made.
    pub(crate) fn is_decided(&self) -> bool {
        self.decision.load(Relaxed) != 0
    }

    /// Whether the next block uses machine code. While `choose` is open, the one with less experience does.
    pub(crate) fn next(&self, choose: bool) -> bool {
        match self.decision.load(Relaxed) {
            _ if !choose => true,
            0 => self.done[1].load(Relaxed) <= self.done[0].load(Relaxed),
            decision => decision == 2,
        }
    }

    /// Notes what a block's turn took.
    pub(crate) fn add(&self, compiled: bool, time: Duration, instructions: u64) {
        let n = usize::from(compiled);
        self.spent[n].fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.done[n].fetch_add(instructions, Relaxed);
        let done = [0, 1].map(|n| self.done[n].load(Relaxed));
        if done[0] >= SAMPLE && done[1] >= SAMPLE {
            let per = |n: usize| self.spent[n].load(Relaxed) as f64 / done[n] as f64;
            self.decision.store(if per(1) <= per(0) { 2 } else { 1 }, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_one_is_chosen() {
        for faster in [false, true] {
            let tempo = Tempo::default();
            let mut seen = [0, 0];
            while !tempo.is_decided() {
                let compiled = tempo.next(true);
                seen[usize::from(compiled)] += 1;
                let time = if compiled == faster { 10 } else { 20 };
                tempo.add(compiled, Duration::from_micros(time), 10_000);
            }
            assert_eq!(tempo.next(true), faster);
            assert!(tempo.next(false), "machine code when nobody chooses");
            assert!(seen[0] >= 20 && seen[1] >= 20);
        }
    }
}
