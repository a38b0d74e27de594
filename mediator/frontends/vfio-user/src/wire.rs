//! The messages of vfio-user as bytes (vfio-user Protocol Specification 0.0, shipped with QEMU as
//! `docs/interop/vfio-user.rst`; sections are named where they are used).
//!
//! Decoding is total: every byte string is a request or an errno. Nothing here owns a descriptor,
//! keeps state or allocates. Integers are in the host's byte order, as the protocol says; this
//! crate is for little-endian hosts, and every field is read and written as little-endian.

use rustix::io::Errno;

/// Bytes of a header ("Header").
pub const HEADER_BYTES: usize = 16;
/// Most data of one region access, in bytes: `max_data_xfer_size` of the negotiation.
pub const MAX_DATA: u32 = 4096;
/// Most bytes of a message after its header: a region access with the most data.
pub const MAX_PAYLOAD: usize = 16 + MAX_DATA as usize;
/// Most descriptors of one message: `max_msg_fds` of the negotiation. One a vector.
pub const MAX_FDS: usize = 16;

/// Command numbers ("Commands").
pub mod command {
    /// Negotiation.
    pub const VERSION: u16 = 1;
    /// Memory the device may reach appears.
    pub const DMA_MAP: u16 = 2;
    /// Such memory goes.
    pub const DMA_UNMAP: u16 = 3;
    /// About the device.
    pub const DEVICE_GET_INFO: u16 = 4;
    /// About a region.
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    /// Descriptors that stand for writes to parts of a region.
    pub const DEVICE_GET_REGION_IO_FDS: u16 = 6;
    /// About a kind of interrupt.
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    /// Where interrupts go.
    pub const DEVICE_SET_IRQS: u16 = 8;
    /// A trapped read.
    pub const REGION_READ: u16 = 9;
    /// A trapped write.
    pub const REGION_WRITE: u16 = 10;
    /// Reset.
    pub const DEVICE_RESET: u16 = 13;
    /// Several trapped writes.
    pub const REGION_WRITE_MULTI: u16 = 15;
    /// Optional features, migration among them.
    pub const DEVICE_FEATURE: u16 = 16;
    /// Migration data out.
    pub const MIG_DATA_READ: u16 = 17;
    /// Migration data in.
    pub const MIG_DATA_WRITE: u16 = 18;
}

/// Header flags.
mod flags {
    pub(super) const TYPE: u32 = 0xf;
    pub(super) const REPLY: u32 = 1;
    pub(super) const NO_REPLY: u32 = 1 << 4;
    pub(super) const ERROR: u32 = 1 << 5;
}

/// Why a header ends the connection: after it nobody knows where the next one begins, or who asks
/// whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than its own header, or longer than any message there is.
    #[error("a message of {0} bytes; there are 16 to {max}", max = HEADER_BYTES + MAX_PAYLOAD)]
    Size(u32),
    /// Not a command. The server asks nothing, so there is nothing to reply to.
    #[error("a message of type {0}; a client sends commands (0) only")]
    Type(u32),
}

/// The header of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The sender's name for the message, echoed in the reply.
    pub id: u16,
    /// One of [`command`], or not.
    pub command: u16,
    /// Bytes after the header; at most [`MAX_PAYLOAD`].
    pub payload_bytes: usize,
    /// Whether the sender wants a reply.
    pub wants_reply: bool,
}

impl Header {
    /// Reads a header. The error comes with a header to answer under, if there is one.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, (Header, HeaderError)> {
        let [i0, i1, c0, c1, s0, s1, s2, s3, f0, f1, f2, f3, ..] = *bytes;
        let size = u32::from_le_bytes([s0, s1, s2, s3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        let header = Header {
            id: u16::from_le_bytes([i0, i1]),
            command: u16::from_le_bytes([c0, c1]),
            payload_bytes: (size as usize).saturating_sub(HEADER_BYTES),
            wants_reply: flags & (flags::NO_REPLY | flags::TYPE) == 0,
        };
        if flags & flags::TYPE != 0 {
            return Err((header, HeaderError::Type(flags & flags::TYPE)));
        }
        if (size as usize) < HEADER_BYTES || header.payload_bytes > MAX_PAYLOAD {
            return Err((header, HeaderError::Size(size)));
        }
        Ok(header)
    }

    /// The bytes of a header; for a client.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let flags = if self.wants_reply { 0 } else { flags::NO_REPLY };
        // CAST: clients of this crate are its own tests, with small payloads.
        header(self.id, self.command, (HEADER_BYTES + self.payload_bytes) as u32, flags, 0)
    }

    /// The header of the reply with this many bytes after it.
    #[must_use]
    pub fn reply(&self, payload_bytes: usize) -> [u8; HEADER_BYTES] {
        // CAST: replies are at most MAX_PAYLOAD.
        let size = (HEADER_BYTES + payload_bytes) as u32;
        header(self.id, self.command, size, flags::REPLY, 0)
    }

    /// The whole reply that refuses ("If an error occurs, the reply message must only include the
    /// reply header").
    #[must_use]
    pub fn refusal(&self, errno: Errno) -> [u8; HEADER_BYTES] {
        // CAST: errnos are small and positive.
        let error = errno.raw_os_error() as u32;
        header(self.id, self.command, HEADER_BYTES as u32, flags::REPLY | flags::ERROR, error)
    }
}

fn header(id: u16, command: u16, size: u32, flags: u32, error: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..2].copy_from_slice(&id.to_le_bytes());
    bytes[2..4].copy_from_slice(&command.to_le_bytes());
    bytes[4..8].copy_from_slice(&size.to_le_bytes());
    bytes[8..12].copy_from_slice(&flags.to_le_bytes());
    bytes[12..].copy_from_slice(&error.to_le_bytes());
    bytes
}

/// What happens to interrupts, and when (`flags` of `VFIO_USER_DEVICE_SET_IRQS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// Kind of interrupt.
    pub index: u32,
    /// First of the kind.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// What.
    pub action: Action,
    /// With what.
    pub data: IrqData<'a>,
}

/// What is done to interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hold them back.
    Mask,
    /// Let them through.
    Unmask,
    /// Raise them, or say where they go.
    Trigger,
}

/// What comes with a change to interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqData<'a> {
    /// Nothing: all of them.
    None,
    /// One byte each: those that are not zero.
    Bools(&'a [u8]),
    /// One eventfd each, or none at all.
    Eventfds,
}

/// A command, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Negotiation: version, and JSON without its NUL.
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
        /// Capabilities, JSON; may be empty.
        data: &'a [u8],
    },
    /// Memory appears, a descriptor with it or not.
    DmaMap {
        /// Whether the device may read it.
        readable: bool,
        /// Whether the device may write it.
        writeable: bool,
        /// Where it begins in the descriptor's file, in bytes.
        offset: u64,
        /// DMA address.
        address: u64,
        /// Length in bytes.
        bytes: u64,
    },
    /// Memory goes.
    DmaUnmap {
        /// Everything; address and length are 0.
        all: bool,
        /// DMA address.
        address: u64,
        /// Length in bytes.
        bytes: u64,
    },
    /// About the device.
    DeviceInfo,
    /// About a region.
    RegionInfo {
        /// Most bytes of reply the client takes.
        argsz: u32,
        /// Which.
        index: u32,
    },
    /// Descriptors that stand for writes to parts of a region.
    RegionIoFds {
        /// Most bytes of reply the client takes.
        argsz: u32,
        /// Which region.
        index: u32,
    },
    /// About a kind of interrupt.
    IrqInfo {
        /// Which.
        index: u32,
    },
    /// Where interrupts go.
    SetIrqs(SetIrqs<'a>),
    /// A trapped read.
    RegionRead {
        /// Which region.
        region: u32,
        /// Where in it.
        offset: u64,
        /// Bytes, 1 to [`MAX_DATA`].
        count: u32,
    },
    /// A trapped write.
    RegionWrite {
        /// Which region.
        region: u32,
        /// Where in it.
        offset: u64,
        /// What, 1 to [`MAX_DATA`] bytes.
        data: &'a [u8],
    },
    /// Reset.
    Reset,
}

impl Request<'_> {
    /// Whether descriptors may come with it.
    #[must_use]
    pub const fn takes_fds(&self) -> bool {
        matches!(
            self,
            Request::DmaMap { .. } | Request::SetIrqs(SetIrqs { data: IrqData::Eventfds, .. })
        )
    }
}

/// Reads fields in order.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*field)
    }
    fn u16(&mut self) -> Result<u16, Errno> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_le_bytes)
    }
    /// Nothing may be left.
    fn end(&self) -> Result<(), Errno> {
        if self.0.is_empty() { Ok(()) } else { Err(Errno::INVAL) }
    }
}

impl<'a> Request<'a> {
    /// Reads the payload of a command.
    ///
    /// # Errors
    /// `EINVAL` for a payload that is none of this command; `ENOTTY` for optional features, none of
    /// which there are (the kernel's answer for a feature it does not have); `ENOTSUP` for commands
    /// that are not served.
    pub fn decode(number: u16, payload: &'a [u8]) -> Result<Request<'a>, Errno> {
        let mut f = Fields(payload);
        let request = match number {
            command::VERSION => {
                let (major, minor) = (f.u16()?, f.u16()?);
                // The JSON ends with a NUL, if it is there at all.
                let data = match f.0.split_last() {
                    None => &[][..],
                    Some((0, json)) => json,
                    Some(_) => return Err(Errno::INVAL),
                };
                return Ok(Request::Version { major, minor, data });
            }
            command::DMA_MAP => {
                let (_argsz, flags) = (f.u32()?, f.u32()?);
                if flags & !3 != 0 {
                    return Err(Errno::INVAL);
                }
                Request::DmaMap {
                    readable: flags & 1 != 0,
                    writeable: flags & 2 != 0,
                    offset: f.u64()?,
                    address: f.u64()?,
                    bytes: f.u64()?,
                }
            }
            command::DMA_UNMAP => {
                let (_argsz, flags) = (f.u32()?, f.u32()?);
                // Bit 1 is VFIO_DMA_UNMAP_FLAG_ALL of <linux/vfio.h>; bit 0 would want a bitmap of
                // dirty pages, which is migration's.
                if flags & !2 != 0 {
                    return Err(Errno::NOTSUP);
                }
                let (address, bytes) = (f.u64()?, f.u64()?);
                let all = flags & 2 != 0;
                if all && (address != 0 || bytes != 0) {
                    return Err(Errno::INVAL);
                }
                Request::DmaUnmap { all, address, bytes }
            }
            command::DEVICE_GET_INFO => {
                argsz(&mut f, 16)?;
                let _zero = (f.u32()?, f.u32()?, f.u32()?);
                Request::DeviceInfo
            }
            command::DEVICE_GET_REGION_INFO => {
                let argsz = argsz(&mut f, 32)?;
                let _flags = f.u32()?;
                let index = f.u32()?;
                let _zero = (f.u32()?, f.u64()?, f.u64()?);
                Request::RegionInfo { argsz, index }
            }
            command::DEVICE_GET_REGION_IO_FDS => {
                let argsz = argsz(&mut f, 16)?;
                let (flags, index, _count) = (f.u32()?, f.u32()?, f.u32()?);
                if flags != 0 {
                    return Err(Errno::INVAL);
                }
                Request::RegionIoFds { argsz, index }
            }
            command::DEVICE_GET_IRQ_INFO => {
                argsz(&mut f, 16)?;
                let _flags = f.u32()?;
                let index = f.u32()?;
                let _count = f.u32()?;
                Request::IrqInfo { index }
            }
            command::DEVICE_SET_IRQS => return set_irqs(f).map(Request::SetIrqs),
            command::REGION_READ => {
                let (offset, region, count) = (f.u64()?, f.u32()?, f.u32()?);
                if count == 0 || count > MAX_DATA {
                    return Err(Errno::INVAL);
                }
                Request::RegionRead { region, offset, count }
            }
            command::REGION_WRITE => {
                let (offset, region, count) = (f.u64()?, f.u32()?, f.u32()?);
                if count == 0 || count as usize != f.0.len() {
                    return Err(Errno::INVAL);
                }
                return Ok(Request::RegionWrite { region, offset, data: f.0 });
            }
            command::DEVICE_RESET => Request::Reset,
            command::DEVICE_FEATURE => return Err(Errno::NOTTY),
            _ => return Err(Errno::NOTSUP),
        };
        f.end()?;
        Ok(request)
    }
}

/// Reads `argsz`: the client must take at least the fixed part of the reply ("Message sizes").
fn argsz(f: &mut Fields<'_>, least: u32) -> Result<u32, Errno> {
    match f.u32()? {
        argsz if argsz >= least => Ok(argsz),
        _ => Err(Errno::INVAL),
    }
}

fn set_irqs(mut f: Fields<'_>) -> Result<SetIrqs<'_>, Errno> {
    let (_argsz, flags) = (f.u32()?, f.u32()?);
    let (index, start, count) = (f.u32()?, f.u32()?, f.u32()?);
    let data = match flags & 7 {
        1 => IrqData::None,
        2 if f.0.len() == count as usize => IrqData::Bools(std::mem::take(&mut f.0)),
        4 => IrqData::Eventfds,
        _ => return Err(Errno::INVAL),
    };
    let action = match flags >> 3 {
        1 => Action::Mask,
        2 => Action::Unmask,
        4 => Action::Trigger,
        _ => return Err(Errno::INVAL),
    };
    f.end()?;
    Ok(SetIrqs { index, start, count, action, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_bounded_before_anything_is_read() {
        let sized = |size: u32| Header::decode(&header(7, command::REGION_READ, size, 0, 0));
        assert!(sized(16).is_ok());
        assert!(sized((HEADER_BYTES + MAX_PAYLOAD) as u32).is_ok());
        for size in [0, 15, (HEADER_BYTES + MAX_PAYLOAD) as u32 + 1, u32::MAX] {
            assert!(matches!(sized(size), Err((_, HeaderError::Size(_)))), "{size}");
        }
        assert!(matches!(
            Header::decode(&header(7, 1, 16, flags::REPLY, 0)),
            Err((_, HeaderError::Type(1)))
        ));
        let quiet = Header::decode(&header(7, 1, 16, flags::NO_REPLY, 0)).unwrap();
        assert!(!quiet.wants_reply);
    }

    #[test]
    fn migration_is_refused_in_words_that_clients_know() {
        assert_eq!(Request::decode(command::DEVICE_FEATURE, &[0; 8]), Err(Errno::NOTTY));
        assert_eq!(Request::decode(command::MIG_DATA_READ, &[0; 8]), Err(Errno::NOTSUP));
        assert_eq!(Request::decode(command::MIG_DATA_WRITE, &[0; 8]), Err(Errno::NOTSUP));
    }

    proptest! {
        /// Any bytes under any command: an answer, and lengths that were checked.
        #[test]
        fn decoding_is_total(
            number in 0..20_u16,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            match Request::decode(number, &payload) {
                Ok(Request::RegionRead { count, .. }) => prop_assert!(count <= MAX_DATA),
                Ok(Request::RegionWrite { data, .. }) => prop_assert_eq!(data.len() + 16, payload.len()),
                _ => {}
            }
        }

        #[test]
        fn headers_come_back(id in any::<u16>(), number in any::<u16>(), n in 0..MAX_PAYLOAD, quiet in any::<bool>()) {
            let h = Header { id, command: number, payload_bytes: n, wants_reply: !quiet };
            prop_assert_eq!(Header::decode(&h.encode()), Ok(h));
        }
    }
}
