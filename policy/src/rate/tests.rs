use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_bucket_empties_and_fills() {
    let mut bucket = TokenBucket::new(Rate { per_second: 10, burst: 3 }, 5);
    assert_eq!(bucket.take(3, 5), Ok(()));
    assert_eq!(bucket.take(1, 5), Err(SECOND / 10));
    assert_eq!(bucket.take(1, 5 + SECOND / 10 - 1), Err(1));
    assert_eq!(bucket.take(1, 5 + SECOND / 10), Ok(()));
    assert_eq!(bucket.tokens(5 + 100 * SECOND), 3, "no more than the burst");
    assert_eq!(bucket.take(4, 5 + 100 * SECOND), Err(u64::MAX), "never that many at once");
}

#[test]
fn time_that_goes_back_brings_nothing() {
    let mut bucket = TokenBucket::new(Rate { per_second: 1000, burst: 1 }, SECOND);
    assert_eq!(bucket.take(1, SECOND), Ok(()));
    assert_eq!(bucket.take(1, 0), Err(1_000_000));
    assert_eq!(bucket.take(1, SECOND), Err(1_000_000), "going back and forth gains nothing");
    assert_eq!(bucket.take(1, SECOND + 1_000_000), Ok(()));
    assert_eq!(bucket.take(1, u64::MAX), Ok(()));
}

#[test]
fn thirds_of_a_token_do_not_get_lost() {
    let mut bucket = TokenBucket::new(Rate { per_second: 3, burst: 1 }, 0);
    assert_eq!(bucket.take(1, 0), Ok(()));
    let mut taken = 0;
    // Polled at an interval that never divides a third of a second.
    for now in (0..=100 * SECOND).step_by(7_777_777) {
        taken += u64::from(bucket.take(1, now).is_ok());
    }
    // 300 come in 100 s; each one that waits for the next poll delays those after it by nothing, but
    // a full bucket of one token overflows meanwhile.
    assert!((290..=300).contains(&taken), "{taken}");
    let mut exact = TokenBucket::new(Rate { per_second: 3, burst: 1000 }, 0);
    assert_eq!(exact.take(1000, 0), Ok(()));
    for now in (0..=100 * SECOND).step_by(7_777_777) {
        assert!(exact.tokens(now) <= 300);
    }
    assert_eq!(exact.tokens(100 * SECOND), 300);
}

#[test]
fn a_rate_can_change() {
    let mut bucket = TokenBucket::new(Rate { per_second: 1, burst: 100 }, 0);
    bucket.set_rate(Rate { per_second: 10, burst: 5 }, 0);
    assert_eq!(bucket.tokens(0), 5);
    assert_eq!(bucket.take(5, 0), Ok(()));
    bucket.set_rate(Rate { per_second: 1, burst: 100 }, SECOND / 2);
    assert_eq!(bucket.tokens(SECOND / 2), 5, "what the old rate brought stays");
    assert_eq!(bucket.tokens(SECOND / 2 + 3 * SECOND), 8);
}

#[test]
fn absurd_rates_are_brought_in_range() {
    let mut bucket = TokenBucket::new(Rate { per_second: 0, burst: 0 }, 0);
    assert_eq!(bucket.take(1, 0), Ok(()));
    assert_eq!(bucket.take(1, 0), Err(SECOND));
    let mut bucket = TokenBucket::new(Rate { per_second: u64::MAX, burst: u64::MAX }, 0);
    assert_eq!(bucket.take(Rate::MAX, 0), Ok(()));
    assert_eq!(bucket.take(Rate::MAX, SECOND), Ok(()));
    assert_eq!(bucket.take(u64::MAX, u64::MAX), Err(u64::MAX));
}

proptest! {
    /// Over any window, what was taken is at most the burst plus the rate times the window, and the
    /// wait that is announced is exactly as long as it takes.
    #[test]
    fn no_window_exceeds_the_rate(
        per_second in prop_oneof![1..50_u64, 1..=Rate::MAX],
        burst in prop_oneof![1..20_u64, 1..=Rate::MAX],
        steps in prop::collection::vec(
            (prop_oneof![0..1000_u64, 0..SECOND, Just(0)], prop_oneof![0..5_u64, 0..Rate::MAX]),
            1..40,
        ),
    ) {
        let mut bucket = TokenBucket::new(Rate { per_second, burst }, 0);
        let mut now = 0;
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for (passed, n) in steps {
            now += passed;
            match bucket.take(n, now) {
                Ok(()) => taken.push((now, n)),
                Err(u64::MAX) => prop_assert!(n > burst),
                Err(wait) => {
                    prop_assert!(wait > 0);
                    prop_assert!(bucket.clone().take(n, now + wait - 1).is_err());
                    prop_assert_eq!(bucket.clone().take(n, now + wait), Ok(()));
                }
            }
            for (i, &(start, _)) in taken.iter().enumerate() {
                let sum: u128 = taken[i..].iter().map(|&(_, n)| u128::from(n)).sum();
                let window = u128::from(now - start);
                let brought = window * u128::from(per_second);
                let allowed = u128::from(burst) * u128::from(SECOND) + brought;
                prop_assert!(sum * u128::from(SECOND) <= allowed);
            }
        }
    }
}
