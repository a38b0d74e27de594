//! A PCI address: domain, bus, device, function.

use std::fmt;
use std::str::FromStr;

/// `0000:65:00.0`, in full and lower case, so that it names a directory of sysfs and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(String);

/// What is no PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no PCI address; write domain:bus:device.function, such as 0000:65:00.0")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    /// The domain may be left out.
    fn from_str(text: &str) -> Result<Address, AddressError> {
        let wrong = || AddressError(text.chars().take(40).collect());
        let full = match text.matches(':').count() {
            1 => format!("0000:{text}"),
            _ => text.to_owned(),
        };
        let (place, function) = full.split_once('.').ok_or_else(wrong)?;
        let mut parts = place.split(':');
        let mut part = |digits: usize, most: u32| {
            let part = parts.next().filter(|p| p.len() == digits)?;
            let hex = part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u32::from_str_radix(part, 16).ok()).flatten().filter(|n| *n <= most)
        };
        let whole = part(4, 0xffff).is_some() && part(2, 0xff).is_some() && part(2, 31).is_some();
        let function = matches!(function.as_bytes(), [b'0'..=b'7']);
        if whole && parts.next().is_none() && function {
            Ok(Address(full.to_ascii_lowercase()))
        } else {
            Err(wrong())
        }
    }
}

impl Address {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_are_addresses() {
        let full = |text: &str| text.parse::<Address>().map(|a| a.to_string());
        assert_eq!(full("65:00.0").unwrap(), "0000:65:00.0");
        assert_eq!(full("0001:AB:1f.7").unwrap(), "0001:ab:1f.7");
        for wrong in [
            "",
            "65:00",
            "65:20.0",
            "65:00.8",
            "../..:00.0",
            "0:65:00.0",
            "0000:65:00.00",
            "a:b:c:d.0",
        ] {
            assert!(full(wrong).is_err(), "{wrong}");
        }
    }
}
