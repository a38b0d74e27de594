//! Operations on an open space, as commands for its worker.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use foldhash::HashMap;
use rustix::fs::MemfdFlags;
use turnstile_abi::Status;
use turnstile_backend_api::{
    BackendEvent, BackendOp, Code, Home, MemoryId, Piece, ProgramId, SharedRegion, Ticket,
};
use turnstile_ptx::GuardMode;

use super::porter::{Porter, ProgramInfo};
use super::share::Floor;
use super::space::{Expected, Lost, Open, Space};
use crate::wire::{Command, Launch, Note};

/// Why an operation did not get to the worker.
pub(super) enum Refused {
    /// It is answered with this.
    Status(Status),
    /// The worker cannot be reached.
    Lost(Lost),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Refused {
        Refused::Status(status)
    }
}
impl From<Lost> for Refused {
    fn from(lost: Lost) -> Refused {
        Refused::Lost(lost)
    }
}

/// What an operation needs.
pub(super) struct Desk<'g> {
    pub(super) space: &'g mut Space,
    pub(super) memory: &'g HashMap<MemoryId, Arc<SharedRegion>>,
    pub(super) porter: &'g Porter,
    pub(super) events: &'g mut Vec<BackendEvent>,
    pub(super) floor: &'g Floor,
}

impl Desk<'_> {
    /// Takes an operation other than opening and closing the space.
    pub(super) fn take(&mut self, ticket: Ticket, op: BackendOp) -> Result<(), Refused> {
        let mut content: Option<Box<[u8]>> = None;
        let (command, expected, queue) = match op {
            BackendOp::Launch { .. } => return self.launch(ticket, op),
            BackendOp::SpaceOpen { .. } | BackendOp::SpaceClose { .. } => {
                return Err(Status::Backend.into());
            }
            BackendOp::Copy { queue, dst, src, bytes, .. } => {
                let command = Command::Copy { stream: queue.0, to: dst, from: src, bytes };
                (command, Expected::Moved(bytes), Some(queue))
            }
            BackendOp::Fill { queue, dst, bytes, pattern, width, .. } => {
                let command = Command::Fill { stream: queue.0, to: dst, bytes, pattern, width };
                (command, Expected::Moved(bytes), Some(queue))
            }
            BackendOp::Timestamp { queue, .. } => {
                (Command::Timestamp { stream: queue.0 }, Expected::Clock, Some(queue))
            }
            BackendOp::BufferCreate { buffer, bytes, home, .. } => match home {
                Home::Device => {
                    (Command::Buffer { id: buffer.0, bytes }, Expected::Device(bytes), None)
                }
                Home::Shared(piece) => {
                    let (memory, offset) = self.hand_over(&piece)?;
                    let command =
                        Command::SharedBuffer { id: buffer.0, memory, offset, bytes: piece.bytes };
                    (command, Expected::Shared, None)
                }
            },
            BackendOp::BufferDestroy { buffer, .. } => {
                (Command::BufferEnd { id: buffer.0 }, Expected::Nothing, None)
            }
            BackendOp::DmaMap { region, pieces, .. } => {
                self.pieces(ticket, &pieces)?;
                // CAST: the ABI bounds the extents of a region.
                let command = Command::Map { id: region.0, pieces: pieces.len() as u32 };
                (command, Expected::Nothing, None)
            }
            BackendOp::DmaUnmap { region, .. } => {
                (Command::Unmap { id: region.0 }, Expected::Nothing, None)
            }
            BackendOp::ProgramLoad { program, code, .. } => {
                return self.program(ticket, program, code);
            }
            BackendOp::ProgramUnload { program, .. } => {
                self.space.programs.remove(&program);
                self.space.functions.retain(|_, known| known.program != program);
                (Command::ProgramEnd { id: program.0 }, Expected::Nothing, None)
            }
            BackendOp::FunctionGet { program, function, name, .. } => {
                let loaded = self.space.programs.get(&program).ok_or(Status::NotFound)?;
                let info = match &loaded.kernels {
                    Some(kernels) => Some(kernels.get(&*name).ok_or(Status::NotFound)?.clone()),
                    None => None,
                };
                let expected = Expected::Function(function, program, info, loaded.checked);
                let command = Command::Function {
                    id: function.0,
                    program: program.0,
                    slot: 0,
                    // CAST: the mediator bounds names.
                    name_bytes: name.len() as u32,
                };
                content = Some(name.into_boxed_bytes());
                (command, expected, None)
            }
            BackendOp::QueueOpen { queue, .. } => {
                (Command::Stream { id: queue.0 }, Expected::Nothing, None)
            }
            BackendOp::QueueClose { queue, .. } => {
                self.space.forget(queue, self.events);
                (Command::StreamEnd { id: queue.0 }, Expected::Nothing, None)
            }
        };
        self.space.submit(ticket, command, expected, content.as_deref(), queue, self.floor)?;
        Ok(())
    }

    fn launch(&mut self, ticket: Ticket, op: BackendOp) -> Result<(), Refused> {
        let BackendOp::Launch {
            queue,
            function,
            grid,
            block,
            shared_bytes,
            cooperative,
            timeout_ns,
            params,
            ..
        } = op
        else {
            return Err(Status::Backend.into());
        };
        let known = self.space.functions.get(&function).ok_or(Status::NotFound)?;
        let mut shared_bytes = shared_bytes;
        if let Some(info) = &known.info {
            // The verifier's conclusions hold for launches that keep these.
            let shape = info.block.map(|b| [b.x, b.y, b.z]);
            if shape.is_some_and(|shape| shape != block) || params.len() as u64 != info.param_bytes
            {
                return Err(Status::OutOfRange.into());
            }
            let least = u32::try_from(info.dynamic_shared).map_err(|_| Status::OutOfRange)?;
            shared_bytes = shared_bytes.max(least);
        }
        let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
        if threads == 0 || threads > 1024 {
            return Err(Status::OutOfRange.into());
        }
        let launch = Launch {
            stream: queue.0,
            function: function.0,
            grid,
            // CAST: no axis is longer than all threads, which are 1,024 at most.
            block: block.map(|n| n as u16),
            shared_bytes,
            cooperative,
            timeout_us: u32::try_from(timeout_ns / 1000).unwrap_or(u32::MAX),
            slot: 0,
            // CAST: the ABI bounds parameters to 4 KiB.
            params_bytes: params.len() as u16,
            checked: known.checked,
        };
        let command = Command::Launch(launch);
        // A slot even without parameters where the guard may have something to report.
        let content = (!params.is_empty() || launch.checked).then_some(&params[..]);
        self.space.submit(ticket, command, Expected::Launched, content, Some(queue), self.floor)?;
        Ok(())
    }

    /// Makes a region of host memory known to the worker. Returns its number and the piece's offset in its file.
    fn hand_over(&mut self, piece: &Piece) -> Result<(u32, u64), Refused> {
        let region = self.memory.get(&piece.memory).ok_or(Status::Backend)?;
        let inside = turnstile_abi::memory::contains(
            turnstile_abi::SharedMemory::size(&**region),
            piece.offset,
            piece.bytes,
        );
        if !inside {
            return Err(Status::Backend.into());
        }
        if !self.space.handed.contains(&piece.memory) {
            self.space.note(Note::Memory { id: piece.memory.0 }, Some(region.fd()))?;
            self.space.handed.push(piece.memory);
        }
        Ok((piece.memory.0, region.file_offset() + piece.offset))
    }

    /// Hands over the list of pieces of a region.
    fn pieces(&mut self, ticket: Ticket, pieces: &[Piece]) -> Result<(), Refused> {
        let mut list = Vec::with_capacity(pieces.len() * 24);
        for piece in pieces {
            let (memory, offset) = self.hand_over(piece)?;
            for word in [memory.into(), offset, piece.bytes] {
                list.extend(word.to_le_bytes());
            }
        }
        let payload = rustix::fs::memfd_create("turnstile-pieces", MemfdFlags::CLOEXEC);
        let mut payload = File::from(payload.map_err(|_| Status::NoMemory)?);
        payload.write_all(&list).map_err(|_| Status::NoMemory)?;
        self.space.note(Note::Payload { cookie: ticket.0 }, Some(payload.as_fd()))?;
        Ok(())
    }

    fn program(&mut self, ticket: Ticket, program: ProgramId, code: Code) -> Result<(), Refused> {
        // The policy says so already; here it is the wall between tenants that run at the same time.
        let cannot_fault = match &code {
            Code::Listed(_) => false,
            Code::Ptx(module) => {
                let here = module.arena().map(|arena| (arena.base(), arena.size()));
                module.mode() == GuardMode::Fence && here == Some(self.space.arena)
            }
        };
        if self.space.kind.concurrent && !cannot_fault {
            return Err(Status::Unsupported.into());
        }
        // It counts as open while it is made ready; `CudaGpu::prepared` takes it from there.
        let expected = Expected::Program(program, ProgramInfo::default(), None);
        let open = Open { expected, slot: None, work: false, since: Instant::now() };
        self.space.open.insert(ticket.0, open);
        self.porter.prepare(self.space.id, ticket, code);
        Ok(())
    }
}
