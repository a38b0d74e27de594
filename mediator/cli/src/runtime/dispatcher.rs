//! The dispatcher's loop.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use slotmap::{Key, KeyData};
use turnstile_backend_api::{Backend, BackendEvent, SharedRegion};
use turnstile_core::{Attachment, Mediator, Poll, TenantId};
use turnstile_device::Device;
use turnstile_policy::{Rate, TenantPolicy};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::checker::Checkers;
use super::command::{Command, Handle, Pauses, RuntimeError};
use super::roster::Roster;
use super::seat::Seat;
use super::surroundings::{Milestone, Surroundings};
use super::wake::Wake;
use crate::audit::AuditHandle;

/// How the dispatcher behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a tenant without work is polled before its rings are parked.
    pub spin: Duration,
    /// How long the backend may be silent about a command beyond the command's own limit.
    pub watchdog: Duration,
    /// Threads that check programs.
    pub checkers: usize,
    /// Audit records each tenant may cause.
    pub audit_rate: Rate,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            spin: Duration::from_micros(50),
            watchdog: Duration::from_secs(30),
            checkers: 1,
            audit_rate: Rate { per_second: 50, burst: 200 },
        }
    }
}

/// Most time a busy dispatcher lets pass between two looks at doorbells and control registers of
/// tenants it does not poll.
const LOOK_NS: u64 = 20_000;
/// Deadlines are looked at this often while some command has one.
const TICK_NS: u64 = 10_000_000;
/// Dropped audit records are reported this often.
const FLUSH_NS: u64 = 1_000_000_000;
/// How long a stopping dispatcher waits for the backend to let go of the tenants.
pub(super) const GOODBYE_NS: u64 = 5_000_000_000;

/// Tokens in the epoll; anything else is a tenant's id. Ids of a slot map have an odd generation in
/// their upper half, so none is this small.
const WAKE: u64 = 0;
const BACKEND: u64 = 1;
const TIMER: u64 = 2;

/// Timeouts of the epoll, in milliseconds: deadlines are the timer's part.
const LOOK: i32 = 0;
const WAIT: i32 = -1;

/// A running dispatcher.
pub struct Runtime {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts the dispatcher over a backend. Steps in the tenants' lives go to `watcher`, which must
    /// be bounded and is never waited for.
    ///
    /// # Errors
    /// When threads or file descriptors run out.
    pub fn start(
        backend: Box<dyn Backend>,
        audit: AuditHandle,
        wake: Wake,
        watcher: Option<Sender<Milestone>>,
        settings: Settings,
    ) -> Result<Runtime, RuntimeError> {
        let system = |what| move |source| RuntimeError::System { what, source };
        let description = Arc::new(backend.describe());
        let (commands, orders) = unbounded();
        let checkers =
            Checkers::start(settings.checkers, &wake).map_err(system("starting a checker"))?;
        let dispatcher = Dispatcher::new(
            Surroundings::new(backend, checkers, watcher),
            audit,
            orders,
            wake.clone(),
            settings,
            description.multiprocessors,
        )
        .map_err(system("preparing the dispatcher"))?;
        let thread = std::thread::Builder::new()
            .name("dispatcher".into())
            .spawn(move || dispatcher.run())
            .map_err(system("starting the dispatcher"))?;
        let handle = Handle { commands, wake, description };
        Ok(Runtime { handle, thread: Some(thread) })
    }

    /// A handle for front ends and operators.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Detaches every tenant, waits for the backend to let go of them, and ends the thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.handle.send(Command::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.end();
    }
}

pub(super) struct Dispatcher {
    pub(super) mediator: Mediator<Arc<SharedRegion>>,
    pub(super) fx: Surroundings,
    audit: AuditHandle,
    pub(super) roster: Roster,
    orders: Receiver<Command>,
    wake: Wake,
    epoll: Epoll,
    timer: OwnedFd,
    settings: Settings,
    /// Backend events on their way to the mediator; empty between rounds, kept for its memory.
    events: Vec<BackendEvent>,
    ready: Vec<EpollEvent>,
    /// Removals of guest memory in progress.
    pub(super) removals: HashMap<u64, Removal>,
    pub(super) next_removal: u64,
    last_look: u64,
    next_tick: u64,
    next_flush: u64,
    /// When the timer is set to go off; `u64::MAX`: not set.
    timer_at: u64,
    pub(super) pauses: Pauses,
    /// Stopping: give up waiting for the backend at this time.
    pub(super) stop_at: Option<u64>,
}

pub(super) struct Removal {
    pub(super) tenant: TenantId,
    pub(super) gpa: u64,
    pub(super) bytes: u64,
    pub(super) reply: Sender<()>,
}

impl Dispatcher {
    fn new(
        fx: Surroundings,
        audit: AuditHandle,
        orders: Receiver<Command>,
        wake: Wake,
        settings: Settings,
        multiprocessors: u32,
    ) -> std::io::Result<Dispatcher> {
        let epoll = Epoll::new()?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let backend = fx.backend.wake_fd();
        for (fd, token) in
            [(wake.as_raw_fd(), WAKE), (backend.as_raw_fd(), BACKEND), (timer.as_raw_fd(), TIMER)]
        {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))?;
        }
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let core = turnstile_core::Settings {
            spin_ns: ns(settings.spin),
            multiprocessors,
            watchdog_ns: ns(settings.watchdog),
        };
        Ok(Dispatcher {
            mediator: Mediator::new(core),
            fx,
            audit,
            roster: Roster::default(),
            orders,
            wake,
            epoll,
            timer,
            settings,
            events: Vec::with_capacity(256),
            ready: vec![EpollEvent::default(); 64],
            removals: HashMap::new(),
            next_removal: 0,
            last_look: 0,
            next_tick: 0,
            next_flush: FLUSH_NS,
            timer_at: u64::MAX,
            pauses: Pauses::default(),
            stop_at: None,
        })
    }

    fn now(&mut self) -> u64 {
        // CAST: 584 years of uptime fit.
        self.fx.now = self.fx.start.elapsed().as_nanos() as u64;
        self.fx.now
    }

    fn run(mut self) {
        tracing::debug!("dispatcher runs");
        loop {
            let now = self.now();
            self.take_orders(now);
            self.hear_backend(now);
            self.hear_checkers(now);
            // Before the poll: a deadline that passes may bring its tenant back into the round, and a
            // poll from before would send this thread to sleep over it.
            self.keep_time(now);
            let poll = if self.audit.stopped() {
                // The audit log fails and the policy is to accept nothing until it works again.
                Poll::default()
            } else {
                self.mediator.poll(now, &mut self.fx)
            };
            self.mediator.announce(&mut self.fx);
            self.clean_up();
            if let Some(deadline) = self.stop_at
                && (self.mediator.tenants().next().is_none() || now >= deadline)
            {
                break;
            }
            if poll.hot == poll.throttled {
                self.sleep(poll.wake_at_ns);
            } else if now.saturating_sub(self.last_look) >= LOOK_NS {
                self.look(LOOK);
            }
        }
        let left = self.mediator.tenants().count();
        if left > 0 {
            tracing::error!(tenants = left, "the backend does not let go of some tenants");
        }
        for (_, seat) in &mut self.fx.seats {
            seat.audit.flush();
        }
        tracing::debug!("dispatcher ends");
    }

    // --- What happened -------------------------------------------------------------------------

    /// Returns whether there was anything.
    fn hear_backend(&mut self, now: u64) -> bool {
        let events = &mut self.events;
        self.fx.backend.drain(&mut |event| events.push(event));
        let any = !self.events.is_empty();
        for event in self.events.drain(..) {
            self.mediator.backend(event, now, &mut self.fx);
        }
        any
    }

    fn hear_checkers(&mut self, now: u64) {
        while let Some((ticket, result)) = self.fx.checkers.next() {
            self.mediator.verified(ticket, result, now, &mut self.fx);
        }
    }

    fn keep_time(&mut self, now: u64) {
        if now >= self.next_tick {
            self.next_tick = now + TICK_NS;
            self.mediator.tick(now, &mut self.fx);
        }
        if now >= self.next_flush {
            self.next_flush = now + FLUSH_NS;
            for (_, seat) in &mut self.fx.seats {
                seat.audit.flush();
            }
        }
    }

    /// Looks at every file descriptor, without waiting ([`LOOK`]) or until something ([`WAIT`]).
    fn look(&mut self, timeout_ms: i32) {
        let ready = match self.epoll.wait(timeout_ms, &mut self.ready) {
            Ok(ready) => ready,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            Err(error) => {
                // Nothing else can go wrong with an epoll of our own; polling goes on either way.
                tracing::error!(%error, "epoll");
                0
            }
        };
        let now = self.now();
        self.last_look = now;
        for event in &self.ready[..ready] {
            match event.data() {
                WAKE => self.wake.clear(),
                // Drained at the top of the loop.
                BACKEND => {}
                TIMER => {
                    let _ = rustix::io::read(&self.timer, &mut [0_u8; 8]);
                    self.timer_at = u64::MAX;
                }
                tenant => {
                    let id = TenantId::from(KeyData::from_ffi(tenant));
                    if let Some(seat) = self.fx.seats.get(id) {
                        seat.device.kick().clear();
                        self.mediator.attention(id, now, &mut self.fx);
                    }
                }
            }
        }
    }

    /// Sleeps until something happens. Everything is announced first and looked at once more, so
    /// nothing that happens in between is missed.
    fn sleep(&mut self, wake_at: Option<u64>) {
        self.fx.backend.sleeping(true);
        let now = self.now();
        let heard = self.hear_backend(now);
        if !heard && self.fx.checkers.is_idle() && self.orders.is_empty() {
            self.set_timer(now, wake_at);
            self.look(WAIT);
        }
        self.fx.backend.sleeping(false);
    }

    fn set_timer(&mut self, now: u64, wake_at: Option<u64>) {
        let mut at = wake_at.unwrap_or(u64::MAX);
        if self.mediator.needs_tick() {
            at = at.min(self.next_tick.max(now + 1));
        }
        if self.fx.seats.values().any(|seat| seat.audit.dropped() > 0) {
            at = at.min(self.next_flush);
        }
        if let Some(stop_at) = self.stop_at {
            at = at.min(stop_at);
        }
        if at == self.timer_at {
            return;
        }
        self.timer_at = at;
        // A zero setting would disarm the timer; a deadline that has passed goes off at once.
        let left = if at == u64::MAX { 0 } else { at.saturating_sub(now).max(1) };
        // CAST: seconds of a u64 of nanoseconds fit an i64.
        let value = Timespec {
            tv_sec: (left / 1_000_000_000) as i64,
            tv_nsec: (left % 1_000_000_000) as i64,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once) {
            tracing::error!(%error, "timer");
        }
    }

    // --- Orders --------------------------------------------------------------------------------

    fn take_orders(&mut self, now: u64) {
        while let Ok(command) = self.orders.try_recv() {
            let began = Instant::now();
            self.obey(command, now);
            // CAST: 584 years fit.
            let took = began.elapsed().as_nanos() as u64;
            self.pauses.count += 1;
            self.pauses.total_ns += took;
            self.pauses.longest_ns = self.pauses.longest_ns.max(took);
        }
    }

    pub(super) fn attach(
        &mut self,
        policy: Arc<TenantPolicy>,
        device: Arc<Device>,
        now: u64,
    ) -> Result<TenantId, RuntimeError> {
        let (policy, paused) = self.roster.admit(policy)?;
        let aperture = self.fx.add_memory(device.aperture().clone());
        let audit = self.audit.tenant((&*policy.name).into(), self.settings.audit_rate);
        let kick = device.kick().as_raw_fd();
        let attachment = Attachment {
            policy: policy.clone(),
            registers: device.registers().clone(),
            aperture: device.aperture().clone(),
            aperture_memory: aperture,
        };
        self.fx.arriving = Some(Seat::new(device, policy, audit, aperture));
        let id = self.mediator.attach(attachment, now, &mut self.fx);
        let event = EpollEvent::new(EventSet::IN, id.data().as_ffi());
        let watched = self.epoll.ctl(ControlOperation::Add, kick, event);
        if let Err(source) = watched {
            self.mediator.detach(id, now, &mut self.fx);
            return Err(RuntimeError::System { what: "watching a doorbell", source });
        }
        if let Some(entry) = self.fx.seats.get(id).and_then(|s| self.roster.get_mut(&s.policy.name))
        {
            entry.tenant = Some(id);
            self.mediator.pause(id, paused, now, &mut self.fx);
        }
        Ok(id)
    }

    // --- What is over --------------------------------------------------------------------------

    fn clean_up(&mut self) {
        while let Some(request) = self.fx.removed.pop() {
            let Some(removal) = self.removals.remove(&request) else { continue };
            let Removal { tenant, gpa, bytes, reply } = removal;
            if let Some(seat) = self.fx.seats.get_mut(tenant) {
                let backend = &mut self.fx.backend;
                // Regions that are gone as a whole are forgotten; a part of one waits for the rest.
                seat.memory.retain(|m| {
                    let gone = m.gpa >= gpa && m.gpa - gpa <= bytes.saturating_sub(m.bytes);
                    if gone {
                        backend.remove_memory(m.id);
                    }
                    !gone
                });
            }
            let _ = reply.send(());
        }
        while let Some(id) = self.fx.gone.pop() {
            let Some(mut seat) = self.fx.seats.remove(id) else { continue };
            let kick = seat.device.kick().as_raw_fd();
            let _ = self.epoll.ctl(ControlOperation::Delete, kick, EpollEvent::default());
            seat.audit.flush();
            let entry = self.roster.get_mut(&seat.policy.name);
            if let Some(entry) = entry.filter(|entry| entry.tenant == Some(id)) {
                entry.left(seat.last.as_ref().map(|report| &report.counters), &seat.tally);
            }
            for memory in seat.memory.drain(..) {
                self.fx.backend.remove_memory(memory.id);
            }
            self.fx.backend.remove_memory(seat.aperture);
            if let Some(report) = seat.last.take() {
                for reply in seat.leaving.drain(..) {
                    let _ = reply.send(report.clone());
                }
            }
        }
    }
}
