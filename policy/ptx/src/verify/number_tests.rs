//! The abstract operations contain the concrete ones: for random alternatives and random members of
//! them, the result of the machine operation is a member of the abstract result.

use proptest::prelude::*;

use super::number::{Alt, Value, mask};

/// True when the `width`-bit pattern can be `n` for some n that the alternative allows.
fn holds(alt: &Alt, pattern: u64, width: u32) -> bool {
    // Candidates: pattern plus multiples of 2^width, next to the lower bound.
    if width == 64 {
        let n = pattern as i64;
        return alt.lo <= n
            && n <= alt.hi
            && n as u64 & alt.zeros == 0
            && !(n as u64) & alt.ones == 0;
    }
    let modulus = 1i128 << width;
    let first = i128::from(alt.lo) + (i128::from(pattern) - i128::from(alt.lo)).rem_euclid(modulus);
    (0..4).any(|k| {
        let n = first + k * modulus;
        n <= i128::from(alt.hi) && {
            let bits = n as i64 as u64;
            bits & alt.zeros == 0 && !bits & alt.ones == 0
        }
    })
}

fn member(value: &Value, pattern: u64, width: u32) -> bool {
    match value {
        Value::Never => false,
        Value::Any => true,
        Value::Known(alts) => alts.iter().any(|alt| holds(alt, pattern, width)),
    }
}

/// A number with some of its bits known, and one of its members.
fn sample() -> impl Strategy<Value = (Alt, i64)> {
    let edge = prop_oneof![
        any::<i64>(),
        -300i64..300,
        (0u32..63, -2i64..3).prop_map(|(bit, off)| (1i64 << bit) + off),
        (0u32..62, -2i64..3).prop_map(|(bit, off)| off - (1i64 << bit)),
    ];
    (edge.clone(), edge, 0u32..6, any::<u64>()).prop_map(|(a, b, low, pick)| {
        let step = 1i64 << low;
        let (lo, hi) = (a.min(b) & -step, a.max(b) & -step);
        let span = (i128::from(hi) - i128::from(lo)) / i128::from(step);
        let n = i128::from(lo) + i128::from(step) * (i128::from(pick) % (span + 1));
        let grid = Alt::range(lo >> low, hi >> low).mul(Alt::constant(step));
        (grid.unwrap_or(Alt::range(lo, hi)), n as i64)
    })
}

fn cut(n: i64, width: u32) -> u64 {
    n as u64 & mask(width)
}

fn sign(pattern: u64, width: u32) -> i64 {
    ((pattern << (64 - width)) as i64) >> (64 - width)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn readings_contain_the_member((alt, n) in sample(), width in prop_oneof![Just(8u32), Just(16), Just(32), Just(64)]) {
        prop_assert!(holds(&alt, cut(n, width), width));
        let unsigned = alt.unsigned(width);
        prop_assert!(holds(&unsigned, cut(n, width), width));
        if width < 64 {
            prop_assert!(unsigned.lo >= 0 && unsigned.hi <= mask(width) as i64);
            prop_assert!(unsigned.lo <= cut(n, width) as i64 && cut(n, width) as i64 <= unsigned.hi);
        }
        let signed = alt.signed(width);
        let s = sign(cut(n, width), width);
        prop_assert!(signed.lo <= s && s <= signed.hi, "{signed:?} {s}");
        prop_assert!(holds(&signed, cut(n, width), width));
    }

    #[test]
    fn arithmetic_contains_the_result((a, x) in sample(), (b, y) in sample(), width in prop_oneof![Just(32u32), Just(64)]) {
        let ok = |result: Option<Alt>, pattern: u64| match result {
            Some(alt) => holds(&alt, pattern & mask(width), width),
            None => true,
        };
        prop_assert!(ok(a.add(b), (x as u64).wrapping_add(y as u64)));
        prop_assert!(ok(a.sub(b), (x as u64).wrapping_sub(y as u64)));
        prop_assert!(ok(a.mul(b), (x as u64).wrapping_mul(y as u64)));
        prop_assert!(ok(a.neg(), (x as u64).wrapping_neg()));
        for by in [0u32, 1, 5, 31, 40] {
            prop_assert!(ok(a.shl(by), (x as u64) << by));
        }
        prop_assert!(ok(Some(a.and(b, width)), x as u64 & y as u64));
        for table in [0xC0u8, 0xFC, 0x3C, 0x0F, 0xEA, 0xCA, 0x96, 0x1B] {
            let mut want = 0u64;
            for bit in 0..width {
                let row = (x as u64 >> bit & 1) << 2 | (y as u64 >> bit & 1) << 1 | (x as u64 >> (bit / 2) & 1);
                want |= u64::from(table >> row & 1) << bit;
            }
            let third = (0..width).fold(0u64, |all, bit| all | (x as u64 >> (bit / 2) & 1) << bit);
            let c = Alt::constant(third as i64);
            prop_assert!(ok(Some(Alt::bitwise(width, table, a, b, c)), want), "{table:x}");
        }
    }

    #[test]
    fn readings_of_order_contain_the_result((a, x) in sample(), (b, y) in sample(), by in 0u32..40) {
        let (ua, ub) = (a.unsigned(32), b.unsigned(32));
        let (x, y) = (cut(x, 32), cut(y, 32));
        prop_assert!(holds(&ua.min(ub), x.min(y), 32));
        prop_assert!(holds(&ua.max(ub), x.max(y), 32));
        prop_assert!(holds(&ua.shr(by), x.checked_shr(by).unwrap_or(0), 32));
        let (sa, sb) = (a.signed(32), b.signed(32));
        let (p, q) = (sign(x, 32), sign(y, 32));
        prop_assert!(holds(&sa.min(sb), cut(p.min(q), 32), 32));
        prop_assert!(holds(&sa.max(sb), cut(p.max(q), 32), 32));
        prop_assert!(holds(&sa.shr(by), cut(p >> by.min(63), 32), 32));
    }

    #[test]
    fn joins_contain_both((a, x) in sample(), (b, y) in sample()) {
        let join = Value::one(a).join(Value::one(b));
        prop_assert!(member(&join, x as u64, 64) && member(&join, y as u64, 64));
        let wide = Value::one(a).widen(join.clone());
        prop_assert!(member(&wide, x as u64, 64) && member(&wide, y as u64, 64), "{wide:?}");
        if let Some(both) = a.meet(b) {
            if holds(&b, x as u64, 64) {
                prop_assert!(holds(&both, x as u64, 64));
            }
        } else {
            prop_assert!(!holds(&b, x as u64, 64));
        }
    }
}
