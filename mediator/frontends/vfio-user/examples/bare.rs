//! A bare vfio-user server for comparison: the `vfio_user` crate's, with a handler that does nothing.
//! It looks enough like the Turnstile function for a guest to map its BARs.
//!
//!     cargo run --release -p turnstile-vfio-user --example bare -- SOCKET

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use turnstile_abi::regs::{BAR0_SIZE, BAR4_SIZE, VECTORS};
use turnstile_backend_api::SharedRegion;
use turnstile_device::Function;
use vfio_bindings::bindings::vfio::{vfio_region_info, vfio_region_sparse_mmap_area};
use vfio_user::{
    DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea,
};

const APERTURE: u64 = 1 << 20;

struct Nothing(Function);

impl ServerBackend for Nothing {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if region == 7 {
            self.0.config_read(offset, data);
        }
        Ok(())
    }
    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if region == 7 {
            let _ = self.0.config_write(offset, data);
        }
        Ok(())
    }
    fn dma_map(
        &mut self,
        _: DmaMapFlags,
        _: u64,
        _: u64,
        _: u64,
        _: Option<File>,
    ) -> io::Result<()> {
        Ok(())
    }
    fn dma_unmap(&mut self, _: DmaUnmapFlags, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn reset(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> io::Result<()> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: bare SOCKET")?;
    let aperture = SharedRegion::create("bare", APERTURE)?;
    let info = |index, flags, size| vfio_region_info {
        argsz: 32,
        flags,
        index,
        cap_offset: 0,
        size,
        offset: 0,
    };
    let regions = (0..9).map(|index| {
        let (flags, size) = match index {
            0 => (3, BAR0_SIZE),
            2 => (7, APERTURE),
            4 => (3, BAR4_SIZE),
            7 => (3, 256),
            _ => (0, 0),
        };
        let area = vfio_region_sparse_mmap_area { offset: 0, size: APERTURE };
        ServerRegion {
            region_info: info(index, flags, size),
            sparse_areas: if index == 2 { vec![SparseArea { area }] } else { Vec::new() },
            mmap_fd: (index == 2).then(|| aperture.fd().as_raw_fd()),
        }
    });
    let irqs = (0..5)
        .map(|index| {
            let count = if index == 2 { VECTORS.into() } else { 0 };
            IrqInfo { index, flags: 1, count }
        })
        .collect();
    let server = Server::new(Path::new(&path), true, irqs, regions.collect())
        .map_err(|e| format!("{e:?}"))?;
    server.run(&mut Nothing(Function::new(APERTURE)?)).map_err(|e| format!("{e:?}").into())
}
