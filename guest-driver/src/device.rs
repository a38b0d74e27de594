//! Finding, enabling and resetting a device; its admin queue.

use core::cell::{Cell, RefCell};

use turnstile_abi::identify::Identity;
use turnstile_abi::memory::SharedMemory;
use turnstile_abi::regs::{self, Control, DeviceStatus, offset};
use turnstile_abi::ring::{self, Layout};
use turnstile_abi::version::{Features, Version};
use turnstile_abi::{Completion, Descriptor, Handle, Kind, Request, Status, op};

use crate::arena::{Arena, Block};
use crate::channel::{Channel, Deadline, check_health};
use crate::error::{Done, Error, Lie};
use crate::session::Session;
use crate::transport::Transport;

/// How long the driver waits for the device, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Turns of busy waiting before a wait sleeps.
    pub spins: u32,
    /// Longest wait for an answer on the admin queue, for a reset or an enable, in nanoseconds.
    pub timeout_ns: u64,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { spins: 2000, timeout_ns: 30_000_000_000 }
    }
}

#[derive(Debug)]
struct Admin {
    channel: Channel,
    cookie: u64,
    enabled: bool,
    out_of_step: bool,
}

/// A device, and the driver's end of it. Everything else borrows from here.
#[derive(Debug)]
pub struct DeviceManager<T: Transport> {
    transport: T,
    version: Version,
    offered: u64,
    features: Features,
    queues: u32,
    heap: u64,
    aperture_bytes: u64,
    admin_layout: Layout,
    patience: Patience,
    admin: RefCell<Admin>,
    arena: RefCell<Arena>,
    vectors_given: Cell<u16>,
}

impl<T: Transport> DeviceManager<T> {
    /// Looks at what is behind a transport, and believes none of it unchecked. Changes nothing.
    pub fn probe(transport: T) -> Result<DeviceManager<T>, Error> {
        let magic = transport.read32(offset::MAGIC);
        if magic != regs::MAGIC_VALUE {
            return Err(if magic == u32::MAX { Error::Gone } else { Error::NotADevice(magic) });
        }
        let version = Version(transport.read32(offset::VERSION));
        if !version.serves(Version::CURRENT) {
            return Err(Error::Version(version));
        }
        let queues = transport.read32(offset::QUEUES);
        if queues == 0 || queues > regs::MAX_QUEUES {
            return Err(Lie::Queues(queues).into());
        }
        let aperture_bytes = transport.read64(offset::APERTURE_BYTES);
        let heap = transport.read64(offset::HEAP_OFFSET);
        let mapped = transport.aperture().size();
        let admin_bytes = ring::bytes(regs::ADMIN_DEPTH);
        if aperture_bytes > mapped || heap > aperture_bytes || heap < admin_bytes {
            return Err(Lie::Aperture { bytes: aperture_bytes, heap, mapped }.into());
        }
        let admin_layout = Layout::new(0, regs::ADMIN_DEPTH.into(), heap)?;
        Ok(DeviceManager {
            version,
            offered: transport.read64(offset::FEATURES),
            features: Features::empty(),
            queues,
            heap,
            aperture_bytes,
            admin_layout,
            patience: Patience::default(),
            admin: RefCell::new(Admin::new(admin_layout)),
            arena: RefCell::new(Arena::new(admin_bytes, heap)),
            vectors_given: Cell::new(0),
            transport,
        })
    }

    /// Probes, resets, and enables with every feature that both sides know.
    pub fn start(transport: T) -> Result<DeviceManager<T>, Error> {
        let mut device = DeviceManager::probe(transport)?;
        device.reset()?;
        device.enable(device.offered())?;
        Ok(device)
    }

    /// Changes how the driver waits.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }
    /// How the driver waits.
    #[must_use]
    pub const fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Negotiates version and features and starts the admin queue.
    pub fn enable(&mut self, wanted: Features) -> Result<(), Error> {
        if wanted.bits() & !self.offered != 0 {
            return Err(Error::Features { wanted: wanted.bits(), offered: self.offered });
        }
        self.forget();
        let t = &self.transport;
        self.admin_layout.clear(t.aperture())?;
        t.write32(offset::DRIVER_VERSION, Version::CURRENT.0);
        t.write32(offset::DRIVER_FEATURES, wanted.bits() as u32);
        t.write32(offset::DRIVER_FEATURES + 4, (wanted.bits() >> 32) as u32);
        let status = self.control(Control::ENABLE)?;
        if status.contains(DeviceStatus::LOST) {
            return Err(Error::Lost);
        }
        if status.contains(DeviceStatus::FAILED) || !status.contains(DeviceStatus::ENABLED) {
            let code = self.transport.read32(offset::LAST_ERROR);
            return Err(Error::EnableRefused(Status::from_code(code).unwrap_or(Status::Backend)));
        }
        self.features = wanted;
        self.admin.get_mut().enabled = true;
        Ok(())
    }

    /// Resets the device: every object is closed, every queue stopped. No object of the driver can
    /// be alive across this, because each borrows the manager.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.forget();
        let status = self.control(Control::RESET)?;
        if status.contains(DeviceStatus::LOST) { Err(Error::Lost) } else { Ok(()) }
    }

    fn forget(&mut self) {
        self.admin = RefCell::new(Admin::new(self.admin_layout));
        self.arena = RefCell::new(Arena::new(self.admin_layout.bytes(), self.heap));
        self.vectors_given = Cell::new(0);
        self.features = Features::empty();
    }

    /// Writes `CONTROL` and waits until the device has acted on it.
    fn control(&self, control: Control) -> Result<DeviceStatus, Error> {
        let t = &self.transport;
        t.write32(offset::CONTROL, control.bits());
        let deadline = Deadline::after(t, self.patience.timeout_ns);
        loop {
            let bits = t.read32(offset::STATUS);
            if bits == u32::MAX {
                return Err(Error::Gone);
            }
            let status = DeviceStatus::from_bits_truncate(bits);
            if !status.contains(DeviceStatus::BUSY) {
                return Ok(status);
            }
            deadline.left(t)?;
            t.relax();
        }
    }

    /// Asks for the tenant's limits and the device's identity.
    pub fn identify(&self) -> Result<Identity, Error> {
        let block = self.block(Identity::BYTES)?;
        self.call(op::identify::Args { offset: block.offset(), bytes: Identity::BYTES })?;
        let mut bytes = [0; Identity::BYTES as usize];
        self.transport.aperture().read(block.offset(), &mut bytes)?;
        Ok(Identity::from_bytes(&bytes))
    }

    /// Opens a session: an address space on the GPU.
    pub fn open_session(&self) -> Result<Session<'_, T>, Error> {
        let done = self.call(op::session_open::Args {})?;
        Ok(Session::new(self, expect(Kind::Session, done.value)?, done.detail))
    }

    /// The `STATUS` register; a device that is gone gives [`Error::Gone`].
    pub fn status(&self) -> Result<DeviceStatus, Error> {
        match self.transport.read32(offset::STATUS) {
            u32::MAX => Err(Error::Gone),
            bits => Ok(DeviceStatus::from_bits_truncate(bits)),
        }
    }
    /// The `LAST_ERROR` register.
    #[must_use]
    pub fn last_error(&self) -> Option<Status> {
        Status::from_code(self.transport.read32(offset::LAST_ERROR))
    }
    /// Version the device speaks.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }
    /// Features the device offers and this driver knows.
    #[must_use]
    pub const fn offered(&self) -> Features {
        Features::from_bits_truncate(self.offered)
    }
    /// Features in force.
    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }
    /// Queues the device has, the admin queue included.
    #[must_use]
    pub const fn queues(&self) -> u32 {
        self.queues
    }
    /// Where the device's heap begins in the aperture, in bytes.
    #[must_use]
    pub const fn heap_offset(&self) -> u64 {
        self.heap
    }
    /// Size of the aperture in bytes, as the device says.
    #[must_use]
    pub const fn aperture_bytes(&self) -> u64 {
        self.aperture_bytes
    }
    /// Largest piece free in the driver's part of the aperture, in bytes.
    #[must_use]
    pub fn aperture_free(&self) -> u64 {
        self.arena.borrow().largest()
    }
    /// The way to the device.
    #[must_use]
    pub const fn transport(&self) -> &T {
        &self.transport
    }
    /// Gives the way to the device back, without touching the device.
    #[must_use]
    pub fn into_transport(self) -> T {
        self.transport
    }

    /// Reserves a piece of the driver's part of the aperture until the block is dropped.
    pub fn block(&self, bytes: u64) -> Result<Block<'_>, Error> {
        Block::take(&self.arena, bytes)
    }
    pub(crate) const fn arena(&self) -> &RefCell<Arena> {
        &self.arena
    }

    /// Reserves a piece and copies bytes there.
    pub(crate) fn stage(&self, bytes: &[u8]) -> Result<Block<'_>, Error> {
        let block = self.block(bytes.len() as u64)?;
        self.transport.aperture().write(block.offset(), bytes)?;
        Ok(block)
    }

    /// The interrupt vector for the next queue: all but the admin queue's, in turn.
    pub(crate) fn next_vector(&self) -> u16 {
        let given = self.vectors_given.get();
        self.vectors_given.set(given.wrapping_add(1));
        1 + given % (regs::VECTORS - 1)
    }

    /// Runs an admin command and waits for its result.
    pub fn call(&self, request: impl Into<Request>) -> Result<Done, Error> {
        let request = request.into();
        let c = self.exchange(&request.encode(0))?;
        if c.status.is_ok() {
            Ok(Done { value: c.value, detail: c.detail })
        } else {
            Err(Error::Status { op: request.opcode(), status: c.status, detail: c.detail })
        }
    }

    /// Runs whatever a descriptor says on the admin queue and waits for the completion, which may
    /// be a refusal. The cookie is the driver's own. For tools and tests; [`call`](Self::call) is
    /// the typed way.
    pub fn exchange(&self, descriptor: &Descriptor) -> Result<Completion, Error> {
        let admin = &mut *self.admin.borrow_mut();
        if !admin.enabled {
            return Err(Error::NotEnabled);
        }
        if admin.out_of_step {
            // Why, if the device says.
            check_health(&self.transport)?;
            return Err(Error::OutOfStep);
        }
        admin.cookie += 1;
        let t = &self.transport;
        admin.channel.push(t, &Descriptor { cookie: admin.cookie, ..*descriptor })?;
        let deadline = Deadline::after(t, self.patience.timeout_ns);
        let result = admin.channel.wait(t, &self.patience, &deadline);
        match result {
            Ok(c) if c.cookie == admin.cookie => Ok(c),
            Ok(c) => {
                admin.out_of_step = true;
                Err(Lie::Cookie(c.cookie).into())
            }
            Err(e) => {
                admin.out_of_step = true;
                Err(e)
            }
        }
    }

    /// Whether the device is there, enabled and not lost.
    pub fn check(&self) -> Result<(), Error> {
        check_health(&self.transport)
    }
}

impl Admin {
    const fn new(layout: Layout) -> Admin {
        Admin { channel: Channel::new(layout, 0, 0), cookie: 0, enabled: false, out_of_step: false }
    }
}

/// Checks a handle that the device returned.
pub(crate) fn expect(want: Kind, raw: u64) -> Result<Handle, Error> {
    let handle = Handle::from_raw(raw);
    if handle.kind() == Some(want) {
        Ok(handle)
    } else {
        Err(Lie::Handle { want, got: raw }.into())
    }
}
