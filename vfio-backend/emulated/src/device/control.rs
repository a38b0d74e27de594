//! Operations that only change the books, and the way of the others into a stream.

use std::sync::Arc;

use turnstile_abi::Status;
use turnstile_abi::request::Access as DmaAccess;
use turnstile_backend_api::{
    BackendOp, BufferId, Code, Home, Outcome, Piece, Place, SpaceId, Ticket,
};

use super::job::{LaunchWork, Range, Work};
use super::shared::segment;
use super::space::{Buffer, CONTROL, Kernel, Space};
use super::{Books, Device};
use crate::memory::{ARENA_BASE, Access, AddressSpace, Arena};
use crate::raw::Segment;

/// Addresses below the heap of an arena: the guard's record and variables go there (1 GiB and the red zone).
const SERVICE_BYTES: u64 = (1 << 30) + (32 << 20);

type Result<T> = std::result::Result<T, Outcome>;

fn failed<T>(status: Status) -> Result<T> {
    Err(Outcome::failed(status, 0))
}

impl Device {
    /// Takes one operation: answers it at once or puts it into its stream.
    pub(super) fn accept(&self, books: &mut Books, ticket: Ticket, op: BackendOp) {
        let id = op.space();
        match self.perform(books, ticket, op) {
            // It is in a stream, or will be answered when its space or stream is idle.
            Ok(None) => {
                self.work.notify_one();
                self.settle(books, id);
            }
            Ok(Some(outcome)) | Err(outcome) => self.done(ticket, outcome),
        }
    }

    /// Answers closes that wait for nothing any more.
    pub(super) fn settle(&self, books: &mut Books, id: SpaceId) {
        let Some(space) = books.spaces.get_mut(&id) else { return };
        for ticket in space.closed_streams() {
            self.done(ticket, Outcome::ok(0));
        }
        if space.is_idle()
            && let Some(ticket) = space.closing
        {
            books.used -= space.used_bytes;
            books.spaces.remove(&id);
            self.done(ticket, Outcome::ok(0));
        }
    }

    fn perform(&self, books: &mut Books, ticket: Ticket, op: BackendOp) -> Result<Option<Outcome>> {
        if let BackendOp::SpaceOpen { space, memory_bytes, weight, isolation: _ } = op {
            return self.open(books, space, memory_bytes, weight).map(Some);
        }
        let Books { spaces, memory, used, .. } = books;
        let Some(space) = spaces.get_mut(&op.space()) else { return failed(Status::DeviceLost) };
        if let BackendOp::SpaceClose { .. } = op {
            space.closing = Some(ticket);
            space.dead = true;
            space.stop_running();
            for waiting in space.forget_waiting() {
                self.done(waiting, Outcome::failed(Status::Revoked, 0));
            }
            return Ok(None);
        }
        if space.dead {
            return failed(Status::DeviceLost);
        }
        let outcome = match op {
            BackendOp::SpaceOpen { .. } | BackendOp::SpaceClose { .. } => {
                unreachable!("handled above")
            }
            BackendOp::BufferCreate { buffer, bytes, home, .. } => match home {
                Home::Device => {
                    let address = self.allocate(space, used, buffer, bytes)?;
                    Outcome::ok(address)
                }
                Home::Shared(piece) => {
                    let Some(bytes) = memory.get(&piece.memory).and_then(|r| segment(r, &piece))
                    else {
                        return failed(Status::Backend);
                    };
                    let address = map(space, std::slice::from_ref(&bytes), Access::READ_WRITE)?;
                    let device = false;
                    space.buffers.insert(buffer, Buffer { address, bytes: piece.bytes, device });
                    let clear = Range { segment: bytes, offset: 0, bytes: piece.bytes };
                    let work = Work::Clear { range: clear, address };
                    return push(space, CONTROL, ticket, work);
                }
            },
            BackendOp::BufferDestroy { buffer, .. } => {
                let Some(buffer) = space.buffers.remove(&buffer) else {
                    return failed(Status::NotFound);
                };
                let _ = space.memory.unmap(buffer.address);
                if buffer.device {
                    space.used_bytes -= buffer.bytes;
                    *used -= buffer.bytes;
                }
                Outcome::ok(0)
            }
            BackendOp::DmaMap { region, pieces, access, .. } => {
                let segment = |p: &Piece| memory.get(&p.memory).and_then(|r| segment(r, p));
                let Some(pieces) = pieces.iter().map(segment).collect::<Option<Vec<_>>>() else {
                    return failed(Status::Backend);
                };
                // Copies reach it by id; kernels do not, so it gets no device address.
                let _: DmaAccess = access;
                space.regions.insert(region, pieces);
                Outcome::ok(0)
            }
            BackendOp::DmaUnmap { region, .. } => match space.regions.remove(&region) {
                // Copies under way pinned the region in the mediator, so none can be using it.
                Some(_) => Outcome::ok(0),
                None => return failed(Status::NotFound),
            },
            BackendOp::ProgramLoad { program, code, .. } => {
                let Code::Ptx(module) = code else { return failed(Status::Unsupported) };
                return push(space, CONTROL, ticket, Work::Load { program, module });
            }
            BackendOp::ProgramUnload { program, .. } => {
                let Some(placed) = space.programs.remove(&program) else {
                    return failed(Status::NotFound);
                };
                space.functions.retain(|_, kernel| kernel.program != program);
                for address in placed.regions {
                    let _ = space.memory.unmap(address);
                }
                space.used_bytes -= placed.bytes;
                *used -= placed.bytes;
                Outcome::ok(0)
            }
            BackendOp::FunctionGet { program, function, name, .. } => {
                let Some(placed) = space.programs.get(&program) else {
                    return failed(Status::NotFound);
                };
                let Some(info) = placed.loaded.variants.general().kernel(&name) else {
                    return failed(Status::NotFound);
                };
                let kernel = Kernel { program, name: name.into_string() };
                space.functions.insert(function, Arc::new(kernel));
                Outcome::ok(info.param_bytes.into())
            }
            BackendOp::QueueOpen { queue, .. } => {
                space.open_stream(queue);
                Outcome::ok(0)
            }
            BackendOp::QueueClose { queue, .. } => {
                for waiting in space.close_stream(queue, ticket) {
                    self.done(waiting, Outcome::failed(Status::Revoked, 0));
                }
                return Ok(None);
            }
            BackendOp::Copy { queue, dst, src, bytes, .. } => {
                let (to, from) = (ranges(space, dst, bytes)?, ranges(space, src, bytes)?);
                return push(space, queue, ticket, Work::Copy { to, from });
            }
            BackendOp::Fill { queue, dst, bytes, pattern, width, .. } => {
                let to = ranges(space, dst, bytes)?;
                return push(space, queue, ticket, Work::Fill { to, pattern, width });
            }
            BackendOp::Launch {
                queue,
                function,
                grid,
                block,
                shared_bytes,
                cooperative,
                timeout_ns,
                params,
                ..
            } => {
                let Some(kernel) = space.functions.get(&function).cloned() else {
                    return failed(Status::NotFound);
                };
                let Some(placed) = space.programs.get(&kernel.program) else {
                    return failed(Status::NotFound);
                };
                let loaded = placed.loaded.clone();
                let work = LaunchWork {
                    kernel,
                    loaded,
                    grid,
                    block,
                    shared_bytes,
                    cooperative,
                    timeout_ns,
                    params: params.to_vec(),
                };
                return push(space, queue, ticket, Work::Launch(Box::new(work)));
            }
            BackendOp::Timestamp { queue, .. } => {
                return push(space, queue, ticket, Work::Timestamp);
            }
        };
        Ok(Some(outcome))
    }

    fn open(
        &self,
        books: &mut Books,
        id: SpaceId,
        memory_bytes: u64,
        weight: u32,
    ) -> Result<Outcome> {
        // 4 GiB is the guard's fast path; a tenant with more memory gets a larger arena.
        let wanted = memory_bytes.saturating_mul(2).saturating_add(SERVICE_BYTES);
        let log2 = wanted.checked_next_power_of_two().map_or(46, u64::trailing_zeros).clamp(32, 46);
        let arena = Arena { base: ARENA_BASE, log2 };
        let Ok(mut memory) = AddressSpace::new(arena) else { return failed(Status::Backend) };
        memory.reserve_low(SERVICE_BYTES);
        books.spaces.insert(id, Space::new(memory, memory_bytes, weight));
        Ok(Outcome { detail: 1 << log2, ..Outcome::ok(arena.base) })
    }

    fn allocate(&self, space: &mut Space, used: &mut u64, id: BufferId, bytes: u64) -> Result<u64> {
        if !space.has_room(bytes, *used, self.settings.memory_bytes) {
            return failed(Status::NoMemory);
        }
        let Ok(address) = space.memory.allocate(bytes, Access::READ_WRITE) else {
            return failed(Status::NoMemory);
        };
        space.buffers.insert(id, Buffer { address, bytes, device: true });
        space.used_bytes += bytes;
        *used += bytes;
        Ok(address)
    }
}

fn push(
    space: &mut Space,
    queue: turnstile_backend_api::QueueId,
    ticket: Ticket,
    work: Work,
) -> Result<Option<Outcome>> {
    let counts = queue != CONTROL;
    if space.push(queue, ticket, work, counts) { Ok(None) } else { failed(Status::Revoked) }
}

fn map(space: &mut Space, pieces: &[Segment], access: Access) -> Result<u64> {
    space.memory.map_pieces(pieces, access).or(failed(Status::NoMemory))
}

/// The bytes at a place, piece by piece.
fn ranges(space: &Space, place: Place, bytes: u64) -> Result<Vec<Range>> {
    let range =
        |segment: &Segment, offset, bytes| Range { segment: segment.clone(), offset, bytes };
    match place {
        Place::Buffer(id, offset) => {
            let Some(buffer) = space.buffers.get(&id) else { return failed(Status::NotFound) };
            let Ok((region, at)) = space.memory.locate(buffer.address + offset, bytes) else {
                return failed(Status::OutOfRange);
            };
            Ok(vec![range(&region.segment, at, bytes)])
        }
        Place::Region(id, offset) => {
            let Some(pieces) = space.regions.get(&id) else { return failed(Status::NotFound) };
            let (mut skip, mut left, mut out) = (offset, bytes, Vec::new());
            for piece in pieces {
                if skip >= piece.len() {
                    skip -= piece.len();
                    continue;
                }
                let take = left.min(piece.len() - skip);
                if take == 0 {
                    break;
                }
                out.push(range(piece, skip, take));
                left -= take;
                skip = 0;
            }
            if left > 0 { failed(Status::OutOfRange) } else { Ok(out) }
        }
    }
}
