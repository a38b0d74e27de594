//! A device in memory for tests of the driver's protocol: the ABI's own ring on the other end, and
//! answers made up by the test. It moves no bytes and runs no kernels.

use core::cell::{Cell, RefCell};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use turnstile_abi::memory::{OutOfBounds, SharedMemory, check};
use turnstile_abi::regs::{self, DeviceStatus, offset};
use turnstile_abi::ring::{DeviceRing, Layout, Permit, RingError};
use turnstile_abi::{Completion, Descriptor, Handle, Kind, Request, Status};

use crate::transport::Transport;

pub(crate) const APERTURE: u64 = 1 << 20;
pub(crate) const HEAP: u64 = 1 << 19;

/// Plain memory, little endian.
pub(crate) struct Bytes(pub(crate) RefCell<Vec<u8>>);

impl SharedMemory for Bytes {
    fn size(&self) -> u64 {
        self.0.borrow().len() as u64
    }
    fn load32(&self, offset: u64) -> Result<u32, OutOfBounds> {
        let mut b = [0; 4];
        self.read(offset, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }
    fn store32(&self, offset: u64, value: u32) -> Result<(), OutOfBounds> {
        self.write(offset, &value.to_le_bytes())
    }
    fn load64(&self, offset: u64) -> Result<u64, OutOfBounds> {
        let mut b = [0; 8];
        self.read(offset, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }
    fn store64(&self, offset: u64, value: u64) -> Result<(), OutOfBounds> {
        self.write(offset, &value.to_le_bytes())
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds> {
        check(self.size(), offset, into.len() as u64)?;
        into.copy_from_slice(&self.0.borrow()[offset as usize..][..into.len()]);
        Ok(())
    }
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        check(self.size(), offset, from.len() as u64)?;
        self.0.borrow_mut()[offset as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }
}

/// What the fake does with a command: answer it, or hold it for later.
pub(crate) enum Reply {
    Now(Completion),
    Hold,
}

type Answer = Box<dyn FnMut(&Descriptor, &Bytes) -> Reply>;

pub(crate) struct Fake {
    pub(crate) memory: Bytes,
    pub(crate) registers: RefCell<BTreeMap<u64, u32>>,
    pub(crate) doorbells: Cell<u32>,
    pub(crate) sleeps: Cell<u32>,
    pub(crate) clock: Cell<u64>,
    /// Rings by queue number, each with the permits of held commands.
    rings: RefCell<BTreeMap<u32, DeviceRing>>,
    held: RefCell<Vec<(u32, Descriptor, Permit)>>,
    answer: RefCell<Answer>,
    /// While set, the device does nothing.
    pub(crate) frozen: Cell<bool>,
}

impl core::fmt::Debug for Fake {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    pub(crate) fn new(answer: impl FnMut(&Descriptor, &Bytes) -> Reply + 'static) -> Fake {
        let registers = BTreeMap::from([
            (offset::MAGIC, regs::MAGIC_VALUE),
            (offset::VERSION, 0x1_0000),
            (offset::FEATURES, 3),
            (offset::FEATURES + 4, 0),
            (offset::STATUS, 0),
            (offset::LAST_ERROR, 0),
            (offset::QUEUES, 8),
            (offset::APERTURE_BYTES, APERTURE as u32),
            (offset::APERTURE_BYTES + 4, 0),
            (offset::HEAP_OFFSET, HEAP as u32),
            (offset::HEAP_OFFSET + 4, 0),
        ]);
        Fake {
            memory: Bytes(RefCell::new(vec![0; APERTURE as usize])),
            registers: RefCell::new(registers),
            doorbells: Cell::new(0),
            sleeps: Cell::new(0),
            clock: Cell::new(0),
            rings: RefCell::default(),
            held: RefCell::default(),
            answer: RefCell::new(Box::new(answer)),
            frozen: Cell::new(false),
        }
    }

    /// A device that creates what it is asked for.
    pub(crate) fn willing() -> Fake {
        Fake::new(willing)
    }

    pub(crate) fn set(&self, at: u64, value: u32) {
        self.registers.borrow_mut().insert(at, value);
    }

    /// Fetches and answers until there is nothing left, then parks. A broken ring freezes the device.
    pub(crate) fn step(&self) {
        if !self.frozen.get() && self.serve().is_err() {
            self.frozen.set(true);
        }
    }

    fn serve(&self) -> Result<(), RingError> {
        let mut created = Vec::new();
        for (&queue, ring) in self.rings.borrow_mut().iter_mut() {
            ring.unpark(&self.memory)?;
            while let Some((descriptor, permit)) = ring.fetch(&self.memory)? {
                let completion = match (self.answer.borrow_mut())(&descriptor, &self.memory) {
                    Reply::Now(completion) => completion,
                    Reply::Hold => {
                        self.held.borrow_mut().push((queue, descriptor, permit));
                        continue;
                    }
                };
                if let Ok(Request::QueueCreate(args)) = Request::decode(&descriptor)
                    && completion.status.is_ok()
                {
                    let layout = Layout::new(args.ring, args.depth, HEAP).unwrap();
                    let mut new = DeviceRing::new(layout);
                    new.park(&self.memory)?;
                    created.push((completion.detail as u32, new));
                }
                ring.complete(&self.memory, permit, &completion)?;
            }
            ring.park(&self.memory)?;
        }
        self.rings.borrow_mut().extend(created);
        Ok(())
    }

    /// Completes the `i`th held command.
    pub(crate) fn release(&self, i: usize, status: Status, value: u64) {
        let (queue, descriptor, permit) = self.held.borrow_mut().remove(i);
        let completion = Completion { cookie: descriptor.cookie, value, detail: 0, status };
        let mut rings = self.rings.borrow_mut();
        rings.get_mut(&queue).unwrap().complete(&self.memory, permit, &completion).unwrap();
    }
}

pub(crate) fn ok(d: &Descriptor, value: u64, detail: u64) -> Reply {
    Reply::Now(Completion { cookie: d.cookie, value, detail, status: Status::Ok })
}

pub(crate) fn refuse(d: &Descriptor, status: Status, detail: u64) -> Reply {
    Reply::Now(Completion { cookie: d.cookie, value: 0, detail, status })
}

/// Answers everything with success.
pub(crate) fn willing(d: &Descriptor, _: &Bytes) -> Reply {
    let handle = |kind| Handle::new(kind, 5, 1).raw();
    match Request::decode(d) {
        Ok(Request::SessionOpen(_)) => ok(d, handle(Kind::Session), 0x7000_0000),
        Ok(Request::BufferCreate(_)) => ok(d, handle(Kind::Buffer), 0x7000_1000),
        Ok(Request::BufferMap(_)) => ok(d, HEAP + 4096, 4096),
        Ok(Request::DmaRegister(args)) => ok(d, handle(Kind::DmaRegion), args.extents * 4096),
        Ok(Request::ProgramLoad(_)) => ok(d, handle(Kind::Program), 0),
        Ok(Request::FunctionGet(_)) => ok(d, handle(Kind::Function), 28),
        Ok(Request::QueueCreate(_)) => ok(d, handle(Kind::Queue), 1),
        Ok(Request::FenceCreate(_)) => ok(d, handle(Kind::Fence), 0),
        Ok(Request::Derive(args)) => ok(d, args.source.raw() + 1, 0),
        Ok(_) => ok(d, 0, 0),
        Err(malformed) => refuse(d, malformed.status(), malformed.detail()),
    }
}

impl Transport for Fake {
    type Aperture = Bytes;
    fn read32(&self, at: u64) -> u32 {
        self.registers.borrow().get(&at).copied().unwrap_or(u32::MAX)
    }
    fn write32(&self, at: u64, value: u32) {
        if let Some(queue) = regs::doorbell_queue(at) {
            self.doorbells.set(self.doorbells.get() + 1);
            assert!(queue < 8);
            self.step();
        } else if at == offset::CONTROL {
            self.held.borrow_mut().clear();
            self.rings.borrow_mut().clear();
            let status = if value == 1 {
                let layout = Layout::new(0, regs::ADMIN_DEPTH.into(), HEAP).unwrap();
                let mut ring = DeviceRing::new(layout);
                ring.park(&self.memory).unwrap();
                self.rings.borrow_mut().insert(0, ring);
                DeviceStatus::ENABLED
            } else {
                DeviceStatus::empty()
            };
            if !self.frozen.get() {
                self.set(offset::STATUS, status.bits());
            }
        } else {
            self.set(at, value);
        }
    }
    fn aperture(&self) -> &Bytes {
        &self.memory
    }
    fn relax(&self) {
        self.step();
    }
    fn wait_for_interrupt(&self, _: u16, bound_ns: u64) {
        self.sleeps.set(self.sleeps.get() + 1);
        self.clock.set(self.clock.get() + bound_ns);
        self.step();
    }
    fn now_ns(&self) -> u64 {
        self.clock.set(self.clock.get() + 100);
        self.clock.get()
    }
}
