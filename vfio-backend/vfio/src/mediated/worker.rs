//! The thread that owns the outer device: one life of the device after another.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::Arc;

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

/// Starts the device and serves it until it is told to stop. `started` hears how the start went.
pub(super) fn run<O: Outer>(
    outer: &O,
    inbox: &Mailbox<Order>,
    outbox: &Mailbox<BackendEvent>,
    started: impl FnOnce(Result<Description, Error>),
) {
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
                    End::Stop => return,
                    End::Lost(why) => why,
                }
            }
            Err(error) => {
                if let Some(started) = started.take() {
                    return started(Err(error));
                }
                // Whoever asked for a new life is told that there is none.
                if let Some(Order::Submit(ticket, _)) = books.orders.pop_front() {
                    books.done(ticket, Outcome::failed(Status::DeviceLost, 0));
                }
                error.to_string()
            }
        };
        tracing::warn!(
            device = outer.name(),
            why = lost,
            "the device is lost; a new session tries a reset"
        );
        if !between_lives(&mut books) {
            return;
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

/// Answers orders while there is no device. `true`: somebody wants a new life, and their order is the
/// first one waiting; `false`: it is over.
fn between_lives<O: Outer>(books: &mut Books<'_, O>) -> bool {
    loop {
        books.take_orders();
        while let Some(order) = books.orders.pop_front() {
            match order {
                Order::Submit(_, BackendOp::SpaceOpen { .. }) => {
                    books.orders.push_front(order);
                    return true;
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
                Order::Stop => return false,
            }
        }
        // Trouble keeps its descriptor readable, so nothing but orders may end this sleep.
        books.inbox.sleeping(true);
        books.take_orders();
        if books.orders.is_empty() {
            let fd = rustix::event::PollFd::new(books.inbox.fd(), rustix::event::PollFlags::IN);
            let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = rustix::event::poll(&mut [fd], Some(&second));
        }
        books.inbox.sleeping(false);
    }
}

/// How long to sleep: with commands in flight, not so long that a device that fell silent is missed.
pub(super) const fn bound_ns(in_flight: bool) -> u64 {
    if in_flight { 20_000_000 } else { IDLE_NS }
}
