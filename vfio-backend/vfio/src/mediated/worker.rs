//! The thread that owns the outer device: one life of the device after another.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use turnstile_abi::Status;
use turnstile_abi::identify::Identity;
use turnstile_backend_api::{
    BackendEvent, BackendOp, Description, Done, Mailbox, MemoryId, Outcome, SharedRegion, Ticket,
};
use turnstile_driver::{DeviceManager, Error, Patience, Slot};

use super::life::{End, Life};
use super::{Order, Outer};
use crate::iova::Iova;

/// Commands in flight in one queue.
pub(super) const DEPTH: usize = 64;
/// The interrupt of all work queues.
pub(super) const VECTOR: u16 = 1;
/// How long the device may take over one administrative command before it counts as lost. Others'
/// completions are not passed on meanwhile.
const ADMIN_NS: u64 = 5_000_000_000;
/// Longest sleep with nothing to do.
const IDLE_NS: u64 = 1_000_000_000;

/// What outlives the device's resets.
pub(super) struct Books<'o, O: Outer> {
    pub(super) outer: &'o O,
    pub(super) inbox: &'o Mailbox<Order>,
    pub(super) outbox: &'o Mailbox<BackendEvent>,
    pub(super) memory: HashMap<MemoryId, Arc<SharedRegion>>,
    pub(super) iova: Iova,
    pub(super) orders: VecDeque<Order>,
}

impl<O: Outer> Books<'_, O> {
    pub(super) fn done(&self, ticket: Ticket, outcome: Outcome) {
        self.outbox.put(BackendEvent::Done(Done { ticket, outcome }));
    }

    /// Takes what has come into the mailbox.
    pub(super) fn take_orders(&mut self) {
        let orders = &mut self.orders;
        self.inbox.drain(&mut |order| orders.push_back(order));
    }

    /// Sleeps until there is something to do, unless there is already.
    pub(super) fn sleep(&mut self, bound_ns: u64) {
        self.inbox.sleeping(true);
        self.take_orders();
        if self.orders.is_empty() {
            self.outer.wait(self.inbox.fd().as_fd(), VECTOR, bound_ns);
        }
        self.inbox.sleeping(false);
        self.take_orders();
    }
}

/// Drives the device until it is told to stop, or has to let it go: then the device is dropped at once,
/// and everything asked afterwards is answered with its loss. `started` hears how the start went.
pub(super) fn run<O: Outer>(
    outer: O,
    inbox: &Mailbox<Order>,
    outbox: &Mailbox<BackendEvent>,
    started: impl FnOnce(Result<Description, Error>),
) {
    let Some(mut orders) = serve(&outer, inbox, outbox, started) else { return };
    drop(outer);
    let done = |ticket, outcome| outbox.put(BackendEvent::Done(Done { ticket, outcome }));
    loop {
        for order in orders.drain(..) {
            match order {
                Order::Submit(ticket, BackendOp::SpaceClose { .. }) => done(ticket, Outcome::ok(0)),
                Order::Submit(ticket, _) => {
                    done(ticket, Outcome::failed(Status::DeviceLost, 0));
                }
                Order::Know(..) | Order::Forget(_) | Order::Abort(_) => {}
                Order::Stop => return,
            }
        }
        inbox.sleeping(true);
        inbox.drain(&mut |order| orders.push_back(order));
        if orders.is_empty() {
            let mut fds = [PollFd::new(inbox.fd(), PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        }
        inbox.sleeping(false);
        inbox.drain(&mut |order| orders.push_back(order));
    }
}

/// Starts the device and serves it, one life after another. `None`: it is over; otherwise the device
/// must be let go, and these orders are open.
fn serve<O: Outer>(
    outer: &O,
    inbox: &Mailbox<Order>,
    outbox: &Mailbox<BackendEvent>,
    started: impl FnOnce(Result<Description, Error>),
) -> Option<VecDeque<Order>> {
    let iova = Iova::without(outer.reserved());
    let orders = VecDeque::new();
    let mut books = Books { outer, inbox, outbox, memory: HashMap::new(), iova, orders };
    let mut started = Some(started);
    loop {
        let lost = match start(outer) {
            Ok((device, identity)) => {
                if let Some(started) = started.take() {
                    started(Ok(describe(outer, &device, &identity)));
                }
                let mut slots = vec![[Slot::NEW; DEPTH]; device.queues() as usize];
                let pool = slots.iter_mut().map(|slots| &mut slots[..]).collect();
                match Life::new(&device, identity, pool, &mut books).run() {
                    End::Stop => return None,
                    End::Lost(why) => why,
                }
            }
            Err(error) => {
                if let Some(started) = started.take() {
                    started(Err(error));
                    return None;
                }
                // Whoever asked for a new life is told that there is none.
                if let Some(Order::Submit(ticket, _)) = books.orders.pop_front() {
                    books.done(ticket, Outcome::failed(Status::DeviceLost, 0));
                }
                error.to_string()
            }
        };
        if let Some(why) = outer.trouble() {
            tracing::warn!(
                device = outer.name(),
                why,
                "the device is let go; start again to use it"
            );
            return Some(books.orders);
        }
        tracing::warn!(
            device = outer.name(),
            why = lost,
            "the device is lost; a new session tries a reset"
        );
        match between_lives(&mut books) {
            Next::Start => {}
            Next::Stop => return None,
            Next::LetGo => return Some(books.orders),
        }
    }
}

fn start<O: Outer>(outer: &O) -> Result<(DeviceManager<&O::Transport>, Identity), Error> {
    if outer.trouble().is_some() {
        return Err(Error::Gone);
    }
    let mut device = DeviceManager::probe(outer.transport())?;
    device.set_patience(Patience { spins: 200, timeout_ns: ADMIN_NS });
    device.reset()?;
    device.enable(device.offered())?;
    let identity = device.identify()?;
    Ok((device, identity))
}

fn describe<O: Outer>(
    outer: &O,
    device: &DeviceManager<&O::Transport>,
    identity: &Identity,
) -> Description {
    Description {
        kind: "vfio",
        name: outer.name(),
        memory_bytes: identity.memory_bytes,
        multiprocessors: u32::try_from(identity.multiprocessors).unwrap_or(u32::MAX).max(1),
        features: device.features(),
    }
}

/// What comes after a loss.
enum Next {
    /// Somebody wants a new life, and their order is the first one waiting.
    Start,
    /// The device must be let go.
    LetGo,
    /// It is over.
    Stop,
}

/// Answers orders while there is no device.
fn between_lives<O: Outer>(books: &mut Books<'_, O>) -> Next {
    loop {
        books.take_orders();
        while let Some(order) = books.orders.pop_front() {
            match order {
                Order::Submit(_, BackendOp::SpaceOpen { .. }) => {
                    books.orders.push_front(order);
                    return Next::Start;
                }
                // Nothing of it is left: everything was unmapped when the device was lost.
                Order::Submit(ticket, BackendOp::SpaceClose { .. }) => {
                    books.done(ticket, Outcome::ok(0));
                }
                Order::Submit(ticket, _) => {
                    books.done(ticket, Outcome::failed(Status::DeviceLost, 0));
                }
                Order::Know(id, region) => {
                    books.memory.insert(id, region);
                }
                Order::Forget(id) => {
                    books.memory.remove(&id);
                }
                Order::Abort(_) => {}
                Order::Stop => return Next::Stop,
            }
        }
        books.sleep(IDLE_NS);
        if books.outer.trouble().is_some() {
            return Next::LetGo;
        }
    }
}

/// How long to sleep: with commands in flight, not so long that a device that fell silent is missed.
pub(super) const fn bound_ns(in_flight: bool) -> u64 {
    if in_flight { 20_000_000 } else { IDLE_NS }
}
