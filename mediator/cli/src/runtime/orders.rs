//! What the dispatcher does for front ends and operators, one command at a time between two rounds.

use std::sync::Arc;
use std::time::Instant;

use turnstile_core::{GuestMemory, TenantId};
use turnstile_policy::TenantPolicy;

use super::command::{Command, Order, RuntimeError};
use super::dispatcher::{Dispatcher, GOODBYE_NS, Removal};
use super::roster::{Entry, Holdings, Standing, Switched, add};
use super::seat::{KnownMemory, Report};

/// Objects of a tenant that are listed, at most.
const MOST_OBJECTS: usize = 4096;

impl Dispatcher {
    pub(super) fn obey(&mut self, command: Command, now: u64) {
        // A caller that does not wait for its answer any more gets none.
        match command {
            Command::Attach { policy, device, reply } => {
                let _ = reply.send(self.attach(policy, device, now));
            }
            Command::AddMemory { tenant, gpa, offset, bytes, region, reply } => {
                let id = self.fx.add_memory(region);
                let memory = GuestMemory { gpa, bytes, memory: id, offset };
                let result = self.mediator.add_memory(tenant, memory);
                match (&result, self.fx.seats.get_mut(tenant)) {
                    (Ok(()), Some(seat)) => seat.memory.push(KnownMemory { id, gpa, bytes }),
                    _ => self.fx.backend.remove_memory(id),
                }
                let _ = reply.send(result.map_err(RuntimeError::from));
            }
            Command::RemoveMemory { tenant, gpa, bytes, reply } => {
                self.next_removal += 1;
                let request = self.next_removal;
                self.removals.insert(request, Removal { tenant, gpa, bytes, reply });
                self.mediator.remove_memory(tenant, gpa, bytes, request, now, &mut self.fx);
            }
            Command::Detach { tenant, reply } => {
                let report = self.report(tenant);
                if let Some(seat) = self.fx.seats.get_mut(tenant) {
                    seat.last = report;
                    seat.leaving.push(reply);
                    self.mediator.detach(tenant, now, &mut self.fx);
                }
            }
            Command::Revoke { tenant, reply } => {
                self.mediator.revoke(tenant, now, &mut self.fx);
                let _ = reply.send(());
            }
            Command::Pause { tenant, paused, reply } => {
                self.mediator.pause(tenant, paused, now, &mut self.fx);
                let _ = reply.send(());
            }
            Command::SetPolicy { tenant, policy, reply } => {
                if let Some(seat) = self.fx.seats.get_mut(tenant) {
                    seat.policy = policy.clone();
                    drop(self.mediator.set_policy(tenant, policy, now, &mut self.fx));
                }
                let _ = reply.send(());
            }
            Command::Report { tenant, reply } => {
                let _ = reply.send(self.report(tenant));
            }
            Command::Tenants { reply } => {
                let _ = reply.send(self.mediator.tenants().collect());
            }
            Command::Enforce { tenants, reply } => {
                self.roster.enforce(tenants);
                let _ = reply.send(());
            }
            Command::Switch { changed, removed, switched, reply } => {
                let _ = reply.send(self.switch(changed, &removed, switched, now));
            }
            Command::Order { tenant, order, reply } => {
                let _ = reply.send(self.carry_out(&tenant, order, now));
            }
            Command::Look { after, latencies, mut room, reply } => {
                let some = self.roster.after(after.as_deref()).take(room.capacity());
                room.extend(some.map(|(_, entry)| self.standing(entry, latencies)));
                let _ = reply.send(room);
            }
            Command::Pauses { reply } => {
                let _ = reply.send(std::mem::take(&mut self.pauses));
            }
            Command::Find { tenant, reply } => {
                let found = self.roster.get(&tenant);
                let _ = reply.send(found.map(|e| (self.standing(e, true), self.holdings(e))));
            }
            Command::Stop => {
                if self.stop_at.is_none() {
                    self.stop_at = Some(now + GOODBYE_NS);
                    for id in self.mediator.tenants().collect::<Vec<_>>() {
                        self.mediator.detach(id, now, &mut self.fx);
                    }
                }
            }
        }
    }

    fn report(&self, tenant: TenantId) -> Option<Report> {
        let view = self.mediator.view(tenant)?;
        Some(self.fx.seats.get(tenant)?.report(view.counters, view.life))
    }

    /// Everything at once: no command of any tenant is looked at in between. What is not needed any
    /// more goes back to the caller, so that nothing is freed here.
    fn switch(
        &mut self,
        changed: Vec<Arc<TenantPolicy>>,
        removed: &[String],
        mut switched: Switched,
        now: u64,
    ) -> Switched {
        let began = Instant::now();
        for policy in changed {
            let Some((device, before)) = self.roster.change(policy.clone()) else { continue };
            switched.before.push(before);
            let Some(id) = device else { continue };
            if let Some(seat) = self.fx.seats.get_mut(id) {
                seat.policy = policy.clone();
                switched.before.extend(self.mediator.set_policy(id, policy, now, &mut self.fx));
            }
        }
        for name in removed {
            let Some(entry) = self.roster.remove(name) else { continue };
            if let Some(id) = entry.tenant {
                self.mediator.revoke(id, now, &mut self.fx);
                switched.removed.extend(self.report(id));
            }
            switched.entries.push(entry);
        }
        // CAST: 584 years fit.
        switched.pause_ns = began.elapsed().as_nanos() as u64;
        switched
    }

    fn carry_out(&mut self, tenant: &str, order: Order, now: u64) -> Result<(), RuntimeError> {
        let entry = self.roster.get_mut(tenant).ok_or(RuntimeError::NoTenant)?;
        let device = entry.tenant;
        match order {
            Order::Pause => entry.paused = true,
            Order::Resume => (entry.paused, entry.barred) = (false, false),
            Order::Revoke => entry.barred = true,
            Order::RevokeSession(_) => {}
        }
        let Some(id) = device else {
            return match order {
                Order::RevokeSession(number) => Err(RuntimeError::NoSession(number)),
                _ => Ok(()),
            };
        };
        match order {
            Order::Pause => self.mediator.pause(id, true, now, &mut self.fx),
            Order::Resume => {
                self.mediator.pause(id, false, now, &mut self.fx);
                self.mediator.pardon(id, now, &mut self.fx);
            }
            Order::Revoke => self.mediator.revoke(id, now, &mut self.fx),
            Order::RevokeSession(number) => {
                if !self.mediator.revoke_session(id, number, now, &mut self.fx) {
                    return Err(RuntimeError::NoSession(number));
                }
            }
        }
        Ok(())
    }

    fn standing(&self, entry: &Entry, latencies: bool) -> Standing {
        let (mut counters, mut tally) = entry.past();
        let device = entry.tenant.and_then(|id| self.mediator.view(id).map(|view| (id, view)));
        let seat = device.as_ref().and_then(|(id, _)| self.fx.seats.get(*id));
        let view = device.as_ref().map(|(_, view)| view);
        if let Some(view) = view {
            add(&mut counters, &view.counters);
        }
        if let Some(seat) = seat {
            tally += &seat.tally;
        }
        Standing {
            policy: entry.policy.clone(),
            life: view.map(|view| view.life),
            paused: entry.paused,
            barred: entry.barred,
            counters,
            tally,
            waiting: view.map_or(0, |view| view.waiting),
            in_flight: view.map_or(0, |view| view.in_flight),
            handles: view.map_or(0, |view| view.handles),
            sessions: view
                .map_or(0, |view| view.used[turnstile_policy::Resource::Sessions as usize] as u32),
            registers_refused: view.map_or(0, |view| view.registers_refused),
            used: view.map_or_else(Default::default, |view| view.used),
            latency: seat.filter(|_| latencies).and_then(|seat| seat.latency()),
            audit_dropped: seat.map_or(0, |seat| seat.audit.dropped()),
        }
    }

    fn holdings(&self, entry: &Entry) -> Holdings {
        let Some(id) = entry.tenant else { return Holdings::default() };
        let (objects, truncated) = self.mediator.objects(id, MOST_OBJECTS);
        Holdings { sessions: self.mediator.sessions(id), objects, truncated }
    }
}
