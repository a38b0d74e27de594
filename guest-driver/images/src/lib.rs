//! The bare-metal guest image, built along with the workspace from `guest-driver/payload`.

/// An ELF executable for `turnstile_kvm::Payload::Elf`. Its command line says what it runs: the name
/// of a workload, or `selftest:NAME`.
pub const PAYLOAD: &[u8] = include_bytes!(env!("TURNSTILE_PAYLOAD"));

#[cfg(test)]
mod tests {
    use super::PAYLOAD;

    #[test]
    fn the_image_is_a_64_bit_x86_executable_that_loads_at_2_mib() {
        assert_eq!(PAYLOAD[..6], *b"\x7fELF\x02\x01");
        let half = |at: usize| u16::from_le_bytes([PAYLOAD[at], PAYLOAD[at + 1]]);
        assert_eq!((half(16), half(18)), (2, 62), "ET_EXEC for x86-64");
        let mut entry = [0; 8];
        entry.copy_from_slice(&PAYLOAD[24..32]);
        let entry = u64::from_le_bytes(entry);
        assert!((0x20_0000..0x40_0000).contains(&entry), "entry at {entry:#x}");
    }
}
