//! What a connection begins with, and what its objects share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use capnp::capability::{FromClientHook, FromServer, get_resolved_cap};
use capnp::{Error, ErrorKind};
use capnp_rpc::CapabilityServerSet;
use turnstile_abi::regs;
use turnstile_driver::Slot;

use crate::Device;
use crate::buffer::BufferServer;
use crate::failure::{failure, foreign, malformed, say};
use crate::fence::FenceServer;
use crate::mapping::Tokens;
use crate::program::KernelServer;
use crate::session::{Session, SessionServer};
use crate::turnstile_capnp::{gpu_buffer, gpu_device_manager, gpu_fence, gpu_kernel, gpu_session};

/// Deepest queue of a session. A policy may allow less.
const DEPTH: u64 = 256;

/// Sets of slots that are ever made.
const SLOTS: usize = 512;

/// One connection's device and the objects on it.
pub(crate) struct Vat {
    pub(crate) device: Device,
    /// How deep a queue may be.
    depth: u32,
    /// Slots of queues that are gone, for the next.
    slots: RefCell<Vec<&'static mut [Slot]>>,
    /// Sets of slots made so far; they are never freed, only reused.
    made: Cell<usize>,
    pub(crate) tokens: Rc<Tokens>,
    /// Path of the socket that redeems them.
    pub(crate) maps: String,
    pub(crate) buffers: Known<BufferServer, gpu_buffer::Client>,
    pub(crate) kernels: Known<KernelServer, gpu_kernel::Client>,
    pub(crate) fences: Known<FenceServer, gpu_fence::Client>,
}

impl Vat {
    pub(crate) fn new(
        device: Device,
        tokens: Rc<Tokens>,
        maps: String,
    ) -> Result<Vat, turnstile_driver::Error> {
        let allowed = device.identify()?.queue_depth.min(DEPTH).min(regs::MAX_DEPTH.into());
        // CAST: at most DEPTH.
        let depth = allowed.checked_ilog2().map_or(0, |log| 1 << log) as u32;
        Ok(Vat {
            device,
            depth,
            slots: RefCell::default(),
            made: Cell::new(0),
            tokens,
            maps,
            buffers: Known::new("GpuBuffer"),
            kernels: Known::new("GpuKernel"),
            fences: Known::new("GpuFence"),
        })
    }

    /// Slots for a queue. They come back with [`give_slots`](Self::give_slots), except when the queue
    /// could not be made.
    pub(crate) fn slots(&self) -> Result<&'static mut [Slot], Error> {
        if let Some(slots) = self.slots.borrow_mut().pop() {
            return Ok(slots);
        }
        if self.made.get() >= SLOTS {
            let more = "too many sessions failed to open; connect again";
            return Err(say(ErrorKind::Overloaded, "no_room", more));
        }
        self.made.set(self.made.get() + 1);
        Ok(Box::leak(vec![Slot::NEW; self.depth as usize].into()))
    }

    pub(crate) fn give_slots(&self, slots: &'static mut [Slot]) {
        self.slots.borrow_mut().push(slots);
    }
}

/// Objects of one kind that a client can name in an argument. Only this connection's are known.
pub(crate) struct Known<S, C: FromServer<S>> {
    set: RefCell<(CapabilityServerSet<S, C>, usize)>,
    kind: &'static str,
}

/// Objects made between two clearings of the dead ones.
const CLEAR: usize = 256;

impl<S, C: FromServer<S> + FromClientHook> Known<S, C> {
    fn new(kind: &'static str) -> Known<S, C> {
        Known { set: RefCell::new((CapabilityServerSet::new(), 0)), kind }
    }

    /// Makes a capability of an object.
    pub(crate) fn client(&self, server: S) -> C {
        let (set, made) = &mut *self.set.borrow_mut();
        *made += 1;
        if made.is_multiple_of(CLEAR) {
            set.gc();
        }
        set.new_client(server)
    }

    /// The object behind an argument.
    pub(crate) async fn find(&self, argument: &str, client: C) -> Result<Rc<S>, Error> {
        let resolved: C = get_resolved_cap(client).await;
        let found = self.set.borrow().0.get_local_server_of_resolved(&resolved);
        found.ok_or_else(|| foreign(argument, self.kind))
    }
}

/// The bootstrap object.
pub(crate) struct DeviceServer(pub(crate) Rc<Vat>);

impl gpu_device_manager::Server for DeviceServer {
    async fn list_devices(
        self: Rc<Self>,
        _: gpu_device_manager::ListDevicesParams,
        mut results: gpu_device_manager::ListDevicesResults,
    ) -> Result<(), Error> {
        let identity = self.0.device.identify().map_err(|e| failure(&e))?;
        let mut info = results.get().init_devices(1).get(0);
        info.set_index(0);
        info.set_name("Turnstile GPU");
        info.set_memory_bytes(identity.memory_bytes);
        info.set_buffers(identity.buffers);
        info.set_program_bytes(identity.program_bytes);
        info.set_threads_per_block(identity.threads_per_block);
        info.set_blocks(identity.blocks);
        info.set_launch_timeout_nanos(identity.launch_timeout_ns);
        info.set_in_flight(identity.in_flight);
        info.set_multiprocessors(identity.multiprocessors);
        Ok(())
    }

    async fn open_device(
        self: Rc<Self>,
        params: gpu_device_manager::OpenDeviceParams,
        mut results: gpu_device_manager::OpenDeviceResults,
    ) -> Result<(), Error> {
        let index = params.get()?.get_index();
        if index != 0 {
            return Err(malformed(format_args!(
                "there is no device {index}; listDevices names all"
            )));
        }
        let session = Session::open(&self.0)?;
        let client: gpu_session::Client = capnp_rpc::new_client(SessionServer::new(session));
        results.get().set_session(client);
        Ok(())
    }
}
