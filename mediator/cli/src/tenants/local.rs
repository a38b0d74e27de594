//! A tenant inside the daemon's own process, for benchmarks and tests: the driver on one thread, the
//! dispatcher on another, the same rings between them as for any tenant.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use turnstile_backend_api::SharedRegion;
use turnstile_device::Device;
use turnstile_driver::Transport;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// The way to a device in the same process.
#[derive(Debug)]
pub struct LocalTransport {
    device: Arc<Device>,
    start: Instant,
}

impl LocalTransport {
    /// A transport to a device.
    #[must_use]
    pub fn new(device: Arc<Device>) -> LocalTransport {
        LocalTransport { device, start: Instant::now() }
    }
}

impl Transport for LocalTransport {
    type Aperture = SharedRegion;

    fn read32(&self, at: u64) -> u32 {
        let mut data = [0; 4];
        self.device.bar0_read(at, &mut data);
        u32::from_le_bytes(data)
    }
    fn write32(&self, at: u64, value: u32) {
        self.device.bar0_write(at, &value.to_le_bytes());
    }
    fn aperture(&self) -> &SharedRegion {
        self.device.aperture()
    }
    fn wait_for_interrupt(&self, vector: u16, bound_ns: u64) {
        let Some(eventfd) = self.device.vector(vector) else { return };
        let Ok(epoll) = Epoll::new() else { return };
        let event = EpollEvent::new(EventSet::IN, 0);
        if epoll.ctl(ControlOperation::Add, eventfd.as_raw_fd(), event).is_ok() {
            // CAST: bounded before.
            let ms = bound_ns.div_ceil(1_000_000).min(1_000_000) as i32;
            let _ = epoll.wait(ms, &mut [EpollEvent::default()]);
            let _ = eventfd.read();
        }
    }
    fn now_ns(&self) -> u64 {
        // CAST: 584 years of uptime fit.
        self.start.elapsed().as_nanos() as u64
    }
}
