//! The emulated GPU as a backend: address spaces, streams, and a few host threads that run what is next.
//!
//! One lock guards the books (spaces, streams, what waits); work itself runs outside it. Streams run in order; spaces
//! take turns by the time they have used over their weight, so a tenant with long kernels does not starve one with
//! short copies. Every submission is answered exactly once, whatever ends it.

mod control;
mod job;
mod script;
mod shared;
mod space;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use turnstile_abi::Status;
use turnstile_abi::version::Features;
use turnstile_backend_api::{
    Backend, BackendEvent, BackendOp, Description, Done, Mailbox, MemoryId, Outcome, SharedRegion,
    SpaceId, Ticket,
};

use job::Job;
pub use script::{Script, Scripted, Trouble};
use space::Space;

/// Settings of an emulated GPU.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Device memory in bytes, shared by all tenants.
    pub memory_bytes: u64,
    /// Host threads that run kernels and copies; at least one.
    pub threads: u32,
    /// Things that go wrong on purpose.
    pub script: Script,
}

/// The books.
struct Books {
    spaces: HashMap<SpaceId, Space>,
    memory: HashMap<MemoryId, Arc<SharedRegion>>,
    /// Device memory in use.
    used: u64,
    /// Counts work operations, for the script.
    started: u64,
    over: bool,
}

/// What the backend's owner and its threads share.
struct Device {
    settings: Settings,
    books: Mutex<Books>,
    work: Condvar,
    post: Mailbox<BackendEvent>,
    begun: Instant,
}

/// A software GPU.
pub struct EmulatedGpu {
    device: Arc<Device>,
    threads: Vec<JoinHandle<()>>,
}

impl EmulatedGpu {
    /// Starts the GPU's threads.
    ///
    /// # Errors
    /// When the host has no thread or file descriptor left.
    pub fn start(settings: Settings) -> std::io::Result<EmulatedGpu> {
        let count = settings.threads.max(1);
        let books = Books {
            spaces: HashMap::new(),
            memory: HashMap::new(),
            used: 0,
            started: 0,
            over: false,
        };
        let device = Arc::new(Device {
            settings,
            books: Mutex::new(books),
            work: Condvar::new(),
            post: Mailbox::new()?,
            begun: Instant::now(),
        });
        let mut gpu = EmulatedGpu { device, threads: Vec::new() };
        for n in 0..count {
            let device = gpu.device.clone();
            let thread = std::thread::Builder::new().name(format!("gpu-{n}"));
            gpu.threads.push(thread.spawn(move || device.run())?);
        }
        Ok(gpu)
    }
}

impl Drop for EmulatedGpu {
    fn drop(&mut self) {
        {
            let mut books = self.device.books();
            books.over = true;
            for space in books.spaces.values() {
                space.stop_running();
            }
        }
        self.device.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing to give back.
            let _ = thread.join();
        }
    }
}

impl Device {
    /// The books. A thread that panicked while it held them left whole entries: every change is a single step.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, ticket: Ticket, outcome: Outcome) {
        self.post.put(BackendEvent::Done(Done { ticket, outcome }));
    }

    /// One of the GPU's threads: runs the next job until the GPU is dropped.
    fn run(&self) {
        let mut books = self.books();
        loop {
            if books.over {
                return;
            }
            let Some((ticket, job)) = self.next(&mut books) else {
                books = self.work.wait(books).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(books);
            let (id, queue) = (job.space, job.queue);
            let (outcome, killed) = job.execute(self);
            books = self.books();
            if let Some(space) = books.spaces.get_mut(&id) {
                space.finished(queue, outcome.busy_ns);
            }
            self.done(ticket, outcome);
            if killed {
                self.kill(&mut books, id);
            }
            self.settle(&mut books, id);
        }
    }

    /// The job whose space has used least for its weight.
    fn next(&self, books: &mut Books) -> Option<(Ticket, Job)> {
        let ready = books.spaces.iter().filter(|(_, s)| s.ready());
        let (&id, _) = ready.min_by_key(|(id, s)| (s.virtual_time(), id.0))?;
        let floor = books.spaces.values().filter(|s| s.ready()).map(Space::virtual_time).min();
        let trouble = {
            let next = books.started;
            books.started += 1;
            self.settings.script.trouble(next)
        };
        let space = books.spaces.get_mut(&id)?;
        space.catch_up(floor.unwrap_or(0));
        space.take(id, trouble)
    }

    /// A space dies: whatever waits in it is answered, whatever runs in it is stopped.
    fn kill(&self, books: &mut Books, id: SpaceId) {
        let Some(space) = books.spaces.get_mut(&id) else { return };
        space.dead = true;
        space.stop_running();
        for ticket in space.forget_waiting() {
            self.done(ticket, Outcome::failed(Status::DeviceLost, 0));
        }
        self.post.put(BackendEvent::SpaceLost { space: id, why: "the scripted death".into() });
    }
}

impl Backend for EmulatedGpu {
    fn describe(&self) -> Description {
        Description {
            kind: "emulated",
            name: "Turnstile emulated GPU (PTX)".into(),
            memory_bytes: self.device.settings.memory_bytes,
            multiprocessors: self.device.settings.threads.max(1),
            features: Features::DMA | Features::COMPUTE | Features::COOPERATIVE,
        }
    }

    fn add_memory(&mut self, id: MemoryId, region: Arc<SharedRegion>) {
        self.device.books().memory.insert(id, region);
    }

    fn remove_memory(&mut self, id: MemoryId) {
        self.device.books().memory.remove(&id);
    }

    fn submit(&mut self, ticket: Ticket, op: BackendOp) {
        let mut books = self.device.books();
        self.device.accept(&mut books, ticket, op);
    }

    fn abort(&mut self, space: SpaceId) {
        if let Some(space) = self.device.books().spaces.get(&space) {
            space.stop_running();
        }
    }

    fn drain(&mut self, sink: &mut dyn FnMut(BackendEvent)) {
        self.device.post.drain(sink);
    }

    fn sleeping(&mut self, asleep: bool) {
        self.device.post.sleeping(asleep);
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.device.post.fd().as_fd()
    }
}
