//! Arbitrary tenants, arbitrary backends, arbitrary order: after every step the backend model has
//! seen only operations inside the right tenant's live objects, no quota is exceeded, and every
//! command has completed at most once; at the end each has completed exactly once and nothing is
//! left over. (Invariants 1, 2, 4, 5, 6, 9 and 11 of the security model.) The fuzz target `step`
//! drives the same world.

mod model;

use std::sync::atomic::Ordering;

use model::action::Action;
use model::world::{REACHED, search};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use turnstile_abi::op;

fn action() -> impl Strategy<Value = Action> {
    let tenant = 0..2_usize;
    prop_oneof![
        60 => (tenant.clone(), 0..4_usize, 0..op::TABLE.len(), any::<[u8; 6]>())
            .prop_map(|(tenant, queue, op, words)| Action::Push { tenant, queue, op, words }),
        1 => (tenant.clone(), 0..4_usize, any::<[u64; 7]>())
            .prop_map(|(tenant, queue, words)| Action::Noise { tenant, queue, words }),
        8 => Just(Action::Poll),
        16 => Just(Action::Run),
        6 => tenant.clone().prop_map(|tenant| Action::Setup { tenant }),
        8 => (any::<usize>(), prop::bool::weighted(0.1))
            .prop_map(|(index, fail)| Action::Answer { index, fail }),
        2 => prop::bool::weighted(0.8).prop_map(|good| Action::Verdict { good }),
        1 => any::<usize>().prop_map(|index| Action::KillSpace { index }),
        1 => (tenant.clone(), prop::bool::weighted(0.8))
            .prop_map(|(tenant, enable)| Action::Reset { tenant, enable }),
        1 => (tenant.clone(), prop::bool::weighted(0.05))
            .prop_map(|(tenant, all)| Action::Revoke { tenant, all }),
        1 => tenant.clone().prop_map(|tenant| Action::RemoveMemory { tenant }),
        1 => tenant.clone().prop_map(|tenant| Action::AddMemory { tenant }),
        1 => Just(Action::Tick),
        1 => (tenant, 0..0x8000_u32, any::<u64>())
            .prop_map(|(tenant, offset, value)| Action::Scribble { tenant, offset, value }),
    ]
}

#[test]
fn any_order_of_events_keeps_the_invariants() {
    let config = ProptestConfig {
        cases: 1500,
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let actions = prop::collection::vec(action(), 1..400);
    // The search is worth something only if it gets everywhere. A launch needs a program, a verdict,
    // a function and the right parameters in this order: now and then that takes another round.
    let mut missed = Vec::new();
    for _ in 0..5 {
        let result = runner.run(&actions, |actions| {
            search(&actions);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
        let reached = REACHED.load(Ordering::Relaxed);
        let out_of_reach = |op: &&&op::OpInfo| reached & 1 << op.opcode as u16 == 0;
        missed = op::TABLE.iter().filter(out_of_reach).map(|op| op.name).collect();
        if missed.is_empty() {
            break;
        }
    }
    assert!(missed.is_empty(), "never succeeded: {missed:?}");
}
