//! What a worker's answer is made into. Every number in it is bounded here.

use turnstile_abi::Status;
use turnstile_abi::descriptor::Completion;
use turnstile_backend_api::{Fault, Outcome};
use turnstile_ptx::guard::RECORD_BYTES;

use super::space::{Expected, Known, Lost, Open, Space};
use crate::wire;
use crate::worker::ARENA_BASE;

/// Sizes an arena can have.
const ARENA_LOG2: std::ops::RangeInclusive<u32> = 32..=44;

impl Space {
    /// The outcome of a command, and what it changes in the space.
    pub(super) fn outcome(
        &mut self,
        open: &mut Open,
        completion: &Completion,
    ) -> Result<Outcome, Lost> {
        let Completion { value, detail, status, .. } = *completion;
        let lies = |what: &str| Err(Lost(format!("its worker answers {what}")));
        // Nobody can have used more time than has passed.
        let passed = u64::try_from(open.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let busy_ns = if open.work && !matches!(open.expected, Expected::Clock) {
            value.min(passed)
        } else {
            0
        };
        if !status.is_ok() {
            return Ok(self.failure(open, status, busy_ns, detail));
        }
        let with = |value| Ok(Outcome { busy_ns, ..Outcome::ok(value) });
        match &mut open.expected {
            Expected::Nothing | Expected::Closed => with(0),
            Expected::Clock => with(value),
            Expected::Moved(bytes) => with(*bytes),
            Expected::Launched => with(busy_ns),
            Expected::Opened => {
                let fits =
                    detail.is_power_of_two() && ARENA_LOG2.contains(&detail.trailing_zeros());
                if value != ARENA_BASE || !fits {
                    return lies("an arena that is none");
                }
                self.arena = (value, detail);
                Ok(Outcome { detail, ..Outcome::ok(value) })
            }
            Expected::Device(bytes) => {
                let (base, size) = self.arena;
                let inside = value >= base
                    && turnstile_abi::memory::contains(size, value.wrapping_sub(base), *bytes);
                if inside { with(value) } else { lies("an address outside its arena") }
            }
            Expected::Shared => {
                // Host memory lies outside the arena, where a guarded kernel cannot reach it: there it has no address.
                with(if self.kind.concurrent { 0 } else { value })
            }
            Expected::Program(id, info, _) => {
                self.programs.insert(*id, std::mem::take(info));
                with(0)
            }
            Expected::Function(id, program, info, checked) => {
                let bytes = match &info {
                    Some(info) => info.param_bytes,
                    None if value <= wire::SLOT_BYTES => value,
                    None => return lies("more parameters than a launch can have"),
                };
                let known = Known { program: *program, info: info.take(), checked: *checked };
                self.functions.insert(*id, known);
                with(bytes)
            }
        }
    }

    fn failure(&self, open: &Open, status: Status, busy_ns: u64, detail: u64) -> Outcome {
        let record = match (status, open.slot) {
            (Status::KernelFault, Some(slot)) if detail == RECORD_BYTES => {
                self.read_slot::<{ RECORD_BYTES as usize }>(slot)
            }
            _ => None,
        };
        match record {
            Some(record) => Outcome { busy_ns, ..violation(&record) },
            None if status == Status::KernelFault => {
                let fault = Fault {
                    kernel: String::new(),
                    line: 0,
                    block: [0; 3],
                    thread: [0; 3],
                    address: 0,
                    what: format!("the driver reports error {detail}"),
                };
                Outcome { busy_ns, fault: Some(Box::new(fault)), ..Outcome::failed(status, 0) }
            }
            None => Outcome { busy_ns, ..Outcome::failed(status, detail) },
        }
    }
}

/// A violation that a guarded kernel recorded (layout: `turnstile_ptx::guard`). It lay in the tenant's own arena: a
/// tenant can forge it, to its own loss only.
fn violation(record: &[u8; RECORD_BYTES as usize]) -> Outcome {
    let word =
        |i: usize| u32::from_le_bytes([record[i], record[i + 1], record[i + 2], record[i + 3]]);
    let address = u64::from(word(16)) | u64::from(word(20)) << 32;
    let fault = Fault {
        kernel: String::new(),
        line: word(8),
        block: [word(24), word(28), word(32)],
        thread: [word(36), word(40), word(44)],
        address,
        what: "the guard found an access outside what the tenant may touch".into(),
    };
    Outcome { fault: Some(Box::new(fault)), ..Outcome::failed(Status::KernelFault, address) }
}
