//! One life of the outer device: from an enable to its loss, or to the end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use turnstile_abi::identify::Identity;
use turnstile_abi::{Completion, Status, op};
use turnstile_backend_api::{BackendEvent, BackendOp, Outcome, SpaceId, Ticket};
use turnstile_driver::{DeviceManager, Error, Slot};

use super::space::{Flying, Lane, Space};
use super::worker::{Books, bound_ns};
use super::{Order, Outer, launch};

/// Rounds without anything to do before the thread sleeps while commands are in flight.
const SPINS: u32 = 200;
/// How often a device with commands in flight is asked whether it still lives.
const HEALTH: Duration = Duration::from_millis(20);

/// How a life ends.
pub(super) enum End {
    /// The backend is dropped.
    Stop,
    /// The device is lost, and why.
    Lost(String),
}

/// Why an operation is not done.
pub(super) enum Fail {
    /// It failed, and that is all.
    Answer(Outcome),
    /// The outer device ended the session.
    Session,
    /// The outer device lies, is silent or gone.
    Device(String),
}

impl From<Outcome> for Fail {
    fn from(outcome: Outcome) -> Fail {
        Fail::Answer(outcome)
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Fail {
        match error {
            Error::Status { status, detail, .. } => judge(status, detail),
            Error::ApertureFull { .. } | Error::Full => Outcome::failed(Status::NoMemory, 0).into(),
            Error::Arguments { .. } => Outcome::failed(Status::Backend, 0).into(),
            lost => Fail::Device(lost.to_string()),
        }
    }
}

/// What a refusal by the outer device means to the tenant here, who never spoke to it.
fn judge(status: Status, detail: u64) -> Fail {
    let status = match status {
        Status::DeviceLost | Status::Reset | Status::Revoked => return Fail::Session,
        // About the tenant's own program: passed on.
        Status::KernelFault => return Outcome::failed(status, detail).into(),
        Status::BadProgram | Status::NotFound | Status::Timeout | Status::Unsupported => status,
        // Limits of the outer policy.
        Status::Quota | Status::NoMemory => Status::NoMemory,
        Status::Denied | Status::NoRight => Status::Unsupported,
        // About a command that was made here: not the tenant's fault.
        _ => Status::Backend,
    };
    Outcome::failed(status, 0).into()
}

/// What the outer device has of one backend.
pub(super) struct Life<'d, 'b, 'o, O: Outer> {
    pub(super) device: &'d DeviceManager<&'o O::Transport>,
    identity: Identity,
    /// Room for the commands of queues that are not open.
    pool: Vec<&'d mut [Slot]>,
    pub(super) books: &'b mut Books<'o, O>,
    pub(super) spaces: HashMap<SpaceId, Space<'d, &'o O::Transport>>,
    checked: Instant,
}

impl<'d, 'b, 'o, O: Outer> Life<'d, 'b, 'o, O> {
    pub(super) fn new(
        device: &'d DeviceManager<&'o O::Transport>,
        identity: Identity,
        pool: Vec<&'d mut [Slot]>,
        books: &'b mut Books<'o, O>,
    ) -> Life<'d, 'b, 'o, O> {
        let checked = Instant::now();
        Life { device, identity, pool, books, spaces: HashMap::new(), checked }
    }

    /// Serves until the end.
    pub(super) fn run(mut self) -> End {
        let mut idle = 0;
        loop {
            self.books.take_orders();
            while let Some(order) = self.books.orders.pop_front() {
                idle = 0;
                match self.obey(order) {
                    Ok(true) => {}
                    Ok(false) => return End::Stop,
                    Err(why) => return self.lose(why),
                }
            }
            match self.poll() {
                Ok(true) => idle = 0,
                Ok(false) => idle += 1,
                Err(why) => return self.lose(why),
            }
            if idle == 0 || (idle < SPINS && self.is_busy()) {
                std::hint::spin_loop();
                continue;
            }
            if let Err(why) = self.sleep() {
                return self.lose(why);
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.spaces.values().any(Space::is_busy)
    }

    fn sleep(&mut self) -> Result<(), String> {
        self.arm(true)?;
        // A completion that came before the interrupt was asked for raises none.
        if !self.poll()? {
            let busy = self.is_busy();
            self.books.sleep(bound_ns(busy));
        }
        self.arm(false)?;
        if let Some(why) = self.books.outer.trouble() {
            return Err(why.into());
        }
        if self.is_busy() && self.checked.elapsed() > HEALTH {
            self.checked = Instant::now();
            if let Err(error) = self.device.check() {
                // The last word may have been posted before the device stopped.
                self.poll()?;
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    fn arm(&mut self, armed: bool) -> Result<(), String> {
        let lanes = self.spaces.values_mut().flat_map(|space| space.lanes.values_mut());
        for lane in lanes.filter(|lane| !lane.flying.is_empty()) {
            lane.queue.arm(armed).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// `false`: it is over. An error is the loss of the device.
    fn obey(&mut self, order: Order) -> Result<bool, String> {
        match order {
            Order::Know(id, region) => {
                self.books.memory.insert(id, region);
            }
            Order::Forget(id) => {
                self.books.memory.remove(&id);
            }
            Order::Abort(id) => {
                let stopped = Outcome::failed(Status::Timeout, 0);
                self.kill(id, &stopped, "a command ran too long; its session was ended")?;
            }
            Order::Stop => return Ok(false),
            Order::Submit(ticket, op) => {
                let id = op.space();
                let answer = match self.perform(ticket, op) {
                    Ok(None) => return Ok(true),
                    Ok(Some(outcome)) | Err(Fail::Answer(outcome)) => Ok(outcome),
                    Err(Fail::Session) => {
                        let lost = Outcome::failed(Status::DeviceLost, 0);
                        self.kill(id, &lost, "the outer device ended the session")?;
                        Ok(lost)
                    }
                    Err(Fail::Device(why)) => Err(why),
                };
                let lost = || Outcome::failed(Status::DeviceLost, 0);
                self.books.done(ticket, answer.clone().unwrap_or_else(|_| lost()));
                answer.map(drop)?;
            }
        }
        Ok(true)
    }

    /// Passes on what has completed, hands over what waits, ends what closes. `true`: there was some.
    fn poll(&mut self) -> Result<bool, String> {
        let mut moved = false;
        let mut dying = Vec::new();
        for (&id, space) in &mut self.spaces {
            let mut lanes = std::mem::take(&mut space.lanes);
            let mut result = Ok(());
            for lane in lanes.values_mut() {
                match poll_lane(self.books, space, lane, &mut moved) {
                    Ok(true) => {}
                    Ok(false) => dying.push(id),
                    Err(why) => result = Err(why),
                }
                if result.is_err() {
                    break;
                }
            }
            space.lanes = lanes;
            result?;
            let over = |lane: &Lane<'_, _>| {
                lane.closing.is_some() && lane.flying.is_empty() && lane.waiting.is_empty()
            };
            let ended: Vec<_> =
                space.lanes.iter().filter(|(_, l)| over(l)).map(|(id, _)| *id).collect();
            for queue in ended {
                let Some(lane) = space.lanes.remove(&queue) else { continue };
                moved = true;
                let ended =
                    self.device.call(op::queue_destroy::Args { queue: lane.queue.handle() });
                match ended.map_err(Fail::from) {
                    Ok(_) | Err(Fail::Answer(_)) => {}
                    Err(Fail::Session) => dying.push(id),
                    Err(Fail::Device(why)) => {
                        // Its close is answered like everything else of a lost device.
                        space.lanes.insert(queue, lane);
                        return Err(why);
                    }
                }
                if let Some(ticket) = lane.closing {
                    self.books.done(ticket, Outcome::ok(0));
                }
                self.pool.push(lane.queue.retire());
            }
        }
        for id in dying {
            let lost = Outcome::failed(Status::DeviceLost, 0);
            self.kill(id, &lost, "the outer device ended the session")?;
        }
        Ok(moved)
    }

    /// Room for a queue's commands, and how deep its ring may be.
    pub(super) fn room(&mut self) -> Option<(&'d mut [Slot], u32)> {
        let most = u32::try_from(self.identity.queue_depth).unwrap_or(u32::MAX);
        let slots = self.pool.pop()?;
        let depth = most.min(slots.len() as u32).checked_ilog2().map(|log| 1 << log);
        match depth {
            Some(depth) => Some((slots, depth)),
            None => {
                self.pool.push(slots);
                None
            }
        }
    }

    /// Ends a space on the outer device: whatever runs in it is stopped, nothing of this machine can be
    /// reached through it any more. Everything open is answered with `running`.
    pub(super) fn end(&mut self, id: SpaceId, running: &Outcome) -> Result<bool, String> {
        let Some(space) = self.spaces.get_mut(&id) else { return Ok(false) };
        let Some(session) = space.session.take() else { return Ok(false) };
        let closed = session.close().map_err(Fail::from);
        let books = &mut *self.books;
        let unmapped = books.unmap(space.take_windows());
        space.take_tickets(running, &mut |ticket, outcome| books.done(ticket, outcome));
        self.pool.extend(space.lanes.drain().map(|(_, lane)| lane.queue.retire()));
        space.programs.clear();
        space.functions.clear();
        unmapped?;
        match closed {
            Err(Fail::Device(why)) => Err(why),
            // Refused: then it is closed already.
            Ok(()) | Err(Fail::Answer(_) | Fail::Session) => Ok(true),
        }
    }

    /// Ends a space that its owner did not close.
    fn kill(&mut self, id: SpaceId, running: &Outcome, why: &str) -> Result<(), String> {
        if self.end(id, running)? {
            self.books.outbox.put(BackendEvent::SpaceLost { space: id, why: why.into() });
        }
        Ok(())
    }

    /// The device is lost: it can reach nothing any more, and everybody is told.
    fn lose(mut self, why: String) -> End {
        let windows = self.spaces.values_mut().flat_map(Space::take_windows).collect();
        if let Err(error) = self.books.unmap(windows) {
            tracing::error!(
                error,
                "memory stays reachable by a lost device; it is kept from reuse"
            );
        }
        let lost = Outcome::failed(Status::DeviceLost, 0);
        for (space, mut held) in self.spaces.drain() {
            held.take_tickets(&lost, &mut |ticket, outcome| self.books.done(ticket, outcome));
            if held.session.is_some() {
                self.books.outbox.put(BackendEvent::SpaceLost { space, why: why.clone() });
            }
        }
        End::Lost(why)
    }
}

impl<O: Outer> Books<'_, O> {
    /// Takes windows away from the device. Their addresses are used again; those of a window that does
    /// not go are not.
    pub(super) fn unmap(&mut self, windows: Vec<(u64, u64)>) -> Result<(), String> {
        let mut result = Ok(());
        for (iova, bytes) in windows {
            match self.outer.unmap(iova, bytes) {
                Ok(()) => self.iova.give(iova, bytes),
                Err(error) => result = Err(format!("the IOMMU does not unmap {iova:#x}: {error}")),
            }
        }
        result
    }
}

/// One queue's turn. `false`: the outer device ended the session.
fn poll_lane<'d, 'o, O: Outer>(
    books: &Books<'o, O>,
    space: &Space<'d, &'o O::Transport>,
    lane: &mut Lane<'d, &'o O::Transport>,
    moved: &mut bool,
) -> Result<bool, String> {
    let mut alive = true;
    if !lane.flying.is_empty() {
        while let Some((token, completion)) = lane.queue.poll_any().map_err(|e| e.to_string())? {
            *moved = true;
            let Some(flying) = lane.flying.remove(&token) else {
                return Err("a completion of a command that was answered".into());
            };
            let (outcome, lives) = outcome(&flying, &completion);
            alive &= lives;
            books.done(flying.ticket, outcome);
        }
    }
    while lane.flying.len() < super::worker::DEPTH {
        let Some((ticket, op)) = lane.waiting.pop_front() else { break };
        *moved = true;
        let answer = match launch::hand_over(space, &mut lane.queue, &op) {
            Ok((token, value, timed)) => {
                let since = timed.then(Instant::now);
                lane.flying.insert(token, Flying { ticket, value, since });
                continue;
            }
            // No room in the ring or the aperture, but some will be: a command in flight gives it back.
            Err(Fail::Answer(o)) if o.status == Status::NoMemory && !lane.flying.is_empty() => {
                lane.waiting.push_front((ticket, op));
                *moved = false;
                break;
            }
            Err(Fail::Answer(outcome)) => outcome,
            Err(Fail::Session) => {
                alive = false;
                Outcome::failed(Status::DeviceLost, 0)
            }
            Err(Fail::Device(why)) => {
                lane.waiting.push_front((ticket, op));
                return Err(why);
            }
        };
        books.done(ticket, answer);
    }
    lane.queue.ring().map_err(|e| e.to_string())?;
    Ok(alive)
}

/// What a completion means. Numbers of the device's are passed on where they are only numbers.
fn outcome(flying: &Flying, completion: &Completion) -> (Outcome, bool) {
    if completion.status.is_ok() {
        let value = flying.value.unwrap_or(completion.value);
        let elapsed = flying.since.map(|since| since.elapsed().as_nanos());
        // CAST: at most what the device said, which is 64 bits.
        let busy_ns = elapsed.map_or(0, |ns| ns.min(completion.value.into()) as u64);
        return (Outcome { busy_ns, ..Outcome::ok(value) }, true);
    }
    match judge(completion.status, completion.detail) {
        Fail::Answer(outcome) => (outcome, true),
        Fail::Session | Fail::Device(_) => (Outcome::failed(Status::DeviceLost, 0), false),
    }
}

impl<O: Outer> Life<'_, '_, '_, O> {
    /// Puts work at the end of its queue.
    pub(super) fn queue(&mut self, ticket: Ticket, op: BackendOp) -> Result<Option<Outcome>, Fail> {
        let queue = match &op {
            BackendOp::Copy { queue, .. }
            | BackendOp::Fill { queue, .. }
            | BackendOp::Launch { queue, .. }
            | BackendOp::Timestamp { queue, .. } => *queue,
            _ => return Err(Outcome::failed(Status::Backend, 0).into()),
        };
        let space = self.spaces.get_mut(&op.space());
        match space.and_then(|s| s.lanes.get_mut(&queue)).filter(|l| l.closing.is_none()) {
            Some(lane) => {
                lane.waiting.push_back((ticket, op));
                Ok(None)
            }
            None => Err(Outcome::failed(Status::Revoked, 0).into()),
        }
    }
}
