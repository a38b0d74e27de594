//! How a microVM hands over to a bare-metal guest, and what the two say to each other besides the
//! device: one record in memory, one exit port. It is a private agreement between `turnstile-kvm`
//! and `guest-driver/payload`, apart from the device ABI; Linux guests boot by Linux's own protocol. In
//! other VMMs the guest is entered by PVH and makes this record itself (`payload/src/pvh.rs`).
//!
//! Every vCPU starts at the ELF entry point, in 64-bit mode and ring 0, interrupts off, SSE on, flat
//! segments (selectors 0x10 for code, 0x18 for data, as Linux has them), no stack, with
//! - `rdi`: guest physical address of the [`BootInfo`];
//! - `rsi`: index of the vCPU, 0 being the boot processor; it is also its local APIC id.
//!
//! Pages are mapped one to one and open to ring 3: RAM, everything else below 4 GiB (the local APIC
//! is at its usual place), and the window for BARs. Page 0 is not mapped. BARs are not assigned.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

/// I/O port of the first serial line (16550A).
pub const SERIAL_PORT: u16 = 0x3f8;
/// I/O port that ends the VM: a write of 1, 2 or 4 bytes is the guest's [`ExitCode`].
pub const EXIT_PORT: u16 = 0xf4;
/// Longest command line, in bytes.
pub const COMMAND_LINE_MAX: usize = 2048;

/// What a bare-metal guest ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitCode {
    /// The program's own checks passed.
    Pass = 0,
    /// A check failed.
    Fail = 1,
    /// The program panicked.
    Panic = 2,
    /// The processor took a fault.
    Fault = 3,
    /// The boot record, the command line or the device is not what it should be.
    Setup = 4,
}

impl ExitCode {
    /// The exit with this code.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<ExitCode> {
        Some(match code {
            0 => ExitCode::Pass,
            1 => ExitCode::Fail,
            2 => ExitCode::Panic,
            3 => ExitCode::Fault,
            4 => ExitCode::Setup,
            _ => return None,
        })
    }
}

/// The boot record: [`BYTES`](Self::BYTES) bytes, little endian, a magic word and then the fields in
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootInfo {
    /// Bytes of RAM from guest physical address 0 on. RAM beyond the device hole is not counted.
    pub ram_bytes: u64,
    /// Where the window for BARs begins.
    pub window_base: u64,
    /// Its length in bytes; 0: there is none, BARs have been placed, and the guest maps them itself.
    pub window_bytes: u64,
    /// Time stamp counter ticks per millisecond; 0: unknown.
    pub tsc_khz: u64,
    /// vCPUs of this VM.
    pub cpus: u64,
    /// Guest physical address of the command line, UTF-8.
    pub command_line: u64,
    /// Its length in bytes, [`COMMAND_LINE_MAX`] at most.
    pub command_line_bytes: u64,
}

impl BootInfo {
    /// First word of the record: `"TRNSBOOT"`.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"TRNSBOOT");
    /// Size in memory, in bytes.
    pub const BYTES: usize = 64;

    /// The bytes as they lie in memory.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let words = [
            Self::MAGIC,
            self.ram_bytes,
            self.window_base,
            self.window_bytes,
            self.tsc_khz,
            self.cpus,
            self.command_line,
            self.command_line_bytes,
        ];
        let mut bytes = [0; Self::BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a record. `None`: the magic word is another.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<BootInfo> {
        let word = |i: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
            u64::from_le_bytes(word)
        };
        (word(0) == Self::MAGIC).then(|| BootInfo {
            ram_bytes: word(1),
            window_base: word(2),
            window_bytes: word(3),
            tsc_khz: word(4),
            cpus: word(5),
            command_line: word(6),
            command_line_bytes: word(7),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_record() {
        let info = BootInfo {
            ram_bytes: 1,
            window_base: 2,
            window_bytes: 3,
            tsc_khz: 4,
            cpus: 5,
            command_line: 6,
            command_line_bytes: 7,
        };
        let mut bytes = info.to_bytes();
        assert_eq!(bytes[..16], *b"TRNSBOOT\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[56], 7);
        assert_eq!(BootInfo::from_bytes(&bytes), Some(info));
        bytes[0] = b'X';
        assert_eq!(BootInfo::from_bytes(&bytes), None);
    }

    #[test]
    fn exit_codes_come_back() {
        for code in 0..5 {
            assert_eq!(ExitCode::from_code(code).map(|c| c as u32), Some(code));
        }
        assert_eq!(ExitCode::from_code(5), None);
    }
}
