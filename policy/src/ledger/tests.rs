use proptest::prelude::*;
use turnstile_abi::Status;

use super::*;
use crate::grants::{BufferGrant, QueueGrant};

fn grants(max_bytes: u64, max_in_flight: u32) -> Grants {
    Grants {
        buffer: Some(BufferGrant { max_bytes, max_count: 3, device: true, host: true }),
        queue: Some(QueueGrant { max_count: 1, max_depth: 64, max_in_flight }),
        ..Grants::default()
    }
}

#[test]
fn a_quota_is_used_up_and_given_back() {
    let g = grants(100, 2);
    let mut ledger = Ledger::new();
    assert_eq!(ledger.charge(&g, Resource::BufferBytes, 60), Ok(()));
    let denial = ledger.charge(&g, Resource::BufferBytes, 41).unwrap_err();
    assert_eq!(denial.status, Status::Quota);
    assert_eq!(denial.reason, "buffer_bytes");
    assert_eq!((denial.limit, denial.used, denial.asked), (100, 60, 41));
    assert_eq!(denial.detail(), 40, "the completion's detail says what is left");
    assert_eq!(
        denial.to_string(),
        "41 more bytes of buffers asked for, but 60 of 100 are in use and 40 left: free some, or \
         raise grants.buffer.max_bytes"
    );
    assert_eq!(ledger.used(Resource::BufferBytes), 60);
    assert_eq!(ledger.left(&g, Resource::BufferBytes), 40);
    ledger.release(Resource::BufferBytes, 60);
    assert!(ledger.is_empty());
}

#[test]
fn what_is_not_granted_has_no_quota() {
    let g = Grants::default();
    let free = [Resource::Sessions, Resource::Handles];
    for &resource in Resource::ALL {
        let charged = Ledger::new().charge(&g, resource, 1);
        assert_eq!(charged.is_ok(), free.contains(&resource), "{}", resource.name());
        assert_eq!(Ledger::new().charge(&g, resource, 0), Ok(()));
    }
}

#[test]
fn sums_do_not_wrap() {
    let g = grants(u64::MAX, 1);
    let mut ledger = Ledger::new();
    assert_eq!(ledger.charge(&g, Resource::BufferBytes, u64::MAX), Ok(()));
    assert!(ledger.charge(&g, Resource::BufferBytes, 1).is_err());
    assert!(ledger.charge(&g, Resource::BufferBytes, u64::MAX).is_err());
    assert_eq!(ledger.used(Resource::BufferBytes), u64::MAX);
}

#[test]
fn a_lower_limit_takes_nothing_away_and_gives_nothing_more() {
    let mut ledger = Ledger::new();
    ledger.charge(&grants(100, 1), Resource::BufferBytes, 80).unwrap();
    let lower = grants(50, 1);
    assert_eq!(ledger.left(&lower, Resource::BufferBytes), 0);
    assert_eq!(ledger.charge(&lower, Resource::BufferBytes, 0), Ok(()));
    let denial = ledger.charge(&lower, Resource::BufferBytes, 1).unwrap_err();
    assert_eq!((denial.used, denial.left()), (80, 0));
    ledger.release(Resource::BufferBytes, 40);
    assert_eq!(ledger.charge(&lower, Resource::BufferBytes, 10), Ok(()));
}

#[test]
fn all_or_nothing() {
    let g = grants(100, 1);
    let mut ledger = Ledger::new();
    let amounts = [(Resource::Buffers, 1), (Resource::BufferBytes, 101)];
    assert_eq!(ledger.charge_all(&g, &amounts).unwrap_err().reason, "buffer_bytes");
    assert!(ledger.is_empty());
    let twice = [(Resource::Buffers, 2), (Resource::Buffers, 2)];
    assert!(ledger.charge_all(&g, &twice).is_err(), "parts of one resource add up");
    assert!(ledger.is_empty());
    assert_eq!(
        ledger.charge_all(&g, &[(Resource::Buffers, 1), (Resource::BufferBytes, 9)]),
        Ok(())
    );
    assert_eq!((ledger.used(Resource::Buffers), ledger.used(Resource::BufferBytes)), (1, 9));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "buffers released below zero")]
fn releasing_too_much_stops_a_debug_build() {
    Ledger::new().release(Resource::Buffers, 1);
}

#[test]
#[cfg(not(debug_assertions))]
fn releasing_too_much_stays_at_zero() {
    let mut ledger = Ledger::new();
    ledger.release(Resource::Buffers, 1);
    assert!(ledger.is_empty());
}

/// What a tenant does to its ledger.
#[derive(Clone, Debug)]
enum Act {
    /// Charge these together.
    Take(Vec<(Resource, u64)>),
    /// Give back the oldest or newest thing held.
    Give { oldest: bool },
    /// Another policy comes into force.
    Reload { max_bytes: u64, in_flight: u32 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let resource = prop::sample::select(Resource::ALL);
    let amount = prop_oneof![0..5_u64, 0..200_u64, Just(u64::MAX), Just(u64::MAX - 1)];
    let act = prop_oneof![
        4 => prop::collection::vec((resource, amount), 1..4).prop_map(Act::Take),
        3 => any::<bool>().prop_map(|oldest| Act::Give { oldest }),
        1 => (prop_oneof![0..200_u64, Just(u64::MAX)], 0..10_u32)
            .prop_map(|(max_bytes, in_flight)| Act::Reload { max_bytes, in_flight }),
    ];
    prop::collection::vec(act, 0..60)
}

proptest! {
    /// Invariant 4: quotas never go negative, wrap or leak. The model keeps what is held as a list.
    #[test]
    fn the_ledger_is_the_sum_of_what_is_held(acts in acts()) {
        let mut ledger = Ledger::new();
        let mut g = grants(100, 5);
        let mut held: Vec<Vec<(Resource, u64)>> = Vec::new();
        let sum = |held: &[Vec<(Resource, u64)>], resource| -> u128 {
            held.iter().flatten().filter(|(r, _)| *r == resource).map(|(_, n)| u128::from(*n)).sum()
        };
        for act in acts {
            match act {
                Act::Take(amounts) => {
                    let mut after = held.clone();
                    after.push(amounts.clone());
                    let fits = amounts.iter().all(|&(r, _)| {
                        let total = sum(&after, r);
                        // Nothing asked for is always given, even over a lowered limit.
                        let asked: u128 =
                            amounts.iter().filter(|(o, _)| *o == r).map(|(_, n)| u128::from(*n)).sum();
                        asked == 0 || total <= u128::from(r.limit(&g))
                    });
                    let charged = ledger.charge_all(&g, &amounts);
                    prop_assert_eq!(charged.is_ok(), fits, "{:?} {:?}", amounts, charged);
                    if fits {
                        held = after;
                    }
                }
                Act::Give { oldest } if !held.is_empty() => {
                    let given = if oldest { held.remove(0) } else { held.pop().unwrap_or_default() };
                    for (resource, amount) in given {
                        ledger.release(resource, amount);
                    }
                }
                Act::Give { .. } => {}
                Act::Reload { max_bytes, in_flight } => g = grants(max_bytes, in_flight),
            }
            for &resource in Resource::ALL {
                prop_assert_eq!(u128::from(ledger.used(resource)), sum(&held, resource));
            }
        }
        for (resource, amount) in held.into_iter().flatten() {
            ledger.release(resource, amount);
        }
        prop_assert!(ledger.is_empty());
    }
}
