//! The few words of configuration space that decide whether a function can be given away.

/// Extended capability: address translation services.
const ATS: u16 = 0x000f;
/// Extended capability: access control services.
const ACS: u16 = 0x000d;
/// What keeps functions behind a port apart: source validation, request and completion redirect,
/// upstream forwarding (PCIe base specification, ACS control register).
const ACS_NEEDED: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 4;

/// A copy of a function's configuration space; 64 bytes of it without privileges.
pub(crate) struct Config(pub(crate) Vec<u8>);

impl Config {
    fn word(&self, at: usize) -> Option<u16> {
        let bytes = self.0.get(at..at + 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn dword(&self, at: usize) -> Option<u32> {
        Some(u32::from(self.word(at)?) | u32::from(self.word(at + 2)?) << 16)
    }

    /// Whether the extended part could be read.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.len() > 0x100
    }

    /// Where an extended capability lies. The list is the device's word: it is followed for at most
    /// as many steps as there is room for.
    fn extended(&self, wanted: u16) -> Option<usize> {
        let mut at = 0x100;
        for _ in 0..(0x1000 - 0x100) / 8 {
            let head = self.dword(at)?;
            // CAST: identifier in the low half, next in the top twelve bits.
            let (id, next) = (head as u16, (head >> 20) as usize & 0xffc);
            if head == 0 || head == u32::MAX {
                return None;
            }
            if id == wanted {
                return Some(at);
            }
            if next < 0x100 {
                return None;
            }
            at = next;
        }
        None
    }

    /// Whether the function may translate addresses itself; `None`: it cannot at all.
    pub(crate) fn ats_enabled(&self) -> Option<bool> {
        Some(self.word(self.extended(ATS)? + 6)? & 1 << 15 != 0)
    }

    /// Whether a port keeps what is behind it apart; `None`: it has no such means.
    pub(crate) fn acs_isolates(&self) -> Option<bool> {
        Some(self.word(self.extended(ACS)? + 6)? & ACS_NEEDED == ACS_NEEDED)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A configuration space with one extended capability behind another.
    pub(crate) fn with(id: u16, control: u16) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[0x100..0x104].copy_from_slice(&(0x0001_u32 | 1 << 16 | 0x200 << 20).to_le_bytes());
        bytes[0x200..0x204].copy_from_slice(&(u32::from(id) | 1 << 16).to_le_bytes());
        bytes[0x206..0x208].copy_from_slice(&control.to_le_bytes());
        bytes
    }

    #[test]
    fn capabilities_are_found_and_loops_end() {
        assert_eq!(Config(with(ATS, 1 << 15)).ats_enabled(), Some(true));
        assert_eq!(Config(with(ATS, 0)).ats_enabled(), Some(false));
        assert_eq!(Config(with(ACS, 0x1d)).acs_isolates(), Some(true));
        assert_eq!(Config(with(ACS, 1)).acs_isolates(), Some(false));
        assert_eq!(Config(vec![0; 64]).ats_enabled(), None);
        let mut looping = with(0x0002, 0);
        looping[0x200..0x204].copy_from_slice(&(2 | 0x100_u32 << 20).to_le_bytes());
        assert_eq!(Config(looping).ats_enabled(), None);
        assert_eq!(Config(vec![0xff; 4096]).ats_enabled(), None);
    }
}
