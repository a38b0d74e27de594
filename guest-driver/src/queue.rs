//! Work queues: submit a batch, ring once, take results in any order.

use turnstile_abi::ring::Layout;
use turnstile_abi::{Completion, Descriptor, Handle, Opcode, Request, op};

use crate::arena::Area;
use crate::buffer::Place;
use crate::channel::{Channel, Deadline};
use crate::device::DeviceManager;
use crate::error::{Done, Error, Lie};
use crate::fence::Fence;
use crate::launch::Launch;
use crate::session::give_back;
use crate::transport::Transport;

/// Names one submitted command of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    const fn new(slot: usize, serial: u32) -> Token {
        Token((serial as u64) << 32 | slot as u64)
    }
    const fn slot(self) -> usize {
        self.0 as u32 as usize
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Free,
    Pending { area: Option<Area> },
    Finished(Completion),
}

/// Room for one command that is in flight, or finished and not yet taken.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    token: Token,
    state: State,
    /// Operation code of the descriptor.
    op: u16,
    next_free: u32,
}

impl Slot {
    /// An unused slot.
    pub const NEW: Slot = Slot { token: Token(0), state: State::Free, op: 0, next_free: END };
}

const END: u32 = u32::MAX;

/// What to fill memory with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A byte.
    U8(u8),
    /// A 16-bit number, little endian.
    U16(u16),
    /// A 32-bit number, little endian.
    U32(u32),
    /// A 64-bit number, little endian.
    U64(u64),
}

impl Pattern {
    /// The pattern in the low bits, and its width in bytes.
    #[must_use]
    pub const fn parts(self) -> (u64, u64) {
        match self {
            Pattern::U8(v) => (v as u64, 1),
            Pattern::U16(v) => (v as u64, 2),
            Pattern::U32(v) => (v as u64, 4),
            Pattern::U64(v) => (v, 8),
        }
    }
}

/// A work queue. Commands start in order. Submitting only puts a command into the ring; the device
/// is told by [`ring`](Self::ring), which the waiting and polling calls do by themselves.
#[derive(Debug)]
pub struct Queue<'q, T: Transport> {
    device: &'q DeviceManager<T>,
    handle: Handle,
    channel: Channel,
    area: Area,
    slots: &'q mut [Slot],
    free: u32,
    serial: u32,
    /// Slots in the state `Finished`.
    finished: usize,
    out_of_step: bool,
}

impl<'q, T: Transport> Queue<'q, T> {
    pub(crate) fn new(
        device: &'q DeviceManager<T>,
        handle: Handle,
        channel: Channel,
        area: Area,
        slots: &'q mut [Slot],
    ) -> Queue<'q, T> {
        let count = slots.len().min(END as usize);
        for (i, slot) in slots.iter_mut().enumerate() {
            let next_free = if i + 1 < count { i as u32 + 1 } else { END };
            *slot = Slot { next_free, ..Slot::NEW };
        }
        let free = if slots.is_empty() { END } else { 0 };
        Queue {
            device,
            handle,
            channel,
            area,
            slots,
            free,
            serial: 0,
            finished: 0,
            out_of_step: false,
        }
    }

    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }
    /// Its number, which selects the doorbell.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.channel.queue()
    }
    /// The interrupt vector of its completions.
    #[must_use]
    pub const fn vector(&self) -> u16 {
        self.channel.vector()
    }
    /// Where its ring lies.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        self.channel.layout()
    }
    /// Commands submitted whose completions have not been seen.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.channel.in_flight()
    }

    /// Submits a nop.
    pub fn nop(&mut self) -> Result<Token, Error> {
        self.submit(op::nop::Args {})
    }
    /// Submits a copy of `bytes` from `src` to `dst`.
    pub fn copy(&mut self, dst: Place, src: Place, bytes: u64) -> Result<Token, Error> {
        self.submit(op::copy::Args {
            dst: dst.handle,
            dst_offset: dst.offset,
            src: src.handle,
            src_offset: src.offset,
            bytes,
        })
    }
    /// Submits a fill of `bytes` at `dst`.
    pub fn fill(&mut self, dst: Place, bytes: u64, pattern: Pattern) -> Result<Token, Error> {
        let (pattern, width) = pattern.parts();
        let (dst, offset) = (dst.handle, dst.offset);
        self.submit(op::fill::Args { dst, offset, bytes, pattern, width })
    }
    /// Submits a kernel launch.
    pub fn launch(&mut self, launch: Launch<'_, T>) -> Result<Token, Error> {
        let (args, area) = launch.finish()?;
        let sent = self.send(&Request::from(args).encode(0), area);
        if sent.is_err() {
            give_back(self.device.arena(), area);
        }
        sent
    }
    /// Submits raising `fence` to `value`.
    pub fn signal(&mut self, fence: &Fence<'_, T>, value: u64) -> Result<Token, Error> {
        self.submit(op::fence_signal::Args { fence: fence.handle(), value })
    }
    /// Submits a wait, inside the queue, until `fence` has reached `value`.
    pub fn wait_fence(
        &mut self,
        fence: &Fence<'_, T>,
        value: u64,
        timeout_ns: u64,
    ) -> Result<Token, Error> {
        self.submit(op::fence_wait::Args { fence: fence.handle(), value, timeout_ns })
    }
    /// Submits a reading of the device clock.
    pub fn timestamp(&mut self) -> Result<Token, Error> {
        self.submit(op::timestamp::Args {})
    }

    /// Submits any command.
    pub fn submit(&mut self, request: impl Into<Request>) -> Result<Token, Error> {
        self.send(&request.into().encode(0), None)
    }
    /// Submits whatever a descriptor says; the cookie is the driver's own. For tools and tests.
    pub fn submit_raw(&mut self, descriptor: &Descriptor) -> Result<Token, Error> {
        self.send(descriptor, None)
    }

    fn send(&mut self, descriptor: &Descriptor, area: Option<Area>) -> Result<Token, Error> {
        if self.out_of_step {
            return Err(Error::OutOfStep);
        }
        let index = self.free as usize;
        let slot = self.slots.get_mut(index).ok_or(Error::Full)?;
        let token = Token::new(index, self.serial);
        let sent = Descriptor { cookie: token.0, ..*descriptor };
        self.channel.push(self.device.transport(), &sent)?;
        self.serial = self.serial.wrapping_add(1);
        self.free = slot.next_free;
        // CAST: the operation is the low half-word of the descriptor.
        *slot =
            Slot { token, state: State::Pending { area }, op: sent.head as u16, next_free: END };
        Ok(token)
    }

    /// Tells the device about what was submitted, if it sleeps. One check for a whole batch.
    pub fn ring(&mut self) -> Result<(), Error> {
        self.channel.ring(self.device.transport())
    }

    /// Whether the next completion is to interrupt through [`vector`](Self::vector). For callers that
    /// sleep by means of their own: arm, poll once more, sleep, disarm.
    pub fn arm(&mut self, on: bool) -> Result<(), Error> {
        self.channel.arm(self.device.transport(), on)
    }

    /// The result of a command, if it has arrived. Taking it frees the command's slot.
    pub fn poll(&mut self, token: Token) -> Result<Option<Completion>, Error> {
        self.ring()?;
        loop {
            if let Some(completion) = self.claim(token)? {
                return Ok(Some(completion));
            }
            match self.channel.pop(self.device.transport())? {
                Some(completion) => self.file(completion)?,
                None => return Ok(None),
            };
        }
    }

    /// The next result of any command, if one has arrived.
    pub fn poll_any(&mut self) -> Result<Option<(Token, Completion)>, Error> {
        self.ring()?;
        if self.finished == 0 {
            match self.channel.pop(self.device.transport())? {
                Some(completion) => {
                    let token = self.file(completion)?;
                    return Ok(self.claim(token)?.map(|c| (token, c)));
                }
                None => return Ok(None),
            }
        }
        let done = self.slots.iter().find(|s| matches!(s.state, State::Finished(_)));
        match done.map(|slot| slot.token) {
            Some(token) => Ok(self.claim(token)?.map(|c| (token, c))),
            None => Ok(None),
        }
    }

    /// Waits for a command's completion, a refusal included. A timeout leaves it in flight.
    pub fn complete(&mut self, token: Token, timeout_ns: u64) -> Result<Completion, Error> {
        let deadline = Deadline::after(self.device.transport(), timeout_ns);
        loop {
            if let Some(completion) = self.claim(token)? {
                return Ok(completion);
            }
            self.wait_any(&deadline)?;
        }
    }

    /// Waits for a command and its success.
    pub fn wait(&mut self, token: Token, timeout_ns: u64) -> Result<Done, Error> {
        let op = self.slots.get(token.slot()).map(|slot| slot.op);
        let c = self.complete(token, timeout_ns)?;
        if c.status.is_ok() {
            return Ok(Done { value: c.value, detail: c.detail });
        }
        match op.and_then(Opcode::from_code) {
            Some(op) => Err(Error::Status { op, status: c.status, detail: c.detail }),
            // Only a raw descriptor has no operation; a nop names it well enough.
            None => Err(Error::Status { op: Opcode::Nop, status: c.status, detail: c.detail }),
        }
    }

    /// Waits until nothing is in flight. Results stay to be taken.
    pub fn idle(&mut self, timeout_ns: u64) -> Result<(), Error> {
        let deadline = Deadline::after(self.device.transport(), timeout_ns);
        while self.channel.in_flight() > 0 {
            self.wait_any(&deadline)?;
        }
        Ok(())
    }

    fn wait_any(&mut self, deadline: &Deadline) -> Result<(), Error> {
        let completion =
            self.channel.wait(self.device.transport(), self.device.patience(), deadline)?;
        self.file(completion).map(drop)
    }

    /// Puts a completion into its command's slot.
    fn file(&mut self, completion: Completion) -> Result<Token, Error> {
        let token = Token(completion.cookie);
        match self.slots.get_mut(token.slot()) {
            Some(slot) if slot.token == token => {
                if let State::Pending { area } = slot.state {
                    slot.state = State::Finished(completion);
                    self.finished += 1;
                    give_back(self.device.arena(), area);
                    return Ok(token);
                }
            }
            _ => {}
        }
        self.out_of_step = true;
        Err(Lie::Cookie(completion.cookie).into())
    }

    /// Takes a finished command's result and frees its slot.
    fn claim(&mut self, token: Token) -> Result<Option<Completion>, Error> {
        let slot = self.slots.get_mut(token.slot()).ok_or(Error::BadToken)?;
        match slot.state {
            State::Finished(completion) if slot.token == token => {
                *slot = Slot { token, state: State::Free, op: 0, next_free: self.free };
                self.free = token.slot() as u32;
                self.finished -= 1;
                Ok(Some(completion))
            }
            State::Pending { .. } if slot.token == token => Ok(None),
            _ => Err(Error::BadToken),
        }
    }

    /// Stops the queue. Commands in flight end with `revoked`; results not taken are lost. Dropping
    /// a queue instead leaves it running, and its piece of the aperture in use, until a reset.
    pub fn destroy(self) -> Result<(), Error> {
        self.release().1
    }

    /// Like [`destroy`](Self::destroy), and gives the slots back, for another queue.
    pub fn release(self) -> (&'q mut [Slot], Result<(), Error>) {
        let destroyed = self.device.call(op::queue_destroy::Args { queue: self.handle });
        if let Err(e) = destroyed {
            return (self.slots, Err(e));
        }
        (self.retire(), Ok(()))
    }

    /// Gives back what a queue holds on this side, once the device has stopped it: after its session
    /// was closed, or the queue destroyed by its handle.
    pub fn retire(self) -> &'q mut [Slot] {
        for slot in self.slots.iter() {
            if let State::Pending { area } = slot.state {
                give_back(self.device.arena(), area);
            }
        }
        give_back(self.device.arena(), Some(self.area));
        self.slots
    }
}
