//! mbarrier objects: 64 bits of shared memory that count arrivals and expected bytes.
//! Source: PTX ISA 9.0, section 9.7.13.15. The layout of the 64 bits is opaque in PTX; this is ours:
//! bits 0..20 expected arrivals, 20..40 pending arrivals, 40..62 pending bytes (signed), 62 phase parity, 63 valid.

use super::memory_ops::{View, addresses};
use super::registers::{Lane, Registers};
use super::warp::{Outcome, fault};
use crate::fault::{FaultKind, Intent};
use crate::ir::{Mbarrier, Memory, NONE, Op, Target, window};
use crate::raw::LANES;

/// Most arrivals a barrier counts.
const MAX_COUNT: u64 = (1 << 20) - 1;

/// An object taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Object {
    expected: u64,
    pending: u64,
    bytes: i64,
    parity: u64,
}

impl Object {
    fn decode(bits: u64) -> Option<Self> {
        (bits >> 63 == 1).then_some(Self {
            expected: bits & MAX_COUNT,
            pending: bits >> 20 & MAX_COUNT,
            bytes: ((bits << 2) as i64) >> 42,
            parity: bits >> 62 & 1,
        })
    }

    fn encode(self) -> u64 {
        1 << 63
            | self.parity << 62
            | (self.bytes as u64 & 0x3f_ffff) << 40
            | self.pending << 20
            | self.expected
    }

    /// Starts the next phase when nothing is missing.
    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.parity ^= 1;
            self.pending = self.expected;
        }
    }
}

/// The offset in shared memory that an operand names, for each lane.
pub(crate) fn shared_offsets(
    registers: &Registers<'_>,
    memory: &Memory,
    mask: u32,
) -> [u64; LANES] {
    let at = addresses(registers, memory, mask);
    match memory.target {
        Target::Generic => at.map(|a| a.wrapping_sub(window::SHARED)),
        _ => at,
    }
}

/// Runs an mbarrier instruction for the lanes of `mask` in order. Whether a test found its phase still open.
pub(crate) fn run(
    view: &mut View<'_>,
    registers: &mut Registers<'_>,
    op: &Op,
    mask: u32,
) -> Outcome<bool> {
    let Op::Mbarrier { kind, ref memory, d, a } = *op else { return Ok(false) };
    if let Mbarrier::PendingCount = kind {
        let counts = u64::read(registers, a).map(|s| (s >> 20 & MAX_COUNT) as u32);
        u32::write(registers, d, mask, counts);
        return Ok(false);
    }
    let at = shared_offsets(registers, memory, mask);
    let mut waiting = false;
    for lane in (0..LANES).filter(|l| mask >> l & 1 != 0) {
        let bit = 1u32 << lane;
        let Some(bits) = view.shared.load::<u64>(at[lane]) else {
            return view.blame_shared(&at, bit, Intent::Atomic, 8);
        };
        let operand = || if a == NONE { 1 } else { u64::from(u32::read(registers, a)[lane]) };
        let invalid =
            || fault(bit, FaultKind::BadSync { what: "no initialised mbarrier at this address" });
        let too_many = || fault(bit, FaultKind::BadSync { what: "mbarrier count out of range" });
        let mut state = None;
        let next = match kind {
            Mbarrier::Init => {
                let count = operand();
                if count == 0 || count > MAX_COUNT {
                    return too_many();
                }
                Object { expected: count, pending: count, bytes: 0, parity: 0 }.encode()
            }
            Mbarrier::Invalidate => 0,
            Mbarrier::TestState | Mbarrier::TestParity => {
                let Some(object) = Object::decode(bits) else { return invalid() };
                let phase = match kind {
                    Mbarrier::TestState => u64::read(registers, a)[lane] >> 62 & 1,
                    _ => operand() & 1,
                };
                let over = object.parity != phase;
                waiting |= !over;
                registers.set_pred(d, bit, if over { u32::MAX } else { 0 });
                bits
            }
            _ => {
                let Some(mut object) = Object::decode(bits) else { return invalid() };
                state = Some(bits);
                let (arrivals, dropped, bytes) = match kind {
                    Mbarrier::ArriveDrop | Mbarrier::ArriveDropNoComplete => (operand(), true, 0),
                    Mbarrier::ArriveExpectTx => (1, false, operand() as i64),
                    Mbarrier::ArriveDropExpectTx => (1, true, operand() as i64),
                    Mbarrier::ExpectTx => (0, false, operand() as i64),
                    Mbarrier::CompleteTx => (0, false, -(operand() as i64)),
                    Mbarrier::CopyArrive(false) => {
                        // Counted in and out at once: the copies are over.
                        (0, false, 0)
                    }
                    Mbarrier::CopyArrive(true) => (1, false, 0),
                    _ => (operand(), false, 0),
                };
                if arrivals > object.pending
                    || bytes.abs() > 1 << 20
                    || (object.bytes + bytes).abs() >= 1 << 21
                {
                    return too_many();
                }
                object.bytes += bytes;
                object.pending -= arrivals;
                if dropped {
                    object.expected -= arrivals.min(object.expected);
                }
                if arrivals != 0 || bytes != 0 {
                    object.settle();
                }
                object.encode()
            }
        };
        if view.shared.store(at[lane], next).is_none() {
            return view.blame_shared(&at, bit, Intent::Atomic, 8);
        }
        if let Some(state) = state
            && d != NONE
        {
            u64::write(registers, d, bit, [state; LANES]);
        }
    }
    Ok(waiting)
}

/// Takes `bytes` off what the object at shared offset `at` still expects. `None`: no such object.
pub(crate) fn complete_bytes(view: &View<'_>, at: u64, bytes: u64) -> Option<()> {
    let mut object = Object::decode(view.shared.load::<u64>(at)?)?;
    object.bytes -= bytes as i64;
    object.settle();
    view.shared.store(at, object.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_survives_its_bits() {
        for bytes in [-(1 << 20), -1, 0, 1, 1 << 20] {
            let object = Object { expected: 17, pending: MAX_COUNT, bytes, parity: 1 };
            assert_eq!(Object::decode(object.encode()), Some(object));
        }
        assert_eq!(Object::decode(0), None);
    }

    #[test]
    fn a_phase_ends_when_arrivals_and_bytes_are_in() {
        let mut object = Object { expected: 2, pending: 0, bytes: 16, parity: 0 };
        object.settle();
        assert_eq!(object.parity, 0);
        object.bytes = 0;
        object.settle();
        assert_eq!((object.parity, object.pending), (1, 2));
    }
}
