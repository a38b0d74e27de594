//! The mediator under any sequence of guest, backend and operator events, checked after each by the
//! model that the property tests use.
#![no_main]

#[path = "../../../mediator/core/tests/model/mod.rs"]
mod model;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use model::action::Action;
use model::world::search;
use turnstile_abi::op;

/// Actions of one run: more only make it slow.
const MOST: usize = 400;

fn action(u: &mut Unstructured<'_>) -> Result<Action> {
    let tenant = usize::from(bool::arbitrary(u)?);
    Ok(match u.int_in_range(0..=31)? {
        0..=14 => Action::Push {
            tenant,
            queue: u.int_in_range(0..=3)?,
            op: u.choose_index(op::TABLE.len())?,
            words: u.arbitrary()?,
        },
        15 => Action::Noise { tenant, queue: u.int_in_range(0..=3)?, words: u.arbitrary()? },
        16..=17 => Action::Poll,
        18..=21 => Action::Run,
        22 => Action::Setup { tenant },
        23..=24 => Action::Answer { index: u.int_in_range(0..=255)?, fail: u.ratio(1, 8)? },
        25 => Action::Verdict { good: u.arbitrary()? },
        26 => Action::KillSpace { index: u.int_in_range(0..=255)? },
        27 => Action::Reset { tenant, enable: u.arbitrary()? },
        28 => Action::Revoke { tenant, all: u.ratio(1, 16)? },
        29 => Action::RemoveMemory { tenant },
        30 => Action::AddMemory { tenant },
        _ if u.arbitrary()? => Action::Tick,
        _ => {
            Action::Scribble { tenant, offset: u.int_in_range(0..=0x7fff)?, value: u.arbitrary()? }
        }
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut u = Unstructured::new(bytes);
    let mut actions = Vec::new();
    while actions.len() < MOST && !u.is_empty() {
        match action(&mut u) {
            Ok(action) => actions.push(action),
            Err(_) => break,
        }
    }
    search(&actions);
});
