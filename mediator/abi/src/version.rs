//! ABI version and feature negotiation.
//!
//! The device offers a version and feature bits; the driver writes the version it speaks and the
//! subset of features it wants, then enables the device. A different major version, or a feature
//! that was not offered, leaves the device disabled with [`crate::Status::Unsupported`] in
//! `LAST_ERROR`.

/// ABI version, `major << 16 | minor`. A new major breaks drivers; a new minor only adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl Version {
    /// The version this crate describes.
    pub const CURRENT: Version = Version::new(1, 0);

    /// Packs a version.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Version {
        Version((major as u32) << 16 | minor as u32)
    }
    /// Incompatible when it differs.
    #[must_use]
    pub const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }
    /// Only ever adds.
    #[must_use]
    pub const fn minor(self) -> u16 {
        self.0 as u16
    }
    /// Whether a device of version `self` serves a driver that speaks `driver`.
    #[must_use]
    pub const fn serves(self, driver: Version) -> bool {
        self.major() == driver.major() && driver.minor() <= self.minor()
    }
}

bitflags::bitflags! {
    /// Optional parts of the ABI.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// `DmaRegister` works: the front end gave the mediator a view of guest memory.
        const DMA = 1 << 0;
        /// Programs can be loaded and launched.
        const COMPUTE = 1 << 1;
        /// Cooperative launches are accepted.
        const COOPERATIVE = 1 << 2;
    }
}
