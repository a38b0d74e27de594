use super::*;
use crate::status::Status;
use core::cell::RefCell;
use std::vec;
use std::vec::Vec;

struct Mem(RefCell<Vec<u8>>);
impl SharedMemory for Mem {
    fn size(&self) -> u64 {
        self.0.borrow().len() as u64
    }
    fn load32(&self, o: u64) -> Result<u32, OutOfBounds> {
        let mut b = [0; 4];
        self.read(o, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }
    fn store32(&self, o: u64, v: u32) -> Result<(), OutOfBounds> {
        self.write(o, &v.to_le_bytes())
    }
    fn load64(&self, o: u64) -> Result<u64, OutOfBounds> {
        let mut b = [0; 8];
        self.read(o, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }
    fn store64(&self, o: u64, v: u64) -> Result<(), OutOfBounds> {
        self.write(o, &v.to_le_bytes())
    }
    fn read(&self, o: u64, into: &mut [u8]) -> Result<(), OutOfBounds> {
        crate::memory::check(self.size(), o, into.len() as u64)?;
        into.copy_from_slice(&self.0.borrow()[o as usize..][..into.len()]);
        Ok(())
    }
    fn write(&self, o: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        crate::memory::check(self.size(), o, from.len() as u64)?;
        self.0.borrow_mut()[o as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }
}

fn pair(depth: u64) -> (Mem, DeviceRing, DriverRing) {
    let mem = Mem(RefCell::new(vec![0; 0x10000]));
    let layout = Layout::new(0x40, depth, mem.size()).unwrap();
    (mem, DeviceRing::new(layout), DriverRing::new(layout))
}

fn command(cookie: u64) -> Descriptor {
    Descriptor { head: 0x20, cookie, words: [0; 6] }
}

fn done(cookie: u64) -> Completion {
    Completion { cookie, value: 0, detail: 0, status: Status::Ok }
}

#[test]
fn layout_refuses_what_does_not_fit() {
    assert_eq!(Layout::new(0, 3, 1 << 20), Err(LayoutError::Depth));
    assert_eq!(Layout::new(0, 0, 1 << 20), Err(LayoutError::Depth));
    assert_eq!(Layout::new(0, u64::from(MAX_DEPTH) * 2, 1 << 20), Err(LayoutError::Depth));
    assert_eq!(Layout::new(32, 4, 1 << 20), Err(LayoutError::Place));
    assert_eq!(Layout::new(u64::MAX - 63, 4, 1 << 20), Err(LayoutError::Place));
    let exact = bytes(8);
    assert!(Layout::new(0, 8, exact).is_ok());
    assert_eq!(Layout::new(0, 8, exact - 1), Err(LayoutError::Place));
}

#[test]
fn golden_offsets() {
    let layout = Layout::new(0x1000, 64, 1 << 20).unwrap();
    assert_eq!(layout.descriptor(65), 0x1140);
    assert_eq!(layout.completion(0), 0x2100);
    assert_eq!(layout.bytes(), 0x100 + 64 * 96);
}

#[test]
fn commands_and_completions_wrap_many_times() {
    let (mem, mut device, mut driver) = pair(4);
    for round in 0..100_u64 {
        for i in 0..4 {
            driver.push(&mem, &command(round * 4 + i)).unwrap().unwrap();
        }
        assert_eq!(driver.push(&mem, &command(0)).unwrap(), Err(Full));
        while let Some((d, permit)) = device.fetch(&mem).unwrap() {
            device.complete(&mem, permit, &done(d.cookie)).unwrap();
        }
        for i in 0..4 {
            assert_eq!(driver.pop(&mem).unwrap().unwrap().cookie, round * 4 + i);
        }
        assert!(driver.pop(&mem).unwrap().is_none());
    }
}

#[test]
fn no_fetch_without_a_completion_slot() {
    let (mem, mut device, mut driver) = pair(2);
    for i in 0..2 {
        driver.push(&mem, &command(i)).unwrap().unwrap();
    }
    let (_, a) = device.fetch(&mem).unwrap().unwrap();
    let (_, b) = device.fetch(&mem).unwrap().unwrap();
    device.complete(&mem, a, &done(0)).unwrap();
    device.complete(&mem, b, &done(1)).unwrap();
    // A driver that overruns its own ring: tail moves, completions are not consumed.
    mem.store32(0x40, 4).unwrap();
    assert!(device.fetch(&mem).unwrap().is_none());
    assert!(device.park(&mem).unwrap(), "no slot: sleeping is right, the driver must ring");
    mem.store32(0x40 + CQ_HEAD, 1).unwrap();
    assert!(device.fetch(&mem).unwrap().is_some());
    assert!(device.fetch(&mem).unwrap().is_none());
}

#[test]
fn lying_indices_break_the_ring_and_nothing_else() {
    let (mem, mut device, _) = pair(4);
    mem.store32(0x40, 5).unwrap();
    assert_eq!(device.fetch(&mem).unwrap_err(), RingError::Tail { tail: 5, head: 0 });
    mem.store32(0x40, u32::MAX).unwrap();
    assert!(matches!(device.fetch(&mem), Err(RingError::Tail { .. })));

    let (mem, mut device, mut driver) = pair(1);
    driver.push(&mem, &command(1)).unwrap().unwrap();
    let (_, permit) = device.fetch(&mem).unwrap().unwrap();
    device.complete(&mem, permit, &done(1)).unwrap();
    mem.store32(0x40 + CQ_HEAD, 2).unwrap();
    assert_eq!(device.fetch(&mem).unwrap_err(), RingError::CompletionHead { head: 2, tail: 1 });
}

#[test]
fn parking_sees_a_command_pushed_just_before() {
    let (mem, mut device, mut driver) = pair(4);
    assert!(device.park(&mem).unwrap());
    assert!(driver.doorbell_needed(&mem).unwrap());
    device.unpark(&mem).unwrap();
    driver.push(&mem, &command(1)).unwrap().unwrap();
    assert!(!device.park(&mem).unwrap());
    assert!(!driver.doorbell_needed(&mem).unwrap());
}

#[test]
fn an_armed_driver_gets_an_interrupt() {
    let (mem, mut device, mut driver) = pair(4);
    for armed in [false, true] {
        driver.push(&mem, &command(1)).unwrap().unwrap();
        driver.arm(&mem, armed).unwrap();
        let (_, permit) = device.fetch(&mem).unwrap().unwrap();
        device.complete(&mem, permit, &done(1)).unwrap();
        assert_eq!(device.interrupt_wanted(&mem).unwrap(), armed);
    }
}
