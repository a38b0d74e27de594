use super::checked::Pattern;
use super::*;

#[test]
fn bytes_survive_every_alignment() {
    let segment = Segment::zeroed(64).unwrap();
    let bytes: Vec<u8> = (1..=33).collect();
    for offset in 0..31 {
        segment.fill(0, 64, 0, 1).unwrap();
        segment.write(offset, &bytes).unwrap();
        let mut all = [0u8; 64];
        segment.read(0, &mut all).unwrap();
        let at = offset as usize;
        assert_eq!(&all[at..at + 33], &bytes[..]);
        assert!(all[..at].iter().chain(&all[at + 33..]).all(|&b| b == 0));
    }
    assert_eq!(segment.write(32, &bytes), None);
    assert_eq!(segment.read(u64::MAX, &mut [0]), None);
}

#[test]
fn fill_repeats_the_pattern_from_its_start() {
    let segment = Segment::zeroed(64).unwrap();
    for (offset, len, width) in
        [(4, 40, 4u32), (2, 42, 2), (1, 63, 1), (12, 4, 4), (3, 40, 8), (5, 59, 4)]
    {
        segment.fill(0, 64, 0, 1).unwrap();
        segment.fill(offset, len, 0x8877_6655_4433_2211, width).unwrap();
        let mut all = [0u8; 64];
        segment.read(0, &mut all).unwrap();
        for (i, byte) in all.iter().enumerate() {
            let inside = (offset..offset + len).contains(&(i as u64));
            let expect =
                if inside { 0x11 * (1 + (i as u64 - offset) % u64::from(width)) } else { 0 };
            assert_eq!(u64::from(*byte), expect, "byte {i} of {offset}+{len} by {width}");
        }
    }
    assert_eq!(segment.fill(60, 8, 0, 4), None);
    assert_eq!(segment.fill(0, 8, 0, 3), None);
}

#[test]
fn overlapping_copies_move_the_old_bytes() {
    let len = 3 * CHUNK as u64;
    for (from, to) in [(0u64, 5u64), (5, 0), (0, len / 2), (len / 2, 0), (7, 7)] {
        let segment = Segment::zeroed(len + 64).unwrap();
        let before: Vec<u8> = (0..len + 64).map(|i| (i * 31 + i / 251) as u8).collect();
        segment.write(0, &before).unwrap();
        let count = len / 2;
        assert_eq!(segment.copy_to(from, &segment, to, count, || true), Some(true));
        let mut after = vec![0; before.len()];
        segment.read(0, &mut after).unwrap();
        let mut expect = before.clone();
        expect.copy_within(from as usize..(from + count) as usize, to as usize);
        assert!(after == expect, "{from} to {to}");
    }
    let small = Segment::zeroed(16).unwrap();
    assert_eq!(small.copy_to(0, &small, 9, 8, || true), None);
    assert_eq!(small.copy_to(0, &small, 8, 8, || false), Some(false));
}

#[test]
fn wide_exchanges_are_whole() {
    let segment = Segment::zeroed(64).unwrap();
    assert_eq!(segment.exchange128(8, None, 1), None);
    assert_eq!(segment.exchange128(64, None, 1), None);
    let both = |n: u64| u128::from(n) << 64 | u128::from(n);
    assert_eq!(segment.exchange128(16, Some(1), both(7)), Some(0));
    assert_eq!(segment.load::<u64>(16), Some(0));
    assert_eq!(segment.exchange128(16, Some(0), both(7)), Some(0));
    assert_eq!(segment.exchange128(16, None, both(0)), Some(both(7)));
    // Every thread adds one to both halves, or swaps in a pair; nobody ever sees halves of two writers, and a
    // 64-bit writer beside them loses nothing.
    const ROUNDS: u64 = 20_000;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut seen = both(0);
                for _ in 0..ROUNDS {
                    loop {
                        let next = both((seen as u64).wrapping_add(1));
                        let old = segment.exchange128(16, Some(seen), next).unwrap();
                        assert_eq!(old as u64, (old >> 64) as u64);
                        if std::mem::replace(&mut seen, old) == old {
                            seen = next;
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(segment.load::<u64>(16), Some(3 * ROUNDS));
    assert_eq!(segment.load::<u64>(24), Some(3 * ROUNDS));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                segment.atomic64(32).unwrap().fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            for n in 0..ROUNDS {
                loop {
                    let low = segment.load::<u64>(32).unwrap();
                    let old = u128::from(low) | u128::from(n) << 64;
                    let new = u128::from(low) | u128::from(n + 1) << 64;
                    if segment.exchange128(32, Some(old), new) == Some(old) {
                        break;
                    }
                }
            }
        });
    });
    assert_eq!(segment.load::<u64>(32), Some(ROUNDS));
    assert_eq!(segment.load::<u64>(40), Some(ROUNDS));
}

#[test]
fn check_refuses_one_byte_too_far_and_misalignment() {
    let segment = Segment::zeroed(256).unwrap();
    let run: [u64; LANES] = std::array::from_fn(|i| i as u64 * 4);
    assert_eq!(segment.check(&run, 4, 4).unwrap().pattern, Pattern::Run);
    assert_eq!(segment.check(&[8; LANES], 4, 4).unwrap().pattern, Pattern::Same);
    for lane in 0..LANES {
        let mut bad = run;
        bad[lane] = 253;
        assert!(segment.check(&bad, 4, 1).is_none());
        bad[lane] = u64::MAX;
        assert!(segment.check(&bad, 4, 1).is_none());
        bad[lane] = 6;
        assert!(segment.check(&bad, 4, 4).is_none());
        assert_eq!(segment.check(&bad, 2, 2).unwrap().pattern, Pattern::Scattered);
    }
}

#[test]
#[allow(clippy::needless_range_loop)] // A lane number, not an index.
fn gather_and_scatter_agree_in_every_pattern() {
    let segment = Segment::zeroed(1024).unwrap();
    for i in 0..256u64 {
        segment.store(i * 4, i as u32).unwrap();
    }
    let shuffled: [u64; LANES] = std::array::from_fn(|i| (i as u64 * 7 % 32) * 16);
    let got = segment.check(&shuffled, 8, 8).unwrap().gather::<u32>(1);
    assert!((0..LANES).all(|i| u64::from(got[i]) == shuffled[i] / 4 + 1));
    segment.check(&shuffled, 8, 8).unwrap().scatter(0, 0xffff_0000, &[77u32; LANES]);
    for i in 0..LANES {
        let expect = if i >= 16 { 77 } else { (shuffled[i] / 4) as u32 };
        assert_eq!(segment.load::<u32>(shuffled[i]), Some(expect));
    }
}
