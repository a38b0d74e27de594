//! The mediator: tenants in, backend operations out; answers in, completions out.
//!
//! It does no I/O, starts no thread and reads no clock. One thread owns it and calls in; everything
//! it wants done goes through [`Effects`]. `now` is a monotonic time in nanoseconds.

use std::sync::Arc;

use slotmap::{Key, KeyData, SlotMap};
use turnstile_abi::SharedMemory;
use turnstile_backend_api::{BackendEvent, Code, Done, SpaceId, Ticket};
use turnstile_policy::{TenantPolicy, TokenBucket};

use crate::context::{Context, Ids, OpenKey, OpenOp, Purpose};
use crate::effects::{Effects, ProgramRefused, TenantId, What};
use crate::memory_map::{GuestMemory, MapError};
use crate::schedule::Round;
use crate::tenant::{Attachment, Life, Tenant};
use turnstile_abi::Status;

/// Settings of a mediator.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a tenant without work is polled before its rings are parked.
    pub spin_ns: u64,
    /// Multiprocessors of the device, told to tenants.
    pub multiprocessors: u32,
    /// How long the backend may be silent about a command beyond the command's own limit.
    pub watchdog_ns: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { spin_ns: 50_000, multiprocessors: 1, watchdog_ns: 30_000_000_000 }
    }
}

/// What a [`Mediator::poll`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Poll {
    /// Some command was served.
    pub progress: bool,
    /// Tenants that are polled. 0: sleep until something happens.
    pub hot: usize,
    /// Those of them that only wait for their rate. If all do, sleep until `wake_at_ns`.
    pub throttled: usize,
    /// Some tenant has commands waiting for its rate; none before this time.
    pub wake_at_ns: Option<u64>,
}

/// The state machine.
pub struct Mediator<M> {
    pub(crate) tenants: SlotMap<TenantId, Tenant<M>>,
    open: SlotMap<OpenKey, OpenOp>,
    ids: Ids,
    hot: Vec<TenantId>,
    /// Tenants with completions to announce; each once.
    unannounced: Vec<TenantId>,
    settings: Settings,
}

impl<M: SharedMemory> Mediator<M> {
    /// A mediator with no tenants.
    #[must_use]
    pub fn new(settings: Settings) -> Mediator<M> {
        Mediator {
            tenants: SlotMap::with_key(),
            open: SlotMap::with_key(),
            ids: Ids::default(),
            hot: Vec::new(),
            unannounced: Vec::new(),
            settings,
        }
    }

    /// Runs a step of one tenant, then notes what it set in motion.
    fn step<F: Effects, R>(
        &mut self,
        id: TenantId,
        now: u64,
        fx: &mut F,
        f: impl FnOnce(&mut Context<'_, M, F>) -> R,
    ) -> Option<R> {
        let t = self.tenants.get_mut(id)?;
        let mut context = Context { id, t, open: &mut self.open, ids: &mut self.ids, fx, now };
        let before = context.t.unannounced;
        let result = f(&mut context);
        if before == 0 && context.t.unannounced != 0 {
            self.unannounced.push(id);
        }
        if context.t.detached {
            context.audit(What::Detached);
            fx.detached(id);
            self.tenants.remove(id);
            self.hot.retain(|&h| h != id);
        } else if !context.t.turn.hot && context.heat() {
            self.hot.push(id);
        }
        Some(result)
    }

    // --- Tenants -------------------------------------------------------------------------------

    /// Brings a device to life.
    pub fn attach<F: Effects>(
        &mut self,
        attachment: Attachment<M>,
        now: u64,
        fx: &mut F,
    ) -> TenantId {
        let tenant = Tenant::new(attachment, &self.settings, now);
        let id = self.tenants.insert(tenant);
        self.step(id, now, fx, |c| c.audit(What::Attached));
        id
    }

    /// The tenant is gone: ends everything it held. [`Effects::detached`] follows once the backend
    /// has let go.
    pub fn detach<F: Effects>(&mut self, id: TenantId, now: u64, fx: &mut F) {
        self.step(id, now, fx, |c| {
            if c.t.life != Life::Detaching {
                c.t.life = Life::Detaching;
                c.close_all(Status::Revoked);
            }
        });
    }

    /// Revokes everything a tenant holds: from the return of this call on, nothing of it resolves
    /// and nothing completes as success. The backend's part follows.
    pub fn revoke<F: Effects>(&mut self, id: TenantId, now: u64, fx: &mut F) {
        self.step(id, now, fx, |c| c.revoke());
    }

    /// Revokes the sessions of a tenant but lets it open new ones.
    pub fn revoke_sessions<F: Effects>(&mut self, id: TenantId, now: u64, fx: &mut F) {
        self.step(id, now, fx, |c| {
            c.audit(What::Revoked);
            c.close_all(Status::Revoked);
        });
    }

    /// Revokes one session, by the number its [`SessionView`](crate::SessionView) has. `false`: the
    /// tenant has no such session, or it is closing already.
    pub fn revoke_session<F: Effects>(
        &mut self,
        id: TenantId,
        number: u64,
        now: u64,
        fx: &mut F,
    ) -> bool {
        self.step(id, now, fx, |c| c.revoke_session(number)).unwrap_or(false)
    }

    /// Lets a revoked tenant's driver start over: it may reset the device once it holds nothing any
    /// more.
    pub fn pardon<F: Effects>(&mut self, id: TenantId, now: u64, fx: &mut F) {
        self.step(id, now, fx, |c| c.t.pardoned = true);
    }

    /// Stops or resumes serving a tenant's rings.
    pub fn pause<F: Effects>(&mut self, id: TenantId, paused: bool, now: u64, fx: &mut F) {
        self.step(id, now, fx, |c| c.t.paused = paused);
    }

    /// Puts a new policy in force, from the next command on. What the tenant holds beyond a lower
    /// quota stays; it gets no more. Returns the policy before, so that the caller decides where its
    /// memory is freed.
    pub fn set_policy<F: Effects>(
        &mut self,
        id: TenantId,
        policy: Arc<TenantPolicy>,
        now: u64,
        fx: &mut F,
    ) -> Option<Arc<TenantPolicy>> {
        self.step(id, now, fx, |c| {
            match (&mut c.t.bucket, policy.rate) {
                (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
                (bucket, rate) => *bucket = rate.map(|rate| TokenBucket::new(rate, now)),
            }
            c.t.turn.throttled_until_ns = 0;
            std::mem::replace(&mut c.t.policy, policy)
        })
    }

    /// Every attached tenant.
    pub fn tenants(&self) -> impl Iterator<Item = TenantId> + '_ {
        self.tenants.keys()
    }

    // --- Guest memory --------------------------------------------------------------------------

    /// Guest memory appeared. Only such memory can be registered for DMA.
    pub fn add_memory(&mut self, id: TenantId, memory: GuestMemory) -> Result<(), MapError> {
        self.tenants.get_mut(id).ok_or(MapError::NoTenant)?.map.add(memory)
    }

    /// Guest memory is to go. [`Effects::memory_removed`] says when the backend cannot reach it any
    /// more; until then it must stay.
    pub fn remove_memory<F: Effects>(
        &mut self,
        id: TenantId,
        gpa: u64,
        bytes: u64,
        request: u64,
        now: u64,
        fx: &mut F,
    ) {
        if self.step(id, now, fx, |c| c.remove_memory(gpa, bytes, request)).is_none() {
            fx.memory_removed(id, request);
        }
    }

    // --- Events --------------------------------------------------------------------------------

    /// A doorbell rang or a control register was written.
    pub fn attention<F: Effects>(&mut self, id: TenantId, now: u64, fx: &mut F) {
        self.step(id, now, fx, |c| c.control());
    }

    /// The backend reported something.
    pub fn backend<F: Effects>(&mut self, event: BackendEvent, now: u64, fx: &mut F) {
        match event {
            BackendEvent::Done(done) => self.done(done, now, fx),
            BackendEvent::SpaceLost { space, why } => self.space_lost(space, &why, now, fx),
        }
    }

    fn take(&mut self, ticket: Ticket) -> Option<OpenOp> {
        self.open.remove(KeyData::from_ffi(ticket.0).into())
    }

    fn done<F: Effects>(&mut self, done: Done, now: u64, fx: &mut F) {
        let Done { ticket, outcome } = done;
        // A ticket that does not exist (any more) is a backend answering twice; it changes nothing.
        let Some(OpenOp { tenant, purpose }) = self.take(ticket) else { return };
        self.step(tenant, now, fx, |c| match purpose {
            Purpose::Work { .. } => c.work_done(purpose, outcome),
            Purpose::Create(key) => c.created(key, outcome),
            Purpose::Destroy(key) => c.unpin(key),
            Purpose::Close(key) => c.session_closed(key),
            // Only the checker answers these.
            Purpose::Check(key) => {
                c.created(key, turnstile_backend_api::Outcome::failed(Status::Backend, 0))
            }
        });
    }

    /// A program was checked (see [`Effects::verify`]).
    pub fn verified<F: Effects>(
        &mut self,
        ticket: Ticket,
        result: Result<Code, ProgramRefused>,
        now: u64,
        fx: &mut F,
    ) {
        if let Some(OpenOp { tenant, purpose: Purpose::Check(key) }) = self.take(ticket) {
            self.step(tenant, now, fx, |c| c.checked(key, result));
        }
    }

    fn space_lost<F: Effects>(&mut self, space: SpaceId, why: &str, now: u64, fx: &mut F) {
        let mut found = None;
        for (id, t) in &self.tenants {
            for &key in &t.sessions {
                if let Some(crate::object::Body::Session(s)) = t.objects.get(key).map(|o| &o.body)
                    && s.space == space
                {
                    found = Some((id, key));
                }
            }
        }
        if let Some((id, key)) = found {
            self.step(id, now, fx, |c| c.lose_session(key, why));
        }
    }

    // --- The dispatcher's loop -----------------------------------------------------------------

    /// Serves every tenant that may have work, each for its share of one round.
    pub fn poll<F: Effects>(&mut self, now: u64, fx: &mut F) -> Poll {
        let mut poll = Poll::default();
        let weights = self.hot.iter().filter_map(|&id| self.tenants.get(id));
        let heaviest = weights.map(|t| t.policy.weight).max().unwrap_or(1).max(1);
        let mut at = 0;
        while let Some(&id) = self.hot.get(at) {
            let Some(t) = self.tenants.get_mut(id) else {
                self.hot.swap_remove(at);
                continue;
            };
            let (open, ids) = (&mut self.open, &mut self.ids);
            let mut context = Context { id, t, open, ids, fx, now };
            let before = context.t.unannounced;
            let round = context.round(heaviest, self.settings.spin_ns);
            if before == 0 && context.t.unannounced != 0 {
                self.unannounced.push(id);
            }
            match round {
                Round::Served => poll.progress = true,
                Round::Idle => {}
                Round::Throttled(until) => {
                    poll.throttled += 1;
                    poll.wake_at_ns = Some(poll.wake_at_ns.map_or(until, |w: u64| w.min(until)));
                }
                Round::Cold => {
                    self.hot.swap_remove(at);
                    continue;
                }
            }
            at += 1;
        }
        poll.hot = self.hot.len();
        poll
    }

    /// Interrupts the drivers that sleep and have completions since the last call. Call it after each
    /// batch of other calls, and before sleeping.
    pub fn announce<F: Effects>(&mut self, fx: &mut F) {
        for id in self.unannounced.drain(..) {
            let Some(t) = self.tenants.get_mut(id) else { continue };
            t.announce(|vector| fx.interrupt(id, vector));
        }
    }

    /// Looks at waits that expire and at commands the backend is silent about. Call it every 10 ms
    /// or so while [`needs_tick`](Self::needs_tick).
    pub fn tick<F: Effects>(&mut self, now: u64, fx: &mut F) {
        let ids: Vec<TenantId> =
            self.tenants.iter().filter(|(_, t)| t.has_open_work()).map(|(id, _)| id).collect();
        for id in ids {
            self.step(id, now, fx, |c| c.check_deadlines());
        }
    }

    /// Whether some command waits for a fence or for the backend.
    #[must_use]
    pub fn needs_tick(&self) -> bool {
        self.tenants.values().any(Tenant::has_open_work)
    }

    /// Operations the backend has not answered.
    #[must_use]
    pub fn open_operations(&self) -> usize {
        self.open.len()
    }
}

impl<M> Mediator<M> {
    /// A number for a tenant that can go into logs.
    #[must_use]
    pub fn tenant_number(id: TenantId) -> u64 {
        id.data().as_ffi()
    }
}
