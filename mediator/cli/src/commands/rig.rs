//! A backend driven by hand, one operation at a time: for checking kernels on a device and for measuring
//! a device without the mediator.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use turnstile_abi::request::Access;
use turnstile_abi::{SharedMemory, Status};
use turnstile_backend_api::op::Params;
use turnstile_backend_api::{
    Backend, BackendEvent, BackendOp, BufferId, Code, FunctionId, Home, Isolation, MemoryId,
    Outcome, Piece, Place, ProgramId, QueueId, RegionId, SharedRegion, SpaceId, Ticket,
};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(60);
const HOST: MemoryId = MemoryId(1);

/// The backend, its answers, and numbers for new objects.
pub(super) struct Rig {
    backend: Box<dyn Backend>,
    host: Arc<SharedRegion>,
    next: u64,
    answers: HashMap<Ticket, Outcome>,
    lost: HashSet<SpaceId>,
}

/// A space with a queue, and all of the rig's host memory as a region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place0 {
    pub(super) space: SpaceId,
    pub(super) queue: QueueId,
    pub(super) region: RegionId,
    /// Base and size of its arena.
    pub(super) arena: (u64, u64),
}

/// A kernel that is loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub(super) program: ProgramId,
    pub(super) function: FunctionId,
    pub(super) param_bytes: u64,
}

/// How a kernel is launched.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) cooperative: bool,
    pub(super) timeout: Duration,
}

/// An operation that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) what: &'static str,
    pub(super) outcome: Outcome,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.outcome.status.name())?;
        if self.outcome.detail != 0 {
            write!(f, " ({:#x})", self.outcome.detail)?;
        }
        self.outcome.fault.as_ref().map_or(Ok(()), |fault| write!(f, ": {}", fault.what))
    }
}

type Result<T> = std::result::Result<T, Failed>;

impl Rig {
    /// A rig with so many bytes of host memory.
    pub(super) fn new(
        mut backend: Box<dyn Backend>,
        host_bytes: u64,
    ) -> std::result::Result<Rig, String> {
        let host = SharedRegion::create("turnstile-rig", host_bytes).map_err(|e| e.to_string())?;
        let host = Arc::new(host);
        backend.add_memory(HOST, host.clone());
        Ok(Rig { backend, host, next: 0, answers: HashMap::new(), lost: HashSet::new() })
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn submit(&mut self, op: BackendOp) -> Ticket {
        let ticket = Ticket(self.number());
        self.backend.submit(ticket, op);
        ticket
    }

    /// Looks for answers once.
    pub(super) fn look(&mut self) {
        let (answers, lost) = (&mut self.answers, &mut self.lost);
        self.backend.drain(&mut |event| match event {
            BackendEvent::Done(done) => drop(answers.insert(done.ticket, done.outcome)),
            BackendEvent::SpaceLost { space, .. } => drop(lost.insert(space)),
        });
    }

    pub(super) fn is_lost(&self, space: SpaceId) -> bool {
        self.lost.contains(&space)
    }

    pub(super) fn wait(&mut self, ticket: Ticket) -> Outcome {
        let begun = Instant::now();
        loop {
            self.look();
            if let Some(outcome) = self.answers.remove(&ticket) {
                return outcome;
            }
            if begun.elapsed() > PATIENCE {
                return Outcome::failed(Status::Timeout, 0);
            }
            if begun.elapsed() > Duration::from_millis(1) {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }

    pub(super) fn run(&mut self, what: &'static str, op: BackendOp) -> Result<Outcome> {
        let ticket = self.submit(op);
        let outcome = self.wait(ticket);
        if outcome.status.is_ok() { Ok(outcome) } else { Err(Failed { what, outcome }) }
    }

    pub(super) fn open(&mut self, memory_bytes: u64, isolation: Isolation) -> Result<Place0> {
        let (space, queue) = (SpaceId(self.number()), QueueId(self.number()));
        let region = RegionId(self.number());
        let open = BackendOp::SpaceOpen { space, memory_bytes, weight: 1, isolation };
        let opened = self.run("open a space", open)?;
        self.run("open a queue", BackendOp::QueueOpen { space, queue })?;
        let piece = Piece { memory: HOST, offset: 0, bytes: self.host.size() };
        let pieces = Box::new([piece]);
        let map = BackendOp::DmaMap { space, region, pieces, access: Access::ReadWrite };
        self.run("register memory", map)?;
        Ok(Place0 { space, queue, region, arena: (opened.value, opened.detail) })
    }

    pub(super) fn close(&mut self, at: &Place0) -> Result<()> {
        self.run("close a space", BackendOp::SpaceClose { space: at.space }).map(drop)
    }

    /// Creates a buffer. Returns its address as well.
    pub(super) fn buffer(&mut self, at: &Place0, bytes: u64) -> Result<(BufferId, u64)> {
        let buffer = BufferId(self.number());
        let bytes = bytes.max(1);
        let op = BackendOp::BufferCreate { space: at.space, buffer, bytes, home: Home::Device };
        Ok((buffer, self.run("create a buffer", op)?.value))
    }

    pub(super) fn free(&mut self, at: &Place0, buffer: BufferId) -> Result<()> {
        let op = BackendOp::BufferDestroy { space: at.space, buffer };
        self.run("free a buffer", op).map(drop)
    }

    pub(super) fn copy_op(&self, at: &Place0, dst: Place, src: Place, bytes: u64) -> BackendOp {
        BackendOp::Copy { space: at.space, queue: at.queue, dst, src, bytes }
    }

    pub(super) fn upload(&mut self, at: &Place0, buffer: BufferId, content: &[u8]) -> Result<()> {
        if content.is_empty() {
            return Ok(());
        }
        // The caller's content is never larger than the rig's memory.
        let _ = self.host.write(0, content);
        let (dst, src) = (Place::Buffer(buffer, 0), Place::Region(at.region, 0));
        let op = self.copy_op(at, dst, src, content.len() as u64);
        self.run("copy to the device", op).map(drop)
    }

    pub(super) fn download(
        &mut self,
        at: &Place0,
        buffer: BufferId,
        bytes: usize,
    ) -> Result<Vec<u8>> {
        let mut content = vec![0; bytes];
        if bytes > 0 {
            let (dst, src) = (Place::Region(at.region, 0), Place::Buffer(buffer, 0));
            let op = self.copy_op(at, dst, src, bytes as u64);
            self.run("copy from the device", op)?;
            let _ = self.host.read(0, &mut content);
        }
        Ok(content)
    }

    pub(super) fn load(&mut self, at: &Place0, code: Code, kernel: &str) -> Result<Loaded> {
        let (program, function) = (ProgramId(self.number()), FunctionId(self.number()));
        let space = at.space;
        self.run("load a program", BackendOp::ProgramLoad { space, program, code })?;
        let get = BackendOp::FunctionGet { space, program, function, name: kernel.into() };
        let param_bytes = self.run("find a kernel", get)?.value;
        Ok(Loaded { program, function, param_bytes })
    }

    pub(super) fn unload(&mut self, at: &Place0, loaded: &Loaded) -> Result<()> {
        let op = BackendOp::ProgramUnload { space: at.space, program: loaded.program };
        self.run("unload a program", op).map(drop)
    }

    pub(super) fn launch_op(
        &self,
        at: &Place0,
        loaded: &Loaded,
        shape: &Shape,
        params: &[u8],
    ) -> BackendOp {
        BackendOp::Launch {
            space: at.space,
            queue: at.queue,
            function: loaded.function,
            grid: shape.grid,
            block: shape.block,
            shared_bytes: shape.shared_bytes,
            cooperative: shape.cooperative,
            // CAST: seconds.
            timeout_ns: shape.timeout.as_nanos() as u64,
            params: Params::from_slice(params),
        }
    }
}
