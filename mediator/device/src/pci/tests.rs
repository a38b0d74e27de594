use super::*;
use proptest::prelude::*;

fn function() -> Function {
    Function::new(0x30_0000).unwrap()
}

fn read32(f: &Function, at: u64) -> u32 {
    let mut bytes = [0; 4];
    f.config_read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn write32(f: &mut Function, at: u64, value: u32) -> Change {
    f.config_write(at, &value.to_le_bytes())
}

#[test]
fn golden_header() {
    let f = function();
    assert_eq!(read32(&f, 0x00), 0x7473_1234);
    assert_eq!(read32(&f, 0x04), 0x0010_0000);
    assert_eq!(read32(&f, 0x08), 0x0302_0001);
    assert_eq!(read32(&f, 0x0c), 0, "type 0, one function");
    assert_eq!(read32(&f, 0x10), 0x4);
    assert_eq!(read32(&f, 0x18), 0xc);
    assert_eq!(read32(&f, 0x20), 0x4);
    assert_eq!(read32(&f, 0x2c), 0x7473_1234);
    assert_eq!(read32(&f, 0x30), 0, "no expansion ROM");
    assert_eq!(read32(&f, 0x34), 0x40);
    assert_eq!(read32(&f, 0x3c), 0, "no legacy interrupt");
    assert_eq!(read32(&f, 0x40), 0x000f_0011);
    assert_eq!(read32(&f, 0x44), 0x4);
    assert_eq!(read32(&f, 0x48), 0x1004);
}

/// The way Linux sizes a BAR (`__pci_read_base`): save, write all-ones, read, restore, each half.
fn size_like_linux(f: &mut Function, at: u64) -> u64 {
    let (low, high) = (read32(f, at), read32(f, at + 4));
    let _ = write32(f, at, u32::MAX);
    let size_low = read32(f, at);
    let _ = write32(f, at, low);
    let _ = write32(f, at + 4, u32::MAX);
    let size_high = read32(f, at + 4);
    let _ = write32(f, at + 4, high);
    assert_eq!((read32(f, at), read32(f, at + 4)), (low, high));
    let mask = u64::from(size_low & !0xf) | u64::from(size_high) << 32;
    mask & mask.wrapping_neg()
}

#[test]
fn bars_are_sized_like_linux_does_it() {
    let mut f = function();
    assert_eq!(size_like_linux(&mut f, 0x10), BAR0_SIZE);
    assert_eq!(size_like_linux(&mut f, 0x18), 0x40_0000, "3 MiB rounded up");
    assert_eq!(size_like_linux(&mut f, 0x20), BAR4_SIZE);
    let mut large = Function::new(6 << 30).unwrap();
    assert_eq!(size_like_linux(&mut large, 0x18), 8 << 30);
    assert!(Function::new(0).is_err());
    assert!(Function::new(u64::MAX).is_err());
}

#[test]
fn a_bar_answers_only_while_decoding_is_on() {
    let mut f = function();
    assert!(!write32(&mut f, 0x10, 0xd000_0000).bars, "decoding is off");
    assert_eq!(f.bar(Bar::Registers), None);
    assert!(f.config_write(4, &2_u16.to_le_bytes()).bars);
    assert_eq!(f.bar(Bar::Registers), Some(0xd000_0000));
    assert!(write32(&mut f, 0x14, 1).bars);
    assert_eq!(f.bar(Bar::Registers), Some(0x1_d000_0000));
    assert!(!f.config_write(4, &[6]).bars, "bus mastering moves no BAR");
    assert!(f.config_write(4, &[4]).bars);
    assert_eq!(f.bar(Bar::Registers), None);
}

#[test]
fn a_bar_at_the_end_of_the_address_space_does_not_wrap() {
    let mut f = function();
    let _ = f.config_write(4, &[2]);
    let _ = f.config_write(0x10, &[0xff; 24]);
    for bar in Bar::ALL {
        assert_eq!(f.bar(bar), None, "{bar:?} would end beyond 2^64");
    }
}

#[test]
fn bytes_and_words_merge() {
    let mut f = function();
    let _ = f.config_write(0x13, &[0xab]);
    let _ = f.config_write(0x12, &[0xf8]);
    assert_eq!(read32(&f, 0x10), 0xabf8_0004);
    let _ = f.config_write(0x3c, &[11]);
    assert_eq!(read32(&f, 0x3c), 11);
    let mut byte = [0];
    f.config_read(0x0b, &mut byte);
    assert_eq!(byte, [3]);
}

#[test]
fn outside_reads_all_ones() {
    let mut f = function();
    for (at, bytes) in [(256, 4), (254, 4), (255, 2), (u64::MAX, 1), (4096, 4)] {
        let mut data = vec![0; bytes];
        f.config_read(at, &mut data);
        assert!(data.iter().all(|&b| b == 0xff));
        assert_eq!(f.config_write(at, &data), Change::default());
    }
}

fn program(f: &mut Function, vector: u16) {
    let at = u64::from(vector) * 16;
    let _ = f.msix_write(at, &0xfee0_0000_u64.to_le_bytes());
    let _ = f.msix_write(at + 8, &0x41_u64.to_le_bytes());
}

#[test]
fn messages_need_enable_master_and_no_mask() {
    let mut f = function();
    program(&mut f, 2);
    let message = Some(Message { address: 0xfee0_0000, data: 0x41 });
    assert_eq!(f.route(2), None);
    assert!(f.config_write(0x42, &0x8000_u16.to_le_bytes()).vectors.is_empty(), "not yet master");
    assert_eq!(f.config_write(4, &[6]).vectors, Vectors::ALL);
    assert_eq!(f.route(2), message);
    assert_eq!(f.route(1), None, "masked by itself");
    assert_eq!(f.config_write(0x42, &0xc000_u16.to_le_bytes()).vectors, Vectors::ALL);
    assert_eq!(f.route(2), None, "function masked");
    assert_eq!(f.config_write(0x42, &0x8000_u16.to_le_bytes()).vectors, Vectors::ALL);
    assert_eq!(f.route(2), message);
    assert_eq!(f.msix_write(44, &1_u32.to_le_bytes()).vectors, Vectors::one(2));
    assert_eq!(f.route(2), None);
}

#[test]
fn firmware_assignment_and_reset() {
    let mut f = function();
    let change = f.assign(|bar| match bar {
        Bar::Registers => 0xe000_0000,
        Bar::Aperture => 0x40_0000_0000,
        Bar::Msix => 0xe010_0000,
    });
    assert!(change.bars);
    assert_eq!(f.bar(Bar::Aperture), Some(0x40_0000_0000));
    assert_eq!(read32(&f, 0x18), 0xc);
    program(&mut f, 0);
    assert_eq!(f.reset(), Change { bars: true, vectors: Vectors::ALL });
    let fresh = function();
    for at in (0..256).step_by(4) {
        assert_eq!(read32(&f, at), read32(&fresh, at), "{at:#x}");
    }
    assert_eq!(f.bar(Bar::Aperture), None);
}

proptest! {
    /// Any accesses of any width anywhere: no panic; what is read-only never changes; a BAR is
    /// always aligned to its size; a change of BARs or routes is always reported.
    #[test]
    fn any_access_sequence_is_safe(
        accesses in prop::collection::vec(
            (prop_oneof![0..260_u64, any::<u64>()],
             prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff)], 0..10),
             any::<bool>()),
            0..80),
    ) {
        let mut f = function();
        let fresh = function();
        for (at, data, to_msix) in accesses {
            let bars = Bar::ALL.map(|b| f.bar(b));
            let routes: Vec<_> = (0..VECTORS).map(|v| f.route(v)).collect();
            let change =
                if to_msix { f.msix_write(at, &data) } else { f.config_write(at, &data) };
            prop_assert_eq!(change.bars, bars != Bar::ALL.map(|b| f.bar(b)));
            for v in 0..VECTORS {
                if routes[usize::from(v)] != f.route(v) {
                    prop_assert!(change.vectors.contains(v));
                }
            }
            for bar in Bar::ALL {
                if let Some(base) = f.bar(bar) {
                    prop_assert!(base.is_multiple_of(f.bar_bytes(bar)));
                }
            }
            for i in 0..CONFIG_BYTES {
                let fixed = !f.config.writable[i];
                prop_assert_eq!(f.config.bytes[i] & fixed, fresh.config.bytes[i] & fixed);
            }
            let mut back = data;
            f.config_read(at, &mut back);
        }
    }
}
