//! Operations that the outer device's admin queue does: making and ending objects.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use turnstile_abi::Status;
use turnstile_abi::launch::DmaExtent;
use turnstile_abi::request::{Access, Format, Usage};
use turnstile_abi::version::Features;
use turnstile_backend_api::{
    BackendOp, Code, Home, Outcome, Piece, ProgramId, SharedRegion, SpaceId, Ticket,
};
use turnstile_driver::Session;
use turnstile_ptx::{Arena, GuardMode};

use super::launch::SHARED;
use super::life::{Fail, Life};
use super::space::{Held, Kernel, Lane, Loaded, Shared, Space};
use super::worker::VECTOR;
use super::{Outer, pages};

fn failed<T>(status: Status) -> Result<T, Fail> {
    Err(Outcome::failed(status, 0).into())
}

/// A guarded program's text, or a name in it, for a device with a guard of its own, which does not take
/// names that look like its own. Different names stay different, however often this is done.
fn renamed(text: &str) -> String {
    text.replace("$tn", "$tnn").replace("$ts_", "$tn_")
}

/// Memory and where its window will be: region, offset, bytes, address.
type Window = (Arc<SharedRegion>, u64, u64, u64);

impl<'d, 'o, O: Outer> Life<'d, '_, 'o, O> {
    /// Does an operation, or puts it into its queue (`None`).
    pub(super) fn perform(
        &mut self,
        ticket: Ticket,
        op: BackendOp,
    ) -> Result<Option<Outcome>, Fail> {
        let id = op.space();
        let alive = self.spaces.get(&id).is_some_and(|space| space.session.is_some());
        if !alive && !matches!(op, BackendOp::SpaceOpen { .. } | BackendOp::SpaceClose { .. }) {
            return failed(Status::DeviceLost);
        }
        let outcome = match op {
            BackendOp::SpaceOpen { .. } => self.open(id)?,
            BackendOp::SpaceClose { .. } => {
                let revoked = Outcome::failed(Status::Revoked, 0);
                self.end(id, &revoked).map_err(Fail::Device)?;
                self.spaces.remove(&id);
                Outcome::ok(0)
            }
            BackendOp::BufferCreate { buffer, bytes, home, .. } => {
                let (held, address) = match home {
                    Home::Device => self.buffer(id, bytes)?,
                    Home::Shared(piece) => {
                        let shared = self.share(id, &[piece], Access::ReadWrite, false)?;
                        let first = shared.windows.first().map_or(0, |window| window.0);
                        let address = SHARED + first + shared.skip;
                        (Held::Shared(shared), address)
                    }
                };
                let space = self.space(id)?;
                space.addresses.insert(address, buffer);
                space.buffers.insert(buffer, held);
                Outcome::ok(address)
            }
            BackendOp::BufferDestroy { buffer, .. } => {
                let space = self.space(id)?;
                space.addresses.retain(|_, held| *held != buffer);
                match space.buffers.remove(&buffer) {
                    Some(Held::Device(buffer)) => buffer.destroy()?,
                    Some(Held::Shared(shared)) => self.unshare(shared)?,
                    None => return failed(Status::NotFound),
                }
                Outcome::ok(0)
            }
            BackendOp::DmaMap { region, pieces, access, .. } => {
                let shared = self.share(id, &pieces, access, true)?;
                self.space(id)?.regions.insert(region, shared);
                Outcome::ok(0)
            }
            BackendOp::DmaUnmap { region, .. } => {
                let Some(shared) = self.space(id)?.regions.remove(&region) else {
                    return failed(Status::NotFound);
                };
                self.unshare(shared)?;
                Outcome::ok(0)
            }
            BackendOp::ProgramLoad { program, code, .. } => self.load(id, program, code)?,
            BackendOp::ProgramUnload { program, .. } => {
                let space = self.space(id)?;
                let Some(loaded) = space.programs.remove(&program) else {
                    return failed(Status::NotFound);
                };
                space.functions.retain(|_, kernel| kernel.program != program);
                loaded.program.unload()?;
                Outcome::ok(0)
            }
            BackendOp::FunctionGet { program, function, name, .. } => {
                let space = self.space(id)?;
                let Some(loaded) = space.programs.get(&program) else {
                    return failed(Status::NotFound);
                };
                let found = loaded.program.function(&renamed(&name))?;
                let bytes = found.params_bytes();
                let dynamic_shared = loaded.dynamic_shared.get(&*name).copied().unwrap_or(0);
                let kernel = Kernel { function: found, program, dynamic_shared };
                space.functions.insert(function, kernel);
                Outcome::ok(bytes.into())
            }
            BackendOp::QueueOpen { queue, .. } => {
                let Some((slots, depth)) = self.room() else { return failed(Status::NoMemory) };
                let opened = self.session(id)?.create_queue_with(slots, depth, VECTOR)?;
                let lane = Lane {
                    queue: opened,
                    waiting: Default::default(),
                    flying: HashMap::new(),
                    closing: None,
                };
                self.space(id)?.lanes.insert(queue, lane);
                Outcome::ok(0)
            }
            BackendOp::QueueClose { queue, .. } => {
                let Some(lane) = self.space(id)?.lanes.get_mut(&queue) else {
                    return failed(Status::NotFound);
                };
                lane.closing = Some(ticket);
                let waiting: Vec<_> = lane.waiting.drain(..).map(|(ticket, _)| ticket).collect();
                for ticket in waiting {
                    self.books.done(ticket, Outcome::failed(Status::Revoked, 0));
                }
                return Ok(None);
            }
            BackendOp::Copy { .. }
            | BackendOp::Fill { .. }
            | BackendOp::Launch { .. }
            | BackendOp::Timestamp { .. } => return self.queue(ticket, op),
        };
        Ok(Some(outcome))
    }

    fn space(&mut self, id: SpaceId) -> Result<&mut Space<'d, &'o O::Transport>, Fail> {
        self.spaces.get_mut(&id).ok_or_else(|| Outcome::failed(Status::DeviceLost, 0).into())
    }

    fn session(&self, id: SpaceId) -> Result<&Session<'d, &'o O::Transport>, Fail> {
        let session = self.spaces.get(&id).and_then(|space| space.session.as_ref());
        session.ok_or_else(|| Outcome::failed(Status::DeviceLost, 0).into())
    }

    fn open(&mut self, id: SpaceId) -> Result<Outcome, Fail> {
        let session = self.device.open_session()?;
        let (base, bytes) = (session.arena_base(), self.device.identify()?.arena_bytes);
        let arena = Arena::new(base, bytes)
            .map_err(|error| Fail::Device(format!("a session's address space: {error}")))?;
        match self.spaces.entry(id) {
            Entry::Vacant(free) => free.insert(Space::new(session, arena)),
            Entry::Occupied(_) => return failed(Status::Backend),
        };
        Ok(Outcome { detail: bytes, ..Outcome::ok(base) })
    }

    fn buffer(
        &mut self,
        id: SpaceId,
        bytes: u64,
    ) -> Result<(Held<'d, &'o O::Transport>, u64), Fail> {
        let buffer = self.session(id)?.create_buffer(bytes, Usage::Device)?;
        let address = buffer.address();
        if !self.space(id)?.arena.contains(address, bytes) {
            let why = format!("a buffer at {address:#x}, outside its session's address space");
            return Err(Fail::Device(why));
        }
        Ok((Held::Device(buffer), address))
    }

    fn load(&mut self, id: SpaceId, program: ProgramId, code: Code) -> Result<Outcome, Fail> {
        let mut dynamic_shared = HashMap::new();
        let session = self.session(id)?;
        let loaded = match &code {
            Code::Listed(image) => session.load_program(image, Format::Image)?,
            Code::Ptx(module) => {
                // The guard put variables and its record at addresses that only a backend which owns
                // the address space can provide. The outer device guards for itself.
                if !module.report().variables.is_empty() || module.mode() == GuardMode::Check {
                    tracing::warn!(
                        "a program with variables was guarded here and cannot be loaded into another \
                         device; write \"guard\": \"none\", the outer device has a guard of its own"
                    );
                    return failed(Status::Unsupported);
                }
                for kernel in &module.contract().kernels {
                    dynamic_shared.insert(kernel.kernel.to_string(), kernel.dynamic_shared);
                }
                session.load_program(renamed(module.text()).as_bytes(), Format::Ptx)?
            }
        };
        let loaded = Loaded { program: loaded, dynamic_shared };
        self.space(id)?.programs.insert(program, loaded);
        Ok(Outcome::ok(0))
    }

    /// Makes memory of this machine a DMA region of the outer device. A host-visible buffer may begin
    /// inside a page and is zeroed first.
    fn share(
        &mut self,
        id: SpaceId,
        pieces: &[Piece],
        access: Access,
        whole_pages: bool,
    ) -> Result<Shared<'d, &'o O::Transport>, Fail> {
        if !self.device.features().contains(Features::DMA) {
            return failed(Status::Unsupported);
        }
        let mut skip = 0;
        let mut planned: Vec<Window> = Vec::new();
        for piece in pieces {
            let Some(region) = self.books.memory.get(&piece.memory).cloned() else {
                return failed(Status::Backend);
            };
            let Some((offset, bytes, ahead)) = pages(&region, piece.offset, piece.bytes) else {
                return failed(Status::Backend);
            };
            if whole_pages && (ahead != 0 || bytes != piece.bytes) {
                return failed(Status::Backend);
            }
            skip = ahead;
            // Neighbours become one window: one call and, with luck, huge pages.
            match planned.last_mut() {
                Some((last, at, length, _))
                    if Arc::ptr_eq(last, &region) && *at + *length == offset =>
                {
                    *length += bytes;
                }
                _ => planned.push((region, offset, bytes, 0)),
            }
        }
        if let (false, [piece]) = (whole_pages, pieces)
            && let Some((region, ..)) = planned.first()
            && region.zero(piece.offset, piece.bytes).is_err()
        {
            return failed(Status::Backend);
        }
        let mut windows = Vec::with_capacity(planned.len());
        for (region, offset, bytes, _) in &planned {
            // CAST: a pointer is an address.
            let address = region.mapping().as_ptr() as u64 + offset;
            let Some(iova) = self.books.iova.take(*bytes, address) else { break };
            if let Err(error) = self.books.outer.map(iova, region, *offset, *bytes, access) {
                tracing::warn!(%error, bytes, "the IOMMU maps no more; raise ulimit -l");
                self.books.iova.give(iova, *bytes);
                break;
            }
            windows.push((iova, *bytes));
        }
        if windows.len() < planned.len() {
            self.books.unmap(windows).map_err(Fail::Device)?;
            return failed(Status::NoMemory);
        }
        let extents: Vec<DmaExtent> =
            windows.iter().map(|&(gpa, bytes)| DmaExtent { gpa, bytes }).collect();
        let bytes = pieces.iter().map(|piece| piece.bytes).sum();
        match self.session(id).and_then(|s| Ok(s.register_dma(&extents, access)?)) {
            Ok(region) => Ok(Shared { region, windows, skip, bytes }),
            Err(fail) => {
                self.books.unmap(windows).map_err(Fail::Device)?;
                Err(fail)
            }
        }
    }

    /// Ends that: the outer device forgets the region, and then cannot reach it, whatever it says.
    fn unshare(&mut self, shared: Shared<'d, &'o O::Transport>) -> Result<(), Fail> {
        let Shared { region, windows, .. } = shared;
        let forgotten = region.unregister();
        self.books.unmap(windows).map_err(Fail::Device)?;
        Ok(forgotten?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_guard_are_not_those_of_the_next() {
        let once = renamed("%$ts_w0 $L__BB0_2");
        assert_eq!((&*once, &*renamed(&once)), ("%$tn_w0 $L__BB0_2", "%$tnn_w0 $L__BB0_2"));
        assert_eq!(renamed(&format!("{once} %$ts_w0")), "%$tnn_w0 $L__BB0_2 %$tn_w0");
    }
}
