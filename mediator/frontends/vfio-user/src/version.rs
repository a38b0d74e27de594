//! Negotiation: the version, and capabilities in JSON (`VFIO_USER_VERSION`).

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::wire::{MAX_DATA, MAX_FDS};

/// The protocol's major version. Nothing is compatible with another one.
pub(crate) const MAJOR: u16 = 0;
/// The minor version: the least, which every client of the major version serves.
pub(crate) const MINOR: u16 = 0;

/// What one side can do. Both sides send it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Version {
    capabilities: Capabilities,
}

/// Of the capabilities only these matter here; others are ignored, as the specification wants.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    /// Descriptors the sender can receive in one message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_msg_fds: Option<u64>,
    /// Most data of one region access, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_data_xfer_size: Option<u64>,
    /// Windows of memory at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_dma_maps: Option<u64>,
    /// Page sizes of windows, or'ed together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pgsizes: Option<u64>,
}

/// Reads what a client sends.
///
/// # Errors
/// `EPROTONOSUPPORT` for another major version, `EINVAL` for JSON that is none.
pub(crate) fn read(major: u16, data: &[u8]) -> Result<Capabilities, Errno> {
    if major != MAJOR {
        return Err(Errno::PROTONOSUPPORT);
    }
    if data.is_empty() {
        return Ok(Capabilities::default());
    }
    // Bounded: the data is at most one message, and serde_json bounds the nesting.
    let version: Version = serde_json::from_slice(data).map_err(|_| Errno::INVAL)?;
    // A client that can receive no descriptor could not map the aperture; it may still trap.
    Ok(version.capabilities)
}

/// Appends the answer's payload.
pub(crate) fn write(max_dma_maps: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAJOR.to_le_bytes());
    out.extend_from_slice(&MINOR.to_le_bytes());
    let capabilities = Capabilities {
        max_msg_fds: Some(MAX_FDS as u64),
        max_data_xfer_size: Some(MAX_DATA.into()),
        max_dma_maps: Some(max_dma_maps as u64),
        pgsizes: Some(turnstile_abi::regs::PAGE),
    };
    // Four numbers always become JSON.
    if let Ok(json) = serde_json::to_vec(&Version { capabilities }) {
        out.extend_from_slice(&json);
    }
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_and_odd_data_is_refused() {
        let mut out = Vec::new();
        write(77, &mut out);
        let caps = read(0, &out[4..out.len() - 1]).unwrap();
        assert_eq!((caps.max_dma_maps, caps.max_msg_fds), (Some(77), Some(16)));
        assert_eq!(read(0, b"").unwrap(), Capabilities::default());
        assert_eq!(read(1, b""), Err(Errno::PROTONOSUPPORT));
        let deep = "[".repeat(4000);
        for bad in [&b"{"[..], b"[]1", b"{\"capabilities\":3}", b"\xff", deep.as_bytes()] {
            assert_eq!(read(0, bad), Err(Errno::INVAL));
        }
        let more = br#"{"capabilities":{"max_msg_fds":8,"write_multiple":true,"new":{"x":[]}}}"#;
        assert_eq!(read(0, more).unwrap().max_msg_fds, Some(8));
    }

    proptest! {
        #[test]
        fn any_data_is_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(0, &data);
        }
    }
}
