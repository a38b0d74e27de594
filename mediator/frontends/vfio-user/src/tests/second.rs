//! A client that somebody else wrote: the `vfio_user` crate's, which is Cloud Hypervisor's.

use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::fs::SealFlags;
use turnstile_abi::regs::{BAR0_SIZE, MAGIC_VALUE, doorbell, offset};
use vfio_user::Client;

use super::protocol::{count, event, memfd, sealed};
use super::{APERTURE, Bench};
use crate::Left;

#[test]
fn cloud_hypervisors_client_is_served() {
    let bench = Bench::new();
    let mut client = Client::new(&bench.path).unwrap();
    // (Its `resettable` compares the wrong way round in 0.1.7, so it says nothing.)
    assert_eq!(client.region(0).unwrap().size, BAR0_SIZE);
    let aperture = client.region(2).unwrap();
    assert_eq!((aperture.size, aperture.sparse_areas.len()), (APERTURE, 1));
    assert!(aperture.file_offset.is_some(), "its descriptor came");
    let mut magic = [0; 4];
    client.region_read(0, offset::MAGIC, &mut magic).unwrap();
    assert_eq!(u32::from_le_bytes(magic), MAGIC_VALUE);
    client.region_write(0, doorbell(0), &[0; 4]).unwrap();
    assert!(bench.device().kick().eventfd().read().is_ok());
    let irqs = client.get_irq_info(2).unwrap();
    assert_eq!((irqs.count, irqs.flags & 1), (16, 1));
    let (one, two) = (event(), event());
    client.set_irqs(2, 36, 0, 2, &[one.as_raw_fd(), two.as_raw_fd()]).unwrap();
    bench.device().raise(1);
    assert_eq!(count(&two, Duration::from_secs(5)), Some(1));
    // Its memory is not sealed: taken, not mapped.
    let ram = memfd(1 << 20, SealFlags::empty());
    client.dma_map(0, 0, 1 << 20, ram.as_raw_fd()).unwrap();
    let ram = sealed(1 << 20);
    client.dma_map(0, 1 << 30, 1 << 20, ram.as_raw_fd()).unwrap();
    assert_eq!(bench.fake.seen.lock().unwrap().memory.len(), 1);
    client.dma_unmap(1 << 30, 1 << 20).unwrap();
    client.dma_unmap(0, 1 << 20).unwrap();
    assert!(bench.fake.seen.lock().unwrap().memory.is_empty());
    client.reset().unwrap();
    client.shutdown().unwrap();
    assert_eq!(bench.left(0), Left::Closed);
}
