//! Turnstile functions on the PCI bus, as sysfs shows them.

use std::path::{Path, PathBuf};

use turnstile_abi::regs::{DEVICE_ID, VENDOR_ID};

use crate::OpenError;

/// Where the kernel lists PCI functions.
const BUS: &str = "/sys/bus/pci/devices";

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its address, `0000:00:04.0`.
    pub address: String,
    directory: PathBuf,
}

impl Function {
    /// The function at an address, whatever it is. The address may leave out the domain.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(address: &str) -> Result<Function, OpenError> {
        // An address names a directory of the bus, and nothing else of the file system.
        let plain = address.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'));
        let full = match address.matches(':').count() {
            1 => format!("0000:{address}"),
            _ => address.to_owned(),
        };
        let directory = Path::new(BUS).join(&full);
        if !plain || full.starts_with('.') || !directory.join("vendor").exists() {
            return Err(OpenError::NotFound);
        }
        Ok(Function { address: full, directory })
    }

    /// Its directory in sysfs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The driver it is bound to.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        let link = std::fs::read_link(self.directory.join("driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// A number that a file of its directory holds, `0x`-prefixed hexadecimal.
    fn number(&self, file: &str) -> Option<u64> {
        let text = std::fs::read_to_string(self.directory.join(file)).ok()?;
        parse(text.trim())
    }

    /// Whether it is a Turnstile device, by its ids.
    #[must_use]
    pub fn is_turnstile(&self) -> bool {
        self.number("vendor") == Some(VENDOR_ID.into())
            && self.number("device") == Some(DEVICE_ID.into())
    }

    /// Physical address and size in bytes of a BAR; `None` if it has none or nobody placed it.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<(u64, u64)> {
        let text = std::fs::read_to_string(self.directory.join("resource")).ok()?;
        bar(&text, index)
    }
}

fn parse(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The BAR in the text of a `resource` file: a line each, first byte, last byte, flags.
fn bar(text: &str, index: u8) -> Option<(u64, u64)> {
    let line = text.lines().nth(index.into())?;
    let mut words = line.split_whitespace();
    let (start, end) = (parse(words.next()?)?, parse(words.next()?)?);
    let bytes = end.checked_sub(start)?.checked_add(1)?;
    (start != 0 && end > start).then_some((start, bytes))
}

/// Every Turnstile function, in order of address.
#[must_use]
pub fn find() -> Vec<Function> {
    let entries = std::fs::read_dir(BUS).into_iter().flatten().flatten();
    let function = |entry: std::fs::DirEntry| {
        let address = entry.file_name().to_string_lossy().into_owned();
        Function { address, directory: entry.path() }
    };
    let mut found: Vec<_> = entries.map(function).filter(Function::is_turnstile).collect();
    found.sort_by(|a, b| a.address.cmp(&b.address));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read() {
        let text = "0x00000000fe000000 0x00000000fe07ffff 0x0000000000140204\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x000000e000000000 0x000000e000ffffff 0x000000000014220c\n\
                    garbage\n";
        assert_eq!(bar(text, 0), Some((0xfe00_0000, 0x8_0000)));
        assert_eq!(bar(text, 1), None);
        assert_eq!(bar(text, 2), Some((0xe0_0000_0000, 0x100_0000)));
        assert_eq!((bar(text, 3), bar(text, 4)), (None, None));
    }

    #[test]
    fn addresses_name_functions_only() {
        for bad in ["", "..", "../../..", ".", "0000:00:zz.0", "0000:ff:1f.7/../x"] {
            assert!(Function::at(bad).is_err(), "{bad}");
        }
    }
}
