//! Interrupts out to the client's eventfds and doorbells in from it, on a thread of its own.
//!
//! The flags of an open file belong to everybody who holds it: a client can make the eventfd it gave
//! us blocking and fill it, and the next write hangs. So the dispatcher never touches a client's
//! eventfd. It signals the device's own; this thread reads those and writes the client's, and if it
//! hangs there, that client alone gets no interrupts. The same holds the other way round: the
//! doorbell's eventfd that a client may ask for is not the dispatcher's, and is never read: an
//! edge-triggered epoll says that it was signalled.
//!
//! A vector without an eventfd of the client's is not watched, so an interrupt stays in the device's
//! own eventfd, and that is the pending bit ([`turnstile_device::msix`]).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use turnstile_abi::regs::VECTORS;
use turnstile_device::Device;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Tokens in the epoll beyond the vectors.
const STOP: u64 = 1 << 32;
const DOORBELL: u64 = STOP + 1;
/// How long a thread that hangs in a client's eventfd is talked to before it is given up.
const PATIENCE: Duration = Duration::from_secs(5);

type Targets = [Option<Arc<OwnedFd>>; VECTORS as usize];

struct Shared {
    device: Arc<Device>,
    epoll: Epoll,
    /// The client's eventfds. Never locked while one is written.
    targets: Mutex<Targets>,
    stop: EventFd,
    stopping: AtomicBool,
    /// What the thread writes now, while it does: for getting it out of there.
    busy: Mutex<Option<Arc<OwnedFd>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread, and what it watches.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    doorbell: Option<OwnedFd>,
}

impl Relay {
    /// Starts the thread. Nothing is connected yet.
    pub(crate) fn start(device: Arc<Device>, tenant: &str) -> io::Result<Relay> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let epoll = Epoll::new()?;
        epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), EpollEvent::new(EventSet::IN, STOP))?;
        let shared = Arc::new(Shared {
            device,
            epoll,
            targets: Mutex::default(),
            stop,
            stopping: AtomicBool::new(false),
            busy: Mutex::default(),
        });
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("irq-{tenant:.11}"))
            .stack_size(128 * 1024)
            .spawn(move || for_thread.run())?;
        Ok(Relay { shared, thread: Some(thread), doorbell: None })
    }

    /// Sends a vector's interrupts to an eventfd of the client's. One that waits goes at once.
    pub(crate) fn connect(&self, vector: u16, eventfd: OwnedFd) -> io::Result<()> {
        let Some(own) = self.shared.device.vector(vector) else { return Ok(()) };
        let mut targets = lock(&self.shared.targets);
        let Some(slot) = targets.get_mut(usize::from(vector)) else { return Ok(()) };
        if slot.replace(Arc::new(eventfd)).is_none() {
            let event = EpollEvent::new(EventSet::IN, vector.into());
            let watched = self.shared.epoll.ctl(ControlOperation::Add, own.as_raw_fd(), event);
            if let Err(error) = watched {
                *slot = None;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets a vector's interrupts wait in the device.
    pub(crate) fn disconnect(&self, vector: u16) {
        let mut targets = lock(&self.shared.targets);
        let old = targets.get_mut(usize::from(vector)).and_then(Option::take);
        if old.is_some()
            && let Some(own) = self.shared.device.vector(vector)
        {
            let fd = own.as_raw_fd();
            let _ = self.shared.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
    }

    /// The eventfd that stands for all doorbells, for the client.
    pub(crate) fn doorbell(&mut self) -> io::Result<&OwnedFd> {
        if self.doorbell.is_none() {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let eventfd = rustix::event::eventfd(0, flags)?;
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, DOORBELL);
            self.shared.epoll.ctl(ControlOperation::Add, eventfd.as_raw_fd(), event)?;
            self.doorbell = Some(eventfd);
        }
        self.doorbell.as_ref().ok_or(io::ErrorKind::NotFound.into())
    }

    /// Ends the thread, even if it hangs in an eventfd of the client's: whoever holds an eventfd can
    /// empty it, and that lets a writer go on.
    pub(crate) fn stop(mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _ = self.shared.stop.write(1);
        let Some(thread) = self.thread.take() else { return };
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            let busy = lock(&self.shared.busy).clone();
            if let Some(fd) = busy {
                let _ = rustix::fs::fcntl_setfl(&*fd, OFlags::NONBLOCK);
                let _ = rustix::io::read(&*fd, &mut [0_u8; 8]);
            }
            if Instant::now() >= until {
                tracing::error!("a thread hangs in a client's eventfd; it is left behind");
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let _ = thread.join();
    }
}

impl Shared {
    fn run(&self) {
        let mut events = [EpollEvent::default(); 18];
        while !self.stopping.load(Ordering::Acquire) {
            // Interrupted, or nothing: look again.
            let ready = self.epoll.wait(-1, &mut events).unwrap_or(0);
            for event in &events[..ready] {
                match event.data() {
                    STOP => return,
                    DOORBELL => self.device.kick().kick(),
                    // CAST: the tokens of vectors are their numbers.
                    vector => self.pass_on(vector as u16),
                }
            }
        }
    }

    fn pass_on(&self, vector: u16) {
        let target = lock(&self.targets).get(usize::from(vector)).cloned().flatten();
        // Disconnected since epoll looked: the interrupt waits.
        let (Some(target), Some(own)) = (target, self.device.vector(vector)) else { return };
        if own.read().is_err() {
            return;
        }
        *lock(&self.busy) = Some(target.clone());
        // Full is as good as one more; a client that closed its end is about to leave.
        let _ = rustix::io::write(&*target, &1_u64.to_ne_bytes());
        *lock(&self.busy) = None;
    }
}

/// Whether a descriptor is an eventfd. The kernel makes the name, and no path begins like it.
/// Writing to anything else could block for ever: it may be a file of a file system that the client
/// itself serves.
pub(crate) fn is_eventfd(fd: &OwnedFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|path| path.as_os_str() == "anon_inode:[eventfd]")
}

/// Whether an interrupt waits in the device's own eventfd of a vector.
pub(crate) fn is_pending(device: &Device, vector: u16) -> bool {
    let Some(own) = device.vector(vector) else { return false };
    let Ok(epoll) = Epoll::new() else { return false };
    let event = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, own.as_raw_fd(), event).is_ok()
        && matches!(epoll.wait(0, &mut [EpollEvent::default()]), Ok(1))
}
